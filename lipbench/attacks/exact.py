"""The distance to the nearest adversarial image of small networks as a bracket, and the attack `exact`.

Needs the extra `exact`: pip install lipbench[exact]
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lipbench.attacks.engine.boundary import nearest
from lipbench.attacks.engine.searching import usable
from lipbench.attacks.lipbench import lipbench
from lipbench.certificate.exact.solve import solve
from lipbench.geometry import per_image
from lipbench.judge import Classifier, Judge, distance
from lipbench.modules import undisturbed

# Steps beyond the boundary, relative to the distance, until both precisions agree that the image is adversarial.
OUTWARDS = tuple(4.0**k * 1e-9 for k in range(13))
# Where the region of adversarial images is so thin that no ray enters it, a second search asks for a margin, relative
# to the logits.
MARGINS = (3e-7, 1e-6, 1e-5, 1e-4)
# An image that is farther than the boundary by a larger share asks for it.
CLOSE = 1e-5


class Exact(NamedTuple):
    """Of each image: no adversarial image is nearer than `lower`, [N]; `images` [N, C, H, W] are adversarial at the
    distance `upper`, [N]. Distances are 0 where x itself is misclassified; `upper` is inf where no image was found.
    """

    lower: Tensor
    upper: Tensor
    images: Tensor


def exact(model: nn.Module, x: Tensor, y: Tensor, *, seconds: float = 60.0, gap: float = 1e-6) -> Exact:
    """The L2 distance of each image to the nearest adversarial image of [0, 1]^n, from both sides.

    The attack `lipbench` begins, and `lipbench.certificate.exact.solve` proves, or finds nearer images. `lower` and
    `upper` differ by the gap and by the rounding of the model: an image of float32 has to be misclassified by the model
    as deployed and by its float64 weights. Where the time was too short, the bracket is wider, and holds.

    Args:
        model: baked, in evaluation mode: nested `nn.Sequential` of dense layers, convolutions, ReLU, LeakyReLU, Abs,
            MaxMin, GroupSort, FullSort, average and max pooling, ...; small, see docs/baselines.md.
        x: images [N, C, H, W] in [0, 1].
        y: labels [N].
        seconds: at most, of each image, besides the attack.
        gap: relative, at which an image is solved.

    Raises:
        ValueError: a network that cannot be written as affine maps and relus; its message names the layer.
    """
    x = x.detach()
    with undisturbed(model):
        classifier = Classifier.of(model)
        judge = Judge(classifier)
        first = lipbench(classifier, x, y)
        lower, points = solve(classifier.model, x, y, start=first, seconds=seconds, gap=gap)
        images = nearest(x, usable(classifier, x, y, first), _outward(judge, x, points, y))
        images = _inside(judge, classifier.model, x, y, points, images, seconds=seconds, gap=gap)
        wrong = judge(images, y)
        upper = distance(x, images).where(wrong, torch.inf).masked_fill(judge(x, y), 0.0)
        return Exact(lower, upper, images)


def exact_attack(model: nn.Module, x: Tensor, y: Tensor, *, seconds: float = 60.0, gap: float = 1e-6) -> Tensor:
    """The attack `exact`: the images of `exact`, x itself where none was found."""
    return exact(model, x, y, seconds=seconds, gap=gap).images


@torch.no_grad()
def _inside(
    judge: Judge, model: nn.Module, x: Tensor, y: Tensor, points: Tensor, images: Tensor, **limits: Any
) -> Tensor:
    """Nearer images where none of `images` is close to the points of the boundary: those of a search for a margin.

    Args:
        limits: seconds and gap of `solve`.
    """
    images, reached, length = images.clone(), distance(x, points), distance(x, images)
    rows = ((reached > 0) & ((length == 0) | (length > (1 + CLOSE) * reached))).nonzero()[:, 0]
    for share in MARGINS:
        if not len(rows):
            break
        margins = share * model(x[rows]).double().abs().amax(1)
        found = solve(model, x[rows], y[rows], start=images[rows], margins=margins, **limits)[1]
        inside = _outward(judge, x[rows], found, y[rows])
        images[rows] = nearest(x[rows], images[rows], inside)
        rows = rows[(inside == x[rows]).flatten(1).all(1)]
    return images


@torch.no_grad()
def _outward(judge: Judge, x: Tensor, points: Tensor, y: Tensor) -> Tensor:
    """The first images on the rays from x through points of the boundary that are surely adversarial; x where none is.

    Args:
        points: [N, C, H, W] float64; x itself where there is none.
    """
    result, delta = x.clone(), points - x.double()
    rows = (delta != 0).flatten(1).any(1).nonzero()[:, 0]
    for share in OUTWARDS:
        if not len(rows):
            break
        images = (x[rows].double() + (1 + share) * delta[rows]).clamp(0, 1).to(x.dtype)
        sure = judge.surely(images, y[rows])
        result[rows] = torch.where(per_image(sure, images), images, result[rows])
        rows = rows[~sure]
    return result
