"""The report as one page for a browser: nothing is loaded from anywhere, and the page itself forbids it."""

import base64
import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from lipbench.escapes import printable
from lipbench.files import write_text
from lipbench.report.cards import Card, cards
from lipbench.report.columns import COLUMNS
from lipbench.report.comparison import HEADINGS, changes, compared_rows, explained
from lipbench.report.leaderboard import left_aside
from lipbench.report.panels import by_dataset, panels
from lipbench.report.pictures import IMAGES, pictures
from lipbench.results import MANIFEST, Comparison
from lipbench.results.runs import Problem, Runs

# Of a list of values in the head; of more their number is said.
LISTED = 3


def write_page(
    table: pd.DataFrame, runs: Runs, comparison: Comparison | None = None, order: Sequence[str] = ()
) -> Path:
    """`report.html`: for each data set its answer, its curve, its board, its figures and a card per network; and what
    was left out.

    The same results give the same bytes.

    Args:
        table: as `leaderboard` returns it.
        comparison: with another results folder, as `compare_runs` returns it.
        order: the first words of figures' names, as they are to follow each other; others come last.
    """
    found, broken = pictures(runs.root / "figures", order)
    problems = [
        *runs.problems,
        *left_aside(runs),
        *(Problem(f"figures/{name}", "no picture. Delete it and run the report again.") for name in broken),
    ]
    style, script = (_asset(name) for name in ("report.css", "report.js"))
    known = cards(runs, table)
    own = by_dataset(found, sorted(set(table["dataset"])))
    page = (
        _environment()
        .get_template("report.html")
        .render(
            style=style,
            script=script,
            policy=f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}",
            facts=_facts(table, runs, known),
            panels=panels(table, known, own),
            figures=own[""],
            columns=[column for column in COLUMNS if column.card],
            images=IMAGES,
            comparison=comparison and _compared(comparison),
            problems=problems,
        )
    )
    path = runs.root / "report.html"
    write_text(path, page)
    return path


def _facts(table: pd.DataFrame, runs: Runs, known: Sequence[Card]) -> list[str]:
    """When and where the results were made, and of how much."""
    made = max((run.folder / MANIFEST).stat().st_mtime for run in runs.finished)
    values: dict[str, dict[str, None]] = {}
    for card in known:
        for name, value in card.environment:
            values.setdefault(name, {}).update(dict.fromkeys(value.split(", ")))
    environment = {name: _listed(list(found)) for name, found in values.items()}
    seeds = int(table["seeds"].min()), int(table["seeds"].max())
    attacked = [int(count) for count in table["images"] if count]
    said = [
        datetime.fromtimestamp(made, UTC).strftime("%Y-%m-%d"),
        *(f"{name} {environment[name]}" for name in ("lipbench", "torch") if name in environment),
        *([f"commit {environment['commit']}"] if "commit" in environment else []),
        *(environment[name] for name in ("system", "processor") if name in environment),
        f"{len(table)} networks, {len(runs.finished)} runs",
        f"{_range(min(attacked), max(attacked))} attacked images" if attacked else "no attacked images",
        f"{_range(*seeds)} seed{'s' if seeds[1] > 1 else ''}",
    ]
    return [printable(text) for text in said]


def _listed(values: Sequence[str]) -> str:
    return ", ".join(values) if len(values) <= LISTED else f"{values[0]} and {len(values) - 1} others"


def _range(low: int, high: int) -> str:
    return f"{low}" if low == high else f"{low} to {high}"


def _compared(comparison: Comparison) -> dict[str, Any]:
    rows = compared_rows(comparison)
    return {
        "changes": changes(comparison),
        "explained": explained(comparison),
        "headings": HEADINGS,
        "rows": rows,
        "notes": comparison.notes,
    }


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
