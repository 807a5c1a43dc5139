"""The report's page in a real browser, and what it says of the networks."""

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.runs_on_disk import make
from PIL import Image

from lipbench.report import find_runs, leaderboard, write_page

FLAG = {"name": "zero_gradients", "severity": "warning", "message": "<b>half</b> of them", "method": "fgm"}


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """Three networks on two data sets, one of them broken, and two figures."""
    root = tmp_path_factory.mktemp("results")
    make(root, "hkr_cnn", 1.0)
    make(root, "hkr_cnn", 1.0, seed=1)
    make(root, "plain_cnn", 0.0, flags=[FLAG])
    make(root, "hkr_mlp/model.widths=_64_32_,loss.margin=1", 2.0, dataset="other")
    (make(root, "cut") / "bounds" / "fgm.parquet").write_text("index,label\n0,0\n")
    (root / "figures").mkdir()
    Image.new("RGB", (3000, 600), "white").save(root / "figures" / "wide_figure.png")
    (root / "figures" / "broken.png").write_text("no picture")
    runs = find_runs(root)
    write_page(leaderboard(runs), runs)
    return root


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install lipbench[dev]")
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium here: apt install chromium")
    with api.sync_playwright() as playwright:
        # As root, as in a container, Chromium starts without its sandbox alone.
        running = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def page(browser, results) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 390, "height": 800})
    opened = context.new_page()
    opened.asked, opened.errors = [], []
    opened.on("request", lambda request: opened.asked.append(request.url))
    opened.on("console", lambda message: opened.errors.append(message.text))
    opened.on("pageerror", lambda error: opened.errors.append(str(error)))
    opened.goto((results / "report.html").as_uri())
    yield opened
    assert opened.errors == []
    context.close()


def shown(page, column: int = 0) -> list[str]:
    rows = page.locator("#board tbody tr:visible")
    return [rows.nth(i).locator("th, td").nth(column).inner_text().split("\n")[0] for i in range(rows.count())]


def test_the_page_asks_for_nothing_but_itself(page, results):
    for details in page.locator("details > summary").all():
        details.click()
    assert {url.partition(":")[0] for url in page.asked if not url.endswith("/report.html")} <= {"data"}
    # And could not: the browser refuses what is written into the page from outside.
    page.evaluate("document.body.append(Object.assign(new Image(), {src: 'http://127.0.0.1:9/x.png', id: 'foreign'}))")
    page.wait_for_timeout(50)
    assert page.evaluate("document.getElementById('foreign').naturalWidth") == 0
    assert any("Content Security Policy" in text for text in page.errors)
    page.errors.clear()


def test_nothing_overflows_a_phone(page):
    page.evaluate("document.querySelectorAll('details').forEach((details) => (details.open = true))")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    box = page.locator("#board").locator("..")
    assert box.evaluate("(box) => box.scrollWidth > box.clientWidth"), "a wide table scrolls inside of its box"
    assert page.locator("figure img").evaluate("(img) => img.clientWidth") == 640


def test_columns_sort_by_click_and_by_keyboard(page):
    button = page.get_by_role("button", name="certificate", exact=False).first
    head = page.locator("#board th[aria-sort]", has=button)
    assert head.get_attribute("aria-sort") == "none"
    button.click()
    assert head.get_attribute("aria-sort") == "descending"
    best = shown(page)
    assert best == ["hkr_mlp", "hkr_cnn", "plain_cnn"]
    button.focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    assert shown(page) == best[::-1]
    page.get_by_role("button", name="experiment").focus()
    page.keyboard.press("Space")
    assert shown(page) == ["hkr_cnn", "hkr_mlp", "plain_cnn"]
    assert head.get_attribute("aria-sort") == "none"
    assert page.locator("#board th[aria-sort=ascending]").count() == 1


def test_rows_are_filtered_by_words_and_data_set(page):
    page.get_by_label("Search").fill("HKR")
    assert shown(page) == ["hkr_cnn", "hkr_mlp"]
    assert page.locator("#count").inner_text() == "2 of 3"
    page.get_by_label("Data set").select_option("other")
    assert shown(page) == ["hkr_mlp"]
    page.get_by_label("Search").fill("plain")
    assert shown(page) == []
    page.get_by_role("button", name="Show all").click()
    assert len(shown(page)) == 3


def test_what_a_reader_without_eyes_or_mouse_needs(page):
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3, h4')].map((h) => Number(h.tagName[1]))")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels)), "no level is left out"
    assert page.evaluate("[...document.images].every((image) => image.alt)")
    assert {name: page.locator(name).count() for name in ("header", "nav", "main", "footer")} == dict.fromkeys(
        ("header", "nav", "main", "footer"), 1
    )
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((node) => node.id)")
    assert len(ids) == len(set(ids))
    links = page.evaluate(
        "[...document.querySelectorAll('a[href^=\"#\"]')].map((a) => a.getAttribute('href').slice(1))"
    )
    assert set(links) <= set(ids)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


# Of every text that is seen: its contrast as WCAG 2 defines it, and the beginning of its element.
CONTRAST = """() => {
  const size = {width: 1, height: 1};
  const canvas = Object.assign(document.createElement("canvas"), size).getContext("2d", {willReadFrequently: true});
  const rgba = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const linear = (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const luminance = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const color = rgba(getComputedStyle(node).backgroundColor);
      if (color[3] === 255) return color;
    }
  };
  const has_text = (node) => [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
  return [...document.querySelectorAll("body *")].filter((n) => n.checkVisibility() && has_text(n)).map((n) => {
    const pair = [rgba(getComputedStyle(n).color), behind(n)].map(luminance).sort((a, b) => a - b);
    return [(pair[1] + 0.05) / (pair[0] + 0.05), n.outerHTML.slice(0, 80)];
  });
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_the_contrast_of_wcag_aa(page, scheme):
    page.emulate_media(color_scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach((details) => (details.open = true))")
    measured = page.evaluate(CONTRAST)
    assert len(measured) > 100
    assert min(measured)[0] >= 4.5, min(measured)
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (dark == "rgb(20, 23, 26)") == (scheme == "dark")


def test_the_page_says_what_each_network_is(results):
    text = (results / "report.html").read_text()
    assert "lipbench run -m experiment=data/hkr_cnn seed=0,1" in text
    assert "&#39;model.widths=[64,32]&#39; loss.margin=1" in text, "brackets are those of the configuration"
    assert "zero_gradients" in text
    assert "&lt;b&gt;half&lt;/b&gt;" in text
    assert "2.13" in text
    assert "data/cut/default/0" in text, "a broken run is listed"
    assert "broken.png" in text


def test_the_same_results_give_the_same_bytes_wherever_they_lie(results, tmp_path):
    shutil.copytree(results, tmp_path / "elsewhere")
    runs = find_runs(tmp_path / "elsewhere")
    path = write_page(leaderboard(runs), runs)
    assert path.read_bytes() == (results / "report.html").read_bytes()
