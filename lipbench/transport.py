"""Exact optimal transport between two samples."""

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist


def wasserstein(a: np.ndarray, b: np.ndarray) -> float:
    """Wasserstein-1 distance, L2 cost, of two samples of equal size: the best assignment, divided by the size.

    Args:
        a, b: [n, d], float64 is used throughout.

    Raises:
        ValueError: the samples have different shapes or are empty.
    """
    if a.shape != b.shape or not len(a):
        raise ValueError(f"The exact distance needs two samples of one size; got {a.shape} and {b.shape}.")
    cost = cdist(a.astype(np.float64), b.astype(np.float64))
    rows, columns = linear_sum_assignment(cost)
    return float(cost[rows, columns].mean())
