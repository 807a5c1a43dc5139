"""An attack of our own: x is projected on the tangent plane of the boundary, again and again."""

import torch
from torch import Tensor, nn

from lipbench.attacks.deepfool import walk
from lipbench.attacks.engine import minimum_distance
from lipbench.attacks.engine.boundary import nearest, to_boundary
from lipbench.attacks.engine.starting import adversarial_start
from lipbench.geometry import onto_halfspace, per_image, unit
from lipbench.margins import margin_and_gradient

# An image that would move by less than this share of its distance, STILL times in a row, has converged.
UNMOVED, STILL = 1e-4, 3
# A margin that the linearisation takes to zero within this share of the distance is as good as a boundary point.
NEAR = 0.02


@minimum_distance
def tangent(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    steps: int = 60,
    reach: tuple[float, float] = (0.5, 0.005),
    warm_reach: tuple[float, float] = (0.03, 0.001),
    memory: float = 0.5,
    start: Tensor | None = None,
) -> Tensor:
    """Sequential projection on the linearised boundary, with a shrinking trust region and averaged normals.

    At an image z near the boundary the margin is about m + <g, z' - z>. The nearest image of the box to x on which
    that vanishes is one projection away (`onto_halfspace`); z moves towards it, by at most a share of its distance
    that shrinks as `reach` says. At a minimum z is that projection. Where the boundary has an edge, as
    those of piecewise linear networks have everywhere, single normals would throw z from side to side: averaged ones
    settle on the edge.

    A relative of FAB (Croce and Hein, 2020, arXiv 1907.02044), which projects without trust region and average and
    pulls back to x by a fixed bias. One forward and one backward pass a step.

    Args:
        steps: at most; an image that has stopped moving leaves the batch.
        reach: longest step, relative to the distance from x, at the start and at the end.
        warm_reach: the same for images that have a `start`: a long reach would leave its basin.
        memory: weight of the earlier normals in the average; 0: the last normal alone, best on smooth boundaries.
        start: images to begin at; None: DeepFool's, and `adversarial_start` where it finds none.
    """
    first = _first(model, x, y, start)
    z, best, estimate = first.clone(), first.clone(), torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device)
    average, still = torch.zeros_like(x), torch.zeros(len(x), dtype=torch.long, device=x.device)
    warm = torch.zeros_like(estimate, dtype=torch.bool) if start is None else _moved(x, start)
    reaches = [part.to(x) for part in _reaches(warm, reach, warm_reach)]
    rows = _moved(x, first).nonzero()[:, 0]
    for step in range(steps):
        if not len(rows):
            break
        here, origin = z[rows], x[rows]
        value, gradient = margin_and_gradient(model, here, y[rows])
        normal, slope = unit(gradient)
        value = value / slope.where(slope > 0, 1.0)
        distance, estimated = _estimate(origin, here, normal, value)
        better = estimated < estimate[rows]
        estimate[rows[better]], best[rows[better]] = estimated[better], here[better]
        mean, _ = unit(memory * average[rows] + (1 - memory) * normal)
        average[rows] = mean
        # Along the mean normal the margin falls slower than along its own.
        agreement = (mean * normal).flatten(1).sum(1).clamp_min(1e-2)
        level = (mean * here).flatten(1).sum(1) - value / agreement
        move = onto_halfspace(origin, mean, level) - here
        length = move.flatten(1).norm(dim=1)
        allowed = reaches[0][rows] * reaches[1][rows] ** (step / max(1, steps - 1)) * distance
        share = (allowed / length.where(length > 0, torch.inf)).clamp(max=1)
        z[rows] = (here + per_image(share, here) * move).clamp(0, 1)
        still[rows] = torch.where(length < UNMOVED * distance, still[rows] + 1, 0)
        rows = rows[still[rows] < STILL]
    return nearest(x, to_boundary(model, x, best, y), first)


def _first(model: nn.Module, x: Tensor, y: Tensor, start: Tensor | None) -> Tensor:
    """Boundary points: from `start`, DeepFool or `adversarial_start`, the first that knows one; else x."""
    first = x if start is None else to_boundary(model, x, start, y)
    for find in (walk, adversarial_start):
        lost = (~_moved(x, first)).nonzero()[:, 0]
        if len(lost):
            first = first.index_copy(0, lost, to_boundary(model, x[lost], find(model, x[lost], y[lost]), y[lost]))
    return first


def _reaches(warm: Tensor, cold: tuple[float, float], started: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Of each image the first reach, and the factor to the last."""
    first = torch.where(warm, started[0], cold[0])
    return first, torch.where(warm, started[1], cold[1]) / first


def _moved(x: Tensor, images: Tensor) -> Tensor:
    return (images != x).flatten(1).any(1)


def _estimate(x: Tensor, z: Tensor, normal: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """The distance of z from x, [N], and at which distance on the ray from x to z the linearised margin vanishes: inf
    where that says little.
    """
    ray, distance = unit(z - x)
    fall = -(ray * normal).flatten(1).sum(1)
    correction = value / fall.clamp_min(1e-6)
    near = (fall > 0.05) & (correction.abs() <= NEAR * distance)
    return distance, torch.where(near, distance + correction, torch.where(value < 0, distance, torch.inf))
