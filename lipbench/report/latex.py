"""The leaderboard for a paper: LaTeX tables for the package booktabs."""

from pathlib import Path

import pandas as pd

from lipbench.escapes import file_name, printable
from lipbench.files import write_text
from lipbench.report.board import columns
from lipbench.report.columns import MARK, SCHEMA_VERSION, heading, leader, mark, written, written_with
from lipbench.report.overview import overview
from lipbench.results.runs import Problem

HEAD = (
    f"% lipbench leaderboard, schema version {SCHEMA_VERSION}. Needs \\usepackage{{booktabs}}.\n"
    "% acc, cert@r, rob@r: accuracy, certified and robust accuracy (%) at radius r; radius, distance: medians.\n"
    "% All are over the n attacked images; L2, pixels in [0, 1]. +-: 95 % interval over the images, or the standard\n"
    "% deviation over the seeds where that is larger. Bold: the lead is larger than both uncertainties together.\n"
    "% Dagger: certified without certificate_inscribed, which other networks of the report have.\n"
)
ESCAPES = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"\textpm{}"}
ESCAPES |= {"<": r"\textless{}", ">": r"\textgreater{}", MARK: r"\textdagger{}"}
ESCAPES |= {letter: "\\" + letter for letter in "&%$#_{}"}


def write_latex(table: pd.DataFrame, root: Path) -> tuple[list[Path], list[Problem]]:
    r"""`leaderboard_<dataset>.tex` of each data set: a tabular to \input. `leaderboard.tex`: the main networks of all
    data sets.

    Returns:
        the files, and those that could not be written.
    """
    main = overview(table)
    tables = {"leaderboard.tex": _tabular(main.to_numpy().tolist(), list(map(str, main)), 2)}
    for dataset, rows in table.groupby("dataset", sort=True):
        tables[file_name(f"leaderboard_{dataset}.tex")] = _board(rows)
    files: list[Path] = []
    problems: list[Problem] = []
    for name, text in tables.items():
        try:
            write_text(root / name, text)
            files.append(root / name)
        except OSError as error:  # a name that is too long
            problems.append(Problem.of(error, name, root))
    return files, problems


def _board(rows: pd.DataFrame) -> str:
    names = [name for name in columns(rows) if rows[name].notna().any()]
    best = {name: leader(rows, name) for name in names}
    plain = set(rows["variant"]) == {"default"}
    lines = []
    for index, row in zip(rows.index, rows.to_dict("records"), strict=True):
        words = [str(row["experiment"]) + mark(row), *([] if plain else [str(row["variant"])])]
        cells = [written_with(n, row) if "@" in n else written(n, row[n]) for n in names]
        bold = [best[name] is not None and best[name] == index for name in names]
        lines.append([*map(_escaped, words), *map(_cell, cells, bold)])
    words = ["network"] if plain else ["network", "variant"]
    return _tabular(lines, [*words, *map(heading, names)], len(words), escaped=True)


def _tabular(lines: list[list[str]], headings: list[str], words: int, escaped: bool = False) -> str:
    """
    Args:
        words: how many columns hold words, to the left.
        escaped: the cells are LaTeX already.
    """
    rows = lines if escaped else [[_escaped(cell) for cell in line] for line in lines]
    body = [" & ".join(row) + r" \\" for row in [[_escaped(name) for name in headings], *rows]]
    frame = [r"\begin{tabular}{" + "l" * words + "r" * (len(headings) - words) + "}", r"\toprule", body[0], r"\midrule"]
    return HEAD + "\n".join([*frame, *body[1:], r"\bottomrule", r"\end{tabular}"]) + "\n"


def _cell(text: str, bold: bool) -> str:
    return rf"\textbf{{{_escaped(text)}}}" if bold else _escaped(text)


def _escaped(text: str) -> str:
    return "".join(ESCAPES.get(letter, letter) for letter in printable(text))
