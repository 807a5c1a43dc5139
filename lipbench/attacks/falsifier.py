"""A search for what a certificate excludes: the attack `lipbench` in float64, then the float32 images around the point
where it crosses the boundary.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lipbench.attacks.engine.boundary import nearest, to_boundary
from lipbench.attacks.engine.searching import usable
from lipbench.attacks.lipbench import lipbench
from lipbench.geometry import onto_halfspace, per_image, unit
from lipbench.images import check_attacked
from lipbench.judge import Classifier, Judge, distance
from lipbench.margins import margin, margin_and_gradient
from lipbench.modules import duplicate, evaluation_mode, undisturbed
from lipbench.randomness import keys, uniform

# Projections on the tangent plane, in float64, after the attack; bisections of the ray: to the last bit of a distance.
REFINEMENTS, BISECTIONS = 4, 48
# Noise on the pixels, in units of 2^-24: it changes the rounding of every sum, and a distance hardly at all.
AMPLITUDES = (0.0, 1.0, 4.0, 16.0, 64.0)
# Shares of the band in which float32 and float64 disagree, by which an image is moved inwards at once.
SHARES = (1.0, 0.5, 0.25, 0.1, 0.03, 0.01, 0.003)

Wrong = Callable[[Tensor, Tensor], Tensor]


def falsifier(
    model: nn.Module, x: Tensor, y: Tensor, *, rounds: int = 60, seed: int = 0, start: Tensor | None = None
) -> Tensor:
    """Adversarial images as near as float32 allows: to be held against a certificate.

    The attack `lipbench` in float64 finds a point of the boundary and projects x on its tangent plane. Then float32
    images on both sides of that point are tried: pixels rounded at random, up or down, or so that the margin falls, and
    moved by their last bits (a rounding search after Jin, Ohrimenko and Rubinstein, 2022, arXiv 2205.10159).

    Args:
        rounds: images tried of each.
        start: the nearest images known so far.

    Returns:
        images [N, C, H, W] of [0, 1]; x itself where nothing is found, or x is misclassified.
    """
    return _search(model, x, y, rounds, seed, start, deployed=False)


def falsifier_float32(
    model: nn.Module, x: Tensor, y: Tensor, *, rounds: int = 60, seed: int = 0, start: Tensor | None = None
) -> Tensor:
    """As `falsifier`, for images that the float32 network misclassifies, right or wrong in float64: no
    adversarial examples, but what `certificate_float` excludes as well.
    """
    return _search(model, x, y, rounds, seed, start, deployed=True)


def _search(
    model: nn.Module, x: Tensor, y: Tensor, rounds: int, seed: int, start: Tensor | None, deployed: bool
) -> Tensor:
    check_attacked(x, y)
    x = x.detach()
    with undisturbed(model):
        judge = Judge(model)
        wrong: Wrong = judge.deployed if deployed else judge
        result = x.clone()
        rows = (~wrong(x, y)).nonzero()[:, 0]
        if not len(rows):
            return result
        origin, labels = x[rows], y[rows]
        first = None if start is None else start[rows]
        point, normal = _boundary_point(judge.model, origin, labels, first)
        known = (point != origin.double()).flatten(1).any(1).nonzero()[:, 0]
        if len(known):
            result[rows[known]] = _around(
                judge, wrong, origin[known], labels[known], point[known], normal[known], rounds, seed
            )
        return result


def _boundary_point(model: Classifier, x: Tensor, y: Tensor, start: Tensor | None) -> tuple[Tensor, Tensor]:
    """The nearest point known of the boundary, in float64, and the unit gradient of the margin there; x itself where
    none is known.
    """
    wide, exact = x.double(), _double(model, x)
    if exact is None:
        point = lipbench(model, x, y, start=start).double()
        return point, torch.zeros_like(wide)
    point = lipbench(exact, wide, y, start=None if start is None else start.double())
    if start is not None:
        point = nearest(wide, point, usable(exact, wide, y, start.double()))
    point = to_boundary(exact, wide, point, y, steps=BISECTIONS)
    for _ in range(REFINEMENTS):
        value, gradient = margin_and_gradient(exact, point, y)
        normal, slope = unit(gradient)
        level = (normal * point).flatten(1).sum(1) - value / slope.where(slope > 0, 1.0)
        projected = onto_halfspace(wide, normal, level)
        point = nearest(wide, to_boundary(exact, wide, projected, y, steps=BISECTIONS), point)
    normal = unit(margin_and_gradient(exact, point, y)[1])[0]
    model.passes += exact.passes
    return point, normal


def _double(model: Classifier, x: Tensor) -> Classifier | None:
    """A copy in float64; None where it cannot be computed with."""
    try:
        exact = Classifier(evaluation_mode(duplicate(model.model).double()))
        with torch.no_grad():
            logits = exact(x[:1].double())
        return exact if logits.dtype == torch.float64 else None
    except Exception:  # a user's module can raise anything
        return None


@torch.no_grad()
def _around(
    judge: Judge, wrong: Wrong, x: Tensor, y: Tensor, point: Tensor, normal: Tensor, rounds: int, seed: int
) -> Tensor:
    """The nearest image found around a point of the boundary; x where none is."""
    wide = x.double()
    direction, length = unit(point - wide)
    best = to_boundary(judge.model, x, point.to(x.dtype), y)
    shortest = distance(x, best).where(wrong(best, y), torch.inf)
    band, key = _band(judge, point.to(x.dtype), y, length), keys(x, seed)
    for number in range(rounds):
        share = SHARES[number % len(SHARES)]
        # Inwards from the best one; every other time between it and the point itself.
        inner = torch.minimum(shortest, length + band) - share * band
        middle = length + share**2 * (shortest.clamp(max=2 * length) - length)
        reach = torch.where(torch.tensor(number % 2 == 0, device=x.device), inner, middle)
        amplitude = AMPLITUDES[number // 2 % len(AMPLITUDES)] * 2.0**-24
        noise = 2 * uniform(key, tuple(x.shape[1:]), 2 * number).double() - 1
        exact = wide + per_image(reach, x) * direction + amplitude * noise
        images = _rounded(exact, normal, uniform(key, tuple(x.shape[1:]), 2 * number + 1), number // 3 % 3, x.dtype)
        found = distance(x, images)
        better = (found < shortest) & wrong(images, y)
        best = torch.where(per_image(better, x), images, best)
        shortest = torch.where(better, found, shortest)
    return torch.where(per_image(shortest.isfinite(), x), best, x)


def _band(judge: Judge, images: Tensor, y: Tensor, length: Tensor) -> Tensor:
    """How far from the boundary float32 and float64 may disagree, [N]: from how much they do at it."""
    exact, deployed = judge.model.exact(images), margin(judge.model(images), y).double()
    with torch.enable_grad():
        slope = unit(margin_and_gradient(judge.model, images, y)[1])[1].double()
    off = deployed.abs() if exact is None else (margin(exact, y) - deployed).abs()
    return 4 * off / slope.where(slope > 0, 1.0) + 4 * torch.finfo(images.dtype).eps * length


def _rounded(exact: Tensor, normal: Tensor, chance: Tensor, kind: int, dtype: torch.dtype) -> Tensor:
    """Images of this type: the nearest ones (0), each pixel up or down at random (1), or the way that the margin falls
    (2).
    """
    images = exact.to(dtype)
    if kind:
        beyond = images.double() < exact if kind == 1 else normal < 0
        up = torch.nextafter(images, torch.full_like(images, torch.inf))
        down = torch.nextafter(images, torch.full_like(images, -torch.inf))
        if kind == 1:  # between the two neighbours of the exact number
            other = torch.where(beyond, up, down)
            images = torch.where(chance < 0.5, images, other)
        else:
            images = torch.where(beyond, up, torch.where(normal > 0, down, images))
    return images.clamp(0, 1)
