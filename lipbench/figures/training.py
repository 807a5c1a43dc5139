"""What training does to a network: singular values, Lipschitz bound, gradient norm, accuracy over the epochs."""

import textwrap
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from lipbench.figures.recipes import Recipe
from lipbench.figures.style import PALETTE, TWO_COLUMNS, legend_below, network_look, style
from lipbench.results import RUN_COLUMNS, layer_columns
from lipbench.results.runs import Runs
from lipbench.results.selection import main_networks
from lipbench.results.words import network_name, shortened

# A panel whose values span more than this factor is logarithmic: the bound of a plain network explodes.
LOG_SPAN = 20
# Smaller values are drawn at the edge of a logarithmic panel: a singular value may be zero.
SMALLEST = 1e-3
DASHES = ("-", "--", ":")
# Letters of a line of a name at an axis.
LINE = 16


def training_curves(history: pd.DataFrame, title: str = "") -> Figure:
    """One run over its epochs: range of the singular values of each layer (a band), Lipschitz bound and gradient norm
    of the margin (black) and of the layers, accuracies.

    Layers go from dark and thick (first) to light and thin (last).

    Args:
        history: the rows of one run, as `lipbench.fit` or `lipbench.results.read_histories` give them. Panels whose
            columns it lacks stay empty.
    """
    quantities = ("sigma_max", "lipschitz", "gradient")
    layers = list(dict.fromkeys(name for quantity in quantities for name in layer_columns(history, quantity)))
    shades = mpl.colormaps["viridis"](np.linspace(0, 0.92, max(1, len(layers))))
    # Thinner with depth: lines that coincide, such as those of orthogonal layers, are all seen.
    widths = np.linspace(3.4, 1.0, max(1, len(layers)))
    looks = {
        layer: {"color": shade, "linewidth": width} for layer, shade, width in zip(layers, shades, widths, strict=False)
    }
    history = _with_margin(history)
    with style():
        figure = Figure(figsize=(TWO_COLUMNS, 4.9))
        axes = figure.subplots(2, 2, sharex=True)
        _bands(axes[0, 0], history, looks)
        _lines(axes[0, 1], history, "margin_lipschitz", "lipschitz", looks)
        _lines(axes[1, 0], history, "gradient_norm", "gradient", looks)
        _accuracies(axes[1, 1], history)
        for axis, name in zip(
            axes.flat,
            ("singular values", "Lipschitz bound of the margin", "gradient norm of the margin", "accuracy (%)"),
            strict=True,
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
            figure.suptitle(title, fontsize=8)
    return figure


def training_comparison(histories: pd.DataFrame, title: str = "") -> Figure:
    """The networks of one data set next to each other: Lipschitz bound and gradient norm over the training, and the
    range of the singular values of all layers at its end (where the histories hold them).

    Args:
        histories: rows as `lipbench.results.read_histories` returns them; of each network the lowest seed is drawn.
            Their epochs may differ: the axis is the share of the training.
    """
    histories = _with_margin(histories)
    runs = [rows[rows["seed"] == rows["seed"].min()] for _, rows in histories.groupby(RUN_COLUMNS[:3], sort=True)]
    names = _names(runs)
    looks = _looks(runs)
    ends = _ends(runs)
    lines = {"margin_lipschitz": "Lipschitz bound of the margin", "gradient_norm": "gradient norm of the margin"}
    columns = len(lines) + bool(np.isfinite(ends).any())
    with style():
        figure = Figure(figsize=(TWO_COLUMNS, max(2.7, 1.2 + 0.16 * len(runs))))
        axes = np.atleast_1d(figure.subplots(1, columns))
        for axis, (column, name) in zip(axes, lines.items(), strict=False):
            for i, (rows, label, look) in enumerate(zip(runs, names, looks, strict=True)):
                share = 100 * rows["epoch"] / rows["epoch"].max()
                # Thinner and thinner: constrained networks lie on top of each other.
                width = max(0.9, 3.6 * 0.6**i)
                axis.plot(share, rows[column], label=label, linewidth=width, **_marked(rows), **look)
            axis.set_xlabel("share of the training (%)")
            axis.set_title(name)
            axis.set_xlim(0, 102)
            _scale(axis, histories[column])
        if columns > len(lines):
            _intervals(axes[-1], ends, names, [look["color"] for look in looks])
        legend_below(figure, dict(zip(names, axes[0].get_lines(), strict=True)))
        if title:
            figure.suptitle(title, fontsize=8)
    return figure


def _with_margin(history: pd.DataFrame) -> pd.DataFrame:
    """With the column margin_lipschitz: the margin, a difference of two logits, has at most the bound of all logits
    (lipschitz) times the root of 2.
    """
    return history.assign(margin_lipschitz=np.sqrt(2) * history["lipschitz"])


def _looks(runs: Sequence[pd.DataFrame]) -> list[dict[str, Any]]:
    """The colour of each kind of network, dashed where its body is dense; of the variants of one, a colour each."""
    names = [str(rows["experiment"].iloc[0]) for rows in runs]
    if len(set(names)) < len(names):
        return [
            {"color": PALETTE[i % len(PALETTE)], "linestyle": DASHES[i // len(PALETTE) % len(DASHES)]}
            for i in range(len(runs))
        ]
    return [{"color": network_look(name).color, "linestyle": "--" if name.endswith("mlp") else "-"} for name in names]


def _bands(axis: Axes, history: pd.DataFrame, looks: dict[str, dict[str, Any]]) -> None:
    low, high = layer_columns(history, "sigma_min"), layer_columns(history, "sigma_max")
    for layer in low:
        bottom, top = history[low[layer]], history[high[layer]]
        axis.fill_between(history["epoch"], bottom, top, color=looks[layer]["color"], alpha=0.15, linewidth=0)
        for edge in (bottom, top):
            axis.plot(history["epoch"], edge, **_marked(history), **looks[layer])
    _scale(axis, history[[*low.values(), *high.values()]])


def _lines(axis: Axes, history: pd.DataFrame, whole: str, quantity: str, looks: dict[str, dict[str, Any]]) -> None:
    columns = layer_columns(history, quantity)
    for layer, column in columns.items():
        axis.plot(history["epoch"], history[column], label=f"layer {layer}", **_marked(history), **looks[layer])
    axis.plot(history["epoch"], history[whole], color="black", linewidth=1.6, linestyle=(0, (2, 2)), label="network")
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


def _ends(runs: Sequence[pd.DataFrame]) -> np.ndarray:
    """[runs, 2]: smallest and largest singular value after the last epoch, of the layers of which it is known, NaN
    where it is known of none.
    """
    ends = np.full((len(runs), 2), np.nan)
    for i, rows in enumerate(runs):
        for j, (quantity, extreme) in enumerate((("sigma_min", np.min), ("sigma_max", np.max))):
            columns = list(layer_columns(rows.iloc[-1:], quantity).values())
            if columns:
                ends[i, j] = extreme(rows.iloc[-1][columns].to_numpy(dtype=float))
    return ends


def _intervals(axis: Axes, ends: np.ndarray, names: Sequence[str], colors: Sequence[str]) -> None:
    """A bar per network; an arrow where it goes on to the left."""
    for i, ((low, high), color) in enumerate(zip(ends, colors, strict=True)):
        shown = [max(low, SMALLEST), max(high, SMALLEST)]
        axis.plot(shown, [i, i], color=color, linewidth=2.5, solid_capstyle="butt")
        for value, true in zip(shown, (low, high), strict=True):
            axis.plot(
                [value], [i], color=color, marker="<" if true < SMALLEST else "|", markersize=8, markeredgewidth=2
            )
    _scale(axis, pd.Series(ends.ravel()), "x", always_log=True)
    axis.set_yticks(range(len(names)), [textwrap.fill(name, LINE) for name in names])
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.grid(axis="y", visible=False)
    axis.set_title("singular values at the end")
    axis.set_xlabel("smallest to largest")


def _scale(axis: Axes, values: pd.DataFrame | pd.Series, which: str = "y", always_log: bool = False) -> None:
    """A logarithmic axis where the values span much, else one that begins at 0."""
    known = np.maximum(values.to_numpy(dtype=float).ravel(), SMALLEST)
    known = known[np.isfinite(known)]
    if not len(known):
        return
    low, high = known.min(), known.max()
    if not always_log and high <= LOG_SPAN * low:
        axis.set(**{f"{which}lim": (0, 1.1 * high)})
        return
    axis.set(**{f"{which}scale": "log", f"{which}lim": (min(0.7 * low, 0.5), max(1.5 * high, 2))})
    side = axis.xaxis if which == "x" else axis.yaxis
    # A short axis would have one number or none at powers of ten alone.
    side.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
    side.set_major_formatter(StrMethodFormatter("{x:g}"))
    side.set_minor_formatter(NullFormatter())


def _marked(history: pd.DataFrame) -> dict[str, Any]:
    """Points as well where there are few: a line through one epoch would not be seen."""
    return {"marker": "o", "markersize": 2.5} if len(history) <= 12 else {}


def _names(runs: Sequence[pd.DataFrame]) -> list[str]:
    """Experiments, with their variants where these differ."""
    keys = [(str(rows["experiment"].iloc[0]), str(rows["variant"].iloc[0])) for rows in runs]
    if len({variant for _, variant in keys}) == 1:
        return [network_name(experiment) for experiment, _ in keys]
    return [name if variant == "default" else f"{name} {shortened(variant, 20)}" for name, variant in keys]


def comparison(runs: Runs) -> tuple[Figure, pd.DataFrame] | None:
    """`training_comparison` of the main networks of one data set, and their histories with margin_lipschitz, which is
    drawn; None where there is none.
    """
    chosen = [run for runs_of_one in main_networks(runs).values() for run in runs_of_one]
    histories = replace(runs, finished=chosen).histories.dropna(axis=1, how="all")
    if not len(histories):
        return None
    return training_comparison(histories), _with_margin(histories)


def of_one_run(runs: Runs) -> tuple[Figure, pd.DataFrame] | None:
    """`training_curves` of one run, and its history with margin_lipschitz, which is drawn; None where there is none."""
    (run,) = runs.finished
    if not len(run.history):
        return None
    return training_curves(run.history, title=" ".join(map(str, run.key))), _with_margin(run.history)


RECIPES = (
    Recipe(
        "training",
        "Training: Lipschitz bound, gradient norm, singular values",
        "The main networks over their training: the Lipschitz bound of the margin, a difference of two logits, flat "
        "for 1-Lipschitz networks; the norm of its gradient in the image, which it bounds; and the range of the "
        "singular values at the end.",
        comparison,
    ),
    Recipe(
        "training",
        "Training, layer by layer",
        "One run over its epochs: the range of the singular values of each layer, Lipschitz bound and gradient norm of "
        "the margin and the layers, and the accuracies.",
        of_one_run,
        each="run",
    ),
)
