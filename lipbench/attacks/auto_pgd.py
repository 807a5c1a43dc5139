"""APGD in L2, L-infinity and L1, the radius searched for each image."""

from functools import partial

import torch
from torch import Tensor, nn

from lipbench.attacks.engine import minimum_distance
from lipbench.attacks.engine.balls import BALLS, Ball
from lipbench.attacks.projected_gradient import inward, smallest_radius
from lipbench.geometry import per_image, unit
from lipbench.margins import margin_and_gradient

# APGD in L1: share of the pixels that the first step moves, by which the number of pixels that the best perturbation
# moves is divided for the next steps, and by how much that number has to fall for full steps again.
FIRST_PIXELS, FEWER, FALL = 0.2, 1.5, 0.95
# The step is divided by SHRINK at a checkpoint; it is at most the radius, at least that divided by SHORTEST.
SHRINK, SHORTEST = 1.5, 10


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
        rounds: radii tried per image.
        start: images to begin at; None: x, without a random start: the result depends on the image alone.
    """
    return smallest_radius(model, x, y, partial(_ascend, ball=BALLS["l2"], steps=steps), rounds, start)


@partial(minimum_distance, norm="linf")
def apgd_linf(
    model: nn.Module, x: Tensor, y: Tensor, *, steps: int = 40, rounds: int = 8, start: Tensor | None = None
) -> Tensor:
    """Auto-PGD in L-infinity (Croce and Hein, 2020, arXiv 2003.01690, algorithm 1) on the margin, the radius searched
    for each image on its own.

    Its image is near in L-infinity; the distances of this image in L2 and L1 are upper bounds that are not tight.
    `within`, `chain` and `best_of` compare images in L2.

    Args:
        steps, rounds, start: as in `apgd`.
    """
    ball = BALLS["linf"]
    return smallest_radius(model, x, y, partial(_ascend, ball=ball, steps=steps), rounds, start, ball)


@partial(minimum_distance, norm="l1")
def apgd_l1(
    model: nn.Module, x: Tensor, y: Tensor, *, steps: int = 40, rounds: int = 8, start: Tensor | None = None
) -> Tensor:
    """Auto-PGD in L1 (Croce and Hein, 2021, arXiv 2103.01208, algorithm 2) on the margin, the radius searched for each
    image on its own.

    A step moves the pixels with the largest gradients alone, by the same amount. How many follows from how many the
    best perturbation moves. Steps are projected on the intersection of ball and box.

    Args:
        steps, rounds, start: as in `apgd`.
    """
    ball, period = BALLS["l1"], max(1, round(0.04 * steps))

    def ascend(model: nn.Module, x: Tensor, y: Tensor, radius: Tensor, start: Tensor) -> Tensor:
        state = _Sparse(x, start, radius)
        for step in range(steps + 1):
            state.record(*margin_and_gradient(model, state.images, y))
            if step and step % period == 0:
                state.adapt()
            if step < steps:
                state.move()
        return state.best

    return smallest_radius(model, x, y, ascend, rounds, start, ball)


def _ascend(model: nn.Module, x: Tensor, y: Tensor, radius: Tensor, start: Tensor, *, ball: Ball, steps: int) -> Tensor:
    """APGD with momentum in one ball: the image with the smallest margin."""
    state, checkpoints = _Auto(x, start, radius, ball), _checkpoints(steps)
    for step in range(steps + 1):
        state.record(*margin_and_gradient(model, state.images, y))
        if step in checkpoints:
            state.adapt(checkpoints[step])
        if step < steps:
            state.move(0.75 if step else 1.0)
    return state.best


class _State:
    """What APGD keeps of every image of a batch."""

    def __init__(self, x: Tensor, start: Tensor, radius: Tensor):
        self.x, self.radius = x, radius
        self.images = self.best = start
        self.gradient = self.best_gradient = torch.zeros_like(x)
        self.lowest = self.previous = torch.full_like(radius, torch.inf)
        self.improved = torch.zeros_like(radius)

    def record(self, value: Tensor, gradient: Tensor) -> None:
        """The margin [N] and its gradient at the images."""
        better = value < self.lowest
        self.improved += value < self.previous
        self.previous, self.gradient = value, gradient
        self.lowest = torch.where(better, value, self.lowest)
        self.best = torch.where(per_image(better, self.x), self.images, self.best)
        self.best_gradient = torch.where(per_image(better, self.x), gradient, self.best_gradient)

    def back_to_best(self, rows: Tensor) -> None:
        """Where bool [N], the search goes on from the best image."""
        chosen = per_image(rows, self.x)
        self.images = torch.where(chosen, self.best, self.images)
        self.gradient = torch.where(chosen, self.best_gradient, self.gradient)


class _Auto(_State):
    """L2 and L-infinity: momentum, and a step that is halved."""

    def __init__(self, x: Tensor, start: Tensor, radius: Tensor, ball: Ball):
        super().__init__(x, start, radius)
        self.ball, self.pace, self.before = ball, 2 * radius, start
        self.mark = torch.full_like(radius, torch.inf)
        self.halved = torch.zeros_like(radius, dtype=torch.bool)

    def adapt(self, period: int) -> None:
        """A checkpoint: the paper's two conditions (equations 3 and 4 of its section 3)."""
        stuck = (self.improved < 0.75 * period) | (~self.halved & (self.mark <= self.lowest))
        self.pace = torch.where(stuck, self.pace / 2, self.pace)
        self.back_to_best(stuck)
        self.before = torch.where(per_image(stuck, self.x), self.images, self.before)
        self.mark, self.halved, self.improved = self.lowest, stuck, torch.zeros_like(self.improved)

    def move(self, share: float) -> None:
        step = per_image(self.pace, self.x) * self._steepest(inward(self.images, self.gradient))
        plain = self.ball.onto(self.x, (self.images - step).clamp(0, 1), self.radius)
        mixed = self.images + share * (plain - self.images) + (1 - share) * (self.images - self.before)
        self.before = self.images
        self.images = self.ball.onto(self.x, mixed.clamp(0, 1), self.radius)

    def _steepest(self, gradient: Tensor) -> Tensor:
        return unit(gradient)[0] if self.ball.norm == "l2" else gradient.sign()


class _Sparse(_State):
    """L1: steps in few pixels."""

    def __init__(self, x: Tensor, start: Tensor, radius: Tensor):
        super().__init__(x, start, radius)
        self.pace, self.pixels = radius, torch.full_like(radius, FIRST_PIXELS * x[0].numel())
        self.moved = torch.full_like(radius, float(x[0].numel()))

    def adapt(self) -> None:
        """A checkpoint: where the best perturbation has become sparser, full steps from it."""
        moved = ((self.best - self.x).abs() > 1e-7).flatten(1).sum(1).to(self.radius)
        sparser = moved < FALL * self.moved
        self.pixels, self.moved = moved / FEWER, moved
        shorter = torch.maximum(self.pace / SHRINK, self.radius / SHORTEST)
        self.pace = torch.where(sparser, self.radius, shorter)
        self.back_to_best(sparser)

    def move(self) -> None:
        gradient = inward(self.images, self.gradient).flatten(1)
        count = self.pixels.long().clamp(1, gradient.shape[1])
        ordered = gradient.abs().sort(1, descending=True).values
        least = ordered.gather(1, count[:, None] - 1)
        signs = (gradient.sign() * (gradient.abs() >= least)).view_as(self.x)
        size = signs.abs().flatten(1).sum(1).clamp_min(1)
        moved = self.images - per_image(self.pace / size, self.x) * signs
        self.images = BALLS["l1"].onto(self.x, moved, self.radius)


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
