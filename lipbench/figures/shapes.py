"""Networks as signed distance fields: the level sets of f next to those of the true distance to a shape."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lipbench.figures.recipes import Recipe
from lipbench.figures.style import PALETTE, TWO_COLUMNS, legend_below, style
from lipbench.outlines import SHAPES, signed_distance
from lipbench.results.runs import Run, Runs

DATA = "lipbench.data.shapes"
# Level lines, besides the outline itself.
LEVELS = np.array([-0.3, -0.2, -0.1, 0.1, 0.2])


def shapes(results: Runs) -> tuple[Figure, pd.DataFrame] | None:
    """A panel per shape of one data set, of the 1-Lipschitz network of the lowest seed that has a plane: level lines of
    f (solid) and of the true signed distance (dashed), f = 0 and the outline thick.

    Returns:
        the figure, and the columns of `errors`; None where no run is one of `lipbench.data.shapes` with
        measure=[plane].
    """
    chosen: dict[str, Run] = {}
    for run in sorted(results.finished, key=lambda run: str(run.key[3]).zfill(9)):
        data = run.config.get("dataset", {})
        if data.get("_target_") == DATA and run.facts["look"]["kind"] == "hkr" and (run.folder / "plane.csv").exists():
            chosen.setdefault(data["shape"], run)
    found = [shape for shape in SHAPES if shape in chosen]
    if not found:
        return None
    with style():
        figure = Figure(figsize=(TWO_COLUMNS, TWO_COLUMNS / len(SHAPES) + 0.45))
        axes = figure.subplots(1, len(SHAPES))
        rows = []
        for axis, shape in zip(axes, found, strict=False):
            table = chosen[shape].measured("plane.csv")
            assert table is not None  # it was chosen for having one
            frontier = _panel(axis, shape, table[table["kind"] == "grid"])
            rows.append(errors(shape, table, chosen[shape].attacked.images, frontier))
        for axis in axes[len(found) :]:
            axis.set_visible(False)
        handles = {
            "f": Line2D([], [], color=PALETTE[0]),
            "true signed distance": Line2D([], [], color=PALETTE[1], linestyle="--"),
        }
        legend_below(figure, {f"{name}, lines every 0.1": line for name, line in handles.items()})
    return figure, pd.DataFrame(rows)


def errors(shape: str, plane: pd.DataFrame, images: pd.DataFrame, frontier: np.ndarray) -> dict[str, object]:
    """The two errors of a network as a distance field, kept apart, on the test points that it labels rightly.

    Args:
        plane: as `lipbench.measures.plane` gives it.
        images: as of `lipbench.results.attacked.Attacked`.
        frontier: points [M, 2] where f = 0.

    Returns:
        shape, points, accuracy (%); medians certificate_to_truth and attack_to_truth, of the ratios to the distance to
        the outline; attack_to_certificate, of two bounds of the distance to the network's own frontier: 1 where
        the certificate is tight; frontier_mean and frontier_max, the true distance of the frontier to the outline:
        0 where the network learned the shape.
    """
    points = plane.loc[plane["kind"] == "point", ["x", "y"]].to_numpy(float)[images.index]
    # The table is rounded; pixels are multiples of 1 / 255.
    truth = np.abs(signed_distance(shape, np.rint(255 * points) / 255))
    right = (images["label"] == images["prediction"]).to_numpy()
    lower, upper = images["certificate"].to_numpy(float)[right], images["upper"].to_numpy(float)[right]
    away = np.abs(signed_distance(shape, frontier)) if len(frontier) else np.array([np.nan])
    return {
        "shape": shape,
        "points": int(right.sum()),
        "accuracy": 100 * float(right.mean()),
        "certificate_to_truth": float(np.median(lower / truth[right])),
        "attack_to_truth": float(np.median(upper / truth[right])),
        "attack_to_certificate": float(np.median(upper / np.maximum(lower, 1e-12))),
        "frontier_mean": float(away.mean()),
        "frontier_max": float(away.max()),
    }


def _panel(axis: Axes, shape: str, grid: pd.DataFrame) -> np.ndarray:
    """Draws one network and returns points of f = 0, [M, 2]."""
    surface = grid.pivot(index="y", columns="x", values="f")
    x, y, f = surface.columns.to_numpy(float), surface.index.to_numpy(float), surface.to_numpy(float)
    fine = np.linspace(0, 1, 301)
    points = np.stack(np.meshgrid(fine, fine), -1)
    truth = signed_distance(shape, points.reshape(-1, 2)).reshape(301, 301)
    axis.contour(x, y, f, levels=LEVELS, colors=PALETTE[0], linewidths=0.7, linestyles="solid")
    axis.contour(fine, fine, truth, levels=LEVELS, colors=PALETTE[1], linewidths=0.7, linestyles="dashed")
    zero = axis.contour(x, y, f, levels=[0.0], colors=PALETTE[0], linewidths=1.6)
    axis.contour(fine, fine, truth, levels=[0.0], colors=PALETTE[1], linewidths=1.6, linestyles="dashed")
    axis.set(xlim=(0, 1), ylim=(0, 1), xticks=[], yticks=[], aspect="equal", title=shape)
    axis.grid(visible=False)
    lines = zero.allsegs[0]
    return np.concatenate(lines) if len(lines) else np.empty((0, 2))


RECIPES = (
    Recipe(
        "shapes",
        "Networks as signed distance fields of shapes",
        "A panel per shape. Solid: level lines of f of the 1-Lipschitz network, f = 0 thick. Dashed: those of the true "
        "signed distance to the shape, its outline thick. They agree where the network learned the distance.",
        shapes,
    ),
)
