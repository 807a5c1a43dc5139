"""What training does to a network: singular values, Lipschitz bound, gradient norm, accuracy over the epochs."""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lipbench.figures.style import PALETTE, style
from lipbench.results import RUN_COLUMNS, layer_columns

# A panel whose values span more than this factor is logarithmic: the bound of a plain network explodes.
LOG_SPAN = 20
# Smaller values are drawn at the edge of a logarithmic panel: a singular value may be zero.
SMALLEST = 1e-3
DASHES = ("-", "--", ":")


def training_curves(history: pd.DataFrame, title: str = "") -> Figure:
    """One run over its epochs: range of the singular values of each layer (a band), Lipschitz bound and gradient norm
    of the network (black) and its layers, accuracies.

    Layers are coloured from first (dark) to last (light).

    Args:
        history: the rows of one run, as `lipbench.fit` or `lipbench.results.read_histories` give them. Panels whose
            columns it lacks stay empty.
    """
    layers = list(
        dict.fromkeys(name for q in ("sigma_max", "lipschitz", "gradient") for name in layer_columns(history, q))
    )
    shades = mpl.colormaps["viridis"](np.linspace(0, 0.92, max(1, len(layers))))
    colors = dict(zip(layers, shades, strict=False))
    with style():
        figure = Figure(figsize=(7.6, 5.4))
        axes = figure.subplots(2, 2, sharex=True)
        _bands(axes[0, 0], history, colors)
        _lines(axes[0, 1], history, "lipschitz", "lipschitz", colors)
        _lines(axes[1, 0], history, "gradient_norm", "gradient", colors)
        _accuracies(axes[1, 1], history)
        for axis, name in zip(
            axes.flat, ("singular values", "Lipschitz bound", "gradient norm", "accuracy (%)"), strict=True
        ):
            axis.set_title(name)
        for axis in axes[1]:
            axis.set_xlabel("epoch")
            axis.xaxis.get_major_locator().set_params(integer=True)
        handles, labels = axes[0, 1].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right upper")
        handles, labels = axes[1, 1].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right lower")
        if title:
            figure.suptitle(title, fontsize=10)
    return figure


def training_comparison(histories: pd.DataFrame, title: str = "") -> Figure:
    """The networks of one data set beside each other: Lipschitz bound and gradient norm over the training, and the
    range of the singular values of all layers at its end.

    Args:
        histories: rows as `lipbench.results.read_histories` returns them; of each network the lowest seed is drawn.
            Their epochs may differ: the axis is the share of the training.
    """
    runs = [rows[rows["seed"] == rows["seed"].min()] for _, rows in histories.groupby(RUN_COLUMNS[:3], sort=True)]
    names = [_name(rows.iloc[0]) for rows in runs]
    looks: list[dict[str, Any]] = [
        {"color": PALETTE[i % len(PALETTE)], "linestyle": DASHES[i // len(PALETTE) % len(DASHES)]}
        for i in range(len(runs))
    ]
    with style():
        figure = Figure(figsize=(9.6, max(3.0, 1.3 + 0.24 * len(runs))))
        bounds, gradients, values = figure.subplots(1, 3)
        for axis, column, name in (
            (bounds, "lipschitz", "Lipschitz bound of the network"),
            (gradients, "gradient_norm", "gradient norm (input)"),
        ):
            for rows, label, look in zip(runs, names, looks, strict=True):
                share = 100 * rows["epoch"] / rows["epoch"].max()
                axis.plot(share, rows[column], label=label, linewidth=1.4, **_marked(rows), **look)
            axis.set_xlabel("share of the training (%)")
            axis.set_title(name)
            axis.set_xlim(0, 102)
            _scale(axis, histories[column])
        _intervals(values, runs, names, looks)
        figure.legend(*bounds.get_legend_handles_labels(), loc="outside lower center", ncols=min(6, len(runs)))
        if title:
            figure.suptitle(title, fontsize=10)
    return figure


def _bands(axis: Axes, history: pd.DataFrame, colors: dict[str, Any]) -> None:
    low, high = layer_columns(history, "sigma_min"), layer_columns(history, "sigma_max")
    for layer in low:
        bottom, top = history[low[layer]], history[high[layer]]
        axis.fill_between(history["epoch"], bottom, top, color=colors[layer], alpha=0.18, linewidth=0)
        for edge in (bottom, top):
            axis.plot(history["epoch"], edge, color=colors[layer], linewidth=1.1, **_marked(history))
    _scale(axis, history[[*low.values(), *high.values()]])


def _lines(axis: Axes, history: pd.DataFrame, whole: str, quantity: str, colors: dict[str, Any]) -> None:
    columns = layer_columns(history, quantity)
    axis.plot(history["epoch"], history[whole], color="black", linewidth=1.8, label="network", **_marked(history))
    for layer, column in columns.items():
        axis.plot(
            history["epoch"],
            history[column],
            color=colors[layer],
            linewidth=1.1,
            label=f"layer {layer}",
            **_marked(history),
        )
    _scale(axis, history[[whole, *columns.values()]])


def _accuracies(axis: Axes, history: pd.DataFrame) -> None:
    looks = {
        "train_accuracy": ("training", PALETTE[0], "-"),
        "validation_accuracy": ("validation", PALETTE[1], "-"),
        "certified_accuracy": ("certified", PALETTE[1], "--"),
    }
    for column, (label, color, dashes) in looks.items():
        axis.plot(
            history["epoch"], 100 * history[column], color=color, linestyle=dashes, label=label, **_marked(history)
        )
    axis.set_ylim(-2, 102)


def _intervals(axis: Axes, runs: Sequence[pd.DataFrame], names: Sequence[str], looks: Sequence[dict[str, Any]]) -> None:
    """A bar per network from its smallest to its largest singular value after the last epoch."""
    ends = np.full((len(runs), 2), np.nan)
    for i, rows in enumerate(runs):
        last = rows.iloc[-1:]
        for j, (quantity, reduce) in enumerate((("sigma_min", np.nanmin), ("sigma_max", np.nanmax))):
            columns = list(layer_columns(last, quantity).values())
            if columns:
                ends[i, j] = reduce(last[columns].to_numpy())
    shown = np.maximum(ends, SMALLEST)
    for i, look in enumerate(looks):
        axis.plot(shown[i], [i, i], marker="|", markersize=9, linewidth=2.5, solid_capstyle="butt", **look)
    axis.set_xscale("log")
    finite = shown[np.isfinite(shown)]
    axis.set_xlim(
        min(0.5, 0.8 * finite.min()) if len(finite) else 0.5, max(2.0, 1.3 * finite.max()) if len(finite) else 2
    )
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.grid(axis="y", visible=False)
    axis.set_title("singular values, all layers, at the end")


def _scale(axis: Axes, values: pd.DataFrame | pd.Series) -> None:
    """A logarithmic axis where the values span much, else one that begins at 0."""
    known = values.to_numpy(dtype=float).ravel()
    known = known[np.isfinite(known) & (known > 0)]
    if not len(known):
        return
    low, high = max(known.min(), SMALLEST), known.max()
    if high > LOG_SPAN * low:
        axis.set_yscale("log")
        axis.set_ylim(0.7 * low, 1.5 * high)
    else:
        axis.set_ylim(0, 1.1 * high)


def _marked(history: pd.DataFrame) -> dict[str, Any]:
    """Points as well where there are few: a line through one epoch would not be seen."""
    return {"marker": "o", "markersize": 2.5} if len(history) <= 12 else {}


def _name(row: pd.Series) -> str:
    return str(row["experiment"]) if row["variant"] == "default" else f"{row['experiment']}\n{row['variant']}"
