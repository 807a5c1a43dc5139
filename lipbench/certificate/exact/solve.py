"""The exact distance of each image of a batch: `solve`, and the method `certificate_exact`."""

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from lipbench.certificate.exact.search import Found, search
from lipbench.certificate.exactness import Unbounded
from lipbench.certificate.relaxation.crown import radii_of
from lipbench.certificate.relaxation.piecewise import Step, steps_of
from lipbench.images import check_batch, check_labels
from lipbench.precision import OUTWARD
from lipbench.progress import SILENT, Progress

# The first radius that is searched, relative to CROWN's, and by how much it grows until an image is found.
FIRST, GROWTH = 1.5, 1.5
# The first radius where CROWN proves nothing.
SMALL = 0.1


@torch.no_grad()
def certify_exact(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    seconds: float = 60.0,
    gap: float = 1e-6,
    progress: Callable[..., Progress] = SILENT,
) -> Tensor:
    """The method `certificate_exact`: the L2 distance to the nearest adversarial image of [0, 1]^n, up to the gap,
    [N] float64. Where the time was too short, the largest distance proved by then; inf where the whole box is proved to
    hold no adversarial image.

    It rests on the weights, the box and weak duality; no Lipschitz constant and no attack enters.

    Args:
        model, x, y, seconds, gap: as in `solve`.
        progress: called with the number of images to be solved, gives what is told of them (`lipbench.progress`).

    Raises:
        ValueError: as `solve`.
    """
    return solve(model, x, y, seconds=seconds, gap=gap, progress=progress)[0]


@torch.no_grad()
def solve(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    start: Tensor | None = None,
    seconds: float = 60.0,
    gap: float = 1e-6,
    margins: Tensor | None = None,
    progress: Callable[..., Progress] = SILENT,
) -> tuple[Tensor, Tensor]:
    """The distance of each image to the nearest adversarial one in [0, 1]^n, proved, and where that one lies.

    Branch and bound: within the distance of the nearest adversarial image known, most relus have a known sign (MaxMin,
    sorts and max pooling are relus of differences). A quadratic program relaxes the others by their triangles. Its dual
    value, rounded down, is the bound of a part; the signs of one relu make two parts of it. First, programs over the
    ball narrow what goes into the relus. Tjeng et al. (2019, 1711.07356) solve a mixed-integer program.

    Args:
        model: baked, in evaluation mode: nested `nn.Sequential` of layers that `piecewise` knows.
        x, y: images [N, C, H, W] in [0, 1], labels [N].
        start: adversarial images known, [N, C, H, W]; an image equal to x counts as none. None: none is known.
        seconds: at most, of each image.
        gap: an image is solved when its lower bound is within this share of the distance found.
        margins: [N]; an image counts as adversarial where another logit is larger by so much. None: 0.

    Returns:
        lower: [N] float64: no image nearer is misclassified by the float64 network; 0 where the model does not say y.
        points: [N, C, H, W] float64, on the boundary up to rounding; x itself where none was found nearer than `start`.

    Raises:
        ValueError: a layer of another kind; a gap or a time that is not positive.
    """
    if not (seconds > 0 and 0 < gap < 1):
        raise ValueError(f"exact needs seconds > 0 and a gap between 0 and 1, not {seconds} and {gap}.")
    check_batch(x, y)
    steps = _steps(model, tuple(x.shape[1:]))
    logits = model(x.clone())
    check_labels(y, logits.shape[1])
    rows = (logits.argmax(1) == y).nonzero()[:, 0]
    lower, points = torch.zeros(len(x), dtype=torch.float64, device=x.device), x.double().clone()
    with progress(len(rows)) as bar:
        for i in rows.tolist():
            first, margin = (None if known is None else known[i] for known in (start, margins))
            found = _found(steps, x[i], int(y[i]), logits[i], first, gap, time.monotonic() + seconds, margin)
            lower[i] = found.lower / OUTWARD
            if found.delta is not None:
                points[i] = (points[i] + torch.from_numpy(found.delta).to(points).view_as(points[i])).clamp(0, 1)
            bar.update()
    return lower, points


def _steps(model: nn.Module, shape: tuple[int, ...]) -> list[Step]:
    try:
        return steps_of(model, shape)
    except Unbounded as error:
        text = f"exact cannot solve this network: {error.why}" + (f": {error.remedy}" if error.remedy else "")
        raise ValueError(text) from error


def _found(
    steps: list[Step],
    x: Tensor,
    label: int,
    logits: Tensor,
    start: Tensor | None,
    gap: float,
    until: float,
    margin: Tensor | None,
) -> Found:
    """What `search` finds for one image within the distance that is known, or within radii that grow until an image is
    found.
    """
    flat = x.double().flatten().cpu()
    # The nearest class first: what it finds bounds the search of the others.
    others = [k for k in logits.argsort(descending=True).tolist() if k != label]
    proved = float(radii_of(steps, flat[None], torch.tensor([label]), 12)[0])
    beyond = 0.0 if margin is None else float(margin)
    known = 0.0 if start is None else float((start.double() - x.double()).norm())
    diagonal = math.sqrt(len(flat)) * OUTWARD  # of the box
    largest = 1.01 * diagonal
    radius = known * OUTWARD if known else min(largest, FIRST * proved or SMALL)
    while True:
        found = search(steps, flat.numpy(), label, others, Found(radius), gap, until, beyond)
        found.lower = proved = max(proved, found.lower)
        if found.delta is not None or known or proved < radius * (1 - gap):
            return found
        if radius >= largest:
            if proved >= diagonal:  # a large gap is reached before the whole box is searched
                found.lower = math.inf
            return found
        radius = min(largest, GROWTH * radius)
