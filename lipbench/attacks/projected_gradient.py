"""Attacks in a ball of fixed radius, PGD and APGD, and the search for each image's smallest radius."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lipbench.attacks.engine import minimum_distance
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
                move = per_image(2.5 * radius / steps, x) * _inward(images, gradient)
                images = onto_ball(x, (images - move).clamp(0, 1), radius)
        return best

    return smallest_radius(model, x, y, ascend, rounds, start)


@minimum_distance
def apgd(
    model: nn.Module, x: Tensor, y: Tensor, *, steps: int = 40, rounds: int = 8, start: Tensor | None = None
) -> Tensor:
    """Auto-PGD in L2 (Croce and Hein, 2020, arXiv 2003.01690, algorithm 1) on the margin, the radius searched for each
    image on its own.

    Momentum 0.75; the step, first twice the radius, is halved for each image, and the search goes on from its best
    one, where too few steps of a period improved.

    Args:
        steps: gradient steps a round.
        rounds, start: as in `l2_pgd`.
    """
    checkpoints = _checkpoints(steps)

    def ascend(model: nn.Module, x: Tensor, y: Tensor, radius: Tensor, start: Tensor) -> Tensor:
        state = _Auto(x, start, radius)
        for step in range(steps + 1):
            state.record(*margin_and_gradient(model, state.images, y))
            if step in checkpoints:
                state.adapt(checkpoints[step])
            if step < steps:
                state.move(0.75 if step else 1.0)
        return state.best

    return smallest_radius(model, x, y, ascend, rounds, start)


def smallest_radius(
    model: nn.Module, x: Tensor, y: Tensor, ascend: Ascent, rounds: int, start: Tensor | None
) -> Tensor:
    """Doubles the radius until an image falls, then searches between the largest radius that failed and the nearest
    success; an image leaves when they are within 0.2 %. Later rounds begin at the best image, pulled into the ball.
    """
    judge, limit = Judge(model), x[0].numel() ** 0.5
    value, gradient = margin_and_gradient(model, x, y)
    slope = unit(gradient)[1]
    radius = (1.5 * value / slope.where(slope > 0, 1.0)).abs().clamp(1e-4, limit).double()
    best = x.clone() if start is None else start.clone()
    high = distance(x, best).where(judge(best, y), torch.inf)
    radius = torch.minimum(radius, 0.98 * high)
    low = torch.zeros_like(high)
    for _ in range(rounds):
        rows = (high - low > 2e-3 * low).nonzero()[:, 0]
        if not len(rows):
            break
        origin, labels, r = x[rows], y[rows], radius[rows].to(x.dtype)
        images = ascend(model, origin, labels, r, onto_ball(origin, best[rows], r))
        images = to_boundary(model, origin, images, labels, steps=8)
        length = distance(origin, images)
        success = judge(images, labels)
        better = success & (length < high[rows])
        best[rows[better]], high[rows[better]] = images[better], length[better]
        failed = ~(success & (length <= radius[rows]))
        low[rows[failed]] = torch.maximum(low, torch.minimum(radius, high))[rows[failed]]
        between = torch.minimum(low + 0.7 * (high - low), 0.98 * high)
        radius = torch.where(high.isinf(), (2 * radius).clamp(max=limit), between)
    return best


class _Auto:
    """APGD's state of every image of a batch."""

    def __init__(self, x: Tensor, start: Tensor, radius: Tensor):
        self.x, self.radius, self.pace = x, radius, 2 * radius
        self.images = self.before = self.best = start
        self.gradient = self.best_gradient = torch.zeros_like(x)
        self.lowest = self.previous = self.mark = torch.full_like(radius, torch.inf)
        self.improved = torch.zeros_like(radius)
        self.halved = torch.zeros_like(radius, dtype=torch.bool)

    def record(self, value: Tensor, gradient: Tensor) -> None:
        better = value < self.lowest
        self.improved += value < self.previous
        self.previous, self.gradient = value, gradient
        self.lowest = torch.where(better, value, self.lowest)
        self.best = torch.where(per_image(better, self.x), self.images, self.best)
        self.best_gradient = torch.where(per_image(better, self.x), gradient, self.best_gradient)

    def adapt(self, period: int) -> None:
        """A checkpoint: the paper's two conditions (equations 3 and 4 of its section 3)."""
        stuck = (self.improved < 0.75 * period) | (~self.halved & (self.mark <= self.lowest))
        self.pace = torch.where(stuck, self.pace / 2, self.pace)
        self.images = torch.where(per_image(stuck, self.x), self.best, self.images)
        self.gradient = torch.where(per_image(stuck, self.x), self.best_gradient, self.gradient)
        self.before = torch.where(per_image(stuck, self.x), self.images, self.before)
        self.mark, self.halved, self.improved = self.lowest, stuck, torch.zeros_like(self.improved)

    def move(self, share: float) -> None:
        step = per_image(self.pace, self.x) * _inward(self.images, self.gradient)
        plain = onto_ball(self.x, (self.images - step).clamp(0, 1), self.radius)
        mixed = self.images + share * (plain - self.images) + (1 - share) * (self.images - self.before)
        self.before = self.images
        self.images = onto_ball(self.x, mixed.clamp(0, 1), self.radius)


def _checkpoints(steps: int) -> dict[int, int]:
    """Step -> length of the period that ends there: 22 % of the steps, each shorter by 3 %, at least 6 %."""
    found: dict[int, int] = {}
    period, position = 0.22, 0.22
    previous = 0
    while position < 1:
        step = max(previous + 1, round(position * steps))
        found[step] = step - previous
        previous, period = step, max(period - 0.03, 0.06)
        position += period
    return found


def _inward(images: Tensor, gradient: Tensor) -> Tensor:
    """The direction of the gradient without the pixels that a step against it would push out of the box."""
    blocked = ((images <= 0) & (gradient > 0)) | ((images >= 1) & (gradient < 0))
    return unit(gradient.masked_fill(blocked, 0))[0]
