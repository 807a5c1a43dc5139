"""The report's page in a real browser, and what it says of the networks."""

import itertools
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.runs_on_disk import make
from matplotlib.figure import Figure

from lipbench.figures import save_figure
from lipbench.report import find_runs, leaderboard, write_page

ORDER = ("overview", "sandwich", "adversarial", "costs")
FLAG = {"name": "zero_gradients", "severity": "warning", "message": "<b>half</b> of them", "method": "fgm"}


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """Three networks and a sweep on two data sets, one run broken, and figures of each kind."""
    root = tmp_path_factory.mktemp("results")
    make(root, "hkr_cnn", 1.0)
    make(root, "hkr_cnn", 1.0, seed=1)
    make(root, "hkr_cnn/loss.margin=2", 0.8)
    make(root, "plain_cnn", -0.09, flags=[FLAG])
    make(root, "hkr_mlp/model.widths=_64_32_,loss.margin=1", 2.0, dataset="other")
    (make(root, "cut") / "bounds" / "fgm.parquet").write_text("index,label\n0,0\n")
    figure = Figure(figsize=(7, 3))
    figure.subplots().plot([0, 1])
    for name in ("overview_data", "sandwich_data", "adversarial_data", "costs_data", "overview_other", "wide_figure"):
        save_figure(figure, root / "figures" / name, title=f"Title of {name}", alt=f"How to read {name}.")
    (root / "figures" / "broken.png").write_text("no picture")
    runs = find_runs(root)
    write_page(leaderboard(runs), runs, order=ORDER)
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


def shown(page) -> list[str]:
    """The networks of the board of the open tab, as they stand."""
    rows = page.locator(".board tbody tr:visible")
    return [rows.nth(i).locator("th a").inner_text() for i in range(rows.count())]


def resized(page, width: int, scheme: str = "light") -> None:
    page.set_viewport_size({"width": width, "height": 900 if width > 400 else 800})
    page.emulate_media(color_scheme=scheme)


def test_the_page_asks_for_nothing_but_itself(page, results):
    page.evaluate("document.querySelectorAll('details').forEach((details) => (details.open = true))")
    assert {url.partition(":")[0] for url in page.asked if not url.endswith("/report.html")} <= {"data"}
    # And could not: the browser refuses what is written into the page from outside.
    page.evaluate("document.body.append(Object.assign(new Image(), {src: 'http://127.0.0.1:9/x.png', id: 'foreign'}))")
    page.wait_for_timeout(50)
    assert page.evaluate("document.getElementById('foreign').naturalWidth") == 0
    assert any("Content Security Policy" in text for text in page.errors)
    page.errors.clear()


@pytest.mark.parametrize("width", [390, 800, 1400])
def test_the_answer_is_within_the_first_screen(page, width):
    resized(page, width)
    page.reload()
    answer = page.locator(".answer:visible")
    assert answer.count() == 1
    box = answer.bounding_box()
    assert box["y"] + box["height"] < (800 if width == 390 else 500)
    text = answer.inner_text()
    assert re.search(r"data, radius [\d.]+: HKR CNN is proven right on [\d.]+ ± [\d.]+ %", text.replace("\u00a0", " "))
    assert "The classical CNN:" in text
    assert page.evaluate("document.documentElement.scrollWidth") == width
    curve = page.locator("figure:visible").first.bounding_box()
    board = page.locator(".board:visible").bounding_box()
    assert box["y"] < curve["y"] < board["y"], "answer, curve, board"


def test_nothing_overflows_a_phone(page):
    page.evaluate("document.querySelectorAll('details').forEach((details) => (details.open = true))")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    for image in page.locator("figure:visible img").all():
        assert image.bounding_box()["width"] <= 390 - 2 * 14
    assert not page.locator(".board thead").first.is_visible()
    cell = page.locator(".board td:visible").nth(1)
    assert cell.evaluate("(cell) => getComputedStyle(cell, '::before').content") == '"certified at 1"'


def test_a_board_has_at_most_eight_columns_and_folds_sweeps(page):
    resized(page, 1400)
    assert page.locator(".board:visible thead th").count() <= 8
    assert shown(page) == ["hkr_cnn", "plain_cnn"]
    more = page.locator(".board:visible button.more")
    assert more.inner_text() == "1 variant"
    more.focus()
    page.keyboard.press("Enter")
    assert shown(page) == ["hkr_cnn", "loss.margin=2", "plain_cnn"]
    assert more.get_attribute("aria-expanded") == "true"


