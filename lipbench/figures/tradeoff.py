"""Accuracy against certified accuracy along a parameter of the loss, from a sweep."""

from collections.abc import Iterator
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from omegaconf import OmegaConf

from lipbench.figures.inputs import Results, Run
from lipbench.figures.style import PALETTE, TWO_COLUMNS, legend_below, style
from lipbench.results import fingerprint

# Of the loss; in the order of the panels.
PARAMETERS = {"alpha": "alpha", "margin": "margin", "offset": "margin (offset)", "temperature": "temperature"}
# Fewer values are a pair, not a curve.
FEWEST = 3


def tradeoff(results: Results) -> tuple[Figure, pd.DataFrame] | None:
    """Accuracy and certified accuracy on the test set of networks that differ in one parameter of their loss (means
    over seeds), a panel per parameter, a line per sweep in the order of the values; ringed is the Pareto front of all.
    Epsilon is one at which the certified accuracies differ most.

    alpha / (1 - alpha) is the lambda of HKR.

    Returns:
        the figure, and columns dataset, parameter, sweep, value, epsilon, accuracy, certified (%), front; None where
        no parameter has three values.
    """
    table = _sweeps(results)
    if table.empty:
        return None
    parameters = [name for name in PARAMETERS if name in set(table["parameter"])]
    with style():
        columns = max(2, len(parameters))
        figure = Figure(figsize=(TWO_COLUMNS * len(parameters) / columns, 2.9))
        axes = figure.subplots(1, len(parameters), sharex=True, sharey=True, squeeze=False)[0]
        sweeps = list(dict.fromkeys(table["sweep"]))
        colors = {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(sweeps)}
        for axis, parameter in zip(axes, parameters, strict=True):
            _panel(axis, table[table["parameter"] == parameter], colors)
            axis.set_title(PARAMETERS[parameter])
            axis.set_xlabel(f"certified at {table['epsilon'].iloc[0]:g} (%)")
        axes[0].set_ylabel("accuracy (%)")
        handles = {name: Line2D([], [], color=color, marker="o", markersize=4) for name, color in colors.items()}
        ring = {"color": "black", "marker": "o", "markersize": 8, "markerfacecolor": "none", "linestyle": ""}
        legend_below(figure, handles | {"Pareto front": Line2D([], [], **ring)})
    return figure, table


def pareto(x: pd.Series, y: pd.Series) -> pd.Series:
    """Which points no other is at least as good as in both and better in one."""
    points = list(zip(x, y, strict=True))
    beaten = [any(a >= u and b >= v and (a, b) != (u, v) for a, b in points) for u, v in points]
    return pd.Series(beaten, index=x.index) == False  # noqa: E712 (elementwise)


def _sweeps(results: Results) -> pd.DataFrame:
    runs = pd.DataFrame([row for run in results.runs for row in _described(run)])
    if runs.empty:
        return runs
    tables = []
    for (_, _), group in runs.groupby(["parameter", "others"], sort=True):
        if group["value"].nunique() >= FEWEST:
            tables.append(group)
    if not tables:
        return pd.DataFrame()
    found = pd.concat(tables, ignore_index=True)
    epsilons = [str(c) for c in found if isinstance(c, float) and found[c].notna().all()]
    # Where the networks differ most.
    epsilon = max(map(float, epsilons), key=lambda e: (found[e].std(), -e))
    means = (
        found.groupby(["parameter", "others", "sweep", "value"], sort=True)[["accuracy", epsilon]].mean().reset_index()
    )
    means = means.rename(columns={epsilon: "certified"}).assign(dataset=results.datasets[0], epsilon=epsilon)
    means["front"] = pareto(means["certified"], means["accuracy"])
    return means[["dataset", "parameter", "sweep", "value", "epsilon", "accuracy", "certified", "front"]]


def _described(run: Run) -> Iterator[dict[str, Any]]:
    """A row per parameter of the run's loss: its value, and what a sweep of it has in common."""
    path, summary = run.folder / "config.yaml", run.summary
    if not path.exists() or not summary.get("certified_accuracy"):
        return
    config: dict[str, Any] = OmegaConf.to_container(OmegaConf.load(path))  # type: ignore[assignment]
    config.pop("seed", None)
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
                **{float(eps): 100 * value for eps, value in summary["certified_accuracy"].items()},
            }


def _panel(axis: Axes, rows: pd.DataFrame, colors: dict[str, str]) -> None:
    for sweep, line in rows.groupby("sweep", sort=False):
        axis.plot(
            line["certified"], line["accuracy"], color=colors[str(sweep)], marker="o", markersize=3.5, label=sweep
        )
        for row in line.to_dict("records"):
            place = (row["certified"], row["accuracy"])
            axis.annotate(f"{row['value']:g}", place, (4, -7), textcoords="offset points", fontsize=6, color="0.3")
    front = rows[rows["front"]]
    axis.scatter(
        front["certified"],
        front["accuracy"],
        s=60,
        facecolors="none",
        edgecolors="black",
        linewidths=0.8,
        label="front",
    )
