"""Names and messages that somebody else wrote are data wherever the report shows them: never markup, never commands."""

import csv as csv_files
import io
import os
import re
import shutil
import unicodedata
from pathlib import Path

import pandas as pd
import pytest
from helpers.reports import run_report
from helpers.results_tree import make_results
from helpers.runs_on_disk import make
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager
from matplotlib.text import Text
from PIL import Image

from lipbench.commands.main import main
from lipbench.escapes import csv, escaped, markdown, printable, say
from lipbench.figures import lettering, save_figure
from lipbench.figures.style import style
from lipbench.files import write_json
from lipbench.report import draw as report_figures

# What each place would read as something else, and characters that few fonts have.
NAMES = (
    "US$100$",
    r"$\frac{1}$",
    r"a_b%c\d&e#f^g~h{i}",
    "=1+1",
    "+1",
    "-1+1",
    "@sum",
    "\uff1d1+1",
    " =1",
    "\u9ec4\u82b1 \u732b",
    "b\u00fccher \u0436\u0443\u043a \u03b5",
    os.fsdecode(b"caf\xe9"),
    "\x1b[2J\x1b]0;owned\x07",
    "tab\tnew\nline\rend",
    "right\u202eleft\u2066",
    "<img src=x onerror=alert(1)>",
    "|a|b|",
    "**bold** _slanted_ `code` [x](y) ![i](j) # head",
    "&amp;&lt;",
    "'\"",
    "\U0001f600",
)


@pytest.fixture(scope="module")
def told(tmp_path_factory) -> tuple[Path, str]:
    """A report over runs whose data sets, experiments, flags and errors have every name; and what it printed."""
    root, other = tmp_path_factory.mktemp("names"), tmp_path_factory.mktemp("other")
    for number, name in enumerate(NAMES):
        flag = {"name": name, "severity": "note", "message": name, "method": name}
        folder = make(root, f"x{number}", dataset="plain", flags=[flag], source=name)
        shutil.copytree(folder, root / "plain" / name / "default" / "0")
        shutil.copytree(folder, root / "plain" / "variants" / name / "0")
        shutil.copytree(folder, root / name / "cnn" / "default" / "0")
        shutil.copytree(folder, root / "plain" / "copies" / "default" / f"0{name}")
        if number % 4 == 3:  # enough of them to be compared
            shutil.copytree(root / "plain" / name, other / "plain" / name)
        write_json(folder / "environment.json", {"python": name, name: name, "packages": {"torch": name}})
    with pytest.MonkeyPatch.context() as patch:
        out, error = io.StringIO(), io.StringIO()
        patch.setattr("sys.stdout", out)
        patch.setattr("sys.stderr", error)
        run_report(f"results={root}", "figures=false", f"compare={other}")
    return root, out.getvalue() + error.getvalue()


def test_nothing_written_or_printed_holds_control_characters(told):
    root, printed = told
    texts = [path.read_text(encoding="utf-8") for path in root.iterdir() if path.is_file()]
    assert len(texts) > len(NAMES) + 3, "a LaTeX table per data set, and the other files"
    for text in (printed, *texts):
        strange = {c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs") and c not in "\n\t"}
        assert not strange
    for name in ("leaderboard.csv", "leaderboard.md", "report.html"):
        assert r"\x1b[2J" in (root / name).read_text(encoding="utf-8")


def test_no_cell_of_a_spreadsheet_is_a_formula(told):
    for name in ("leaderboard.csv", "comparison.csv"):
        with (told[0] / name).open(encoding="utf-8", newline="") as file:
            rows = list(csv_files.DictReader(file))
        words = [row[column] for row in rows for column in ("dataset", "experiment", "variant")]
        begins = {unicodedata.normalize("NFKC", word.strip())[:1] for word in words}
        assert not begins & set("=+-@")
        assert "'=1+1" in words
        assert len(set(words)) > len(NAMES) / 4


def test_markdown_shows_every_name_letter_by_letter(told):
    text = (told[0] / "leaderboard.md").read_text(encoding="utf-8")
    assert not re.search(r"<(?!/?[a-z]*>$)[a-z]", text)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    # A cell ends at a bar that is not escaped: every row of a table has as many as its head.
    bars = [len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in rows]
    heads = [line for line in rows if re.match(r"\|\s*(data set|network)", line)]
    assert len(heads) > 2 * len(NAMES)
    assert set(bars) <= {len(re.findall(r"\|", head)) for head in heads}
    for name in NAMES:
        shown = markdown(name)
        assert shown in text
        back = re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", shown)
        assert back.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&") == printable(name)
        for sign in ("*", "`", "|", "$", "~"):
            assert not re.search(rf"(?<!\\){re.escape(sign)}", shown)
    assert markdown("hkr_cnn, [0, 1]") == "hkr_cnn, [0, 1]", "what is no markup stays as it is"


def test_the_page_links_every_network_once(told):
    page = (told[0] / "report.html").read_text(encoding="utf-8")
    ids = re.findall(r' id="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    links = re.findall(r'href="#([^"]*)"', page)
    assert set(links) <= set(ids)
    assert all(re.fullmatch(r"[!-~]+", one) for one in ids)
    assert "<img src=x" not in page


