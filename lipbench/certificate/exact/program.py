"""Quadratic programs over a region: a solver's answer, and what weak duality proves whatever the solver says."""

from dataclasses import dataclass

import numpy as np
import piqp

from lipbench.certificate.exact.region import Array, Region
from lipbench.certificate.relaxation.crown import TINY, UNIT

TOLERANCE = 1e-11
# A point that violates an inequality by more shows that the solver found no solution, or that there is none.
VIOLATED = 1e-6
# Multiples of the multipliers that are then tried.
RAY = (1.0, 10.0, 100.0, 1e3, 1e4, 1e6)


@dataclass(frozen=True)
class Solution:
    """Of one program.

    Attributes:
        bound: below the objective everywhere in the region; proved.
        point: near the minimiser, [n + k]. It may violate the inequalities by the tolerance of the solver.
        weights: multipliers of `Region.rows`, [m], not negative.
    """

    bound: float
    point: Array
    weights: Array


def minimise(region: Region, curvature: float = 1.0, slope: Array | None = None) -> Solution:
    """The least curvature ||delta||^2 + <slope, v> over a region, with a bound by weak duality.

    Args:
        curvature: positive.
        slope: [n + k]; None: 0.
    """
    slope = np.zeros(len(region.lower)) if slope is None else slope
    rows, sides = region.rows()
    point, weights = _solved(region, curvature, slope, rows, sides)
    weights = np.where(np.isfinite(weights), weights, 0.0).clip(min=0)
    point = np.where(np.isfinite(point), point, 0.0).clip(region.lower, region.upper)
    # Of an empty region the multipliers run away along a ray: the farther, the larger the bound.
    empty = len(sides) > 0 and (rows @ point - sides).max() > VIOLATED
    factors = RAY if empty else (1.0,)
    bound = max(dual(region, curvature, slope, rows, sides, factor * weights) for factor in factors)
    return Solution(bound, point, weights)


def dual(region: Region, curvature: float, slope: Array, rows: Array, sides: Array, weights: Array) -> float:
    """The least value of the Lagrangian over the box of the variables, rounded down: for all weights >= 0, it is at
    most the objective on every point of the region (weak duality).
    """
    linear = slope + weights @ rows
    pixels = region.pixels
    delta = np.clip(-linear[:pixels] / (2 * curvature), region.lower[:pixels], region.upper[:pixels])
    value = curvature * (delta @ delta) + linear[:pixels] @ delta - weights @ sides
    value += np.minimum(linear[pixels:] * region.lower[pixels:], linear[pixels:] * region.upper[pixels:]).sum()
    largest = np.maximum(abs(region.lower), abs(region.upper))
    size = weights @ (abs(rows) @ largest + abs(sides)) + abs(slope) @ largest + curvature * (delta @ delta)
    return float(value - UNIT * (len(linear) + len(weights) + 100) * size - TINY)


def _solved(region: Region, curvature: float, slope: Array, rows: Array, sides: Array) -> tuple[Array, Array]:
    solver = piqp.DenseSolver()
    settings = solver.settings
    settings.eps_abs = settings.eps_rel = TOLERANCE
    settings.eps_duality_gap_abs = settings.eps_duality_gap_rel = TOLERANCE
    settings.max_iter = 60
    curvatures = np.zeros(len(slope))
    curvatures[: region.pixels] = 2 * curvature
    solver.setup(
        np.asfortranarray(np.diag(curvatures)),
        slope,
        G=np.asfortranarray(rows),
        h_u=sides,
        x_l=region.lower,
        x_u=region.upper,
    )
    solver.solve()
    return np.asarray(solver.result.x).ravel(), np.asarray(solver.result.z_u).ravel()
