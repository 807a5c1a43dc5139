"""Shapes in the unit square whose signed distance is known: a circle, and polygons with or without holes."""

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
CENTER, RADIUS = (0.5, 0.5), 0.3


def _star() -> Points:
    angles = np.pi / 2 + np.pi * np.arange(10) / 5
    radii = np.where(np.arange(10) % 2, 0.17, 0.4)
    return np.array([0.5, 0.47]) + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)


# Name -> its rings, [M, 2] each, all in the unit square; a point inside an odd number of them is inside the shape.
POLYGONS: dict[str, list[Points]] = {
    "square": [np.array([[0.25, 0.25], [0.75, 0.25], [0.75, 0.75], [0.25, 0.75]])],
    "star": [_star()],
    # An A with its hole.
    "letter": [
        np.array(
            [
                [0.15, 0.12],
                [0.42, 0.88],
                [0.58, 0.88],
                [0.85, 0.12],
                [0.70, 0.12],
                [0.635, 0.31],
                [0.365, 0.31],
                [0.30, 0.12],
            ]
        ),
        np.array([[0.41, 0.44], [0.59, 0.44], [0.5, 0.70]]),
    ],
}
SHAPES = ("circle", *POLYGONS)


def signed_distance(shape: str, points: Points) -> Points:
    """The distance of points to the outline of a shape, positive inside, [N] in float64.

    The outline lies in the unit square, and so does the nearest point of it: the distance is that within the square.

    Args:
        shape: of `SHAPES`.
        points: [N, 2] float64.

    Raises:
        ValueError: a shape that is not known.
    """
    if shape == "circle":
        return RADIUS - np.hypot(*(points - CENTER).T)
    if shape not in POLYGONS:
        raise ValueError(f"dataset.shape={shape} is no shape that is known: give one of {', '.join(SHAPES)}.")
    distance, inside = np.full(len(points), np.inf), np.zeros(len(points), dtype=bool)
    for ring in POLYGONS[shape]:
        for start, end in zip(ring, np.roll(ring, -1, axis=0), strict=True):
            distance = np.minimum(distance, _to_segment(points, start, end))
            inside ^= _crossed(points, start, end)
    return np.where(inside, distance, -distance)


def _to_segment(points: Points, start: Points, end: Points) -> Points:
    along = end - start
    share = ((points - start) @ along / (along @ along)).clip(0, 1)
    return np.hypot(*(points - start - share[:, None] * along).T)


def _crossed(points: Points, start: Points, end: Points) -> NDArray[np.bool_]:
    """Whether the ray to the right of each point crosses the segment; of its ends the lower one counts."""
    x, y = points.T
    between = (start[1] <= y) != (end[1] <= y)
    height = end[1] - start[1] or 1.0  # a level segment has no point between its ends
    crossing: NDArray[np.bool_] = between & (x < start[0] + (y - start[1]) * (end[0] - start[0]) / height)
    return crossing
