"""What constraints do to a network: singular values of its layers, norms of its gradients."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from lipbench.figures.recipes import Recipe
from lipbench.figures.style import ONE_COLUMN, TWO_COLUMNS, legend_below, network_look, plain_log, style
from lipbench.results.runs import Runs
from lipbench.results.selection import first_seeds

PREFIX = "singular/"


def spectra(results: Runs) -> tuple[Figure, pd.DataFrame] | None:
    """The singular values of each layer at the end of the training, a dot each.

    Returns:
        the figure, and columns dataset, experiment, layer, x (number of the layer), value; None where they are not
        known.
    """
    values = _singular_values(results)
    if values.empty:
        return None
    values.insert(0, "dataset", results.datasets[0])
    with style():
        figure = Figure(figsize=(TWO_COLUMNS, 2.7))
        _dots(figure.subplots(), values)
        legend_below(figure, _handles(values))
    return figure, values


def gradient_norms(results: Runs) -> tuple[Figure, pd.DataFrame] | None:
    """How long the gradients of the margin are at the attacked test images: the share of images whose gradient is at
    most so long. Dashed, in its colour, is the bound of a network, where it is within the picture: the norm of a
    1-Lipschitz f that solves the transport problem is 1 almost everywhere.

    Returns:
        the figure, and columns dataset, experiment, norm (sorted), share (%), bound (the median).
    """
    arrays = {name: run.arrays("illustrations.npz") for name, run in first_seeds(results).items()}
    known = {name: held for name, held in arrays.items() if len(held.get("norms", ())) and (held["norms"] > 0).any()}
    if not known:
        return None
    tables = []
    for name, held in known.items():
        norms = np.sort(held["norms"])
        shares = 100 * np.arange(1, len(norms) + 1) / len(norms)
        bound = float(np.median(held["norm_bounds"]))
        tables.append(pd.DataFrame({"experiment": name, "norm": norms, "share": shares, "bound": bound}))
    table = pd.concat(tables, ignore_index=True)
    table.insert(0, "dataset", results.datasets[0])
    positive = table["norm"][table["norm"] > 0]
    low, high = float(positive.quantile(0.005)) / 1.2, float(positive.max()) * 1.2
    with style():
        figure = Figure(figsize=(ONE_COLUMN, 2.1 + 0.15 * len(known)))
        axis = figure.subplots()
        handles = _handles(table)
        for i, (experiment, rows) in enumerate(table.groupby("experiment", sort=False)):
            look, bound = network_look(str(experiment)), float(rows["bound"].iloc[0])
            # From the left edge to the right one.
            x = [low, *rows["norm"].clip(lower=low), high]
            axis.step(
                x, [0, *rows["share"], 100], where="post", color=look.color, linewidth=_width(i), label=experiment
            )
            if bound <= high:
                # Over the curves, which rise there. The dashes of equal bounds take turns.
                dashes = (4 * i, (4, 4 * max(1, len(known) - 1)))
                outline = withStroke(linewidth=2.8, foreground="white")
                axis.axvline(bound, zorder=4, color=look.color, linestyle=dashes, path_effects=[outline])
                handles["its bound"] = Line2D([], [], color="black", linestyle="--")
        axis.set(xlabel="L2 norm of the gradient of the margin", ylabel="test images up to it (%)")
        axis.set_ylim(0, 102)
        plain_log(axis.xaxis, span=(low, high))
        axis.set_xlim(low, high)
        legend_below(figure, handles)
    return figure, table


def _width(number: int) -> float:
    """Thinner and thinner: constrained networks lie on top of each other."""
    return max(0.9, 2.2 - 0.4 * number)


def _singular_values(results: Runs) -> pd.DataFrame:
    """Columns experiment, layer, x, value."""
    tables = []
    for name, run in first_seeds(results).items():
        layers = {k.removeprefix(PREFIX): v for k, v in run.arrays("illustrations.npz").items() if k.startswith(PREFIX)}
        for number, (layer, values) in enumerate(layers.items(), start=1):
            columns = {"experiment": name, "layer": layer, "x": number, "value": values}
            tables.append(pd.DataFrame(columns))
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
        "Singular values of the layers",
        "One column of dots per layer and network: its singular values after the training. They are near 1 for "
        "orthogonal layers and spread for the classical network.",
        spectra,
    ),
    Recipe(
        "gradients",
        "Norms of the gradient of the margin",
        "One curve per network: the share of the test images whose margin has a gradient of at most this L2 norm. No "
        "curve may rise beyond the bound of its network (dashed); a steep rise at the bound is a gradient that is as "
        "long as it may be.",
        gradient_norms,
    ),
)
