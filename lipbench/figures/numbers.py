"""The numbers that a figure draws, as a table: what a reader needs to draw it again, or to check it."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.container import BarContainer
from matplotlib.figure import Figure

from lipbench.escapes import printable

COLUMNS = ["panel", "series", "x", "y"]


def drawn(figure: Figure) -> pd.DataFrame:
    """Points, lines and bars of a figure, in the order of its panels.

    A point in the middle of a straight piece of a line is left out: the line is the same without it.

    Returns:
        columns panel (its title, or else its labels), series (as in the legend), x, y; a bar is its middle and its
        length. Empty for a figure of pictures alone.
    """
    tables = []
    for number, axis in enumerate(figure.axes):
        for series, points in _series(axis):
            if len(points):
                table = pd.DataFrame(points, columns=["x", "y"])
                table.insert(0, "series", "" if series.startswith("_") else printable(series))
                table.insert(0, "panel", printable(_name(axis, number)))
                tables.append(table)
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=COLUMNS)


def _name(axis: Axes, number: int) -> str:
    labels = " / ".join(label for label in (axis.get_ylabel(), axis.get_xlabel()) if label)
    return " ".join((axis.get_title() or labels or f"panel {number + 1}").split())


def _series(axis: Axes) -> Iterator[tuple[str, np.ndarray]]:
    """Label and points [N, 2] of everything that is drawn in the coordinates of the data."""
    for line in axis.get_lines():
        if line.get_transform() == axis.transData:
            yield str(line.get_label()), _corners(np.asarray(line.get_xydata(), dtype=float))
    for collection in axis.collections:
        label = str(collection.get_label())
        if isinstance(collection, PathCollection):
            yield label, np.ma.filled(np.ma.asarray(collection.get_offsets(), dtype=float), np.nan)
        elif isinstance(collection, LineCollection):
            segments = [np.asarray(segment, dtype=float) for segment in collection.get_segments()]
            yield label, np.concatenate(segments) if segments else np.empty((0, 2))
    for bars in axis.containers:
        if isinstance(bars, BarContainer):
            upright = bars.orientation != "horizontal"
            places = [(p.get_x() + p.get_width() / 2, p.get_height()) for p in bars.patches]
            across = [(p.get_width(), p.get_y() + p.get_height() / 2) for p in bars.patches]
            yield str(bars.get_label()), np.array(places if upright else across, dtype=float)


def _corners(points: np.ndarray) -> np.ndarray:
    """The points [N, 2] without those inside of horizontal pieces, of which curves of shares are made."""
    y = points[:, 1]
    if len(y) < 3:
        return points
    inside = (y[1:-1] == y[:-2]) & (y[1:-1] == y[2:])
    return points[np.concatenate([[True], ~inside, [True]])]
