"""Affine steps on a region: by the magnitudes of their matrices, and in L2 by the norms of their rows."""

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lipbench.certificate.lipschitz import OUTWARD
from lipbench.certificate.local.program import Op
from lipbench.certificate.local.ranges import OTHERS, TINY, UNIT, Back, Lines, Ranges, Rule, length, of_batch
from lipbench.certificate.tracing.steps import Centering, Combination, Copies, Diagonal, Rows, Shift, Total
from lipbench.layers import (
    AdaptiveScaledAvgPool2d,
    Antipodal,
    BatchCentering,
    FourierConv2d,
    Householder,
    LayerCentering,
    Normalize,
    Scale,
    ScaledAvgPool2d,
)
from lipbench.modules import exactly

AFFINE = (
    *(nn.Linear, nn.Conv2d, nn.Flatten, nn.PixelShuffle, nn.PixelUnshuffle, nn.AvgPool2d, nn.AdaptiveAvgPool2d),
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, Normalize, BatchCentering, LayerCentering, ScaledAvgPool2d),
    *(AdaptiveScaledAvgPool2d, Scale, Shift, Diagonal, Total, Centering, Combination, Copies, FourierConv2d),
    *(Antipodal, Householder),
)
# Their matrices have entries of both signs, or are not known.
MIXED = (FourierConv2d, Antipodal, Householder)


def is_affine(op: Op) -> bool:
    return exactly(op.step.layer if isinstance(op.step, Rows) else op.step, *AFFINE)


def affine_rule(op: Op) -> Rule:
    """By the magnitudes of the matrix, and in L2 by the norms of its rows."""
    step, magnitude = op.step, _with_weights(op.step, torch.abs)
    squares = _with_weights(op.step, torch.square)

    def rule(given: Sequence[Ranges]) -> tuple[Lines, Ranges]:
        zero, at = step(*(0 * g.at[:1] for g in given)), step(*(g.at for g in given))
        radius = _radius(op, given)
        reach = of_batch(radius, at) * torch.ones_like(at)
        if squares is not None:
            rows = squares(0 * given[0].at[:1] + 1).clamp_min(0).sqrt().clamp_max(op.constant)
            reach = of_batch(given[0].radius, at) * rows
        reach = reach * OUTWARD
        if magnitude is None:
            size = of_batch(length(given[0].size) * op.constant, at) + zero.abs()
            low, high = at - reach, at + reach
        else:
            size = magnitude(*(g.size for g in given)) + zero.abs()
            middle = step(*((g.low + g.high) / 2 for g in given))
            spread = magnitude(*((g.high - g.low) / 2 for g in given))
            low, high = torch.maximum(middle - spread, at - reach), torch.minimum(middle + spread, at + reach)
        exact = exactly(step, nn.Flatten, Copies)
        rounding = size * (0.0 if exact else UNIT * (_terms(step, given) + OTHERS)) + (0.0 if exact else TINY)
        found = Ranges(at, low - rounding, high + rounding, radius * OUTWARD + length(rounding))
        lines = Lines(_transposed(step, given), spread=None if exact else rounding)
        return lines, found.narrowed(found.low, found.high)

    return rule


def _transposed(step: nn.Module, given: Sequence[Ranges]) -> Back:
    """The matrix of an affine step, transposed: from its gradient, where there is no shorter way."""
    if exactly(step, nn.Linear):
        weight: Tensor = step.weight  # type: ignore[assignment]
        return lambda g: [g @ weight]
    if isinstance(step, Combination):
        return lambda g: [g if factor == 1 else factor * g for factor in step.factors]
    if exactly(step, nn.Flatten, Shift):
        return lambda g: [g.reshape(*g.shape[:2], *given[0].at.shape[1:])]
    if isinstance(step, Copies):
        return _copied_back(step, [g.at.shape[1:] for g in given])

    def back(g: Tensor) -> list[Tensor]:
        count = g.shape[0] * g.shape[1]
        with torch.enable_grad():
            zeros = [torch.zeros(count, *v.at.shape[1:], dtype=torch.float64, requires_grad=True) for v in given]
            out = step(*zeros)
        found = torch.autograd.grad(out, zeros, g.reshape(out.shape))
        return [each.reshape(*g.shape[:2], *each.shape[1:]) for each in found]

    return back


def _copied_back(step: Copies, shapes: Sequence[torch.Size]) -> Back:
    kept, sizes = step.index >= 0, [shape.numel() for shape in shapes]
    index, whole = step.index[kept], bool(kept.all())

    def back(g: Tensor) -> list[Tensor]:
        flat = g.flatten(2)
        found = flat.new_zeros(*g.shape[:2], sum(sizes)).index_add_(2, index, flat if whole else flat[..., kept])
        return [v.reshape(*g.shape[:2], *shape) for v, shape in zip(found.split(sizes, 2), shapes, strict=True)]

    return back


def _radius(op: Op, given: Sequence[Ranges]) -> Tensor:
    """How far the output moves in L2, [N]."""
    radii = torch.stack([g.radius for g in given])
    if isinstance(op.step, Combination):
        return (radii * radii.new_tensor(op.step.factors).abs()[:, None]).sum(0)
    if isinstance(op.step, Copies):
        return radii.norm(dim=0) * math.sqrt(op.step.repeats)
    return radii[0] * op.constant


def _with_weights(step: nn.Module, change: Callable[[Tensor], Tensor]) -> Callable[..., Tensor] | None:
    """The linear part of an affine step with other entries of its matrix: magnitudes of any step (None where they are
    not known), squares of dense layers and convolutions alone.
    """
    if isinstance(step, Combination):
        factors = [abs(factor) for factor in step.factors]
        return None if change is torch.square else Combination(factors)
    layer: Any = step.layer if isinstance(step, Rows) else step
    if exactly(layer, nn.Linear, nn.Conv2d):
        layer = copy.deepcopy(layer)
        layer.weight, layer.bias = nn.Parameter(change(layer.weight.detach()), requires_grad=False), None
        return Rows(layer).eval() if isinstance(step, Rows) else layer
    if change is torch.square or exactly(layer, *MIXED):
        return None
    if exactly(layer, Centering, LayerCentering):
        return lambda x: 2 * x - step(x)
    # Of entries of one sign, or one entry in each row.
    return lambda *x: (step(*x) - step(*(0 * each[:1] for each in x))).abs()


def _terms(step: nn.Module, given: Sequence[Ranges]) -> int:
    """Of the longest sum that a product with the matrix or its transpose adds up."""
    layer: Any = step.layer if isinstance(step, Rows) else step
    if exactly(layer, nn.Linear, nn.Conv2d):
        weight = layer.weight
        return max(weight[0].numel(), weight.numel() // max(1, weight.shape[1]))
    return 1 if exactly(layer, Shift, Diagonal, nn.Flatten, Combination) else max(g.at[0].numel() for g in given)
