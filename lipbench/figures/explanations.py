"""What explanations are worth, network next to network."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from lipbench.figures.recipes import Recipe
from lipbench.figures.style import PALETTE, TWO_COLUMNS, legend_below, network_look, style
from lipbench.results.runs import Run, Runs
from lipbench.results.selection import main_networks

# (metric, value of removed pixels) -> its name, and which values are better.
BLACK, GREY = 0.0, 0.5
METRICS = {
    ("mu_fidelity", GREY): "\u03bc-fidelity,\nto grey \u2191",
    ("mu_fidelity", BLACK): "\u03bc-fidelity,\nto black \u2191",
    ("deletion", BLACK): "deletion,\nto black \u2193",
    ("insertion", BLACK): "insertion,\nfrom black \u2191",
    ("stability", BLACK): "stability\n\u2193",
}
ATTRIBUTIONS = {
    "gradient": ("gradient", PALETTE[0], "o"),
    "smooth_gradient": ("SmoothGrad", PALETTE[1], "s"),
    "integrated_gradients": ("integrated gradients", PALETTE[2], "D"),
}
COLUMNS = ["network", "attribution", "metric", "baseline", "mean", "low", "high", "images"]
# Half the width of a 95 % interval of a mean, in standard errors.
NORMAL = 1.96


def explanations(results: Runs) -> tuple[Figure, pd.DataFrame] | None:
    """Means of every metric over the images, with 95 % intervals: a row per network of one data set, a mark per
    attribution.

    Returns:
        the figure, and columns network, attribution, metric, baseline, mean, low, high, images; None where no run has
        a table of explanations (measure=[explanations]).
    """
    rows = [row for name, runs in main_networks(results).items() for row in _means(name, runs)]
    if not rows:
        return None
    table = pd.DataFrame(rows, columns=COLUMNS)
    names = list(dict.fromkeys(table["network"]))
    with style():
        figure = Figure(figsize=(TWO_COLUMNS, 0.24 * len(names) + 1.1))
        axes = figure.subplots(1, len(METRICS), sharey=True)
        for axis, ((metric, baseline), title) in zip(axes, METRICS.items(), strict=True):
            shown = (table["metric"] == metric) & (table["baseline"] == baseline)
            _panel(axis, table[shown], names)
            axis.set_title(title)
            axis.xaxis.set_major_locator(MaxNLocator(3))
        axes[0].set_yticks(range(len(names)), [network_look(name).label for name in names])
        axes[0].set_ylim(len(names) - 0.4, -0.6)
        for axis in axes[:2]:
            axis.axvline(0, color="0.6", linewidth=0.6)
        handles = {
            label: Line2D([], [], color=color, marker=marker, linestyle="", markersize=4)
            for label, color, marker in ATTRIBUTIONS.values()
        }
        legend_below(figure, handles)
    return figure, table


def _means(name: str, runs: list[Run]) -> list[tuple[Any, ...]]:
    """Rows of one network, its seeds pooled."""
    tables = [table for run in runs if (table := run.measured("explanations.csv")) is not None]
    if not tables:
        return []
    rows = []
    for key, group in pd.concat(tables).groupby(COLUMNS[1:4], sort=True):
        values = group["value"].to_numpy(dtype=float)
        half = NORMAL * values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
        rows.append((name, *key, values.mean(), values.mean() - half, values.mean() + half, len(values)))
    return rows


def _panel(axis: Axes, table: pd.DataFrame, names: list[str]) -> None:
    kinds = [kind for kind in ATTRIBUTIONS if kind in set(table["attribution"])]
    for i, kind in enumerate(kinds):
        _, color, marker = ATTRIBUTIONS[kind]
        mine = table[table["attribution"] == kind]
        places = np.array([names.index(name) for name in mine["network"]]) + 0.2 * (i - 1)
        axis.hlines(places, mine["low"], mine["high"], color=color, linewidth=1.0)
        axis.scatter(mine["mean"], places, s=13, marker=marker, color=color)
    axis.grid(axis="y", visible=False)


RECIPES = (
    Recipe(
        "explanations",
        "What explanations are worth",
        "One row per network, one panel per metric (arrows: up, larger is better; down, smaller is better), one colour "
        "per attribution: means over the images with 95 % intervals. mu-fidelity is a rank correlation.",
        explanations,
    ),
)
