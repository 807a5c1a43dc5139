"""The gap between training and test."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lipbench.figures.recipes import Recipe
from lipbench.figures.style import TWO_COLUMNS, legend_below, network_look, style
from lipbench.results import best
from lipbench.results.runs import Run, Runs
from lipbench.results.selection import first_seeds

HALF = 0.5
# Per cent: of a network that certifies less there is nothing to compare.
NOTHING = 1.0
QUANTITIES = {"accuracy": "accuracy (%)", "certified": "certified accuracy at \u03b5 = {epsilon:g} (%)"}


def generalisation(results: Runs) -> tuple[Figure, pd.DataFrame] | None:
    """A row per network: accuracy, and certified accuracy at one epsilon, on training images (filled) and on the test
    set (open). The longer the line between them, the more the network has overfitted.

    Epsilon is the largest of the summaries' at which some network certifies half of the test set.

    Returns:
        the figure, and columns dataset, experiment, quantity, epsilon, train, test (%).
    """
    runs = {name: run for name, run in first_seeds(results).items() if "train_radii" in run.arrays("illustrations.npz")}
    if not runs:
        return None
    epsilon = _epsilon(runs.values())
    table = pd.DataFrame([row for name, run in runs.items() for row in _rows(name, run, epsilon)])
    table.insert(0, "dataset", results.datasets[0])
    with style():
        figure = Figure(figsize=(TWO_COLUMNS, 1.1 + 0.22 * len(runs)))
        axes = figure.subplots(1, 2, sharey=True)
        for axis, (quantity, label) in zip(axes, QUANTITIES.items(), strict=True):
            _lines(axis, table[table["quantity"] == quantity], list(runs))
            axis.set_xlabel(label.format(epsilon=epsilon))
        handles = {
            "training images": Line2D([], [], color="0.3", marker="o", linestyle=""),
            "test images": Line2D([], [], color="0.3", marker="o", linestyle="", markerfacecolor="white"),
        }
        legend_below(figure, handles)
    return figure, table


def _epsilon(runs: Iterable[Run]) -> float:
    known = [(run.summary.get("certified_accuracy") or {}).items() for run in runs]
    shares = [(float(eps), share) for curve in known for eps, share in curve]
    return max((eps for eps, share in shares if share >= HALF), default=min((eps for eps, _ in shares), default=0.5))


def _rows(name: str, run: Run, epsilon: float) -> list[dict[str, object]]:
    arrays = run.arrays("illustrations.npz")
    images = run.table.drop_duplicates("index")
    lower = best(run.table, "lower")
    pairs = {
        "accuracy": (arrays["train_correct"], images["label"] == images["prediction"]),
        "certified": (arrays["train_radii"] > epsilon, lower > epsilon),
    }
    shared = {"experiment": name, "epsilon": epsilon}
    return [
        {**shared, "quantity": quantity, "train": 100 * float(np.mean(train)), "test": 100 * float(np.mean(test))}
        for quantity, (train, test) in pairs.items()
        if len(test)
    ]


def _lines(axis: Axes, rows: pd.DataFrame, names: Sequence[str]) -> None:
    for experiment, train, test in zip(rows["experiment"], rows["train"], rows["test"], strict=True):
        y, color = len(names) - 1 - list(names).index(experiment), network_look(experiment).color
        if max(train, test) < NOTHING:  # and the others would be squeezed into a corner
            axis.text(0.02, y, "0", transform=axis.get_yaxis_transform(), va="center", color=color)
            continue
        axis.plot([train, test], [y, y], color=color, linewidth=1.6, label=experiment)
        axis.plot([train], [y], color=color, marker="o", markersize=6)
        axis.plot([test], [y], color=color, marker="o", markersize=6, markerfacecolor="white")
    axis.set_yticks(range(len(names)), [network_look(name).label for name in reversed(names)])
    axis.set_ylim(-0.6, len(names) - 0.4)
    axis.grid(axis="y", visible=False)


RECIPES = (
    Recipe(
        "generalisation",
        "Training and test",
        "A row per network: accuracy and certified accuracy on training images and on the test set, joined by a line.",
        generalisation,
    ),
)
