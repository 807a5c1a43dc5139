"""ALMA: an augmented Lagrangian whose multiplier and penalty are adapted for each image while it is searched."""

import inspect

import torch
from torch import Tensor, nn

from lipbench.attacks.engine import minimum_distance
from lipbench.geometry import per_image, unit
from lipbench.margins import margin_and_gradient

# Constants of the paper: averaging of the multiplier and of the gradient's squares, growth of the penalty where the
# constraint did not improve by a twentieth within a period, and the period.
AVERAGE, GROWTH, PROGRESS, PERIOD = 0.9, 1.2, 0.95, 10
# Softness of the margin whose gradient is followed, as a share of the margin at x (`margin_and_gradient`). Ten classes,
# a plain CNN on MNIST, 100 images, mean distance: 0: 1.359, 0.03: 1.343, 0.1: 1.326, 0.2: 1.335, 0.3: 1.379.
SOFTNESS = 0.1


@minimum_distance
def alma(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    steps: int = 250,
    lr: float = 3.0,
    last_lr: float = 0.03,
    start: Tensor | None = None,
) -> Tensor:
    """Minimises ||x' - x|| + P(margin(x')), P an augmented Lagrangian (Rony et al., 2021, arXiv 2011.11857,
    algorithm 1).

    Differs from the paper: the margin is measured in the unit of its gradient at x and in that of the distance, so that
    the scale of the logits, and how far the images are, change nothing; steps have momentum, and their length
    shrinks by a hundred (with long first steps it crosses into other basins: on MNIST 0 against 8 its images are nearer
    on average than those of adv-lib's on three of four networks, see benchmarks/attacks.md); two classes are enough;
    with more, the gradient is that of a soft margin, which does not follow the largest logit alone past a nearer class.

    Args:
        steps: forward and backward passes.
        lr, last_lr: length of the first and last steps, relative to the distance (known or estimated), if all pixels
            moved.
        start: images to begin at; None: x.
    """
    value, gradient = margin_and_gradient(model, x, y)
    slope = unit(gradient)[1]
    slope = slope.where(slope > 0, 1.0)
    reach = (value / slope).clamp(1e-6, x[0].numel() ** 0.5)
    images = x.clone() if start is None else start.clone()
    best, shortest = images.clone(), unit(images - x)[1]
    shortest = shortest.where(shortest > 0, torch.inf)
    softness = SOFTNESS * value.abs()
    lagrangian, direction, squares = _Lagrangian(value), torch.zeros_like(x), torch.zeros_like(x)
    for step in range(steps):
        value, gradient = margin_and_gradient(model, images, y, softness)
        outward, length = unit(images - x)
        better = (value < 0) & (length < shortest)
        best, shortest = torch.where(per_image(better, x), images, best), torch.where(better, length, shortest)
        weight = lagrangian.weight(value / (slope * reach))
        total = outward + per_image(weight / slope, x) * gradient
        direction = AVERAGE * direction + (1 - AVERAGE) * total
        squares = AVERAGE * squares + (1 - AVERAGE) * total.square()
        started = 1 - AVERAGE ** (step + 1)
        move = (direction / started) / ((squares / started).sqrt() + 1e-8)
        pace = torch.minimum(reach, shortest) / x[0].numel() ** 0.5 * lr * (last_lr / lr) ** (step / steps)
        images = (images - per_image(pace, x) * move).clamp(0, 1)
    return best


# The search alone: its nearest misclassified images, not moved to the boundary; x where it passed none.
descend = inspect.unwrap(alma)


class _Lagrangian:
    """Multiplier and penalty of every image of a batch."""

    def __init__(self, like: Tensor):
        self.multiplier, self.penalty = torch.ones_like(like), torch.ones_like(like)
        self.previous = torch.full_like(like, torch.inf)
        self.crossed = torch.zeros_like(like, dtype=torch.bool)
        self.count = 0

    def weight(self, margin: Tensor) -> Tensor:
        """dP / d margin [N], of Powell, Hestenes and Rockafellar's penalty; then the state moves on."""
        weight = (self.multiplier + self.penalty * margin).clamp_min(0)
        if self.count:
            self.multiplier = (AVERAGE * self.multiplier + (1 - AVERAGE) * weight).clamp(1e-6, 1e6)
        self.crossed |= margin < 0
        self.count += 1
        if self.count % PERIOD == 0:
            stuck = ~self.crossed & (margin > PROGRESS * self.previous)
            self.penalty = torch.where(stuck, GROWTH * self.penalty, self.penalty)
            self.previous, self.crossed = margin, torch.zeros_like(self.crossed)
        return weight
