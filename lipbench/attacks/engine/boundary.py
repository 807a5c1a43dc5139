"""What makes any attack a minimum-distance attack: a search along the ray to its image, and the best of several
images. The model is taken as it is: see `undisturbed`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lipbench.geometry import per_image
from lipbench.judge import Judge, distance
from lipbench.margins import margin

# Lengths, relative to the attack's own, at which the ray is tried: DeepFool stops just short of the boundary.
LENGTHS = (1.0, 1.001, 1.02, 1.1, 1.25)
# Outward steps where float32 and float64 disagree on which side of the boundary an image is: by far where the distance
# is of the order of the rounding, or the logits are shifted by much more than they differ.
NUDGES = (1.0, 1 + 1e-5, 1 + 1e-4, 1 + 1e-3, 1 + 1e-2, 1.03, 1.1, 1.3, 2.0, 4.0, 8.0)
# A misclassified image has a margin below 0, be it by a tie.
TINY = 1e-300


@torch.no_grad()
def to_boundary(model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor, steps: int = 18) -> Tensor:
    """Searches the ray x -> x_adv, up to 1.25 times its length, for the point where the label is lost.

    Args:
        x, x_adv: images [N, C, H, W] in [0, 1].
        steps: the distance is found to 2^-steps of the ray, in a few forward passes where the margin is smooth.

    Returns:
        images in [0, 1]: adversarial where any point tried on the ray is, else x itself; x where x is already
        misclassified.
    """
    judge = Judge(model)
    return _shoot(judge, x, x_adv.clamp(0, 1) - x, y, LENGTHS, steps, skip_wrong=True)


@torch.no_grad()
def shoot(
    model: nn.Module, x: Tensor, direction: Tensor, y: Tensor, lengths: Sequence[float], steps: int = 18
) -> Tensor:
    """The first image on the path clamp(x + t direction) that is adversarial: the first of `lengths` that is, then a
    search between it and the one before.

    Args:
        x, direction: [N, C, H, W].
        lengths: values of t, growing.

    Returns:
        images in [0, 1]: adversarial where one of the lengths is, else x itself.
    """
    return _shoot(Judge(model), x, direction, y, lengths, steps, skip_wrong=False)


def _shoot(
    judge: Judge, x: Tensor, direction: Tensor, y: Tensor, lengths: Sequence[float], steps: int, skip_wrong: bool
) -> Tensor:
    value = _margin(judge, x, y)
    zero = torch.zeros(len(x), device=x.device, dtype=torch.float64)
    bracket = _Bracket(zero, torch.full_like(zero, torch.nan), value.clone(), zero.clone())
    # Where x itself is misclassified there is nothing to search.
    todo = ((value >= 0) | (not skip_wrong)).nonzero()[:, 0]
    for length in lengths:
        if not len(todo):
            break
        value = _margin(judge, _along(x[todo], direction[todo], length), y[todo])
        found, lost = todo[value < 0], todo[value >= 0]
        bracket.high[found], bracket.high_value[found] = length, value[value < 0]
        bracket.low[lost], bracket.low_value[lost] = length, value[value >= 0]
        todo = lost
    result, ready = x.clone(), (~bracket.high.isnan()).nonzero()[:, 0]
    if len(ready):  # some layers refuse an empty batch
        rays = x[ready], direction[ready], y[ready]
        result[ready] = _settle(judge, *rays, _narrow(judge, *rays, bracket.of(ready), steps))
    return result


def _margin(judge: Judge, images: Tensor, y: Tensor) -> Tensor:
    """The margin of the deployed network in float64, [N]: below 0 exactly where it misclassifies."""
    logits = judge.model(images)
    value = margin(logits, y).double()
    wrong = judge.misclassified(logits, y)
    # Ties belong to the class with the lower number; NaN labels nothing.
    return torch.where(wrong, value.clamp_max(-TINY), value.nan_to_num(nan=torch.inf).clamp_min(0))


@torch.no_grad()
def nearest(x: Tensor, *candidates: Tensor, norm: str = "l2") -> Tensor:
    """Per image, the nearest candidate that is not x; x where all are. Images [N, C, H, W].

    Args:
        norm: in which the candidates are compared: "l2", "linf" or "l1".
        candidates: adversarial wherever they are not x: what `to_boundary` and `usable` return.
    """
    best, shortest = x.clone(), torch.full((len(x),), torch.inf, dtype=torch.float64, device=x.device)
    for candidate in candidates:
        length = distance(x, candidate, norm)
        better = (length > 0) & (length < shortest)
        best = torch.where(per_image(better, x), candidate, best)
        shortest = torch.where(better, length, shortest)
    return best


@dataclass
class _Bracket:
    """Lengths [N] on both sides of the boundary, and the margins there."""

    low: Tensor
    high: Tensor
    low_value: Tensor
    high_value: Tensor

    def of(self, rows: Tensor) -> "_Bracket":
        """Those of some images."""
        return _Bracket(self.low[rows], self.high[rows], self.low_value[rows], self.high_value[rows])


def _narrow(judge: Judge, x: Tensor, direction: Tensor, y: Tensor, bracket: _Bracket, steps: int) -> Tensor:
    """The shortest length found, [N], at which the deployed network misclassifies.

    The Illinois variant of regula falsi, with a bisection every third time, so that a margin that jumps or is flat
    takes no more than three times the passes of bisections alone.
    """
    low, high, at_low, at_high = bracket.low, bracket.high, bracket.low_value, bracket.high_value
    enough = high * 2.0**-steps
    side = torch.zeros_like(low)  # which end moved last
    for step in range(3 * steps):
        rows = (high - low > enough).nonzero()[:, 0]
        if not len(rows):
            break
        a, b, f, g = low[rows], high[rows], at_low[rows], at_high[rows]
        share = (f / (f - g)).nan_to_num(nan=0.5)
        share = torch.full_like(share, 0.5) if step % 3 == 2 else share
        # Half of `enough` away from both ends: the step behind a root that is hit closes the bracket.
        half = enough[rows] / 2
        middle = torch.maximum(torch.minimum(a + share * (b - a), b - half), a + half)
        value = _margin(judge, _along(x[rows], direction[rows], middle.to(x.dtype)), y[rows])
        wrong = value < 0
        # The value of an end that stays twice is halved: else regula falsi creeps towards the other end.
        moved = torch.where(wrong, 1.0, -1.0).to(side)
        kept = torch.where(side[rows] == moved, 0.5, 1.0)
        low[rows], at_low[rows] = torch.where(wrong, a, middle), torch.where(wrong, kept * f, value)
        high[rows], at_high[rows] = torch.where(wrong, middle, b), torch.where(wrong, value, kept * g)
        side[rows] = moved
    return high.to(x.dtype)


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
