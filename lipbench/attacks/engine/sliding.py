"""A point slides along the boundary until it is the projection of x on its tangent plane."""

import torch
from torch import Tensor

from lipbench.geometry import onto_halfspace, per_image, unit
from lipbench.judge import Classifier
from lipbench.margins import margin_and_gradient

# An image that would move by less than this share of its distance, STILL times in a row, has converged.
UNMOVED, STILL = 1e-4, 3
# An image that is this much farther than the best known one after a third of its steps will hardly pass it.
HOPELESS = 1.25
# A margin that the linearisation takes to zero within this share of the distance is as good as a boundary point.
NEAR = 0.02


def slide(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    start: Tensor,
    *,
    steps: int,
    first_reach: Tensor | float,
    last_reach: Tensor | float,
    memory: float = 0.5,
    known: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Sequential projection of x on the linearised boundary, with a shrinking trust region and averaged normals: single
    ones throw the image from side to side where the boundary has an edge. One forward and one backward pass a step.

    Args:
        start: images [N, C, H, W] to begin at, N >= 1.
        steps: at most; an image that has stopped moving is removed from the batch.
        first_reach, last_reach: longest step, relative to the distance from x: a number, or one per image.
        memory: weight of the earlier normals in the average.
        known: distances [N] known already; an image HOPELESS times as far after a third of its steps is given up.

    Returns:
        the image with the smallest estimated distance, adversarial or not, and that estimate [N]: the distance at which
        the linearised margin vanishes on the ray, inf where no image came near the boundary.
    """
    z, best, estimate = start.clone(), start.clone(), x.new_full((len(x),), torch.inf)
    first, last = (torch.as_tensor(reach).to(x).expand(len(x)) for reach in (first_reach, last_reach))
    average, still = torch.zeros_like(x), torch.zeros(len(x), dtype=torch.long, device=x.device)
    rows = torch.arange(len(x), device=x.device)
    for step in range(steps):
        here, origin = z[rows], x[rows]
        value, normal = margin_in_distance(model, here, y[rows])
        distance, estimated = _estimate(origin, here, normal, value)
        better = estimated < estimate[rows]
        estimate[rows[better]], best[rows[better]] = estimated[better], here[better]
        average[rows], _ = unit(memory * average[rows] + (1 - memory) * normal)
        move = _projection(origin, here, value, normal, average[rows]) - here
        length = move.flatten(1).norm(dim=1)
        reach = first[rows] * (last[rows] / first[rows]) ** (step / max(1, steps - 1))
        allowed = reach * distance.where(distance > 0, length)
        share = (allowed / length.where(length > 0, torch.inf)).clamp(max=1)
        z[rows] = (here + per_image(share, here) * move).clamp(0, 1)
        still[rows] = torch.where(length < UNMOVED * distance, still[rows] + 1, 0)
        rows = rows[still[rows] < STILL]
        if known is not None and step == steps // 3:
            rows = rows[estimate[rows] <= HOPELESS * known[rows]]
        if not len(rows):
            break
    return best, estimate


def _projection(x: Tensor, z: Tensor, value: Tensor, normal: Tensor, mean: Tensor) -> Tensor:
    """x projected on the plane through the boundary near z that has the mean normal."""
    # Along the mean normal the margin falls slower than along its own.
    agreement = (mean * normal).flatten(1).sum(1).clamp_min(1e-2)
    return onto_halfspace(x, mean, (mean * z).flatten(1).sum(1) - value / agreement)


def margin_in_distance(model: Classifier, images: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The margin divided by the norm of its gradient, [N], and the unit gradient [N, C, H, W]; in float64 where the
    gradient vanishes in float32, as it does behind saturated units.
    """
    value, gradient = margin_and_gradient(model, images, y)
    normal, slope = unit(gradient)
    value = value / slope.where(slope > 0, 1.0)
    flat = (~(slope > 0)).nonzero()[:, 0]
    if len(flat):
        exact, gradient = margin_and_gradient(model.wide(), images[flat].double(), y[flat])
        steep, slope = unit(gradient)
        known = slope > 0
        normal[flat[known]] = steep[known].to(normal)
        value[flat[known]] = (exact / slope.where(known, 1.0))[known].to(value)
    return value, normal


def _estimate(x: Tensor, z: Tensor, normal: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """The distance of z from x, [N], and at which distance on the ray from x to z the linearised margin vanishes: inf
    where that says little.
    """
    ray, distance = unit(z - x)
    fall = -(ray * normal).flatten(1).sum(1)
    correction = value / fall.clamp_min(1e-6)
    near = (fall > 0.05) & (correction.abs() <= NEAR * distance)
    return distance, torch.where(near, distance + correction, torch.where(value < 0, distance, torch.inf))
