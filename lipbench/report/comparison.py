"""Two results folders side by side: a sentence per data set, `comparison.csv` and `.md`, a section of the page."""

import textwrap
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from lipbench.escapes import csv, markdown, printable
from lipbench.files import write_text
from lipbench.report.board import WIDTH
from lipbench.results import COMBINED, RUN_COLUMNS, Comparison, compare
from lipbench.results.attacked import CERTIFICATE
from lipbench.results.radii import main_radii, radius_text
from lipbench.results.runs import Runs
from lipbench.results.words import counted, dataset_name, network_name

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


def changes(comparison: Comparison) -> list[str]:
    """A sentence per data set, made from the numbers: in how many networks the certified and the robust accuracy at the
    middle radius (`main_radii`) changed clearly, so that the interval leaves out 0; and the largest clear change.
    """
    between = f"from {comparison.second} to {comparison.first}"
    return [_sentence(rows, between) for _, rows in comparison.table.groupby("dataset", sort=True)]


def _sentence(rows: pd.DataFrame, between: str) -> str:
    name, radius = dataset_name(str(rows["dataset"].iloc[0])), main_radii(rows["epsilon"].dropna())[-1:]
    if not radius:
        return f"{name}, {between}: the two folders have no radius in common."
    at = rows[(rows["metric"] == "accuracy") & (rows["epsilon"] == radius[0])]
    # Of each network the certificate of that name and the nearest attack, where there are several.
    best = at.assign(last=~at["method"].isin([CERTIFICATE, COMBINED])).sort_values("last", kind="stable")
    best = best.drop_duplicates([*NETWORK, "side"])
    kinds = {"lower": "certified accuracy", "upper": "robust accuracy"}
    said = [_change(best[best["side"] == side], words) for side, words in kinds.items()]
    return f"{name}, radius {radius_text(radius[0])}, {between}: {' and '.join(part for part in said if part)}."


def _change(rows: pd.DataFrame, words: str) -> str:
    """Of one accuracy, a row per network; "" where there is no row."""
    if rows.empty:
        return ""
    clear = rows[(rows["low"] > 0) | (rows["high"] < 0)]
    networks = counted(len(rows), "network")
    if clear.empty:
        return f"the {words} does not change clearly" + (f" in any of {networks}" if len(rows) > 1 else "")
    up = int((clear["difference"] > 0).sum())
    counts = [f"{verb} in {n}" for verb, n in (("rises", up), ("falls", len(clear) - up)) if n]
    row = max(clear.to_dict("records"), key=lambda row: abs(row["difference"]))
    who = network_name(str(row["experiment"]), str(row["variant"]))
    values = f"{row['second']:.1f} to {row['first']:.1f} %"
    return (
        f"the {words} {' and '.join(counts)} of {networks} (most in {who}: {values}, "
        f"95 % interval of the change {row['low']:+.1f} to {row['high']:+.1f})"
    )


def write_comparison(comparison: Comparison, root: Path) -> str:
    """`comparison.csv` with all methods, `comparison.md` with the certificates and the nearest attacks.

    Returns:
        what a terminal shows: the sentences of `changes`, and how much was not compared.
    """
    write_text(root / "comparison.csv", csv(comparison.table, "%.6g"))
    write_text(root / "comparison.md", _markdown(comparison) + "\n")
    count = len(comparison.notes)
    left = [f"{count} {'notes' if count > 1 else 'note'} in comparison.md: not compared, or not checked."]
    return "\n".join(
        textwrap.fill(printable(line), WIDTH, break_on_hyphens=False)
        for line in [*changes(comparison), *(left if count else [])]
    )


def _markdown(comparison: Comparison) -> str:
    rows = compared_rows(comparison)
    table = pd.DataFrame([[markdown(cell) for cell in row.cells] for row in rows], columns=HEADINGS)
    numbers = ["left"] * 3 + ["right"] * (len(HEADINGS) - 3)
    parts = [
        "# Comparison",
        "\n".join(f"* {markdown(line)}" for line in changes(comparison)),
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
