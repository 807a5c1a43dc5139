"""One body, every construction: accuracy, certified accuracy, tightness and speed side by side."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

from lipbench.figures.recipes import Recipe
from lipbench.figures.style import PALETTE, TWO_COLUMNS, style
from lipbench.results.runs import Runs

COLUMNS = ["construction", "variant", "seed", "validation", "accuracy", "certified", "tightness", "ms", "epsilon"]
FAMILIES = {
    "Identity": "unconstrained",
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
        table: as `best_variants` returns it; percentages in accuracy and certified.
    """
    names = [FAMILIES.get(name, name) for name in table["construction"]]
    rows = np.arange(len(table))[::-1]
    with style():
        figure = Figure(figsize=(TWO_COLUMNS, 0.26 * len(table) + 1.3))
        left, middle, right = figure.subplots(1, 3, sharey=True, gridspec_kw={"width_ratios": [2.2, 1.2, 1.2]})
        left.hlines(rows, table["certified"], table["accuracy"], color="0.8", linewidth=1.5, zorder=1)
        left.scatter(table["accuracy"], rows, s=26, color=PALETTE[0], label="accuracy", zorder=2)
        left.scatter(
            table["certified"], rows, s=26, color=PALETTE[1], marker="D", label=f"certified at {epsilon:g}", zorder=2
        )
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
    title = f"{'/'.join(map(str, runs.finished[0].key[:2]))}: one body, every construction"
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
        )


def _alt(table: pd.DataFrame) -> str:
    first = table.iloc[0]
    return (
        f"A row of dots per construction: accuracy, certified accuracy at {first['epsilon']:g}, tightness and "
        f"milliseconds per training step; {first['construction']} certifies most, {first['certified']:.1f} %."
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
