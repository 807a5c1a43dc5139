"""Accuracy against certified accuracy along a parameter of the loss, from a sweep."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lipbench.figures.recipes import Recipe
from lipbench.figures.style import PALETTE, TWO_COLUMNS, style
from lipbench.files import fingerprint
from lipbench.results.attacked import NORMAL
from lipbench.results.runs import Run, Runs

# Of the loss; in the order of the panels.
PARAMETERS = {"alpha": "alpha", "margin": "margin", "offset": "margin (offset)", "temperature": "temperature"}
# Fewer values are a pair, not a curve.
FEWEST = 3
# Points of accuracy that the axis spans at least.
SPAN = 5.0


def tradeoff(results: Runs) -> tuple[Figure, pd.DataFrame] | None:
    """Accuracy and certified accuracy on the test set of networks that differ in one parameter of their loss (means
    over seeds), a panel per parameter, a line per sweep in the order of the values; ringed is the Pareto front of all.
    The panels have one scale of accuracy, but each its own of certified accuracy: some parameters hardly move it.
    Epsilon is one at which the certified accuracies differ most.

    alpha / (1 - alpha) is the lambda of HKR.

    Returns:
        the figure, and columns dataset, parameter, sweep, value, epsilon, accuracy, certified (%), accuracy_error,
        certified_error (half of the 95 % interval over the images), front; None where no parameter has three values.
    """
    table = _sweeps(results)
    if table.empty:
        return None
    parameters = [name for name in PARAMETERS if name in set(table["parameter"])]
    with style():
        columns = max(2, len(parameters))
        most = int(table.groupby("parameter")["sweep"].nunique().max())
        figure = Figure(figsize=(TWO_COLUMNS * len(parameters) / columns, 2.5 + 0.15 * most))
        axes = figure.subplots(1, len(parameters), sharey=True, squeeze=False)[0]
        for number, (axis, parameter) in enumerate(zip(axes, parameters, strict=True)):
            _panel(axis, table[table["parameter"] == parameter], number)
            axis.set_title(PARAMETERS[parameter])
            axis.set_xlabel(f"certified at {table['epsilon'].iloc[0]:g} (%)")
        axes[0].set_ylabel("accuracy (%)")
        # Differences of a few images are no mountains: the axis spans some points.
        low, high = table["accuracy"].min(), table["accuracy"].max()
        room = max(0.15 * (high - low), (SPAN - (high - low)) / 2, 0.5)
        top = min(100.5, high + room)
        axes[0].set_ylim(min(low - room, top - SPAN), top)
    return figure, table


def pareto(x: pd.Series, y: pd.Series) -> pd.Series:
    """Which points no other is at least as good as in both and better in one."""
    points = list(zip(x, y, strict=True))
    beaten = [any(a >= u and b >= v and (a, b) != (u, v) for a, b in points) for u, v in points]
    return pd.Series(beaten, index=x.index) == False  # noqa: E712 (elementwise)


def _sweeps(results: Runs) -> pd.DataFrame:
    runs = pd.DataFrame([row for run in results.finished for row in _described(run)])
    if runs.empty:
        return runs
    tables = []
    for _, group in runs.groupby(["parameter", "sweep", "others"], sort=True):
        if group["value"].nunique() >= FEWEST:
            tables.append(group)
    if not tables:
        return pd.DataFrame()
    found = pd.concat(tables, ignore_index=True)
    certified = found["certified_accuracy"].apply(pd.Series).dropna(axis=1)
    if certified.empty:
        return pd.DataFrame()
    # Where the networks differ most; of equal ones the smallest.
    column = max(certified, key=lambda eps: (certified[eps].std(), -float(eps)))
    found["certified"], epsilon = 100 * certified[column], float(column)
    means = (
        found.groupby(["parameter", "sweep", "others", "value"], sort=True)[["accuracy", "certified", "images"]]
        .mean()
        .reset_index()
    )
    for name in ("accuracy", "certified"):
        share = (means[name] / 100 * means["images"] + 2) / (means["images"] + 4)  # as `share_error`
        means[f"{name}_error"] = 100 * NORMAL * np.sqrt(share * (1 - share) / (means["images"] + 4))
    means = means.assign(dataset=results.datasets[0], epsilon=epsilon)
    means["front"] = pareto(means["certified"], means["accuracy"])
    errors = ["accuracy_error", "certified_error"]
    return means[["dataset", "parameter", "sweep", "value", "epsilon", "accuracy", "certified", *errors, "front"]]


def _described(run: Run) -> Iterator[dict[str, Any]]:
    """A row per parameter of the run's loss: its value, and what a sweep of it has in common."""
    summary = run.summary
    if not summary.get("certified_accuracy"):
        return
    config = {key: value for key, value in run.config.items() if key != "seed"}
    loss = config.get("loss") or {}
    for name in PARAMETERS:
        if isinstance(loss.get(name), int | float):
            others = {key: value for key, value in loss.items() if key != name}
            fixed = [
                f"{PARAMETERS[key]} {others[key]:g}" for key in PARAMETERS if isinstance(others.get(key), int | float)
            ]
            yield {
                "parameter": name,
                "others": fingerprint({**config, "loss": others}),
                "sweep": ", ".join([str(run.key[1]), *fixed]),
                "value": float(loss[name]),
                "accuracy": 100 * summary["accuracy"],
                "images": summary.get("test_images") or len(run.table.drop_duplicates("index")),
                "certified_accuracy": summary["certified_accuracy"],
            }


def _panel(axis: Axes, rows: pd.DataFrame, number: int) -> None:
    """A line per sweep, the first and the last value written at its ends, bars of the 95 % intervals over the images; a
    legend below.

    Args:
        number: of the panel, which has colours of its own.
    """
    spread = np.ptp(rows[["certified", "accuracy"]].to_numpy(float), axis=0).clip(1e-9)
    axis.margins(x=0.15)
    for i, (sweep, line) in enumerate(rows.groupby("sweep", sort=False)):
        color = PALETTE[(number + i) % len(PALETTE)]
        bars: dict[str, Any] = {"xerr": line["certified_error"], "yerr": line["accuracy_error"]}
        axis.errorbar(line["certified"], line["accuracy"], **bars, fmt="none", ecolor=color, elinewidth=0.6, alpha=0.6)
        axis.plot(line["certified"], line["accuracy"], color=color, marker="o", markersize=3.5, label=sweep)
        # Where points lie close, numbers at all of them would cover each other.
        for end, other in ((0, 1), (-1, -2)):
            place, before = (tuple(line.iloc[k][["certified", "accuracy"]]) for k in (end, other))
            # Away from the line, whichever way it comes.
            way = np.array(place, dtype=float) - np.array(before, dtype=float)
            way = np.sign(way * (np.abs(way) / spread > 0.2 * np.max(np.abs(way) / spread)))
            text = f"{line.iloc[end]['value']:g}"
            axis.annotate(text, place, 10 * way, textcoords="offset points", fontsize=6, ha="center", va="center")
    front = rows[rows["front"]]
    axis.scatter(
        front["certified"],
        front["accuracy"],
        s=60,
        facecolors="none",
        edgecolors="black",
        linewidths=0.8,
        label="Pareto front",
    )
    axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22))


RECIPES = (
    Recipe(
        "tradeoff",
        "Accuracy against certified accuracy along a parameter of the loss",
        "One panel per parameter of the loss: certified accuracy to the right, accuracy upwards, both on the test set, "
        "a line through the networks of each sweep with its first and last value. Bars are 95 % intervals; rings mark "
        "the Pareto front.",
        tradeoff,
    ),
)
