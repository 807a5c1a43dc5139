"""The leaderboard: one row per network, as a table, as Markdown, CSV and LaTeX."""

from functools import partial
from typing import Any

import pandas as pd

from lipbench.escapes import csv, markdown
from lipbench.files import write_text
from lipbench.report.columns import COLUMNS, GROUP, Column, hidden, split, written
from lipbench.report.overview import overview_table
from lipbench.results import RUN_COLUMNS
from lipbench.results.runs import Runs

OVERVIEW = (
    "Of each data set one network per kind of training, at the radii that all of them have. Where the classes are of "
    "unequal size, accuracies are means over the classes."
)


def leaderboard(runs: Runs) -> pd.DataFrame:
    """One row per dataset, experiment and variant: means over the seeds of their summaries.

    accuracy (for each class alike: balanced accuracy) and certified accuracy are over the whole test set, robust
    accuracy (combined attack) over the attacked images, in percent; violations are summed.
    """
    rows = [{name: run.summary[name] for name in RUN_COLUMNS} | _values(run.summary) for run in runs.finished]
    table = pd.DataFrame(rows)
    names = {column: _names(table, column) for column in COLUMNS}
    # A column that no run has a number for, such as the training time of external models, is one of numbers still.
    numbers = [name for column in COLUMNS if column.combine == "mean" for name in names[column]]
    table[numbers] = table[numbers].astype(float)
    groups = table.groupby(GROUP, sort=True)
    # Words come last.
    ordered = sorted(COLUMNS, key=lambda column: column.is_text)
    combined = [groups[name].agg(column.combine) for column in ordered for name in names[column]]
    return pd.concat(combined, axis=1).reset_index()


def _values(summary: dict[str, Any]) -> dict[str, Any]:
    return {name: value for column in COLUMNS for name, value in column.values(summary).items()}


def _names(table: pd.DataFrame, column: Column) -> list[str]:
    """Of a curve one for each radius, in their order, whichever run came first."""
    names = [str(name) for name in table if split(str(name))[0] is column]
    return sorted(names, key=lambda name: float(split(name)[1] or 0))


def write_leaderboard(table: pd.DataFrame, runs: Runs) -> str:
    """`leaderboard.csv` with all digits and `leaderboard.md` for readers, whose text is returned."""
    lines = [markdown(f"{'/'.join(map(str, run.key))}: {flag}") for run in runs.finished for flag in run.flags]
    parts = [*_markdown(table), *_flags(lines)]
    if runs.problems:
        parts += ["## Left out", "\n".join(f"* {markdown(str(problem))}" for problem in runs.problems)]
    text = "\n\n".join(parts)
    write_text(runs.root / "leaderboard.csv", csv(table))
    write_text(runs.root / "leaderboard.md", text + "\n")
    return text


def _flags(lines: list[str]) -> list[str]:
    explained = (
        "Signs that a number says less than it seems to. A warning: distances may be too large, or mean something else."
    )
    return ["## Flags", f"{explained}\n\n" + "\n".join(f"* {line}" for line in lines) if lines else "None."]


def _markdown(table: pd.DataFrame) -> list[str]:
    legends = [column.legend for column in COLUMNS if column.legend]
    parts = ["# Leaderboard", " ".join([*legends, "Means over seeds."])]
    details = [column.name for column in COLUMNS if column.is_detail]
    overview = overview_table(table)
    if overview["dataset"].nunique() > 1:
        parts += ["## The main networks on all data sets", OVERVIEW, _table(overview)]
    for dataset, rows in table.groupby("dataset", sort=True):
        shown = rows.drop(columns=[*hidden(rows), *details], errors="ignore")
        parts += [f"## {markdown(str(dataset))}", _table(shown), _table(rows[[*GROUP, *details]])]
    return parts


def _table(rows: pd.DataFrame) -> str:
    """A Markdown table, rounded for readers; columns that are empty are left out."""
    same = ["dataset"] if rows["dataset"].nunique() == 1 else []
    shown = rows.drop(columns=same).dropna(axis=1, how="all").copy()
    if "variant" in shown and set(shown["variant"]) == {"default"}:
        shown = shown.drop(columns="variant")
    numbers = list(map(str, shown.select_dtypes("number")))
    for column in numbers:
        shown[column] = shown[column].map(partial(written, column))
    for column in shown.columns.difference(numbers):
        shown[column] = shown[column].map(markdown, na_action="ignore")
    alignment = ["right" if column in numbers else "left" for column in shown]
    shown = shown.rename(columns=_short)
    return shown.to_markdown(index=False, disable_numparse=True, colalign=alignment)


def _short(name: str) -> str:
    column, radius = split(name)
    return (column.short or name) + radius if column is not None else name
