"""Optimal transport between two classes: pairs of the exact plan, and how near a network comes to it."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from lipbench.figures.recipes import Recipe
from lipbench.figures.sheet import is_picture
from lipbench.figures.style import TWO_COLUMNS, legend_below, network_look, style
from lipbench.results.runs import Run, Runs
from lipbench.results.selection import first_seeds


def transport(results: Runs) -> tuple[Figure, pd.DataFrame] | None:
    """Above: pairs of test images that the optimal plan between the two classes matches, with their L2 distance. Below
    left: for every pair f(b) - f(a), divided by the bound of f, against the distance; the optimal f lies on the line of
    equality and no 1-Lipschitz function above it. Below right: the second law over the training, the
    Kantorovich-Rubinstein estimate on the validation set divided by the bound of f, under the exact distance.

    Returns:
        the figure, and columns dataset, experiment, quantity ("pair" or "estimate"), x (distance, or share of the
        training in %), value, exact (the distance, or Wasserstein-1); None for other than two classes.
    """
    known = {name: run.arrays("illustrations.npz") for name, run in first_seeds(results).items()}
    arrays = {name: held for name, held in known.items() if "pair_images" in held and is_picture(held["pair_images"])}
    if not arrays:
        return None
    runs = {name: run for name, run in first_seeds(results).items() if name in arrays}
    pairs = pd.concat([_pairs(name, held) for name, held in arrays.items()], ignore_index=True)
    estimates = pd.concat([_estimates(name, run, arrays[name]) for name, run in runs.items()], ignore_index=True)
    table = pd.concat([pairs, estimates], ignore_index=True)
    table.insert(0, "dataset", results.datasets[0])
    first = next(iter(arrays.values()))
    with style():
        figure = Figure(figsize=(TWO_COLUMNS, 4.7))
        grid = figure.add_gridspec(2, 1, height_ratios=[1, 1.3])
        _pictures(figure.add_subplot(grid[0]), first)
        panels = grid[1].subgridspec(1, 2 if len(estimates) else 1).subplots(squeeze=False)[0]
        _scatter(panels[0], pairs)
        if len(estimates):
            _law(panels[1], estimates)
        looks = [network_look(name) for name in runs]
        handles = {look.label: Line2D([], [], color=look.color, marker=look.marker, markersize=4) for look in looks}
        handles["exact"] = Line2D([], [], color="black", linestyle="--")
        legend_below(figure, handles)
    return figure, table


def _pairs(name: str, arrays: dict[str, np.ndarray]) -> pd.DataFrame:
    distances = arrays["pair_distances"]
    rises = arrays["pair_rises"] / arrays["f_bound"]
    columns = {"experiment": name, "quantity": "pair", "x": distances, "value": rises, "exact": distances}
    return pd.DataFrame(columns)


def _estimates(name: str, run: Run, arrays: dict[str, np.ndarray]) -> pd.DataFrame:
    history = run.history
    if "wasserstein_bound" not in history:
        return pd.DataFrame()
    share = 100 * history["epoch"] / history["epoch"].max()
    exact = float(arrays["validation_wasserstein"])
    columns = {"experiment": name, "quantity": "estimate", "x": share, "exact": exact}
    return pd.DataFrame({**columns, "value": history["wasserstein_bound"]})


def _pictures(axis: Axes, arrays: dict[str, np.ndarray]) -> None:
    """Pairs above each other, their distance below; in units of a picture, of which a tenth is a gap."""
    images, side = arrays["pair_images"], 0.9
    for row, column in np.ndindex(*images.shape[:2]):
        pixels = images[row, column]
        grey = pixels.shape[0] == 1
        options: dict[str, Any] = {"cmap": "gray_r", "vmin": 0, "vmax": 255} if grey else {}
        box = (column, column + side, 1 - row, 1 - row + side)
        shown = pixels[0] if grey else pixels.transpose(1, 2, 0)
        axis.imshow(shown, extent=box, interpolation="nearest", **options)
        border = Rectangle((box[0], box[2]), side, side, fill=False, linewidth=0.4, edgecolor="0.7")
        axis.add_patch(border)
    for column, distance in enumerate(arrays["pair_distances"][: images.shape[1]]):
        axis.text(column + side / 2, -0.05, f"{distance:.2f}", fontsize=7, ha="center", va="top")
    for row in (0, 1):
        axis.text(-0.1, 1 - row + side / 2, f"\u201c{arrays['classes'][row]}\u201d", ha="right", va="center")
    axis.set(xlim=(-0.4, images.shape[1]), ylim=(-0.3, 2), aspect="equal")
    axis.axis("off")


def _scatter(axis: Axes, pairs: pd.DataFrame) -> None:
    for name, rows in pairs.groupby("experiment", sort=False):
        look = network_look(str(name))
        axis.scatter(
            rows["x"], rows["value"], s=8, color=look.color, marker=look.marker, alpha=0.9, linewidths=0, label=name
        )
    far = 1.04 * pairs["x"].max()
    axis.plot([0, far], [0, far], color="black", linestyle="--", linewidth=1)
    low = min(0.0, 1.05 * pairs["value"].min())
    axis.set(xlim=(0, far), ylim=(low, far))
    axis.set(xlabel="L2 distance of the pair", ylabel="rise of f / bound of f")


def _law(axis: Axes, estimates: pd.DataFrame) -> None:
    axis.set(xlabel="share of the training (%)", ylabel="KR estimate / bound of f")
    axis.set_xlim(0, 100)
    for name, rows in estimates.groupby("experiment", sort=False):
        axis.plot(rows["x"], rows["value"], color=network_look(str(name)).color, label=name)
    exact = float(estimates["exact"].iloc[0])
    axis.axhline(exact, color="black", linestyle="--", linewidth=1)
    axis.annotate(
        f"exact W1 of the validation images = {exact:.2f}",
        (98, exact),
        (0, 3),
        textcoords="offset points",
        ha="right",
        fontsize=7,
    )
    axis.set_ylim(min(0.0, 1.05 * estimates["value"].min()), 1.15 * exact)


RECIPES = (
    Recipe(
        "transport",
        "Optimal transport between the classes",
        "Above, pairs of test images that the optimal plan matches, with their distance. Below left, the rise of f "
        "over each pair, divided by the bound of f, against the distance: no 1-Lipschitz f rises above the diagonal. "
        "Below right, the Kantorovich-Rubinstein estimate over the training; it may not exceed the exact distance.",
        transport,
    ),
)
