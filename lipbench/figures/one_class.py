"""Outlier detection: AUROC against epsilon, certified and under attack."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lipbench.figures.recipes import Recipe
from lipbench.figures.style import TWO_COLUMNS, legend_below, network_look, style
from lipbench.results.radii import radius_text
from lipbench.results.runs import Run, Runs

# Certified AUROC on MNIST, mean of the ten digits (Béthune et al., 2023, arXiv 2303.01978), % at epsilon * 255.
PUBLISHED = {0: 95.5, 8: 93.2, 16: 89.9, 36: 78.4, 72: 57.5}
# Data sets of which the published numbers are.
MNIST = "mnist_oneclass"


def one_class(results: Runs) -> tuple[Figure, pd.DataFrame] | None:
    """Left the mean over the inlier classes of the AUROC against epsilon, solid under attack, dashed as certified; on
    MNIST the published certificates next to it. Right each inlier class: a line from the largest epsilon to 0.

    Returns:
        the figure, and columns experiment, inlier, seed, epsilon, certified, attacked (%), lipschitz; None where no run
        of the data set has a table of AUROC (measure=[one_class]).
    """
    parts = [_rows(run, held) for run in results.finished if (held := run.measured("one_class.csv")) is not None]
    if not parts:
        return None
    table = pd.concat(parts, ignore_index=True)
    published = results.datasets == [MNIST]
    with style():
        figure = Figure(figsize=(TWO_COLUMNS, 2.6))
        left, right = figure.subplots(1, 2, width_ratios=[1.25, 1])
        _curves(left, table, published)
        _classes(right, table)
        lines, labels = left.get_legend_handles_labels()
        legend_below(figure, dict(zip(labels, lines, strict=True)))
    return figure, table


def _rows(run: Run, table: pd.DataFrame) -> pd.DataFrame:
    _, experiment, _, seed = run.key
    front = {"experiment": experiment, "inlier": int(run.overrides.get("dataset.inlier", 0)), "seed": seed}
    numbers = {
        "epsilon": table["epsilon"],
        "certified": 100 * table["certified_auroc"],
        "attacked": 100 * table["attacked_auroc"],
        "lipschitz": table["lipschitz"],
    }
    return pd.DataFrame({**front, **numbers})


def _curves(axis: Axes, table: pd.DataFrame, published: bool) -> None:
    for experiment, rows in table.groupby("experiment", sort=True):
        means, kind = rows.groupby("epsilon")[["certified", "attacked"]].mean(), network_look(str(experiment))
        known: dict[str, Any] = {"color": kind.color, "marker": kind.marker, "markersize": 3.5}
        axis.plot(means.index, means["attacked"], label=f"{kind.label}, attacked", **known)
        axis.plot(means.index, means["certified"], linestyle="--", label=f"{kind.label}, certified", **known)
    if published:
        places = np.array(list(PUBLISHED)) / 255
        axis.plot(
            places,
            list(PUBLISHED.values()),
            "kx--",
            markersize=4,
            linewidth=0.8,
            label="B\u00e9thune et al. (2023), certified",
        )
    count = table["inlier"].nunique()
    axis.set_title(f"mean of {count} inlier classes" if count > 1 else f"inliers: {table['inlier'].iloc[0]}")
    axis.set_xlabel("epsilon (L2)")
    axis.set_ylabel("AUROC (%)")


def _classes(axis: Axes, table: pd.DataFrame) -> None:
    experiments = sorted(set(table["experiment"]))
    classes = sorted(set(table["inlier"]))
    largest = table["epsilon"].max()
    for i, experiment in enumerate(experiments):
        mine = table[table["experiment"] == experiment].groupby(["inlier", "epsilon"])["certified"].mean().unstack()
        places = np.array([classes.index(k) for k in mine.index]) + 0.3 * (i - (len(experiments) - 1) / 2)
        kind = network_look(experiment)
        axis.hlines(places, mine[largest], mine[mine.columns[0]], color=kind.color, linewidth=1.2)
        axis.scatter(mine[mine.columns[0]], places, s=16, color=kind.color, marker=kind.marker)
        axis.scatter(mine[largest], places, s=16, color=kind.color, marker=kind.marker, facecolors="white")
    axis.set_yticks(range(len(classes)), [str(k) for k in classes])
    axis.set_ylim(len(classes) - 0.5, -0.5)
    axis.grid(axis="y", visible=False)
    axis.set_title(f"certified at epsilon 0 (full) and {radius_text(largest)} (empty)")
    axis.set_xlabel("AUROC (%)")
    axis.set_ylabel("inlier class")


RECIPES = (
    Recipe(
        "one_class",
        "Outlier detection: AUROC against epsilon",
        "Left, the AUROC falls as epsilon grows: solid under attack, dashed as certified, which lies below. Right, one "
        "line per inlier class from its certified AUROC at the largest epsilon (empty) to that at 0 (full).",
        one_class,
    ),
)
