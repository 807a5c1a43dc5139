"""The methods `certificate_inscribed` and `certificate_inscribed_float`: balls around other centres than the image."""

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lipbench.certificate.exactness import Unbounded
from lipbench.certificate.float32 import Head, float_radii, why_not
from lipbench.certificate.float64 import Passes
from lipbench.certificate.inscribed_ball import InscribedBalls, ball_radius, best_t, joined, without_balls
from lipbench.certificate.inscribed_search import Search
from lipbench.certificate.lipschitz import OUTWARD, LayerBound, lipschitz
from lipbench.certificate.radius import (
    Count,
    certify_by,
    gaps_of,
    is_another,
    read_exactly,
    rival_radii,
    uncounted,
)
from lipbench.certificate.rounding import Affine
from lipbench.gate import logits_of, with_gradient
from lipbench.geometry import per_image
from lipbench.images import VALUES, check_batch, check_labels, images_at_once
from lipbench.margins import gradient_of
from lipbench.modules import undisturbed
from lipbench.progress import SILENT, Progress

# Rivals of an image whose balls are searched: the nearest ones. The others keep the ball around x.
RIVALS = 16
# A radius may exceed that of the search, which has no rounding taken off and is in float32, by this factor.
REACH = 1.001


def certify_inscribed(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    steps: int = 38,
    start: Tensor | None = None,
    batch_size: int | None = None,
    progress: Callable[..., Progress] = SILENT,
    count: Count = uncounted,
) -> Tensor:
    """The method `certificate_inscribed`: certified L2 radius of each image, [N] float64, never below that of
    `certify`; 0 where it is unknown or the label is wrong.

    A ball around another centre, in the box or not, that holds no adversarial image (`lipbench.certificate.
    inscribed_ball`). It needs constants that hold on all of R^n, and takes those of `lipbench.certificate.lipschitz`.
    The search runs in the precision of the model. What it finds counts only as the float64 weights confirm it, reduced
    by the rounding of that pass.

    Where there is no finite constant, where the rounding of a layer is an estimate (`lipbench.certificate.float64`), or
    where the gradient at x is flat, it is `certify`.

    Args:
        model: baked, in evaluation mode, images -> logits [N, K].
        x: images [N, C, H, W] in [0, 1].
        y: labels [N].
        steps: forward and backward passes of each image, at most; 0 or more.
        start: adversarial images [N, C, H, W] where some are known: the search begins behind them.
        batch_size: images searched at once; None: so many that memory stays bounded.
        progress: as in `certify`.
        count: called with the numbers of images that went through the network, forwards and backwards.

    Raises:
        TypeError, ValueError: as `certify`; steps below 0; `start` of another shape than x.
    """
    return _radii(model, x, y, _Task(steps, start, None, batch_size, progress, count), in_float32=False)


def certify_inscribed_float(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    steps: int = 20,
    start: Tensor | None = None,
    batch_size: int | None = None,
    progress: Callable[..., Progress] = SILENT,
    count: Count = uncounted,
) -> Tensor:
    """The method `certificate_inscribed_float`: as `certify_inscribed`, for the float32 network as deployed. Never
    below `certify_float`, which says what it assumes.

    h(q) is reduced by the largest rounding of float32 on the box as well. So an image of the box inside of the ball has
    a margin that the rounding of float32 cannot use up.

    Args, Raises:
        as `certify_inscribed`; the model and the images are float32.
    """
    return _radii(model, x, y, _Task(steps, start, None, batch_size, progress, count), in_float32=True)


def inscribed_balls(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    steps: int = 38,
    start: Tensor | None = None,
    known: InscribedBalls | None = None,
) -> InscribedBalls:
    """The proof of `certify_inscribed`: a value whose `radius()` is the certified radius of each image. It is 0 where
    there is no finite constant, and where the rounding of a layer is an estimate, which proves nothing.

    Args, Raises:
        as `certify_inscribed`; known: balls of the same images, whose centres are where the search of those without a
        `start` begins.
    """
    task = _Task(steps, start, known)
    prover = _Prover.of(model, x, y, task, in_float32=False)
    parts = [*prover.parts(x, y, task)]
    if not parts:
        return without_balls(x, y, torch.zeros(len(x), len(prover.gaps), dtype=torch.float64, device=x.device))
    return joined(parts)


