"""Distance against passes: how fast each attack comes near, from the measure `anytime`."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lipbench.figures.recipes import Recipe
from lipbench.figures.style import ONE_COLUMN, TWO_COLUMNS, legend_below, method_look, network_look, plain_log, style
from lipbench.results.runs import Runs
from lipbench.results.selection import first_seeds

POINTS = 100
COLUMNS = 3
# Ratios above are cut off.
TOP = 2.0


def anytime(results: Runs) -> tuple[Figure, pd.DataFrame] | None:
    """A panel per network, a curve per attack: the median over the images of the distance that the attack has reached,
    relative to the smallest distance that any of these attacks reached on that image. An image that is not broken yet
    counts as infinitely far.

    Returns:
        the figure, and columns dataset, experiment, attack, propagations, ratio; None where no network has the measure
        `anytime`.
    """
    found = {name: run.measured("anytime.csv") for name, run in first_seeds(results).items()}
    records = {name: table for name, table in found.items() if table is not None and len(table)}
    if not records:
        return None
    figure, curves = anytime_of(records)
    curves.insert(0, "dataset", results.datasets[0])
    return figure, curves


def anytime_of(records: Mapping[str, pd.DataFrame]) -> tuple[Figure, pd.DataFrame]:
    """`anytime` of networks that need no folder: name -> columns attack, index, propagations, distance."""
    curves = pd.concat([_curves(table).assign(experiment=name) for name, table in records.items()], ignore_index=True)
    columns = min(COLUMNS, len(records))
    lines = -(-len(records) // columns)
    with style():
        figure = Figure(figsize=(ONE_COLUMN if columns == 1 else TWO_COLUMNS, 0.6 + 2.2 * lines))
        axes = figure.subplots(lines, columns, squeeze=False, sharey=True).ravel()
        handles = {}
        for axis, (name, rows) in zip(axes, curves.groupby("experiment", sort=False), strict=False):
            for attack, curve in rows.groupby("attack", sort=False):
                look = method_look(str(attack))
                (line,) = axis.plot(curve["propagations"], curve["ratio"], color=look.color, marker=look.marker)
                line.set(markevery=(0.1, 0.2), markersize=3.5)
                handles[look.label] = line
            plain_log(axis.xaxis)
            axis.set(
                ylim=(0.98, TOP), xlabel="forward and backward passes per image", title=network_look(str(name)).label
            )
        for axis in axes[len(records) :]:
            axis.set_visible(False)
        axes[0].set_ylabel("distance / best (median)")
        legend_below(figure, handles)
    return figure, curves[["experiment", "attack", "propagations", "ratio"]]


def _curves(table: pd.DataFrame) -> pd.DataFrame:
    """The median ratio of each attack at `POINTS` numbers of passes, as far as it is finite."""
    best = table.groupby("index")["distance"].min()
    grid = np.unique(np.geomspace(1, table["propagations"].max(), POINTS).round())
    parts = []
    for attack, rows in table.groupby("attack", sort=False):
        ratios = np.full((len(best), len(grid)), np.inf)
        for place, (index, least) in enumerate(best.items()):
            mine = rows[rows["index"] == index].sort_values("propagations")
            reached = np.searchsorted(mine["propagations"], grid, side="right")
            distances = np.r_[np.inf, mine["distance"].to_numpy()]
            ratios[place] = distances[reached] / least if least > 0 else 1.0
        # Of an even number the larger one of the middle two: a mean with an infinite one is none.
        ratio = np.sort(ratios, axis=0)[len(best) // 2]
        curve = pd.DataFrame({"attack": attack, "propagations": grid, "ratio": ratio})
        parts.append(curve[np.isfinite(ratio)])
    return pd.concat(parts, ignore_index=True)


RECIPES = (
    Recipe(
        "anytime",
        "Distance against passes",
        "A panel per network, a curve per attack: the median distance that the attack has reached after so many "
        "forward and backward passes of an image, relative to the smallest distance that any of the attacks reached.",
        anytime,
    ),
)
