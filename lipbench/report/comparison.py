"""Two results folders side by side: `comparison.csv`, a text for the terminal, a section of the page."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from lipbench.escapes import csv, markdown
from lipbench.files import write_text
from lipbench.results import COMBINED, RUN_COLUMNS, Comparison, compare
from lipbench.results.runs import Runs

NETWORK = RUN_COLUMNS[:3]
HEADINGS = [
    "network",
    "method",
    "metric",
    "first",
    "second",
    "difference",
    "95 % interval",
    "spread",
    "seeds",
    "images",
]


@dataclass(frozen=True)
class ComparedRow:
    """A row for readers: its cells as text, in the order of `HEADINGS`; and whether the interval leaves out 0."""

    cells: list[str]
    is_clear: bool


def compare_runs(first: Runs, second: Runs) -> Comparison:
    """Compares at the radii that the summaries of both hold.

    Raises:
        ResultsError: nothing pairs, or the images differ.
    """
    folders = [[run.folder for run in runs.finished] for runs in (first, second)]
    found = compare(folders[0], folders[1], sorted(_radii(first) & _radii(second)))
    notes = [*found.notes, *(f"{second.root.name}, {problem}" for problem in second.problems)]
    return replace(found, first=first.root.name, second=second.root.name, notes=notes)


def _radii(runs: Runs) -> set[float]:
    names = ("certified_accuracy", "robust_accuracy")
    return {float(eps) for run in runs.finished for name in names for eps in (run.summary[name] or {})}


def explained(comparison: Comparison) -> str:
    """What the columns say."""
    return (
        f"First: {comparison.first}; second: {comparison.second}. Paired by data set, experiment, variant, seed, "
        "method and image. Accuracies are certified (of a certificate) or robust (of an attack), in percent; distances "
        "are L2. Difference: first - second. Interval: 95 %, images resampled. Spread: standard deviation of the "
        "difference over the seeds."
    )


def write_comparison(comparison: Comparison, root: Path) -> str:
    """`comparison.csv` with all methods; returns the rows of the certificates and the nearest attacks as Markdown."""
    write_text(root / "comparison.csv", csv(comparison.table, "%.6g"))
    rows = compared_rows(comparison)
    table = pd.DataFrame([[markdown(cell) for cell in row.cells] for row in rows], columns=HEADINGS)
    numbers = ["left"] * 3 + ["right"] * (len(HEADINGS) - 3)
    parts = [
        "# Comparison",
        markdown(explained(comparison)),
        table.to_markdown(index=False, disable_numparse=True, colalign=numbers),
    ]
    return "\n\n".join([*parts, *(f"* {markdown(note)}" for note in comparison.notes)])


def compared_rows(comparison: Comparison) -> list[ComparedRow]:
    """Certificates, and of the attacks the nearest: the combined one where there are several."""
    rows: list[ComparedRow] = []
    for key, table in comparison.table.groupby(NETWORK, sort=False):
        combined = table[(table["side"] == "lower") | (table["method"] == COMBINED)]
        shown = combined if COMBINED in set(table["method"]) else table
        network = "/".join(map(str, key)).removesuffix("/default")
        rows += [_row(network, row) for row in shown.to_dict("records")]
    return rows


def _row(network: str, row: dict[Any, Any]) -> ComparedRow:
    digits = 1 if row["metric"] == "accuracy" else 3
    metric = f"accuracy at {row['epsilon']:g}" if row["metric"] == "accuracy" else row["metric"]
    first, second = (f"{row[side]:.{digits}f}" for side in ("first", "second"))
    difference, low, high = (f"{row[name]:+.{digits}f}" for name in ("difference", "low", "high"))
    spread = "-" if pd.isna(row["spread"]) else f"{row['spread']:.{digits}f}"
    counts = [str(row["seeds"]), str(row["images"])]
    cells = [network, row["method"], metric, first, second, difference, f"{low} to {high}", spread, *counts]
    return ComparedRow(cells, row["low"] > 0 or row["high"] < 0)