@dataclass(frozen=True)
class _Task:
    """What is asked for: the options of `certify_inscribed` and `inscribed_balls`."""

    steps: int
    start: Tensor | None = None
    known: InscribedBalls | None = None
    batch_size: int | None = None
    progress: Callable[..., Progress] = SILENT
    count: Count = uncounted

    def check(self, x: Tensor) -> None:
        if type(self.steps) is not int or self.steps < 0:
            raise ValueError(
                f"steps={self.steps!r}: give the passes that one image may cost, a whole number of 0 or more."
            )
        if self.start is not None and self.start.shape != x.shape:
            raise ValueError(f"start= holds images of shape {list(self.start.shape)}, the images are {list(x.shape)}.")

    def of(self, rows: Tensor, x: Tensor) -> "_Task":
        """That of some images, in the precision and on the device of x."""
        start = None if self.start is None else self.start[rows].to(x)
        return replace(self, start=start, known=None if self.known is None else self.known.of(rows))


def _radii(model: nn.Module, x: Tensor, y: Tensor, task: _Task, in_float32: bool) -> Tensor:
    """The radii of either method."""
    prover = _Prover.of(model, x, y, task, in_float32)
    if prover.passes is not None:
        return torch.cat([balls.radius() for balls in prover.parts(x, y, task)])
    if in_float32 or not bool(prover.gaps.isfinite().all()):
        return torch.zeros(len(x), dtype=torch.float64, device=x.device)
    rest = (prover.layers, prover.gaps, task.batch_size, task.progress, task.count)
    return certify_by(model, prover.network, x, y, *rest)


