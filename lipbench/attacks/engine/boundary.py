"""What makes any attack a minimum-distance attack: a search along the ray to its image, and the best of several
images. The model is taken as it is: see `undisturbed`.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lipbench.geometry import per_image
from lipbench.judge import Judge, distance

# Lengths, relative to the attack's own, at which the ray is tried: DeepFool stops just short of the boundary.
LENGTHS = (1.0, 1.001, 1.02, 1.1, 1.25)
# Outward steps where float32 and float64 disagree on which side of the boundary an image is: by far where the distance
# is of the order of the rounding, or the logits are shifted by much more than they differ.
NUDGES = (1.0, 1 + 1e-5, 1 + 1e-4, 1 + 1e-3, 1 + 1e-2, 1.03, 1.1, 1.3, 2.0, 4.0, 8.0)


@torch.no_grad()
def to_boundary(model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor, steps: int = 18) -> Tensor:
    """Bisects the ray x -> x_adv, up to 1.25 times its length, for the point where the label is lost.

    Args:
        x, x_adv: images [N, C, H, W] in [0, 1].
        steps: bisections; the distance is found to 2^-steps of the ray.

    Returns:
        images in [0, 1]: adversarial where any point tried on the ray is, else x itself; x where x is already
        misclassified.
    """
    judge = Judge(model)
    result = _shoot(judge, x, x_adv.clamp(0, 1) - x, y, LENGTHS, steps, from_zero=True)
    return torch.where(per_image(judge(x, y), x), x, result)


@torch.no_grad()
def shoot(
    model: nn.Module, x: Tensor, direction: Tensor, y: Tensor, lengths: Sequence[float], steps: int = 18
) -> Tensor:
    """The first image on the path clamp(x + t direction) that is adversarial: the first of `lengths` that is, then a
    bisection between it and the one before.

    Args:
        x, direction: [N, C, H, W].
        lengths: values of t, growing.

    Returns:
        images in [0, 1]: adversarial where one of the lengths is, else x itself.
    """
    return _shoot(Judge(model), x, direction, y, lengths, steps, from_zero=False)


def _shoot(
    judge: Judge, x: Tensor, direction: Tensor, y: Tensor, lengths: Sequence[float], steps: int, from_zero: bool
) -> Tensor:
    low, high = torch.zeros(len(x), device=x.device, dtype=x.dtype), x.new_full((len(x),), torch.nan)
    before = 0.0
    for length in lengths:
        rows = high.isnan().nonzero()[:, 0]
        if not len(rows):
            break
        found = judge.misclassified(judge.model(_along(x[rows], direction[rows], length)), y[rows])
        high[rows[found]], low[rows[found]] = length, 0.0 if from_zero else before
        before = length
    result = x.clone()
    ready = (~high.isnan()).nonzero()[:, 0]
    if len(ready):  # some layers refuse an empty batch
        rays = x[ready], direction[ready], y[ready]
        result[ready] = _settle(judge, *rays, _bisect(judge, *rays, low[ready], high[ready], steps))
    return result


@torch.no_grad()
def nearest(x: Tensor, *candidates: Tensor) -> Tensor:
    """Per image, the nearest candidate that is not x; x where all are. Images [N, C, H, W].

    Args:
        candidates: adversarial wherever they are not x: what `to_boundary` and `usable` return.
    """
    best, shortest = x.clone(), torch.full((len(x),), torch.inf, dtype=torch.float64, device=x.device)
    for candidate in candidates:
        length = distance(x, candidate)
        better = (length > 0) & (length < shortest)
        best = torch.where(per_image(better, x), candidate, best)
        shortest = torch.where(better, length, shortest)
    return best


def _bisect(judge: Judge, x: Tensor, direction: Tensor, y: Tensor, low: Tensor, high: Tensor, steps: int) -> Tensor:
    """The shortest length found, [N], at which the deployed network misclassifies."""
    for _ in range(steps):
        middle = (low + high) / 2
        wrong = judge.misclassified(judge.model(_along(x, direction, middle)), y)
        low, high = torch.where(wrong, low, middle), torch.where(wrong, middle, high)
    return high


def _settle(judge: Judge, x: Tensor, direction: Tensor, y: Tensor, length: Tensor) -> Tensor:
    """The first nudge outward that is adversarial beyond rounding; x where none is."""
    result, todo = x.clone(), torch.ones(len(x), dtype=torch.bool, device=x.device)
    for nudge in NUDGES:
        rows = todo.nonzero()[:, 0]
        if not len(rows):
            break
        images = _along(x[rows], direction[rows], length[rows] * nudge)
        ok = judge.surely(images, y[rows])
        result[rows[ok]] = images[ok]
        todo[rows[ok]] = False
    return result


def _along(x: Tensor, direction: Tensor, length: Tensor | float) -> Tensor:
    if isinstance(length, Tensor):
        length = per_image(length, x)
    return (x + length * direction).clamp(0, 1)
