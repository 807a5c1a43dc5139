"""Linear relaxation: the radius within which CROWN's bounds of the logits' differences prove the label."""

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from lipbench.certificate.exactness import Unbounded
from lipbench.certificate.lipschitz import OUTWARD, lipschitz
from lipbench.certificate.relaxation.piecewise import Affine, Kinks, Step, steps_of
from lipbench.progress import SILENT, Progress

# Rounding of float64, eight times what one operation errs: a sum of n products is off by less than n times this.
UNIT = 8 * 2.0**-53
# Operations besides a sum's products, in one step.
OTHERS = 100
# Above what underflow can lose.
TINY = 1e-100
# Numbers of the bounds of a batch: 256 MiB.
HELD = 2**25


class CrownWarning(UserWarning):
    """A network that linear relaxation cannot bound, with the reason."""


@torch.no_grad()
def certify_crown(
    model: nn.Module, x: Tensor, y: Tensor, *, rounds: int = 12, progress: Callable[..., Progress] = SILENT
) -> Tensor:
    """The method `certificate_crown`: certified L2 radius of each image by linear relaxation, [N] float64; 0 where the
    label is wrong or the network is none that can be relaxed (`CrownWarning` says why).

    CROWN (Zhang et al., 2018, arXiv 1811.00866) with its adaptive lower slope: over the ball, every relu is between two
    lines, whose slopes are carried from the logits' differences back to the image; the bounds of what goes into a
    relu come from the same, layer after layer. max(a, b) is b + relu(a - b). The radius is found by bisection, and it
    is one whose bounds were positive.

    Everything is computed in float64. What rounding can have added to the bounds, and to the logits of a float64
    forward pass at any image of the ball, is bounded step by step (n roundings of every sum of n products, times the
    largest that its terms can be) and subtracted: no library's order of summation is assumed.

    Args:
        model: baked, in evaluation mode: nested `nn.Sequential` of affine layers, ReLU, LeakyReLU, Abs, MaxMin,
            GroupSort, FullSort, max pooling. Its layers' matrices must be small (`piecewise.ENTRIES`).
        rounds: bisections: the radius is found to 2^-rounds of twice the distance of the linearised boundary.
        progress: called with the number of images to be bounded, gives what is told of them (`lipbench.progress`).

    Raises:
        ValueError: no round.
    """
    if rounds < 1:
        raise ValueError(f"certificate_crown bisects at least once: rounds is 1 or more, not {rounds}.")
    try:
        steps = steps_of(lipschitz.read(model, tuple(x.shape[1:])), tuple(x.shape[1:]))
    except Unbounded as error:
        text = f"certificate_crown is 0: {error.why}" + (f": {error.remedy}" if error.remedy else "")
        warnings.warn(text, CrownWarning, stacklevel=2)
        return torch.zeros(len(x), dtype=torch.float64, device=x.device)
    right = model(x.clone()).argmax(1) == y
    radii = torch.zeros(len(x), dtype=torch.float64)
    rows = right.nonzero()[:, 0].cpu()
    with progress(len(rows)) as bar:
        for batch in rows.split(_at_once(steps)):
            radii[batch] = radii_of(steps, x[batch].double().flatten(1).cpu(), y[batch].cpu(), rounds)
            bar.update(len(batch))
    return radii.to(x.device)


def radii_of(steps: Sequence[Step], x: Tensor, y: Tensor, rounds: int) -> Tensor:
    """Of images [N, n] that are labelled y."""
    own = nn.functional.one_hot(y, _outputs(steps))
    objective = (own[:, None, :] - torch.eye(own.shape[1], dtype=torch.long)).double()

    def smallest(radius: Tensor) -> tuple[Tensor, Tensor]:
        """Over the other classes, the smallest difference, and how far the linearised boundary is: [N]."""
        lower, slope = Relaxed(steps, x, radius).lower(objective)
        ahead = (lower / slope).masked_fill(own.bool(), torch.inf).amin(1)
        return lower.masked_fill(own.bool(), torch.inf).amin(1), ahead

    low = torch.zeros(len(x), dtype=torch.float64)
    value, ahead = smallest(low)
    # No image of the box is farther than its diagonal.
    high = (2 * ahead).nan_to_num(nan=0.0).clamp(0, x.shape[1] ** 0.5).masked_fill(~(value > 0), 0.0)
    for _ in range(rounds):
        middle = (low + high) / 2
        proved = (smallest(middle)[0] > 0) & (value > 0)
        low, high = torch.where(proved, middle, low), torch.where(proved, high, middle)
    return low / OUTWARD