@dataclass(frozen=True)
class _Prover:
    """A network and what is known of it.

    Attributes:
        model: as deployed; the search takes its gradients.
        network: what its forward pass is read as, which all bounds and float64 passes are of.
        layers: its constants, layer by layer.
        gaps: constants of the differences of logits on all of R^n, [K, K].
        passes: its float64 copy, which tells its rounding; None where no other centre than x proves anything.
        head: the bounds of its float32 rounding where that counts; else None.
    """

    model: nn.Module
    network: nn.Module
    layers: Sequence[LayerBound]
    gaps: Tensor
    passes: Passes | None = None
    head: Head | None = None

    @classmethod
    def of(cls, model: nn.Module, x: Tensor, y: Tensor, task: _Task, in_float32: bool) -> "_Prover":
        """Of checked images, labels and options."""
        check_batch(x, y)
        task.check(x)
        shape = tuple(x.shape[1:])
        with torch.no_grad():
            network = lipschitz.read(model, shape) if in_float32 else read_exactly(model, shape, x[:1])
            layers = lipschitz.layerwise(network, shape)
            gaps = gaps_of(network, shape, layers)
            check_labels(y, len(gaps))
            nothing = cls(model, network, layers, gaps)
            if not bool(gaps.isfinite().all()) or (in_float32 and why_not(model, x, network)):
                return nothing
            exact = copy.deepcopy(network).double()
            try:
                head = Head(exact, shape, layers) if in_float32 else None
            except Unbounded:
                return nothing
            passes = Passes(exact, shape, layers)
            # An estimate is of images: a centre may lie anywhere.
            return nothing if passes.is_estimate else cls(model, network, layers, gaps, passes, head)

    def parts(self, x: Tensor, y: Tensor, task: _Task) -> Iterator[InscribedBalls]:
        """The balls of the images, part by part; none where nothing is known."""
        if self.passes is None:
            return
        rivals = min(RIVALS, len(self.gaps) - 1)
        size = task.batch_size or images_at_once(x.shape[1:], VALUES // rivals)
        with task.progress(len(x)) as bar:
            with undisturbed(self.model):
                at_x, rounding = self._around(self.passes, x, y, task)
            for rows in torch.arange(len(x), device=x.device).split(size):
                lost = Affine(rounding.at[rows], rounding.slope[rows])
                with undisturbed(self.model):
                    balls = self._balls(self.passes, x[rows], y[rows], at_x[rows], lost, task.of(rows, x))
                bar.update(len(rows))
                yield balls

    def _balls(
        self, passes: Passes, x: Tensor, y: Tensor, at_x: Tensor, rounding: Affine, task: _Task
    ) -> InscribedBalls:
        """Of one part of the images."""
        pairs = _nearest_rivals(at_x)
        if not len(pairs):
            return without_balls(x, y, at_x)
        image, rival = pairs.unbind(1)
        label, scale = y[image], self.gaps[y[image], rival].to(x.dtype)

        def value(points: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
            points = points.detach().requires_grad_()
            logits = with_gradient(self.model, points.view(-1, *x.shape[1:]))
            found = _difference(logits, label[rows], rival[rows]) / scale[rows]
            return found.detach(), gradient_of(found.sum(), points)

        first = None if task.start is None else self._starts(x, task.start, image, rival, task.count)
        flat = x.flatten(1)[image]
        centres = None if task.known is None else task.known.centres(image, rival).to(x.dtype)
        search = Search(value, flat, image, at_x[image, rival].to(x.dtype), first, centres)
        searched = search.run(task.steps)
        task.count(searched, searched)
        moved = (search.centre != flat).any(1).nonzero()[:, 0]
        if not len(moved):  # some layers of torch refuse a batch of no images
            return without_balls(x, y, at_x)
        image, rival, centre = image[moved], rival[moved], search.centre[moved].double()
        # The rounding of float32 is that of the images within `reach`, so a larger radius does not count.
        reach = search.rho[moved].double() * REACH
        share = (reach / math.sqrt(flat.shape[1])).clamp(max=1)
        lost = rounding.at[image, rival] + rounding.slope[image, rival] * share
        task.count(len(moved), 0)
        depth = self._depth(passes, centre.view(-1, *x.shape[1:]), y[image], rival, lost * OUTWARD)
        wide = flat[moved].double()
        t = best_t(wide, centre - wide, depth)
        if self.head is not None:
            depth = depth.masked_fill(ball_radius(wide, centre, depth, t) > reach, 0.0)
        return InscribedBalls(x.double(), at_x, image, rival, centre.view(-1, *x.shape[1:]), depth, t)

    @torch.no_grad()
    def _around(self, passes: Passes, x: Tensor, y: Tensor, task: _Task) -> tuple[Tensor, Affine]:
        """[N, K] radii of the balls around x, and [N, K] what float32 rounding can take off a margin. In the batches of
        `certify` and `certify_float`, so that no digit differs from theirs.
        """
        size, found = task.batch_size or images_at_once(x.shape[1:]), []
        for images, labels in zip(x.split(size), y.split(size), strict=True):
            said = logits_of(self.model, images)
            is_read = self.network is not self.model
            task.count((2 if self.head is None else 2 + is_read) * len(images), 0)
            logits, slack = passes(images.clone().double()) if self.head is None or is_read else (said, said[:, 0])
            if is_read and is_another(said, logits):
                nothing = torch.zeros(len(x), len(self.gaps), dtype=torch.float64, device=x.device)
                return nothing, Affine(nothing, nothing)
            if self.head is None:
                nothing = torch.zeros_like(logits)
                radii, rounding = rival_radii(logits, labels, self.gaps, slack), Affine(nothing, nothing)
            else:
                radii, rounding = float_radii(self.head, images, labels, self.gaps)
            wrong = said.argmax(1) != labels
            found.append((radii.masked_fill(wrong[:, None], 0.0), rounding.at, rounding.slope))
        radii, at, slope = (torch.cat(column) for column in zip(*found, strict=True))
        return radii, Affine(at, slope)

    @torch.no_grad()
    def _depth(self, passes: Passes, centre: Tensor, y: Tensor, rival: Tensor, rounding: Tensor) -> Tensor:
        """Lower bounds of h at the centres, [M] float64."""
        depth = []
        size = images_at_once(centre.shape[1:])
        for q, label, other, lost in zip(*(part.split(size) for part in (centre, y, rival, rounding)), strict=True):
            logits, slack = passes(q.clone())
            margins = _difference(logits, label, other) - slack - lost
            depth.append(margins.clamp_min(0) / self.gaps[label, other] / OUTWARD)
        return torch.cat(depth).nan_to_num(nan=0.0, posinf=0.0) if depth else rounding.new_zeros(0)

    @torch.no_grad()
    def _starts(self, x: Tensor, start: Tensor, image: Tensor, rival: Tensor, count: Count) -> Tensor:
        """Of each pair the image that the search begins at: the given one where the rival wins there, else x. [M, n]"""
        known = start.isfinite().flatten(1).all(1)
        start = torch.where(per_image(known, x), start, x)
        count(len(x), 0)
        wins = (logits_of(self.model, start).argmax(1)[image] == rival)[:, None]
        return torch.where(wins, start.flatten(1)[image], x.flatten(1)[image])


def _nearest_rivals(at_x: Tensor) -> Tensor:
    """Image and class of the `RIVALS` nearest rivals of each image, [M, 2]; of none that has no ball around x."""
    count = min(RIVALS, at_x.shape[1] - 1)
    radii, classes = at_x.topk(count, dim=1, largest=False)
    positive = (radii > 0) & radii.isfinite() & (at_x > 0).all(1, keepdim=True)
    image, place = positive.nonzero().unbind(1)
    return torch.stack([image, classes[image, place]], 1)


def _difference(logits: Tensor, label: Tensor, rival: Tensor) -> Tensor:
    """z_y - z_k, [M]."""
    rows = torch.arange(len(logits), device=logits.device)
    return logits[rows, label] - logits[rows, rival]
