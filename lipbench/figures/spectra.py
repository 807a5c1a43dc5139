"""What constraints do to a network: singular values of its layers, its Lipschitz bound over training, norms of its
gradients.
"""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from lipbench.figures.recipes import Recipe
from lipbench.figures.style import ONE_COLUMN, TWO_COLUMNS, legend_below, network_look, plain_log, style
from lipbench.results.runs import Runs
from lipbench.results.selection import first_seeds

PREFIX = "singular/"
# Bins of the histogram of norms, per factor of ten.
BINS = 20


def spectra(results: Runs) -> tuple[Figure, pd.DataFrame] | None:
    """Left: the singular values of each layer at the end of the training, a dot each. Right: the Lipschitz bound of the
    network over the training.

    Returns:
        the figure, and columns dataset, experiment, quantity ("singular value" or "Lipschitz bound"), layer, x (number
        of the layer, or share of the training in %), value; None where no network has both kinds.
    """
    values, bounds = _singular_values(results), _bounds(results)
    if values.empty or bounds.empty:
        return None
    table = pd.concat([values, bounds], ignore_index=True)
    table.insert(0, "dataset", results.datasets[0])
    with style():
        figure = Figure(figsize=(TWO_COLUMNS, 2.7))
        left, right = figure.subplots(1, 2, gridspec_kw={"width_ratios": [1.15, 1]})
        _dots(left, values)
        for i, (experiment, rows) in enumerate(bounds.groupby("experiment", sort=False)):
            look = network_look(str(experiment))
            right.plot(rows["x"], rows["value"], color=look.color, linewidth=_width(i), label=experiment)
        right.set(xlabel="share of the training (%)", ylabel="Lipschitz bound of the logits")
        right.set_xlim(0, 100)
        plain_log(right.yaxis)
        known = bounds["value"][np.isfinite(bounds["value"])]
        if len(known):
            # Flat lines are flat, not their last digits.
            right.set_ylim(known.min() / 1.5, known.max() * 1.5)
        legend_below(figure, _handles(table))
    return figure, table


def gradient_norms(results: Runs) -> tuple[Figure, pd.DataFrame] | None:
    """How long the gradients of the margin are at the attacked test images; dashed the bound of a network, where it is
    within the picture: the norm of a 1-Lipschitz f that solves the transport problem is 1 almost everywhere.

    Returns:
        the figure, and columns dataset, experiment, norm (lower edge of a bin), upper, share (%), bound (the median).
    """
    arrays = {name: run.arrays("illustrations.npz") for name, run in first_seeds(results).items()}
    known = {name: held for name, held in arrays.items() if len(held.get("norms", ())) and (held["norms"] > 0).any()}
    if not known:
        return None
    positive = np.concatenate([held["norms"][held["norms"] > 0] for held in known.values()])
    low, high = np.log10(np.quantile(positive, 0.005)) - 0.1, np.log10(positive.max()) + 0.1
    edges = np.logspace(low, high, max(10, int(BINS * (high - low))) + 1)
    tables = []
    with style():
        figure = Figure(figsize=(ONE_COLUMN, 2.1 + 0.15 * len(known)))
        axis = figure.subplots()
        for i, (name, held) in enumerate(known.items()):
            look, bound = network_look(name), float(np.median(held["norm_bounds"]))
            counts, _ = np.histogram(np.clip(held["norms"], edges[0], None), edges)
            shares = 100 * counts / len(held["norms"])
            axis.stairs(shares, edges, color=look.color, fill=True, alpha=0.25)
            axis.stairs(shares, edges, color=look.color, linewidth=_width(i), label=look.label)
            if bound <= edges[-1]:
                axis.axvline(bound, color=look.color, linewidth=0.9, linestyle="--")
            columns = {"experiment": name, "norm": edges[:-1], "upper": edges[1:], "share": shares, "bound": bound}
            tables.append(pd.DataFrame(columns))
        axis.set(xlabel="L2 norm of the gradient of the margin", ylabel="test images (%)")
        axis.set_xlim(edges[0], edges[-1])
        axis.set_ylim(bottom=0)
        plain_log(axis.xaxis)
        table = pd.concat(tables, ignore_index=True)
        table.insert(0, "dataset", results.datasets[0])
        legend_below(figure, _handles(table) | {"bound": Line2D([], [], color="0.3", linewidth=0.9, linestyle="--")})
    return figure, table


def _width(number: int) -> float:
    """Thinner and thinner: constrained networks lie on top of each other."""
    return max(0.9, 2.2 - 0.4 * number)


def _singular_values(results: Runs) -> pd.DataFrame:
    """Columns experiment, quantity, layer, x, value."""
    tables = []
    for name, run in first_seeds(results).items():
        layers = {k.removeprefix(PREFIX): v for k, v in run.arrays("illustrations.npz").items() if k.startswith(PREFIX)}
        for number, (layer, values) in enumerate(layers.items(), start=1):
            columns = {"experiment": name, "quantity": "singular value", "layer": layer, "x": number, "value": values}
            tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _bounds(results: Runs) -> pd.DataFrame:
    """Columns experiment, quantity, layer, x, value."""
    tables = []
    for name, run in first_seeds(results).items():
        history = run.history
        if len(history):
            share = 100 * history["epoch"] / history["epoch"].max()
            columns = {"experiment": name, "quantity": "Lipschitz bound", "layer": "", "x": share}
            tables.append(pd.DataFrame({**columns, "value": history["lipschitz"]}))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _dots(axis: Axes, values: pd.DataFrame) -> None:
    """A column of dots per layer and network: those of a layer next to each other."""
    names = list(dict.fromkeys(values["experiment"]))
    step = 0.8 / len(names)
    for i, name in enumerate(names):
        rows, color = values[values["experiment"] == name], network_look(name).color
        x = rows["x"] + (i - (len(names) - 1) / 2) * step
        axis.scatter(x, rows["value"], s=5, color=color, alpha=0.35, linewidths=0, label=name)
        for at, column in rows.groupby(x):
            # Of the last layer of two classes there is one value, and it would be pale.
            axis.plot(2 * [at], [column["value"].min(), column["value"].max()], color=color, linewidth=0.8)
            axis.plot(2 * [at], [column["value"].min(), column["value"].max()], color=color, marker="_", markersize=4)
    axis.set(xlabel="layer", ylabel="singular values")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(axis="x", visible=False)
    axis.set_ylim(0, 1.05 * max(values["value"].max(), 1.2))


def _handles(table: pd.DataFrame) -> dict[str, Line2D]:
    looks = [network_look(name) for name in dict.fromkeys(table["experiment"])]
    return {look.label: Line2D([], [], color=look.color) for look in looks}


RECIPES = (
    Recipe(
        "spectra",
        "Singular values of the layers, and the Lipschitz bound over training",
        "Left, the singular values of each layer as dots, near 1 for constrained networks and spread for the classical "
        "one. Right, the Lipschitz bound over the training: it grows for the classical network and is flat for the "
        "constrained ones.",
        spectra,
    ),
    Recipe(
        "gradients",
        "Norms of the gradient of the margin",
        "A histogram per network of the L2 norm of the margin's gradient at test images; its bound is dashed.",
        gradient_norms,
    ),
)
