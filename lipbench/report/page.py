"""The report as one page for a browser: nothing is loaded from anywhere, and the page itself forbids it."""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from lipbench.escapes import printable
from lipbench.files import write_text
from lipbench.report.cards import Card, cards
from lipbench.report.columns import GROUP, heading, hidden, split, written
from lipbench.report.comparison import HEADINGS, compared_rows, explained
from lipbench.report.pictures import pictures
from lipbench.results import Comparison
from lipbench.results.runs import Problem, Runs


@dataclass(frozen=True)
class Shown:
    """A column of the leaderboard on the page."""

    name: str
    group: str
    heading: str
    meaning: str
    is_number: bool


@dataclass(frozen=True)
class Cell:
    """What is shown, and by what it is sorted: "" where there is none."""

    text: str
    value: str


def write_page(
    table: pd.DataFrame, runs: Runs, comparison: Comparison | None = None, order: Sequence[str] = ()
) -> Path:
    """`report.html`: leaderboard, the figures in `figures/`, a card per network, what was left out.

    The same results give the same bytes.

    Args:
        table: as `leaderboard` returns it.
        comparison: with another results folder, as `compare_runs` returns it.
        order: the first words of figures' names, as they are to follow each other; others come last.
    """
    found, broken = pictures(runs.root / "figures", order)
    columns = _columns(table)
    problems = [
        *runs.problems,
        *(Problem(f"figures/{name}", "no picture. Delete it and run the report again.") for name in broken),
    ]
    style, script = (_asset(name) for name in ("report.css", "report.js"))
    page = (
        _environment()
        .get_template("report.html")
        .render(
            style=style,
            script=script,
            policy=f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}",
            columns=columns,
            groups=_groups(columns),
            rows=_rows(table, columns, cards(runs)),
            datasets=sorted(set(table["dataset"])),
            pictures=found,
            comparison=comparison and _compared(comparison),
            problems=problems,
            runs=len(runs.finished),
        )
    )
    path = runs.root / "report.html"
    write_text(path, page)
    return path


def _compared(comparison: Comparison) -> dict[str, Any]:
    rows = compared_rows(comparison)
    return {"explained": explained(comparison), "headings": HEADINGS, "rows": rows, "notes": comparison.notes}


def _columns(table: pd.DataFrame) -> list[Shown]:
    unseen = [set(hidden(rows)) for _, rows in table.groupby("dataset")]
    shown = table.drop(columns=[*GROUP, *set.intersection(*unseen)], errors="ignore").dropna(axis=1, how="all")
    columns = []
    for name in map(str, shown):
        column, radius = split(name)
        assert column is not None  # the names of the runs are dropped
        group, own = heading(name, lambda column: column.page)
        meaning = f"{group} {radius}, {column.meaning}" if radius else column.meaning
        columns.append(Shown(name, group, own, meaning, not column.is_text))
    return columns


def _groups(columns: Sequence[Shown]) -> list[tuple[str, int]]:
    """Headings over several columns: name and number of columns."""
    groups: list[tuple[str, int]] = []
    for column in columns:
        if groups and groups[-1][0] == column.group:
            groups[-1] = (column.group, groups[-1][1] + 1)
        else:
            groups.append((column.group, 1))
    return groups


def _rows(table: pd.DataFrame, columns: Sequence[Shown], found: Sequence[Card]) -> list[tuple[Card, list[Cell]]]:
    known = {(card.dataset, card.experiment, card.variant): card for card in found}
    return [
        (known[tuple(str(row[name]) for name in GROUP)], [_cell(column, row[column.name]) for column in columns])  # type: ignore[index]
        for row in table.to_dict("records")
    ]


def _cell(column: Shown, value: Any) -> Cell:
    missing = value is None or bool(pd.isna(value))
    return Cell(written(column.name, value), "" if missing else repr(float(value)) if column.is_number else str(value))


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("lipbench.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=lambda value: printable(value, keep="\n\t") if type(value) is str else value,
    )


def _asset(name: str) -> str:
    """A file of the page, which becomes a part of it."""
    return (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """Of an inline style or script, for the page's policy: the browser runs no other."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