def test_latex_escapes_names(told):
    text = (told[0] / "leaderboard_plain.tex").read_text(encoding="utf-8")
    assert r"US\$100\$" in text
    assert "\\frac" not in text
    assert not re.search(r"(?<!\\)[$#]", text)


def test_status_prints_no_commands_to_the_terminal(tmp_path, capsys):
    folder = make(tmp_path, "net")
    (folder / "manifest.json").unlink()
    write_json(folder / "error.json", {"type": "\x1b]0;owned\x07", "message": "\x1b[31mred\u202e"})
    main(["status", f"results={tmp_path}"])
    printed = capsys.readouterr().out
    assert r"\x1b]0;owned\x07: \x1b[31mred\u202e" in printed
    assert "\x1b" not in printed


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_a_terminal_of_any_encoding_is_printed_to(encoding):
    file = io.BytesIO()
    stream = io.TextIOWrapper(file, encoding=encoding, errors="strict")
    for name in NAMES:
        say(name, stream)
    stream.flush()
    assert file.getvalue().decode(encoding).count("\n") >= len(NAMES)


def test_bytes_of_names_that_the_system_did_not_decode_are_shown():
    chinese = "\u732b".encode().decode("ascii", "surrogateescape")  # as a system without UTF-8 reads the name
    assert printable(chinese) == "\u732b"
    assert printable(os.fsdecode(b"caf\xe9")) == r"caf\xe9"
    assert printable("\ud800x") == r"\ud800x"
    assert printable("a\nb", keep="\n") == "a\nb"


def shown(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def named(names: tuple[str, ...]) -> Figure:
    """A figure with names in every place that has some."""
    with style():
        figure = Figure(figsize=(6, 6))
        axis = figure.subplots()
        for number, name in enumerate(names):
            axis.plot([number, number + 1], [0, 1], label=name)
            axis.text(0, number, name)
        axis.set_yticks(range(len(names)), names)
        axis.set_title(names[0])
        figure.suptitle(names[-1])
        figure.legend()
    return figure


@pytest.mark.filterwarnings("error")
def test_figures_show_every_name_letter_by_letter(tmp_path):
    figure = named(NAMES)
    table = save_figure(figure, tmp_path / "names", title=NAMES[12], alt=NAMES[11])
    assert {path.suffix for path in table} == {".png", ".pdf", ".csv"}
    assert not any(text.get_parse_math() or text.get_usetex() for text in figure.findobj(Text))
    ticks = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    texts = shown(figure)
    for number, name in enumerate(NAMES):
        letters = frozenset().union(
            *map(lettering.letters, {font.name for font in fontManager.ttflist} - {"Last Resort High-Efficiency"})
        )
        expected = "".join(c if c in letters | {"\n"} else escaped(c) for c in printable(name, keep="\n"))
        assert texts.count(expected) >= 3, "legend, text and tick"
        assert ticks[number] == expected
    words = Image.open(tmp_path / "names.png").text
    assert words["Title"] == r"\x1b[2J\x1b]0;owned\x07"
    assert words["Description"] == r"caf\xe9"


def test_a_font_that_has_the_letters_is_preferred_to_escapes(tmp_path):
    script = "\U0001d49c"  # of the fonts that come with matplotlib, one for formulas has it
    assert script not in lettering.letters(lettering.FAMILY)
    figure = named((script, "b"))
    save_figure(figure, tmp_path / "font")
    assert script in shown(figure)
    families = figure.axes[0].title.get_fontfamily()
    assert families[0] == lettering.FAMILY
    assert script in frozenset().union(*map(lettering.letters, families))
    plain = named(("a", "b"))
    save_figure(plain, tmp_path / "plain")
    assert plain.axes[0].title.get_fontfamily() == [lettering.FAMILY]


def test_a_report_draws_classes_of_any_name(tmp_path, monkeypatch, capsys):
    recipes = [recipe for recipe in report_figures.RECIPES if recipe.name in ("adversarial", "costs")]
    monkeypatch.setattr(report_figures, "RECIPES", recipes)
    for dataset in ("US$100$\u732b", os.fsdecode(b"caf\xe9 \x1b[2J#1%")):
        make_results(tmp_path, dataset, classes=("$\\frac{1}$", "\u9ec4\n=1"))
    run_report(f"results={tmp_path}")
    assert "Not drawn" not in capsys.readouterr().err
    assert len(list((tmp_path / "figures").glob("*.png"))) == 4
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    addresses = re.findall(r'href="(figures/[^"]*)"', page)
    assert len(addresses) == 12
    for address in addresses:
        path = re.sub(rb"%(..)", lambda found: bytes.fromhex(found[1].decode()), address.encode())
        assert (tmp_path / os.fsdecode(path)).is_file()


def test_tables_of_numbers_are_written_as_before():
    table = pd.DataFrame({"name": ["a", None], "x": [-1.5, 2.0], "n": [-1, 2]})
    assert csv(table) == table.to_csv(index=False, lineterminator="\n")
    assert csv(table, "%.6g") == table.to_csv(index=False, float_format="%.6g", lineterminator="\n")
