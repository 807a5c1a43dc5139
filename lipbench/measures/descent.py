"""Projected gradient descent in an L2 ball of fixed radius: the attack of the measures, whose scores are no margins."""

from collections.abc import Callable

import torch
from torch import Tensor

from lipbench.geometry import onto_ball, per_image, unit
from lipbench.judge import distance


def descend(value: Callable[[Tensor], Tensor], x: Tensor, *, epsilon: float, steps: int) -> Tensor:
    """The best iterate of projected gradient descent (Madry et al., 2018, arXiv 1706.06083) without a random start, in
    the L2 ball of radius `epsilon` around each image and in the box: [N, C, H, W].

    Steps have the length 2 epsilon / steps: the sphere is reached halfway, and the rest goes along it.

    Args:
        value: images [N, C, H, W] -> what is to become small, [N].
        x: images in [0, 1]. An image whose best iterate rounding left out of the ball is returned as it was.
    """
    # Less what rounding adds to a distance, pixel by pixel.
    inner = epsilon * (1 - 1e-6) - torch.finfo(x.dtype).eps / 2 * x[0].numel() ** 0.5
    radius = torch.full((len(x),), max(0.0, inner), dtype=x.dtype, device=x.device)
    point, best, lowest = x, x, torch.full_like(radius, torch.inf)
    for step in range(steps + 1):
        point = point.detach().requires_grad_()
        now = value(point)
        better = now.detach() < lowest
        best = torch.where(per_image(better, x), point.detach(), best)
        lowest = torch.minimum(lowest, now.detach())
        if step < steps:
            direction, _ = unit(torch.autograd.grad(now.sum(), point)[0])
            pushed = point.detach() - 2 * epsilon / steps * direction
            point = onto_ball(x, pushed, radius).clamp(0, 1)
    return torch.where(per_image(distance(x, best) <= epsilon, x), best, x)
