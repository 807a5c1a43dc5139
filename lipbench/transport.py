"""Exact optimal transport between two samples."""

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

# Images of each class in an exact distance: the assignment takes time with the third power of their number.
LIMIT = 500


def equal_samples(labels: np.ndarray, limit: int = LIMIT) -> tuple[np.ndarray, np.ndarray] | None:
    """Indices of the first n images of class 0 and of class 1, n the size of the smaller class and at most `limit`;
    None for more than two classes, or where one is missing.
    """
    first = [(labels == k).nonzero()[0][:limit] for k in (0, 1)]
    size = min(map(len, first))
    return (first[0][:size], first[1][:size]) if size and labels.max() <= 1 else None


def matching(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The optimal transport plan of two samples of equal size, L2 cost: a permutation.

    Args:
        a, b: [n, d], float64 is used throughout.

    Returns:
        partner [n], the row of b that each row of a goes to, and the distance of each pair [n].

    Raises:
        ValueError: the samples have different shapes or are empty.
    """
    if a.shape != b.shape or not len(a):
        raise ValueError(f"The exact distance needs two samples of one size; got {a.shape} and {b.shape}.")
    cost = cdist(a.astype(np.float64), b.astype(np.float64))
    rows, columns = linear_sum_assignment(cost)  # rows are 0..n-1
    return columns, cost[rows, columns]


def wasserstein(a: np.ndarray, b: np.ndarray) -> float:
    """Wasserstein-1 distance, L2 cost, of two samples of equal size: the mean distance of `matching`."""
    return float(matching(a, b)[1].mean())
