"""A small network near an image: affine maps and a few relus whose sign is open, with the error of every number."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lipbench.certificate.relaxation.crown import TINY, UNIT, Relaxed, largest_width
from lipbench.certificate.relaxation.piecewise import Affine, Kinks, Step

Array = np.ndarray


@dataclass(frozen=True)
class Region:
    """All adversarial images within a radius of x, as a quadratic program with k open relus.

    The variables v are the perturbation delta [n] and the values y [k] of the open relus. Every adversarial image
    x + delta of the ball satisfies, with y_j = relu(u_j):

        lower <= v <= upper,   cuts v <= levels,   u_j <= y_j,   y_j <= slope_j (u_j - low_j),
        |u_j - (inner_j v + shift_j)| <= error_j.

    slope_j is 1 (and low_j counts as 0) where the relu is active, 0 where it is inactive, else
    high_j / (high_j - low_j).

    Attributes:
        inner, shift, error: [k, n + k], [k], [k].
        low, high: of u_j, [k]; high <= 0: inactive, low >= 0: active.
        cuts, levels: [c, n + k], [c]; the first cut says that the image is adversarial.
        lower, upper: [n + k].
    """

    inner: Array
    shift: Array
    error: Array
    low: Array
    high: Array
    cuts: Array
    levels: Array
    lower: Array
    upper: Array

    @property
    def pixels(self) -> int:
        return self.inner.shape[1] - len(self.low)

    @property
    def open(self) -> Array:
        """Which relus have no known sign, bool [k]."""
        return (self.low < 0) & (self.high > 0)

    @property
    def empty(self) -> bool:
        """Whether it is proved to hold no image."""
        return bool((self.low > self.high).any())

    def fixed(self, active: Array, inactive: Array) -> "Region":
        """The part in which these relus, bool [k] each, have these signs."""
        low = np.where(active, np.maximum(self.low, 0), self.low)
        high = np.where(inactive, np.minimum(self.high, 0), self.high)
        return self.within(low, high)

    def within(self, low: Array, high: Array) -> "Region":
        """The part in which low <= u <= high."""
        upper = self.upper.copy()
        upper[self.pixels :] = np.minimum(upper[self.pixels :], np.maximum(high, 0))
        return replace(self, low=low, high=high, upper=upper)

    def values(self, point: Array) -> Array:
        """The variables of the image of a point, [n + k]: its perturbation, and what its open relus give."""
        values = point.copy()
        values[self.pixels :] = 0.0
        for j in range(len(self.low)):
            values[self.pixels + j] = max(0.0, self.inner[j] @ values + self.shift[j])
        return values

    def rows(self) -> tuple[Array, Array]:
        """Its inequalities as rows v <= sides: cuts, then two of each relu."""
        unit = np.hstack((np.zeros((len(self.low), self.pixels)), np.eye(len(self.low))))
        low, high = np.minimum(self.low, 0), np.maximum(self.high, 0)
        slope = np.where(self.low >= 0, 1.0, np.divide(high, high - low, out=np.zeros_like(low), where=high > low))
        slope = np.where(self.high <= 0, 0.0, slope)
        # Rounded up: the chord then lies above relu, and its rounding is far below `UNIT` of these numbers.
        chord = slope * (self.shift + self.error - low) + UNIT * (abs(self.shift) + self.error - low + high)
        over = -self.shift + self.error + UNIT * abs(self.shift)
        rows = np.vstack((self.cuts, self.inner - unit, unit - slope[:, None] * self.inner))
        return rows, np.concatenate((self.levels, over, chord))


def region(relaxed: Relaxed, own: int, other: int, most: int, margin: float = 0.0) -> Region | None:
    """Of the images of [0, 1]^n within the radius of x whose logit `other` is not below the logit `own`, in float64
    arithmetic of any order. None where more relus are open than `most`.

    Args:
        relaxed: lines of every relu, over the ball around one image x [n].
        margin: of images whose logit `other` is larger by so much.
    """
    steps, x, radius = relaxed.steps, relaxed.x[0].numpy(), float(relaxed.radius[0])
    ranges = [(low[0].numpy(), high[0].numpy()) for low, high in relaxed.ranges]
    count = sum(int(((low < 0) & (high > 0)).sum()) for low, high in ranges)
    if count > most:
        return None
    reach = radius * (1 + 1e-12)
    lower = np.concatenate((np.maximum(-x, -reach), np.zeros(count)))
    upper = np.concatenate((np.minimum(1 - x, reach), np.zeros(count)))
    unit = UNIT * (largest_width(steps) + count + 100)
    walk = _Walk(len(x), unit, x, lower, upper)
    for step, limits in zip(steps, _per_step(steps, ranges), strict=True):
        walk.take(step, limits)
    logits = walk.now
    cut = (logits.rows[own] - logits.rows[other])[None]
    # What the forward pass of the judge may round, and what this expression has rounded.
    float64 = float(relaxed.error[0, own] + relaxed.error[0, other])
    level = -(logits.shift[own] - logits.shift[other]) - margin + float64 + logits.error[own] + logits.error[other]
    level += unit * (
        abs(logits.shift[own]) + abs(logits.shift[other]) + margin + float(walk.size(logits)[[own, other]].sum())
    )
    open_ = _joined(walk.open) if walk.open else _Expressions(np.zeros((0, len(x))), np.zeros(0), np.zeros(0))
    low, high = (np.concatenate([*parts, np.zeros(0)]) for parts in (walk.low, walk.high))
    return Region(open_.rows, open_.shift, open_.error, low, high, cut, np.array([level]), walk.lower, walk.upper)


@dataclass(frozen=True)
class _Expressions:
    """Numbers as rows v + shift, each known up to an error: [m, n + k], [m], [m]."""

    rows: Array
    shift: Array
    error: Array


class _Walk:
    """The expressions of the activations, step by step."""

    def __init__(self, pixels: int, unit: float, x: Array, lower: Array, upper: Array):
        self.unit, self.lower, self.upper, self._next = unit, lower, upper, pixels
        self.now = _Expressions(np.eye(pixels, len(lower)), x, np.zeros(pixels))
        self.open: list[_Expressions] = []
        self.low: list[Array] = []
        self.high: list[Array] = []

    def size(self, known: _Expressions) -> Array:
        """How large the expressions, and every part of their sums, can be, [m]."""
        return abs(known.rows) @ np.maximum(abs(self.lower), abs(self.upper)) + abs(known.shift) + known.error

    def take(self, step: Step, limits: tuple[Array, Array] | None) -> None:
        if isinstance(step, Affine):
            self.now = self._times(step.weight.numpy(), self.now, step.bias.numpy())
            return
        assert limits is not None
        low, high = limits
        # What rounding adds here, and what becomes of the errors of the inputs, are counted apart.
        known = replace(self.now, error=np.zeros(len(self.now.shift)))
        inner = known if step.inner is None else self._times(step.inner.numpy(), known)
        active, open_ = low >= 0, (low < 0) & (high > 0)
        rows = np.where(active[:, None], inner.rows, 0.0)
        places = self._next + np.arange(open_.sum())
        rows[open_, places] = 1.0
        self._next += len(places)
        self.upper[places] = high[open_]
        risen = _Expressions(rows, np.where(active, inner.shift, 0.0), np.where(active, inner.error, 0.0))
        reached, entering = self._reached(step, active)
        self.open.append(_Expressions(inner.rows[open_], inner.shift[open_], (inner.error + entering)[open_]))
        self.low.append(low[open_])
        self.high.append(high[open_])
        risen = risen if step.rise is None else self._times(step.rise.numpy(), risen)
        if step.direct is not None:
            direct = self._times(step.direct.numpy(), known)
            error = direct.error + risen.error + self.unit * (self.size(direct) + self.size(risen))
            risen = _Expressions(direct.rows + risen.rows, direct.shift + risen.shift, error)
        self.now = replace(risen, error=risen.error + reached)

    def _reached(self, step: Kinks, active: Array) -> tuple[Array, Array]:
        """What the errors of a step's inputs are in its outputs, [m], and in what goes into its relus, [k].

        Once its sign is known a relu is linear, and an open one is a variable without error. So no error grows in
        max(a, b) = b + relu(a - b), which has three terms: a sort is many of them, one after another.
        """
        inner = np.eye(len(active)) if step.inner is None else step.inner.numpy()
        rise = np.eye(len(active)) if step.rise is None else step.rise.numpy()
        matrix, size = rise[:, active] @ inner[active], abs(rise) @ abs(inner)
        if step.direct is not None:
            matrix, size = matrix + step.direct.numpy(), size + abs(step.direct.numpy())
        error = self.now.error * (1 + self.unit)
        return (abs(matrix) + self.unit * size) @ error, abs(inner) @ error

    def _times(self, weight: Array, known: _Expressions, bias: Any = 0.0) -> _Expressions:
        """weight known + bias; products are rounded in whatever order."""
        size = abs(weight)
        error = size @ (known.error + self.unit * self.size(known)) * (1 + self.unit) + self.unit * abs(bias) + TINY
        return _Expressions(weight @ known.rows, weight @ known.shift + bias, error)


def _joined(parts: Sequence[_Expressions]) -> _Expressions:
    names = ("rows", "shift", "error")
    return _Expressions(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def _per_step(steps: Sequence[Step], ranges: Sequence[tuple[Array, Array]]) -> list[tuple[Array, Array] | None]:
    found = iter(ranges)
    return [None if isinstance(step, Affine) else next(found) for step in steps]
