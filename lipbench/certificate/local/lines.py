"""Steps that are not affine on a region: activations, products, softmax; `rule_of_step` finds the rule of any step.

Rounding is added outward: of the bounds, of a float64 forward pass at any image of the region, and of the products that
carry slopes back.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lipbench.certificate.exactness import number
from lipbench.certificate.lipschitz import OUTWARD
from lipbench.certificate.local.affine import affine_rule, is_affine
from lipbench.certificate.local.program import InverseRoot, Op
from lipbench.certificate.local.ranges import OTHERS, TINY, UNIT, Back, Lines, Ranges, Rule, length, of_batch
from lipbench.certificate.tracing.steps import Elementwise, Matmul, Product, Softmax
from lipbench.layers import Abs
from lipbench.modules import exactly

# What a function of the float64 library and the sums around it err, relative to their largest term.
LIBRARY = 1e-13
# Parts into which the range of a curve is cut.
CUTS = 16


def rule_of_step(op: Op) -> Rule:
    """The rule of a step: from the ranges of its inputs, its lines and the ranges of its output."""
    if is_affine(op):
        return affine_rule(op)
    kind = type(op.step)
    if kind is nn.ReLU:
        return lambda given: _relu(op, given[0])
    if kind in CURVES:
        return lambda given: _curve(op, given[0])
    if kind in SEVERAL:
        return lambda given: SEVERAL[kind](op, given)
    return lambda given: _by_constant(op, given[0])


# --- functions of each entry ------------------------------------------------------------------------------------------


def _relu(op: Op, x: Ranges) -> tuple[Lines, Ranges]:
    """Below by 0 or the identity, above by the chord (Zhang et al., 2018, arXiv 1811.00866)."""
    low, high, at = x.low, x.high, x.at.clamp_min(0)
    active, dead = low >= 0, high <= 0
    under = (high > -low).double().masked_fill(active, 1.0).masked_fill(dead, 0.0)
    above = (high / (high - low)).masked_fill(active, 1.0).masked_fill(dead, 0.0)
    rounding = x.size * (UNIT * OTHERS) + TINY
    bottom, top = under * x.at - at, above * (x.at - low.masked_fill(active | dead, 0.0)) - at
    lines = _between(_same, (under, above), bottom - rounding, top + rounding)
    found = Ranges(at, low.clamp_min(0), high.clamp_min(0), x.radius)
    return lines, found.narrowed(found.low, found.high)


def _same(g: Tensor) -> list[Tensor]:
    return [g]


def _between(back: Back, slopes: tuple[Tensor, Tensor] | None, below: Tensor, above: Tensor) -> Lines:
    """Lines with these shifts, which are moved outward by the rounding of their middle."""
    middle = (below + above) / 2
    spread = (above - below) / 2 + (below.abs() + above.abs()) * (UNIT * OTHERS)
    return Lines(back, slopes, middle, spread)


# Type -> the largest second derivative of a step, and its kinks, between which it has one.
CURVES: dict[type, Callable[[Any], tuple[float, tuple[float, ...]]]] = {
    nn.LeakyReLU: lambda step: (0.0, (0.0,)),
    nn.ReLU6: lambda step: (0.0, (0.0, 6.0)),
    Abs: lambda step: (0.0, (0.0,)),
    nn.Hardtanh: lambda step: (0.0, (number(step, "min_val"), number(step, "max_val"))),
    nn.Tanh: lambda step: (0.77, ()),  # 4 / (3 sqrt 3)
    nn.Sigmoid: lambda step: (0.0963, ()),  # 1 / (6 sqrt 3)
    nn.GELU: lambda step: (0.81, ()),  # 0.7979, at 0; of either formula
    nn.SiLU: lambda step: (0.501, ()),  # 1/2, at 0
    nn.ELU: lambda step: (abs(number(step, "alpha")) * OUTWARD, (0.0,)),
    nn.Softplus: lambda step: (abs(number(step, "beta")) / 4 * OUTWARD, ()),
    Elementwise: lambda step: (math.inf, ()),  # known by its slope alone
}


def _curve(op: Op, x: Ranges) -> tuple[Lines, Ranges]:
    """Two lines, from points of the curve: between neighbours, h apart, it leaves the line through these by h^2 / 8 of
    its second derivative at most, or by h / 2 of its slope.
    """
    step, low, high = op.step, x.low, x.high
    bend, kinks = CURVES[type(step)](step)
    part = (high - low) / CUTS
    inner = [low + part * k for k in range(1, CUTS)]
    points = torch.stack([low, high, *inner, *(torch.full_like(low, kink) for kink in kinks)]).clamp(low, high)
    values, at = step(points.flatten(0, 1)).view_as(points), step(x.at)
    gap = part * op.constant if isinstance(step, Elementwise) else part.square() * bend
    # Two slopes go back to the image one by one, which is twice the work.
    apart = exactly(step, nn.Sigmoid, nn.Tanh)
    above, top = _line(points, values, apart)
    under, bottom = (-found for found in _line(points, -values, apart))
    under = under if apart else above
    rounding = (values.abs().amax(0) + at.abs() + (x.size + 1) * max(1.0, op.constant)) * LIBRARY
    lines = _between(
        _same, (under, above), under * x.at + bottom - at - gap - rounding, above * x.at + top - at + gap + rounding
    )
    radius = x.radius * op.constant * OUTWARD + length(rounding)
    found = Ranges(at, values.amin(0) - gap - rounding, values.amax(0) + gap + rounding, radius)
    return lines, found.narrowed(found.low, found.high)


def _line(points: Tensor, values: Tensor, apart: bool) -> tuple[Tensor, Tensor]:
    """Slope and shift of a line above points [P, ...], their ends first: of four slopes that with the least area below,
    else that of the chord. Any slope has a line.
    """
    first, last, centre = points[0], points[1], CUTS // 2 + 1
    chord = (values[1] - values[0]) / (last - first)
    from_first = ((values - values[0]) / (points - first)).nan_to_num(nan=-math.inf).amax(0)
    from_last = ((values[1] - values) / (last - points)).nan_to_num(nan=math.inf).amin(0)
    middle = (values[centre + 1] - values[centre - 1]) / (points[centre + 1] - points[centre - 1])
    slopes = torch.stack([chord, from_first, from_last, middle] if apart else [chord]).nan_to_num(
        nan=0.0, posinf=0.0, neginf=0.0
    )
    slopes = slopes.masked_fill(slopes.abs() > 1e9, 0.0)
    shifts = torch.stack([(values - slope * points).amax(0) for slope in slopes])
    best = (shifts + slopes * (first + last) / 2).argmin(0, keepdim=True)
    return slopes.gather(0, best)[0], shifts.gather(0, best)[0]


def _inverse_root(op: Op, given: Sequence[Ranges]) -> tuple[Lines, Ranges]:
    """Convex: above its tangents, below its chord."""
    step: Any = op.step
    x = given[0]
    low, high, at = x.low.clamp_min(0), x.high.clamp_min(0), step(x.at)
    ends, middle = (step(low), step(high)), (low + high) / 2
    above = ((ends[1] - ends[0]) / (high - low)).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    under = -0.5 * step(middle) ** 3
    top = torch.maximum(ends[0] - above * low, ends[1] - above * high)
    bottom = step(middle) - under * middle
    rounding = (ends[0] + (above.abs() + under.abs()) * high) * 10 * LIBRARY
    lines = _between(_same, (under, above), under * x.at + bottom - at - rounding, above * x.at + top - at + rounding)
    found = Ranges(at, ends[1] - rounding, ends[0] + rounding, torch.full_like(x.radius, math.inf))
    return lines, found.narrowed(found.low, found.high)


# --- products, softmax, the rest --------------------------------------------------------------------------------------


def _product(op: Op, given: Sequence[Ranges]) -> tuple[Lines, Ranges]:
    """(a + da) (b + db) - a b = a db + b da + da db."""
    a, b = given
    times: Any = op.step
    at = times(a.at, b.at)
    second, size = times(a.reach, b.reach), times(a.size, b.size)
    terms = 1 if isinstance(times, Product) else a.at[0].numel()
    rounding = size * (UNIT * (terms + OTHERS)) + TINY
    below = torch.zeros_like(second) if op.inputs[0] == op.inputs[1] and isinstance(times, Product) else -second

    def back(g: Tensor) -> list[Tensor]:
        if isinstance(times, Product):
            return [g * b.at[:, None], g * a.at[:, None]]
        first, other = (v.reshape(len(v), 1, *shape) for v, shape in zip((a.at, b.at), times.inputs, strict=True))
        wide = g.reshape(*g.shape[:2], *(first[:1] @ other[:1]).shape[2:])
        pairs = zip((wide @ other.mT, first.mT @ wide), times.inputs, given, strict=True)
        # Where a batch of matrices meets one, the sum over the batch.
        return [v.sum_to_size(*g.shape[:2], *own).reshape(*g.shape[:2], *x.at.shape[1:]) for v, own, x in pairs]

    spread = times(a.at.abs(), b.reach) + times(a.reach, b.at.abs()) + second + rounding
    low, high = at - spread, at + spread
    if isinstance(times, Product):
        corners = torch.stack([p * q for p in (a.low, a.high) for q in (b.low, b.high)])
        least = corners.amin(0) if op.inputs[0] != op.inputs[1] else corners.amin(0).clamp_min(0)
        low, high = torch.maximum(low, least - rounding), torch.minimum(high, corners.amax(0) + rounding)
    found = Ranges(at, low, high, torch.full_like(a.radius, math.inf))
    return _between(back, None, below - rounding, second + rounding), found.narrowed(low, high)


def _softmax(op: Op, given: Sequence[Ranges]) -> tuple[Lines, Ranges]:
    """By the mean value theorem: its derivative p_i (1 - p_i), -p_i p_j at the centre, and how far that can move."""
    step: Any = op.step
    x, dim = given[0], step.dim + 1
    shape = (len(x.at), *step.inputs)
    low, high, reach = (v.reshape(shape).movedim(dim, -1) for v in (x.low, x.high, x.reach))
    own = torch.eye(low.shape[-1], dtype=torch.bool)
    least, most = (
        1 / (1 + (others[..., None, :] - mine[..., None]).exp().masked_fill(own, 0.0).sum(-1))
        for mine, others in ((low, high), (high, low))
    )
    p = step(x.at).reshape(shape).movedim(dim, -1)
    pairs = [torch.where(own, v[..., None], v[..., None] * v[..., None, :]) for v in (least, p, most)]
    moved = torch.maximum(pairs[2] - pairs[1], pairs[1] - pairs[0]).clamp_min(0)
    error = (moved * reach[..., None, :]).sum(-1)
    rounding = (1 + reach.amax(-1, keepdim=True)) * 10 * LIBRARY
    # Where the derivative says less than the range.
    given_up = 2 * error > most - least
    below, above = torch.where(given_up, least - p, -error), torch.where(given_up, most - p, error)

    def put(v: Tensor) -> Tensor:
        return v.movedim(-1, dim).reshape(x.at.shape)

    def back(g: Tensor) -> list[Tensor]:
        rows = g.reshape(*g.shape[:2], *step.inputs).movedim(dim + 1, -1) * ~given_up[:, None]
        share = p[:, None]
        found = share * (rows - (share * rows).sum(-1, keepdim=True))
        return [found.movedim(-1, dim + 1).reshape(g.shape)]

    found = Ranges(put(p), put(least - rounding), put(most + rounding), x.radius * 0.5 * OUTWARD + 1e-9)
    lines = _between(back, None, put(below - rounding), put(above + rounding))
    return lines, found.narrowed(found.low, found.high)


SEVERAL: dict[type, Callable[[Op, Sequence[Ranges]], tuple[Lines, Ranges]]] = {
    Product: _product,
    Matmul: _product,
    Softmax: _softmax,
    InverseRoot: _inverse_root,
}


def _by_constant(op: Op, x: Ranges) -> tuple[Lines, Ranges]:
    """Any other step moves no farther than its constant allows."""
    at = op.step(x.at.clone())
    rounding = (length(x.size) * op.constant + length(at) + 1) * (UNIT * (x.at[0].numel() + OTHERS)) * 100
    radius = x.radius * op.constant * OUTWARD + rounding
    reach = of_batch(radius, at) * torch.ones_like(at)
    return Lines(None, spread=reach, ball=radius), Ranges(at, at - reach, at + reach, radius)
