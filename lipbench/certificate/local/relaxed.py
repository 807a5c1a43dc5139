"""Lower bounds of linear functions of the logits on a region, carried back step by step to the image."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lipbench.certificate.lipschitz import OUTWARD
from lipbench.certificate.local.affine import is_affine
from lipbench.certificate.local.lines import rule_of_step
from lipbench.certificate.local.program import Op, program
from lipbench.certificate.local.ranges import OTHERS, TINY, UNIT, Lines, Ranges, Region, Rule
from lipbench.certificate.radius import read_exactly
from lipbench.certificate.tracing.steps import Copies

# Inputs of a step that are bounded by going back to the image, at most; others by the steps before them alone.
ROWS = 2048
# Numbers of one activation that are computed at once: 64 MiB.
HELD = 2**23
# Steps towards the multiplier of the ball.
STEPS = 6


class Relaxed:
    """A network on a region: the ranges of all steps, and the lines between which these lie."""

    def __init__(self, ops: Sequence[Op], rules: Sequence[Rule], region: Region):
        self.ops, self.region, x = ops, region, region.x
        radius = region.radius.reshape(-1, *(1,) * (x.ndim - 1))
        low, high = (x - radius).clamp_min(0), (x + radius).clamp_max(1)
        self.ranges = [Ranges(x, low, high, region.radius)]
        self.lines: list[Lines] = []
        wanted = {i for op in ops if not is_affine(op) for i in op.inputs}
        for place, (op, rule) in enumerate(zip(ops, rules, strict=True), 1):
            lines, ranges = rule([self.ranges[i] for i in op.inputs])
            if op.whole is not None:
                step, source = op.whole
                ranges = ranges.narrowed(step(self.ranges[source].low), step(self.ranges[source].high))
            self.lines.append(lines)
            self.ranges.append(ranges)
            copied = isinstance(op.step, Copies) and op.step.repeats > 1
            if place in wanted and is_affine(op) and not copied:
                self.ranges[place] = self._tightened(place)

    def _tightened(self, place: int) -> Ranges:
        """The ranges of a step, each entry bounded from the image; of relus those alone that may be on either side."""
        ranges = self.ranges[place]
        relus = all(isinstance(op.step, nn.ReLU) for op in self.ops if place in op.inputs)
        open_ = (ranges.low < 0) & (ranges.high > 0) if relus else ranges.high > ranges.low
        rows = open_.flatten(1).any(0).nonzero()[:, 0]
        if len(rows) > ROWS:
            return ranges
        low, high = ranges.low.flatten(1).clone(), ranges.high.flatten(1).clone()
        at, shape = ranges.at.flatten(1), ranges.at.shape[1:]
        count = len(at)
        for part in rows.split(self._at_once()):
            one = torch.zeros(len(part), at.shape[1], dtype=torch.float64)
            one[torch.arange(len(part)), part] = 1.0
            below, above = self.both(place, one.reshape(1, len(part), *shape).expand(count, -1, *shape))
            low[:, part] = torch.maximum(low[:, part], at[:, part] + below)
            high[:, part] = torch.minimum(high[:, part], at[:, part] + above)
        return ranges.narrowed(low.view_as(ranges.low), high.view_as(ranges.high))

    def _at_once(self) -> int:
        widest = max(ranges.at.numel() for ranges in self.ranges)
        return max(1, HELD // (2 * max(1, widest)))

    def both(self, place: int, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Below and above <rows, change of the output of step `place`> on the region, rounding included, [N, R].

        Args:
            rows: [N, R, ...].
        """
        if any(lines.slopes is not None and lines.slopes[0] is not lines.slopes[1] for lines in self.lines[:place]):
            below, above = self.lower(place, torch.cat((rows, -rows), 1)).chunk(2, 1)
            return below, -above
        middle, spread, g = self._back(place, rows)
        ends = [torch.zeros_like(middle)] * 2 if g is None else [self._on_the_region(g), -self._on_the_region(-g)]
        return middle - spread + ends[0], middle + spread + ends[1]

    def lower(self, place: int, rows: Tensor) -> Tensor:
        """The first of `both`."""
        middle, spread, g = self._back(place, rows)
        return middle - spread if g is None else middle - spread + self._on_the_region(g)

    def _back(self, place: int, rows: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """What the shifts of the lines add to <rows, change>, [N, R], how much to either side of that, and the slopes
        at the image, [N, R, n]; lower ones where lines are not parallel.
        """
        pending = {place: rows}
        middle = torch.zeros(rows.shape[:2], dtype=torch.float64)
        spread = torch.full_like(middle, TINY)
        for k in range(place, 0, -1):
            if k not in pending:
                continue
            g, lines = pending.pop(k), self.lines[k - 1]
            if lines.spread is not None:
                aside = _dot(g.abs(), lines.spread)
                if lines.ball is not None:
                    aside = torch.minimum(aside, g.flatten(2).norm(dim=2) * lines.ball[:, None])
                spread = spread + aside * OUTWARD
            if lines.middle is not None:
                middle = middle + _dot(g, lines.middle)
                spread = spread + _dot(g.abs(), lines.middle.abs()) * (UNIT * (lines.middle[0].numel() + OTHERS))
            if lines.back is None:
                continue
            if lines.slopes is not None:
                under, above = (slope[:, None] for slope in lines.slopes)
                g = g * under if lines.slopes[0] is lines.slopes[1] else g.clamp_min(0) * under + g.clamp_max(0) * above
            for i, back in zip(self.ops[k - 1].inputs, lines.back(g), strict=True):
                pending[i] = pending[i] + back if i in pending else back
        return middle, spread + middle.abs() * 1e-12, pending[0].flatten(2) if 0 in pending else None

    def _on_the_region(self, g: Tensor) -> Tensor:
        """Below <g, change of the image>, [N, R, n] -> [N, R]: by weak duality for any multiplier of the ball, whose
        inner problem on the box has a closed form.
        """
        x = self.region.x.flatten(1)[:, None]
        radius, norm = self.region.radius.clamp_min(1e-30)[:, None], g.norm(dim=2)
        multiplier, best = norm / radius, torch.full_like(norm, -torch.inf)
        share = UNIT * (x.shape[2] + OTHERS)
        least, most = -x - share, 1 - x + share
        for _ in range(STEPS):
            multiplier = multiplier.clamp_min(TINY)
            move = (g * (-1 / multiplier[..., None])).clamp(min=least, max=most)
            length = move.norm(dim=2)
            half = multiplier * (length.square() - radius.square()) / 2
            lost = (norm * length + multiplier * (length.square() + radius.square())) * share
            best = torch.maximum(
                best, (g.flatten(0, 1)[:, None] @ move.flatten(0, 1)[..., None]).view_as(half) + half - lost
            )
            multiplier = multiplier * length / radius
        return best.masked_fill(norm == 0, 0.0) - TINY


def _dot(rows: Tensor, values: Tensor) -> Tensor:
    """[N, R, ...] times [N, ...] -> [N, R]."""
    return (rows.flatten(2) @ values.flatten(1)[..., None])[..., 0]


@dataclass(frozen=True)
class LocalBound:
    """Lower bounds [N, K] of z_y - z_k on a region, inf for k = y: of these images, on this region, and nowhere else.

    Attributes:
        region: where it holds.
        margins: the bounds.
    """

    region: Region
    margins: Tensor


@torch.no_grad()
def margins_near(model: nn.Module, x: Tensor, y: Tensor, radius: Tensor) -> LocalBound:
    """Lower bounds of the margins of images on balls around them, cut to the box.

    Args:
        model: baked, in evaluation mode.
        x: images [N, C, H, W] in [0, 1].
        y: labels [N].
        radius: of the balls, [N].

    Raises:
        Unbounded: a layer that has no bound near an image either.
        ValueError: images outside of the box.
    """
    network = read_exactly(model, tuple(x.shape[1:]), x[:1])
    return margins_of(prepared(program(network, tuple(x.shape[1:]))), Region(x.double().cpu(), radius.double()), y)


Prepared = tuple[Sequence[Op], Sequence[Rule]]


def prepared(ops: Sequence[Op]) -> Prepared:
    """The steps with their rules."""
    return ops, [rule_of_step(op) for op in ops]


def margins_of(steps: Prepared, region: Region, y: Tensor) -> LocalBound:
    relaxed = Relaxed(*steps, region)
    logits = relaxed.ranges[-1].at
    own = nn.functional.one_hot(y.cpu(), logits.shape[1])
    rows = (own[:, None, :] - torch.eye(logits.shape[1], dtype=torch.long)).double()
    below = relaxed.lower(len(relaxed.ops), rows)
    margins = logits.gather(1, y.cpu()[:, None]) - logits + below
    # Two logits are subtracted, and the bound added.
    margins = margins - (logits.abs().amax(1, keepdim=True) + below.abs()) * (UNIT * OTHERS)
    return LocalBound(region, margins.nan_to_num(nan=-torch.inf).masked_fill(own.bool(), torch.inf))
