"""PGD in a ball of fixed radius, and the search for each image's smallest radius."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lipbench.attacks.engine import minimum_distance
from lipbench.attacks.engine.balls import BALLS, Ball
from lipbench.attacks.engine.boundary import to_boundary
from lipbench.geometry import onto_ball, per_image, unit
from lipbench.judge import Judge, distance
from lipbench.margins import margin_and_gradient

# (model, x, y, radius [N], start) -> images in the ball and the box
Ascent = Callable[[nn.Module, Tensor, Tensor, Tensor, Tensor], Tensor]


@minimum_distance
def l2_pgd(
    model: nn.Module, x: Tensor, y: Tensor, *, steps: int = 20, rounds: int = 10, start: Tensor | None = None
) -> Tensor:
    """Projected gradient descent of the margin in an L2 ball (Madry et al., 2018, arXiv 1706.06083), best iterate,
    the radius searched for each image on its own.

    Args:
        steps: gradient steps a round, each 2.5 radius / steps long.
        rounds: radii tried per image.
        start: images to begin at; None: x, without a random start: the result depends on the image alone.
    """

    def ascend(model: nn.Module, x: Tensor, y: Tensor, radius: Tensor, start: Tensor) -> Tensor:
        images, best, lowest = start, start, torch.full_like(radius, torch.inf)
        for step in range(steps + 1):
            value, gradient = margin_and_gradient(model, images, y)
            better = value < lowest
            best, lowest = torch.where(per_image(better, x), images, best), torch.where(better, value, lowest)
            if step < steps:
                move = per_image(2.5 * radius / steps, x) * unit(inward(images, gradient))[0]
                images = onto_ball(x, (images - move).clamp(0, 1), radius)
        return best

    return smallest_radius(model, x, y, ascend, rounds, start)


def smallest_radius(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    ascend: Ascent,
    rounds: int,
    start: Tensor | None,
    ball: Ball = BALLS["l2"],
) -> Tensor:
    """Doubles the radius until an image falls, then searches between the largest radius that failed and the nearest
    success; an image leaves when they are within 0.2 %. Later rounds begin at the best image, pulled into the ball.
    """
    judge, limit = Judge(model), ball.largest(x[0].numel())
    value, gradient = margin_and_gradient(model, x, y)
    slope = ball.slope(gradient)
    radius = (1.5 * value / slope.where(slope > 0, 1.0)).abs().clamp(1e-4, limit).double()
    best = x.clone() if start is None else start.clone()
    high = distance(x, best, ball.norm).where(judge(best, y), torch.inf)
    radius = torch.minimum(radius, 0.98 * high)
    low = torch.zeros_like(high)
    for _ in range(rounds):
        rows = (high - low > 2e-3 * low).nonzero()[:, 0]
        if not len(rows):
            break
        origin, labels, r = x[rows], y[rows], radius[rows].to(x.dtype)
        images = ascend(model, origin, labels, r, ball.onto(origin, best[rows], r))
        images = to_boundary(model, origin, images, labels, steps=8)
        length = distance(origin, images, ball.norm)
        success = judge(images, labels)
        better = success & (length < high[rows])
        best[rows[better]], high[rows[better]] = images[better], length[better]
        failed = ~(success & (length <= radius[rows]))
        low[rows[failed]] = torch.maximum(low, torch.minimum(radius, high))[rows[failed]]
        between = torch.minimum(low + 0.7 * (high - low), 0.98 * high)
        radius = torch.where(high.isinf(), (2 * radius).clamp(max=limit), between)
    return best


def inward(images: Tensor, gradient: Tensor) -> Tensor:
    """The gradient without the pixels that a step against it would push out of the box,
    [N, C, H, W].
    """
    blocked = ((images <= 0) & (gradient > 0)) | ((images >= 1) & (gradient < 0))
    return gradient.masked_fill(blocked, 0)
