"""The picture of the plane: frontier, level lines and transport directions of networks on points."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lipbench.figures.recipes import Recipe
from lipbench.figures.style import PALETTE, TWO_COLUMNS, legend_below, network_look, style
from lipbench.results.runs import Run, Runs
from lipbench.results.words import dataset_name

KINDS = ("plain", "hkr")
# Points that are drawn, and of them those with an arrow; both of each class.
POINTS, ARROWS = 120, 14
# Level lines of f above and below the frontier.
LEVELS = 6
# A longer arrow would leave the picture.
LONGEST = 0.3
COLORS = LinearSegmentedColormap.from_list("sides", [PALETTE[0], "#f7f7f7", PALETTE[1]])


def plane(results: Runs) -> tuple[Figure, pd.DataFrame] | None:
    """A row per data set of points, a column per kind of network: f in colour, its level lines, its frontier f = 0
    (black), and arrows from points x to x - f grad f / ||grad f||^2, where f would be 0 if it were linear. For a
    1-Lipschitz f with ||grad f|| = 1 that is the nearest point of the frontier.

    Returns:
        the figure, and columns dataset, network, frontier_distance (median length of the arrows of all points),
        gradient_low, gradient_high (5 and 95 % quantiles of ||grad f|| over the square), f_low, f_high; None where no
        run has a table of the plane (measure=[plane]).
    """
    grid = [[_first(results.of([dataset]), kind) for kind in KINDS] for dataset in results.datasets]
    grid = [row for row in grid if any(row)]
    if not grid:
        return None
    with style():
        figure = Figure(figsize=(TWO_COLUMNS * 0.7, 0.35 * TWO_COLUMNS * len(grid)))
        axes = figure.subplots(len(grid), len(KINDS), squeeze=False)
        rows = []
        for line, runs in zip(axes, grid, strict=True):
            for axis, run in zip(line, runs, strict=True):
                rows += _panel(axis, run, "" if run is None else _title(run))
    return figure, pd.DataFrame(rows)


def plane_lambda(results: Runs) -> tuple[Figure, pd.DataFrame] | None:
    """HKR of growing lambda = alpha / (1 - alpha) on one data set of points: panels as in `plane`. Without the hinge
    (lambda = 0) f is known up to a constant alone, and its frontier says nothing.

    Returns:
        as `plane`; None unless the plane is there for two values of alpha or more.
    """
    found: dict[float, Run] = {}
    for run in results.finished:
        if (run.folder / "plane.csv").exists() and run.overrides.keys() == {"loss.alpha"}:
            found.setdefault(float(run.overrides["loss.alpha"]), run)
    if len(found) < 2:
        return None
    reach = max(map(_reach, found.values()))
    with style():
        figure = Figure(figsize=(TWO_COLUMNS, TWO_COLUMNS / len(found) + 0.5))
        rows = []
        for axis, (alpha, run) in zip(figure.subplots(1, len(found)), sorted(found.items()), strict=True):
            strength = f"{alpha / (1 - alpha):.3g}" if alpha < 1 else "\u221e"
            rows += _panel(axis, run, f"\u03bb = {strength}", reach)
        handles = {f"class {i}": Line2D([], [], color=PALETTE[i], marker="o", linestyle="") for i in range(2)}
        handles[f"f, lines every {reach / LEVELS:.2g}"] = Line2D([], [], color="0.45", linewidth=0.5)
        handles["f = 0"] = Line2D([], [], color="black", linewidth=1.6)
        legend_below(figure, handles)
    return figure, pd.DataFrame(rows)


def _first(results: Runs, kind: str) -> Run | None:
    """The run of the lowest seed of a kind of network that has a plane: of the variant "default"; where there is none,
    of the last variant by name.
    """
    own = [run for run in results.finished if run.facts["look"]["kind"] == kind]
    own = [run for run in own if (run.folder / "plane.csv").exists()]
    chosen = [run for run in own if run.key[2] == "default"]
    return chosen[0] if chosen else own[-1] if own else None


def _title(run: Run) -> str:
    variant = "" if run.key[2] == "default" else f", {run.key[2]}"
    return f"{dataset_name(str(run.key[0]))}\n{network_look(str(run.key[1])).label}{variant}"


def _reach(run: Run) -> float:
    """The largest |f| over the square."""
    table = run.measured("plane.csv")
    assert table is not None  # it was chosen for having one
    return float(table.loc[table["kind"] == "grid", "f"].abs().max()) or 1.0


def _panel(axis: Axes, run: Run | None, title: str, reach: float | None = None) -> list[dict[str, object]]:
    """Draws one network and returns its row of the table, if there is one."""
    axis.set(xlim=(0, 1), ylim=(0, 1), xticks=[], yticks=[], aspect="equal")
    axis.grid(visible=False)
    if run is None:
        axis.set_visible(False)
        return []
    table = run.measured("plane.csv")
    assert table is not None  # it was chosen for having one
    grid, points = table[table["kind"] == "grid"], table[table["kind"] == "point"]
    surface = grid.pivot(index="y", columns="x", values="f")
    shared, reach = reach is not None, reach or _reach(run)
    x, y, f = surface.columns.to_numpy(float), surface.index.to_numpy(float), surface.to_numpy(float)
    levels = reach * np.linspace(-1, 1, 2 * LEVELS + 1)
    axis.contourf(x, y, f, levels=levels, cmap=COLORS, alpha=0.55)
    axis.contour(x, y, f, levels=levels, colors="0.45", linewidths=0.5, linestyles="solid")
    axis.contour(x, y, f, levels=[0.0], colors="black", linewidths=1.6)
    for label, color in enumerate(PALETTE[:2]):
        mine = points[points["label"] == label]
        axis.scatter(mine["x"][:POINTS], mine["y"][:POINTS], s=3, color=color, linewidths=0)
        ends = _steps(mine[:ARROWS])
        arrows: dict[str, Any] = {
            "angles": "xy",
            "scale_units": "xy",
            "scale": 1,
            "width": 0.006,
            "color": "0.1",
            "zorder": 3,
        }
        axis.quiver(mine["x"][:ARROWS], mine["y"][:ARROWS], ends[:, 0], ends[:, 1], **arrows)
    axis.set_title(title, fontsize=8)
    if not shared:
        axis.set_xlabel(f"f from {f.min():.3g} to {f.max():.3g},\nlines every {reach / LEVELS:.3g}", fontsize=7)
    norms = np.hypot(*grid[["gradient_x", "gradient_y"]].to_numpy(float).T)
    return [
        {
            "dataset": run.key[0],
            "network": run.key[1] if run.key[2] == "default" else f"{run.key[1]} {run.key[2]}",
            "frontier_distance": float(np.median(np.hypot(*_steps(points, np.inf).T))),
            "gradient_low": float(np.quantile(norms, 0.05)),
            "gradient_high": float(np.quantile(norms, 0.95)),
            "f_low": float(f.min()),
            "f_high": float(f.max()),
        }
    ]


def _steps(points: pd.DataFrame, longest: float = LONGEST) -> np.ndarray:
    """-f grad f / ||grad f||^2 at points, [N, 2], none longer than `longest`."""
    slope = points[["gradient_x", "gradient_y"]].to_numpy(float)
    squared = np.maximum((slope**2).sum(1, keepdims=True), 1e-12)
    step = -points[["f"]].to_numpy(float) * slope / squared
    length = np.hypot(*step.T)[:, None]
    return step * np.minimum(1, longest / np.maximum(length, 1e-12))


RECIPES = (
    Recipe(
        "plane",
        "Networks on points of the plane",
        "Points of two classes, the classical network left, the 1-Lipschitz one right. Black: the decision boundary. "
        "The level lines of f are evenly spaced around it for the 1-Lipschitz network and crowd for the other. Arrows "
        "lead to where f would be 0 if it were linear.",
        plane,
        each="all",
    ),
    Recipe(
        "plane_lambda",
        "HKR of growing lambda",
        "The same points and one scale of f in all squares: the larger lambda, the closer the decision boundary "
        "(black) follows the points. For lambda = 0, without the hinge, it is anywhere.",
        plane_lambda,
    ),
)
