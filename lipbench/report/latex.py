"""The leaderboard for a paper: one LaTeX table per data set, for the package booktabs."""

from collections.abc import Hashable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from lipbench.escapes import file_name
from lipbench.files import write_text
from lipbench.report.columns import COLUMNS, GROUP, heading, hidden, split, written
from lipbench.report.overview import overview_table
from lipbench.results.runs import Problem

HEAD = "% Needs \\usepackage{booktabs}. Accuracies in %; distances are L2, pixels in [0, 1]. Means over seeds."


def write_latex(table: pd.DataFrame, root: Path) -> tuple[list[Path], list[Problem]]:
    r"""`leaderboard_<dataset>.tex` of each data set, and of several `overview.tex`: a tabular to \input,
    with the best of each column and data set in bold.

    Returns:
        the files, and those that could not be written.
    """
    tables = {file_name(f"leaderboard_{dataset}.tex"): rows for dataset, rows in table.groupby("dataset", sort=True)}
    overview = overview_table(table)
    if overview["dataset"].nunique() > 1:
        tables["overview.tex"] = overview
    files: list[Path] = []
    problems: list[Problem] = []
    for name, rows in tables.items():
        try:
            write_text(root / name, _tabular(rows))
            files.append(root / name)
        except OSError as error:  # a name that is too long
            problems.append(Problem.of(error, name, root))
    return files, problems


def _tabular(rows: pd.DataFrame) -> str:
    groups = rows["dataset"].reset_index(drop=True)
    same = ["dataset"] if groups.nunique() == 1 else []
    details = [column.name for column in COLUMNS if column.is_detail]
    shown = rows.drop(columns=[*same, *hidden(rows), *details], errors="ignore").dropna(axis=1, how="all")
    shown = shown.reset_index(drop=True)
    if "variant" in shown and set(shown["variant"]) == {"default"}:
        shown = shown.drop(columns="variant")
    words = [c for c in shown if c in GROUP]
    for column in shown.columns.drop(words):
        # As they are read: what looks equal is equally good.
        shown[column] = pd.to_numeric(shown[column].map(partial(written, str(column))), errors="coerce")
    headings = {c: heading(str(c), lambda column: column.latex) for c in shown}
    best: list[Hashable] = [headings[c] for c in shown if _is_better_large(str(c))]
    formats: dict[Any, Any] = {headings[c]: partial(written, str(c)) for c in shown}
    shown.columns = pd.MultiIndex.from_tuples(headings.values())
    look = shown.style.hide(axis="index").format(formats, escape="latex", na_rep="-")
    for _, group in groups.groupby(groups):
        if len(group) > 1:
            look = look.highlight_max((group.index, best), props="textbf:--rwrap;")
    tabular: str = look.to_latex(
        hrules=True, column_format="l" * len(words) + "r" * (len(shown.columns) - len(words)), multicol_align="c"
    )
    return f"{HEAD}\n{tabular}"


def _is_better_large(name: str) -> bool:
    column, _ = split(name)
    return column is not None and column.larger_is_better
