"""Closer bounds of what goes into the open relus of a region: programs over the ball instead of over its box."""

import math
import time

import numpy as np

from lipbench.certificate.exact.program import minimise
from lipbench.certificate.exact.region import Array, Region


def tightened(region: Region, chosen: Array, radius: float, until: float, solves: int = 2) -> Region:
    """The same adversarial images within the radius, with closer bounds of chosen open relus, one after another.

    Over the ball, min u >= max over m > 0 of min (u + m ||delta||^2) - m radius^2: the best m makes the minimiser as
    long as the radius. Each m tried gives a bound.

    Args:
        chosen: which relus, bool [k].
        solves: values of m tried for each side.
    """
    for j in (region.open & chosen).nonzero()[0].tolist():
        if time.monotonic() > until:
            break
        for sign in (1.0, -1.0):
            if region.low[j] >= 0 or region.high[j] <= 0:
                break
            bound = _least(region, j, sign, radius, solves)
            low, high = region.low.copy(), region.high.copy()
            if sign > 0:
                low[j] = max(low[j], bound)
            else:
                high[j] = min(high[j], -bound)
            region = region.within(low, high)
    return region


def _least(region: Region, j: int, sign: float, radius: float, solves: int) -> float:
    """Below sign * u_j on the region."""
    slope: Array = sign * region.inner[j]
    shift, error = sign * region.shift[j], region.error[j]
    weight = float(np.linalg.norm(slope[: region.pixels])) / (2 * radius)
    best = -math.inf
    for _ in range(solves):
        if not weight > 0:
            break
        found = minimise(region, weight, slope)
        value = found.bound - weight * radius**2
        # Rounded down by more than these sums can lose.
        best = max(best, value + shift - error - 1e-13 * (abs(found.bound) + weight * radius**2 + abs(shift)))
        weight *= float(np.linalg.norm(found.point[: region.pixels])) / radius
    return best