def test_columns_sort_by_click_and_by_keyboard(page):
    resized(page, 1400)
    button = page.locator(".board:visible").get_by_role("button", name="tightness")
    head = page.locator(".board:visible th[aria-sort]", has=page.get_by_role("button", name="tightness"))
    assert head.get_attribute("aria-sort") == "none"
    button.click()
    assert head.get_attribute("aria-sort") == "descending"
    first = shown(page)
    button.focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    assert shown(page) in (first[::-1], first)  # of equal ones the order stays
    page.locator(".board:visible").get_by_role("button", name="network").focus()
    page.keyboard.press("Space")
    assert shown(page) == ["hkr_cnn", "plain_cnn"]
    page.keyboard.press("Space")
    assert shown(page) == ["plain_cnn", "hkr_cnn"]
    assert head.get_attribute("aria-sort") == "none"


def test_a_tab_shows_one_data_set(page):
    resized(page, 1400)
    assert page.locator(".card:visible").count() == 2, "a variant is folded"
    assert page.locator("#tabs a[aria-current]").inner_text() == "data"
    page.get_by_role("link", name="other", exact=True).first.focus()
    page.keyboard.press("Enter")
    page.get_by_text("other", exact=True).and_(page.locator("#tabs a[aria-current]")).wait_for()
    assert shown(page) == ["hkr_mlp"]
    assert page.locator(".card:visible").count() == 1
    assert [f.get_attribute("id") for f in page.locator("figure:visible").all()] == ["figure-overview_other"]
    page.get_by_role("link", name="All data sets").click()
    page.locator(".answers li").first.wait_for()  # the page learns of its new address after the click
    assert page.locator(".answers li:visible").count() == 2
    assert page.locator("#figure-wide_figure").is_visible(), "a figure of no data set"
    page.get_by_role("link", name="Left out").click()
    page.locator("#problems").wait_for()
    assert "data/cut/default/0" in page.locator("#problems").inner_text()


def test_a_link_opens_what_is_folded(page):
    resized(page, 1400)
    page.locator(".board:visible a").first.click()
    card = page.locator(".card[open]")
    assert card.count() == 1
    assert "robust (%)" in card.inner_text()
    page.goto(page.url.partition("#")[0] + "#figure-costs_data")
    page.locator("#figure-costs_data").wait_for(state="visible")


def test_dark_pages_have_dark_figures(page):
    for scheme, kind in (("light", "none"), ("dark", "invert")):
        resized(page, 1400, scheme)
        styles = page.evaluate("[...document.images].map((i) => [i.alt, getComputedStyle(i).filter])")
        assert len(styles) == 6
        for alt, effect in styles:
            # Pictures of images keep their colours.
            assert ("invert" in effect) == (kind == "invert" and "adversarial" not in alt), alt


def test_the_page_opens_at_once(browser, results):
    context = browser.new_context()
    opened = context.new_page()
    began = time.monotonic()
    opened.goto((results / "report.html").as_uri(), wait_until="load")
    assert time.monotonic() - began < 2
    context.close()


def test_what_a_reader_without_eyes_or_mouse_needs(page):
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3, h4')].map((h) => Number(h.tagName[1]))")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels)), "no level is left out"
    assert page.evaluate("[...document.images].every((image) => image.alt)")
    assert "How to read overview_data." in page.locator("figcaption").first.inner_text(), "everybody can read it"
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
    for fact in ("commit abc", "torch 2.13", "40 attacked images", "1 to 2 seeds", "4 networks, 5 runs"):
        assert fact in text
    assert "lipbench run -m experiment=data/hkr_cnn " in text
    assert "seed=0,1" in text
    assert "&#39;model.widths=[64,32]&#39; loss.margin=1" in text, "brackets are those of the configuration"
    assert "zero_gradients" in text
    assert "&lt;b&gt;half&lt;/b&gt;" in text
    assert "2.13" in text
    assert "data/cut/default/0" in text, "a broken run is listed"
    assert "broken.png" in text


def test_the_same_results_give_the_same_bytes_wherever_they_lie(results, tmp_path):
    shutil.copytree(results, tmp_path / "elsewhere")
    runs = find_runs(tmp_path / "elsewhere")
    path = write_page(leaderboard(runs), runs, order=ORDER)
    assert path.read_bytes() == (results / "report.html").read_bytes()
