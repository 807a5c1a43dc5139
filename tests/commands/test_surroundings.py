"""The surroundings change nothing: the locale, the backend and the settings of matplotlib, a kernel of Jupyter."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.reports import run_report
from helpers.results_tree import make_results

from lipbench.report import draw as report_figures

ROOT = Path(__file__).parents[2]
# Of these a method `open` gives bytes.
BINARY = {"Image", "tarfile", "gzip", "lzma", "os", "archive", "self.archive", "found", "pictures"}


def texts_without_encoding(source: str) -> list[str]:
    """The calls that read or write text in the encoding of the system."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        owner, _, name = ast.unparse(node.func).rpartition(".")
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        values = [ast.unparse(value).strip("'\"") for value in (*node.args, *given.values())]
        is_text = {
            "read_text": True,
            "write_text": bool(owner),  # that of lipbench.results is a function
            "open": owner not in BINARY
            and not any(value in ("rb", "wb", "ab", "rb+", "xb", "mode") for value in values),
            "TextIOWrapper": True,
            "to_csv": bool(node.args or "path_or_buf" in given),
            "run": "text" in given or "universal_newlines" in given,
            "Popen": "text" in given or "universal_newlines" in given,
            "check_output": "text" in given or "universal_newlines" in given,
        }
        if is_text.get(name, False) and "encoding" not in given:
            found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize("package", ["lipbench", "hydra_plugins", "benchmarks"])
def test_all_text_is_read_and_written_as_utf8(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    assert [f"{file.name}: {call}" for file in files for call in texts_without_encoding(file.read_text("utf-8"))] == []


def test_the_walk_over_the_sources_sees_every_kind_of_call():
    calls = [
        "path.read_text()",
        "path.write_text(text)",
        "open(path)",
        "path.open('w')",
        "io.TextIOWrapper(file)",
        "table.to_csv(path)",
        "subprocess.run(command, text=True)",
        "subprocess.Popen(command, universal_newlines=True)",
        "subprocess.check_output(command, text=True)",
    ]
    for call in calls:
        assert texts_without_encoding(call) == [call]
        assert texts_without_encoding(call.replace("()", "(mode)")[:-1] + ", encoding='utf-8')") == []
    for call in ("path.open('rb')", "Image.open(path)", "table.to_csv(index=False)", "subprocess.run(command)"):
        assert texts_without_encoding(call) == []


SETTINGS = (
    "text.usetex: True\nfont.size: 40\nfont.family: cursive\nsavefig.dpi: 7\nsavefig.bbox: tight\naxes.facecolor: red\n"
)
# As `lipbench report`, with two figures.
REPORT = (
    "import sys; from lipbench.commands.main import main; from lipbench.report import draw as r; "
    "r.RECIPES = [one for one in r.RECIPES if one.name in ('adversarial', 'costs')]; sys.exit(main())"
)


def test_a_report_is_the_same_in_any_surroundings(tmp_path, monkeypatch, capsys):
    make_results(tmp_path / "here", "\u732b", classes=("$1$", "\u03b5"))
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    names = ("adversarial", "costs")
    monkeypatch.setattr(report_figures, "RECIPES", [one for one in report_figures.RECIPES if one.name in names])
    run_report(f"results={tmp_path}/here")
    printed = capsys.readouterr().out
    (tmp_path / "matplotlibrc").write_text(SETTINGS)
    odd = {
        "MPLBACKEND": "module://a_backend_that_is_not_installed",
        "MATPLOTLIBRC": str(tmp_path / "matplotlibrc"),
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
    }
    done = subprocess.run(
        [sys.executable, "-c", REPORT, "report", f"results={tmp_path}/there"],
        env={**os.environ, **odd},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert b"Not drawn" not in done.stderr
    assert done.stdout.decode("ascii").count("\n") == printed.count("\n"), "escapes where the terminal has no letters"
    files = sorted(path.relative_to(tmp_path / "here") for path in (tmp_path / "here").rglob("*") if path.is_file())
    assert sum(file.suffix == ".png" for file in files) == 2
    for file in files:
        if file.suffix != ".pdf":
            assert (tmp_path / "here" / file).read_bytes() == (tmp_path / "there" / file).read_bytes(), file
