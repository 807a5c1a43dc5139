"""One body, every construction: accuracy, certified accuracy, tightness and speed side by side."""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

from lipbench.figures.recipes import Recipe
from lipbench.figures.style import PALETTE, TWO_COLUMNS, style
from lipbench.results.attacked import NORMAL
from lipbench.results.radii import radius_text
from lipbench.results.runs import Runs
from lipbench.results.words import dataset_name

COLUMNS = ["construction", "variant", "seed", "validation", "accuracy", "certified", "tightness", "ms", "epsilon"]
COLUMNS += ["images"]
FAMILIES = {
    "Identity": "classical",
    "Clip": "weight clipping",
    "Frobenius": "Frobenius",
    "Spectral": "spectral, reshaped kernel",
    "SpectralOperator": "spectral, operator",
    "Bjorck": "Björck, reshaped kernel",
    "Orthogonal": "orthogonal, reshaped kernel",
    "aoc": "AOC / BCOP",
    "aol": "AOL",
    "cayley": "Cayley",
    "cpl": "CPL",
    "liresnet": "LiResNet",
    "sandwich": "sandwich",
    "sll": "SLL",
    "soc": "SOC",
}


def best_variants(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per construction: of its variants the one with the best certified accuracy on the validation set (the
    test set chooses nothing), averaged over its seeds, best first.

    Args:
        runs: one row per run of one experiment, columns construction, variant, seed, validation, accuracy, certified,
            tightness, ms.
    """
    means = runs.groupby(["construction", "variant"], sort=True).mean(numeric_only=True).drop(columns="seed")
    counts = runs.groupby(["construction", "variant"])["seed"].nunique().rename("seeds")
    means = means.join(counts).reset_index()
    chosen = means.loc[means.groupby("construction")["validation"].idxmax()]
    return chosen.sort_values(["certified", "construction"], ascending=[False, True]).reset_index(drop=True)


def construction_comparison(table: pd.DataFrame, epsilon: float, title: str = "") -> Figure:
    """Dots in one row per construction: accuracy and certified accuracy at `epsilon`, tightness, milliseconds per step.

    Args:
        table: as `best_variants` returns it; percentages in accuracy and certified. With a column images (of the test
            set), bars show their 95 % intervals over the images.
    """
    names = [FAMILIES.get(name, name) for name in table["construction"]]
    rows = np.arange(len(table))[::-1]
    with style():
        figure = Figure(figsize=(TWO_COLUMNS, 0.26 * len(table) + 1.3))
        left, middle, right = figure.subplots(1, 3, sharey=True, gridspec_kw={"width_ratios": [2.2, 1.2, 1.2]})
        left.hlines(rows, table["certified"], table["accuracy"], color="0.8", linewidth=1.5, zorder=1)
        for column, marker, color in (("accuracy", "o", PALETTE[0]), ("certified", "D", PALETTE[1])):
            label = column if column == "accuracy" else f"certified at {radius_text(epsilon)}"
            # Rings: where both are equal, both are seen.
            left.scatter(table[column], rows, s=26, facecolors="none", edgecolors=color, marker=marker, label=label)
            if "images" in table:
                share = (table[column] / 100 * table["images"] + 2) / (table["images"] + 4)  # as `share_error`
                error = 100 * NORMAL * np.sqrt(share * (1 - share) / (table["images"] + 4))
                left.errorbar(table[column], rows, xerr=error, fmt="none", ecolor=color, elinewidth=0.8)
        left.set_xlabel("test images (%)")
        left.set_yticks(rows, names)
        left.set_ylim(-0.6, len(table) - 0.4)
        figure.legend(*left.get_legend_handles_labels(), loc="outside lower left", ncols=2)
        middle.axvline(1.0, color="0.6", linewidth=0.8, zorder=1)
        for axis, column, label in (
            (middle, "tightness", "distance / certificate\n(1 is perfect)"),
            (right, "ms", "ms per training step"),
        ):
            axis.scatter(table[column], rows, s=26, color="0.2", zorder=2)
            axis.set_xlabel(label)
            axis.tick_params(axis="y", length=0)
        middle.set_xscale("log")
        middle.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        middle.xaxis.set_major_formatter(FormatStrFormatter("%g"))
        middle.xaxis.set_minor_locator(NullLocator())
        right.set_xlim(left=0)
        if title:
            figure.suptitle(title, fontsize=8)
    return figure


def constructions(runs: Runs) -> tuple[Figure, pd.DataFrame] | None:
    """`construction_comparison` of one experiment of which several constructions were trained.

    Returns:
        the figure, and the table of `best_variants` with the column epsilon; None where there are fewer than two.
    """
    rows = [row for run in runs.finished for row in _rows(run.summary)]
    table = pd.DataFrame(rows, columns=COLUMNS)
    if table["construction"].nunique() < 2:
        return None
    epsilon = float(table["epsilon"].iloc[0])
    best = best_variants(table.drop(columns="epsilon"))
    dataset, experiment = map(str, runs.finished[0].key[:2])
    seeds = int(best["seeds"].min()), int(best["seeds"].max())
    counted = f"{seeds[0]}" if seeds[0] == seeds[1] else f"{seeds[0]} to {seeds[1]}"
    minutes = re.findall(r"training\.minutes=([0-9.]+)", " ".join(best["variant"]))
    title = f"{dataset_name(dataset)}, {experiment}: {counted} seed{'s' if seeds[1] > 1 else ''} each"
    title += f", {minutes[0]} minutes of training" if len(minutes) == len(best) and len(set(minutes)) == 1 else ""
    return construction_comparison(best, epsilon, title=title), best.assign(epsilon=epsilon)


def _rows(summary: dict[str, Any]) -> Iterator[tuple[Any, ...]]:
    """The row of a run, if it tells its construction and was certified at the epsilon that chooses the variants."""
    epsilon = summary.get("validation_epsilon")
    certified = None if epsilon is None else (summary["certified_accuracy"] or {}).get(f"{epsilon:g}")
    if "construction" in summary and certified is not None:
        yield (
            summary["construction"],
            summary["variant"],
            summary["seed"],
            100 * summary["validation_certified_accuracy"],
            100 * summary["accuracy"],
            100 * certified,
            summary["tightness"],
            1000 * summary["step_seconds"],
            epsilon,
            summary["test_images"],
        )


def _alt(table: pd.DataFrame) -> str:
    first = table.iloc[0]
    return (
        "One row per construction of the same body: accuracy and certified accuracy at radius "
        f"{radius_text(first['epsilon'])} on the test set with 95 % intervals, tightness, and time per training step. "
        f"{first['construction']} certifies most, {first['certified']:.1f} %. The validation set chose the variants."
    )


RECIPES = (
    Recipe(
        "constructions",
        "One body, every construction",
        _alt,
        constructions,
        each="experiment",
    ),
)
