"""Accuracy against epsilon, network by network."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lipbench.figures.recipes import Recipe
from lipbench.figures.style import NETWORKS, TWO_COLUMNS, legend_below, network_look, style
from lipbench.results import IMBALANCED, balanced_survival, best, imbalance, survival
from lipbench.results.runs import Run, Runs
from lipbench.results.selection import main_networks

# Panels in a row; more data sets go on in the next one.
PANELS = 3
EPSILONS = 200


def robustness(results: Runs) -> tuple[Figure, pd.DataFrame] | None:
    """`robustness_of_one`, one panel per data set.

    Returns:
        the same; None where networks of fewer than two data sets were attacked.
    """
    curves = [curve for dataset in results.datasets for curve in _curves(results.of([dataset]))]
    table = pd.concat(curves, ignore_index=True) if curves else pd.DataFrame(columns=["dataset"])
    datasets = list(dict.fromkeys(table["dataset"]))
    if len(datasets) < 2:
        return None
    columns = min(PANELS, len(datasets))
    rows = -(-len(datasets) // columns)
    with style():
        figure = Figure(figsize=(TWO_COLUMNS, 2.0 * rows + 0.6))
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for axis, dataset in zip(axes, datasets, strict=False):
            _panel(axis, table[table["dataset"] == dataset])
            axis.set_title(dataset)
        for axis in axes[len(datasets) :]:
            axis.set_visible(False)
        figure.supylabel("accuracy (%)", fontsize=8)
        legend_below(figure, _handles(table))
    return figure, table


def robustness_of_one(results: Runs) -> tuple[Figure, pd.DataFrame] | None:
    """Accuracy under the combined attack (solid) and certified accuracy (dashed) against epsilon on one data set, one
    curve per network of its main networks (see `lipbench.results.selection`), seeds pooled.

    Both are of the attacked images alone, so that the two curves of a network can be compared; where their classes are
    of unequal size, each counts alike.

    Returns:
        the figure, and columns dataset, experiment, curve, epsilon, accuracy (%); None where no network was attacked.
    """
    curves = _curves(results)
    if not curves:
        return None
    table = pd.concat(curves, ignore_index=True)
    with style():
        figure = Figure(figsize=(TWO_COLUMNS, 2.7))
        axis = figure.subplots()
        _panel(axis, table)
        axis.set_ylabel("accuracy (%)")
        axis.set_title(table["dataset"].iloc[0])
        handles = _handles(table)
        figure.legend(handles.values(), handles.keys(), loc="outside right center")
    return figure, table


def _handles(table: pd.DataFrame) -> dict[str, Line2D]:
    # In the order of the legend, whichever data set came first.
    kinds = [*NETWORKS, ""]
    names = sorted(set(table["experiment"]), key=lambda name: (kinds.index(_kind(name)), name))
    looks = [network_look(name) for name in names]
    handles = {look.label: Line2D([], [], color=look.color) for look in looks}
    handles["combined attack"] = Line2D([], [], color="0.2")
    handles["certified"] = Line2D([], [], color="0.2", linestyle="--")
    return handles


def _kind(experiment: str) -> str:
    """Its first word, where that is known."""
    word = experiment.split("_", maxsplit=1)[0]
    return word if word in NETWORKS else ""


def _curves(results: Runs) -> list[pd.DataFrame]:
    """The curves of one data set."""
    distances = {name: _pooled(runs) for name, runs in main_networks(results).items()}
    attacked = {name: rows for name, rows in distances.items() if len(rows)}
    if not attacked:
        return []
    # Where nothing is left of the strongest network.
    finite = pd.concat(attacked.values())["upper"]
    finite = finite[np.isfinite(finite) & (finite > 0)]
    epsilons = np.linspace(0, float(finite.quantile(0.995)) if len(finite) else 1.0, EPSILONS)
    return [
        pd.DataFrame(
            {
                "dataset": results.datasets[0],
                "experiment": name,
                "curve": curve,
                "epsilon": epsilons,
                "accuracy": 100 * _survival(rows[side], rows["label"], epsilons),
            }
        )
        for name, rows in attacked.items()
        for curve, side in (("combined attack", "upper"), ("certified", "lower"))
        if rows[side].notna().all()
    ]


def _survival(distances: pd.Series, labels: pd.Series, epsilons: np.ndarray) -> np.ndarray:
    """Of unequal classes, each counts alike."""
    balanced = imbalance(labels.to_numpy()) >= IMBALANCED
    return balanced_survival(distances, labels, epsilons) if balanced else survival(distances, epsilons)


def _pooled(runs: list[Run]) -> pd.DataFrame:
    """Largest lower and smallest upper bound of the attacked images of all seeds (lower is NaN where there is
    none), and their labels.
    """
    parts = []
    for run in runs:
        labels = run.table.drop_duplicates("index").set_index("index")["label"]
        columns = {side: best(run.table, side) for side in ("lower", "upper")}
        parts.append(pd.concat({**columns, "label": labels}, axis=1).dropna(subset="upper"))
    return pd.concat(parts, ignore_index=True)


def _panel(axis: Axes, table: pd.DataFrame) -> None:
    for (experiment, curve), rows in table.groupby(["experiment", "curve"], sort=False):
        dashes = "--" if curve == "certified" else "-"
        axis.plot(
            rows["epsilon"],
            rows["accuracy"],
            color=network_look(str(experiment)).color,
            linestyle=dashes,
            label=f"{experiment} {curve}",
        )
    axis.set_xlim(0, table["epsilon"].max())
    axis.set_ylim(0, 102)
    axis.set_xlabel("epsilon (L2, pixels in [0, 1])")


RECIPES = (
    Recipe(
        "robustness",
        "Accuracy against epsilon",
        "Curves of accuracy that fall as the L2 norm of the perturbation grows, one panel per data set and one colour "
        "per network: solid under the combined attack, dashed as certified. A certificate lies below its attack.",
        robustness,
        each="all",
    ),
    Recipe(
        "overview",
        "Accuracy against epsilon",
        "Curves of accuracy that fall as the L2 norm of the perturbation grows, one colour per network: solid under "
        "the combined attack, dashed as certified. A certificate lies below its attack.",
        robustness_of_one,
    ),
)
