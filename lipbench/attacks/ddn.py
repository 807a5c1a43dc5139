"""DDN: the direction of the gradient, and a norm that is adapted on its own."""

import math

import torch
from torch import Tensor, nn

from lipbench.attacks.engine import minimum_distance
from lipbench.geometry import per_image, unit
from lipbench.judge import distance
from lipbench.margins import margin_and_gradient

# Softness of the margin whose gradient is followed, as a share of the margin at x (`margin_and_gradient`), as softmax
# is in the paper's cross-entropy. Ten classes, a plain CNN on MNIST, 100 images, mean distance: 0: 1.374, 0.06: 1.343,
# 0.1: 1.338, 0.15: 1.332, 0.2: 1.344, 0.3: 1.387.
SOFTNESS = 0.15


@minimum_distance
def ddn(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    steps: int = 165,
    gamma: float = 0.05,
    start: Tensor | None = None,
) -> Tensor:
    """Decoupled direction and norm (Rony et al., 2019, arXiv 1811.09600, algorithm 1).

    Differs from the paper: a soft margin in the unit of the margin at x instead of the cross-entropy (so the scale of
    the logits changes nothing), no quantisation, a first norm from the linearised margin instead of 1, steps in the
    unit of the norm, so that networks attacked at 0.01 and at 10 are treated alike, and a gamma that shrinks as the
    steps do (constant, it throws the last images to and fro: MNIST 0 against 8, a Lipschitz CNN, 0.07 % farther on
    average).

    Args:
        steps: forward and backward passes, after one at x.
        gamma: relative change of the norm in the first steps; it shrinks to a hundredth.
        start: images to begin at; None: x.
    """
    images = x.clone() if start is None else start.clone()
    best, shortest = images.clone(), distance(x, images).masked_fill(distance(x, images) == 0, torch.inf)
    norm = None if start is None else shortest.to(x.dtype)
    softness = SOFTNESS * margin_and_gradient(model, x, y)[0].abs()
    for step in range(steps):
        shrinking = 0.01 + 0.99 * (1 + math.cos(math.pi * step / steps)) / 2
        value, gradient = margin_and_gradient(model, images, y, softness)
        normal, slope = unit(gradient)
        length = distance(x, images)
        success = value < 0
        better = success & (length < shortest)
        best = torch.where(per_image(better, x), images, best)
        shortest = torch.where(better, length, shortest)
        if norm is None or not norm.isfinite().all():
            guess = (value.abs() / slope.where(slope > 0, 1.0)).clamp(1e-6, x[0].numel() ** 0.5)
            norm = guess if norm is None else torch.where(norm.isfinite(), norm, guess)
        elif step:
            change = gamma * shrinking
            norm = torch.where(success, (1 - change) * torch.minimum(norm, length.to(norm)), (1 + change) * norm)
        pace = norm * shrinking
        offset, _ = unit(images - x - per_image(pace, x) * normal)
        images = (x + per_image(norm, x) * offset).clamp(0, 1)
    return best