class Relaxed:
    """Lines below and above every relu, over the balls of radius [N] around images [N, n]."""

    def __init__(self, steps: Sequence[Step], x: Tensor, radius: Tensor):
        self.steps, self.x, self.radius = steps, x, radius
        self.unit = UNIT * (largest_width(steps) + OTHERS)
        # Per step: what rounding in it can add to its outputs; and of relus, slopes and the shift of the upper line.
        self.rounding: list[Tensor] = []
        self.lines: list[tuple[Tensor, Tensor, Tensor] | None] = []
        # Per step of relus: between what all that goes into them lies, [N, k] each.
        self.ranges: list[tuple[Tensor, Tensor]] = []
        size, error = x.abs() + radius[:, None], torch.zeros_like(x)
        for step in steps:
            inside = _size_of(step, size)[1]
            self.lines.append(self._relu_lines(step, inside) if isinstance(step, Kinks) else None)
            self.rounding.append(self.unit * _size_of(step, size, kinks=4)[0] + TINY)
            # That of a forward pass in float64.
            error = _most(step, error, shift=False) + self.rounding[-1]
            size = _most(step, size)
        self.error = error

    def lower(self, objective: Tensor) -> tuple[Tensor, Tensor]:
        """Below every <objective, logits> on the ball, rounding included, [N, m]; and the slopes of the bounds.

        Args:
            objective: [N, m, K].
        """
        below, slope = self._back(objective)
        return below - _dot(objective.abs(), self.error), slope

    def _relu_lines(self, step: Kinks, largest: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Slopes of the lines below and above, and the shift of the one above, [N, k].

        Args:
            largest: what goes into the relu is not larger, [N, k].
        """
        width = largest.shape[1]
        inner = torch.eye(width, dtype=torch.float64) if step.inner is None else step.inner
        below, _ = self._back(torch.cat((inner, -inner)))
        largest = largest * (1 + 1e-9)
        low = torch.maximum(below[:, :width], -largest)
        high = torch.minimum(-below[:, width:], largest)
        self.ranges.append((low, high))
        above = (high / (high - low)).masked_fill(low >= 0, 1.0).masked_fill(high <= 0, 0.0)
        shift = (-above * low).masked_fill((low >= 0) | (high <= 0), 0.0)
        under = (high > -low).double().masked_fill(low >= 0, 1.0).masked_fill(high <= 0, 0.0)
        return under, above, shift

    def _back(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Below every <rows, output of the steps known so far>, [N, m], and the norms of the slopes.

        Args:
            rows: [m, k], or [N, m, k].
        """
        constant = torch.zeros(len(self.x), rows.shape[-2], dtype=torch.float64)
        error = torch.zeros_like(constant)
        known = len(self.lines)
        for step, lines, rounding in zip(
            reversed(self.steps[:known]), reversed(self.lines), reversed(self.rounding), strict=True
        ):
            error = error + _dot(rows.abs(), rounding)
            if isinstance(step, Affine):
                constant = constant + rows @ step.bias
                rows = rows @ step.weight
                continue
            assert lines is not None
            under, above, shift = (line[:, None, :] for line in lines)
            rise = rows if step.rise is None else rows @ step.rise
            constant = constant + (rise.clamp(max=0) * shift).sum(2)
            kinked = torch.where(rise >= 0, rise * under, rise * above)
            kinked = kinked if step.inner is None else kinked @ step.inner
            rows = kinked if step.direct is None else rows @ step.direct + kinked
        slope = rows.norm(dim=-1).expand_as(constant)
        spread = self.radius[:, None] * slope
        ends = self.unit * (_dot(rows.abs(), self.x.abs()) + spread + constant.abs()) + TINY
        return _dot(rows, self.x) + constant - spread - error - ends, slope


def _size_of(step: Step, size: Tensor, kinks: float = 1, shift: bool = True) -> tuple[Tensor, Tensor]:
    """How large the outputs of a step can be, [N, m], and what goes into its relus, for inputs so large, [N, n].

    Args:
        kinks: the relus count so often.
        shift: whether the bias counts.
    """
    if isinstance(step, Affine):
        grown = size @ step.weight.abs().T
        return (grown + step.bias.abs() if shift else grown), grown
    inside = size if step.inner is None else size @ step.inner.abs().T
    grown = kinks * (inside if step.rise is None else inside @ step.rise.abs().T)
    return (grown if step.direct is None else grown + size @ step.direct.abs().T), inside


def _most(step: Step, size: Tensor, shift: bool = True) -> Tensor:
    """How large the outputs of a step can be, [N, m], where no input is larger than `size`, [N, n]. Without the shift:
    how far apart two outputs are, of inputs that are no farther apart.

    An output with one relu has two linear pieces, and the larger bound holds: of b + relu(a - b) the larger of two
    numbers, where `_size_of` adds three.
    """
    if isinstance(step, Affine):
        return _size_of(step, size, shift=shift)[0]
    if step.inner is None and step.rise is None and step.direct is None:
        return size
    width = size.shape[1]
    inner = torch.eye(width, dtype=torch.float64) if step.inner is None else step.inner
    risen = inner
    if step.rise is not None:
        if ((step.rise != 0).sum(1) > 1).any():
            return _size_of(step, size)[0]
        place = step.rise.abs().argmax(1, keepdim=True)
        risen = step.rise.gather(1, place) * inner[place[:, 0]]
    direct = torch.zeros_like(risen) if step.direct is None else step.direct
    # Their sum may cancel, and is rounded.
    second = (direct + risen).abs() + UNIT * (direct.abs() + risen.abs())
    return torch.maximum(size @ direct.abs().T, size @ second.T)


def _dot(rows: Tensor, values: Tensor) -> Tensor:
    """[m, k] or [N, m, k] times [N, k] -> [N, m]."""
    return values @ rows.T if rows.ndim == 2 else (rows @ values[:, :, None])[:, :, 0]


def _sizes(step: Step) -> tuple[int, ...]:
    """Of all vectors in it that are known from its matrices."""
    matrices = (step.weight,) if isinstance(step, Affine) else (step.direct, step.rise, step.inner)
    return tuple(n for matrix in matrices if matrix is not None for n in matrix.shape)


def _outputs(steps: Sequence[Step]) -> int:
    """Number of logits: a network without any matrix keeps its input's size."""
    return next(_sizes(step)[0] for step in reversed(steps) if _sizes(step))


def _at_once(steps: Sequence[Step]) -> int:
    return max(1, HELD // (2 * largest_width(steps) ** 2))


def largest_width(steps: Sequence[Step]) -> int:
    return max(n for step in steps for n in _sizes(step))
