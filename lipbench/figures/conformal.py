"""Robust conformal sets: coverage and size against epsilon, network next to network."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lipbench.figures.recipes import Recipe
from lipbench.figures.style import TWO_COLUMNS, legend_below, network_look, style
from lipbench.results.runs import Run, Runs
from lipbench.results.selection import main_networks

# The score of the paper; the table of a run has both.
SCORE = "logit"
# Sets -> how they are drawn.
LINES: dict[str, Any] = {"robust": "-", "vanilla": ":"}
KEY = ["score", "sets", "images", "epsilon"]


def conformal(results: Runs) -> tuple[Figure, pd.DataFrame] | None:
    """Left the coverage, right the mean size of the sets under attack, against epsilon: robust sets solid, vanilla ones
    dotted, one colour per network of one data set.

    Returns:
        the figure, and columns network, score, sets, images, epsilon, coverage (%), size, lipschitz, alpha, classes,
        means over the seeds; None where no run has a table of sets (measure=[conformal]).
    """
    parts = [part for name, runs in main_networks(results).items() if (part := _means(name, runs)) is not None]
    if not parts:
        return None
    table = pd.concat(parts, ignore_index=True)
    shown = table[(table["score"] == SCORE) & (table["images"] == "attacked")]
    with style():
        figure = Figure(figsize=(TWO_COLUMNS, 2.5))
        left, right = figure.subplots(1, 2)
        for axis, column in ((left, "coverage"), (right, "size")):
            _curves(axis, shown, column)
        left.axhline(100 * (1 - table["alpha"].max()), color="0.3", linewidth=0.8, linestyle="--")
        left.set_ylabel("coverage under attack (%)")
        left.set_ylim(-3, 103)
        right.set_ylabel(f"mean size, of {table['classes'].max():.0f} classes")
        handles: dict[str, Any] = {}
        for name in dict.fromkeys(shown["network"]):
            look = network_look(name)
            handles[look.label] = Line2D([], [], color=look.color, marker=look.marker, markersize=3.5)
        handles |= {f"{sets} sets": Line2D([], [], color="0.3", linestyle=line) for sets, line in LINES.items()}
        handles["1 - alpha"] = Line2D([], [], color="0.3", linewidth=0.8, linestyle="--")
        legend_below(figure, handles)
    return figure, table


def _means(name: str, runs: list[Run]) -> pd.DataFrame | None:
    tables = [table for run in runs if (table := run.measured("conformal.csv")) is not None]
    if not tables:
        return None
    columns = ["coverage", "size", "lipschitz", "alpha", "classes"]
    means = pd.concat(tables).groupby(KEY, sort=True)[columns].mean().reset_index()
    means["coverage"] *= 100
    means.insert(0, "network", name)
    return means


def _curves(axis: Axes, table: pd.DataFrame, column: str) -> None:
    for (name, sets), rows in table.groupby(["network", "sets"], sort=True):
        look = network_look(str(name))
        known: dict[str, Any] = {"color": look.color, "marker": look.marker, "markersize": 3.5}
        axis.plot(rows["epsilon"], rows[column], linestyle=LINES[str(sets)], **known)
    axis.set_xlabel("epsilon (L2)")


RECIPES = (
    Recipe(
        "conformal",
        "Robust conformal sets under attack",
        "Left, the share of attacked images whose set holds the label: robust sets (solid) stay above 1 - alpha "
        "(dashed) within sampling error, vanilla ones (dotted) fall below it as epsilon grows. Right, their mean size: "
        "the larger the Lipschitz constants of a network, the earlier its robust sets hold all classes.",
        conformal,
    ),
)
