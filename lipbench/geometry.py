"""Geometry of the box of images [0, 1]^n: shapes [N, C, H, W], one problem per image."""

import torch
from torch import Tensor

# Newton's method on a convex, piecewise linear function: it ends after as many steps as it crosses kinks; a handful.
STEPS = 20
# Halvings of an interval: as many as float32 has digits.
BISECTIONS = 24


def per_image(values: Tensor, x: Tensor) -> Tensor:
    """[N] -> [N, 1, 1, 1], to be multiplied with images."""
    return values.view(-1, *[1] * (x.ndim - 1))


def unit(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Each gradient divided by its norm, and the norm [N]; a gradient of zero stays zero."""
    # Scaled first: the squares of small numbers underflow.
    largest = gradient.flatten(1).abs().amax(1)
    scaled = gradient / per_image(largest.where(largest > 0, 1.0), gradient)
    norm = scaled.flatten(1).norm(dim=1)
    return scaled / per_image(norm.where(norm > 0, 1.0), gradient), norm * largest


def onto_halfspace(x: Tensor, normal: Tensor, level: Tensor) -> Tensor:
    """The nearest image p of the box with <normal, p> <= level: p = clamp(x - t normal).

    The minimiser of a distance under one linear and the box constraints has this form (its Lagrange conditions). The
    scalar product falls with t, convex and piecewise linear, so Newton's method finds t from the left. Where even the
    corner of the box is not enough, the corner is returned.

    Args:
        x: images in [0, 1].
        normal: of norm 1 (or 0: then x itself).
        level: [N].
    """
    start, slope = x.flatten(1), normal.flatten(1)
    t = torch.zeros_like(level)
    todo, before = torch.arange(len(x), device=x.device), torch.full_like(level, torch.inf)
    from_, along, below = start, slope, level
    for _ in range(STEPS):
        moved = from_ - t[todo, None] * along
        clamped = moved.clamp(0, 1)
        excess = (along * clamped).sum(1) - below
        # In the box pixels only ever arrive at their bounds: the sum is the last one if and only if none arrived since.
        steepness = (along.square() * (moved == clamped)).sum(1)
        # Where every pixel that the normal moves is at its bound, the corner is reached.
        t[todo] = (t[todo] + excess.clamp_min(0) / steepness.clamp_min(1e-12)).clamp(max=1e12)
        rest = ((excess > 0) & (steepness < before)).nonzero()[:, 0]
        if not len(rest):
            break
        before = steepness[rest]
        if len(rest) < len(todo):
            todo, from_, along, below = todo[rest], from_[rest], along[rest], below[rest]
    return (start - t[:, None] * slope).clamp(0, 1).view_as(x)


def onto_ball(x: Tensor, images: Tensor, radius: Tensor) -> Tensor:
    """Images pulled towards x until they are at most `radius` [N] away; inside the box where both were."""
    offset = images - x
    length = offset.flatten(1).norm(dim=1)
    factor = (radius.to(length) / length.clamp_min(torch.finfo(length.dtype).tiny)).clamp(max=1)
    return x + offset * per_image(factor, x)


def onto_cube(x: Tensor, images: Tensor, radius: Tensor) -> Tensor:
    """The nearest images whose pixels differ from x by at most `radius` [N]; inside the box where both were."""
    r = per_image(radius.to(x), x)
    return torch.minimum(torch.maximum(images, x - r), x + r)


def onto_cross(x: Tensor, images: Tensor, radius: Tensor) -> Tensor:
    """The nearest images in the box whose L1 distance from x, in the box, is at most `radius` [N]
    (Croce and Hein, 2021, arXiv 2103.01208, proposition 2.1).

    Pixels keep the sign of their change, and its size falls by the same t for all, at least to 0 and at least to the
    bound of the box. The L1 distance falls with t, so bisection finds t.
    """
    offset = images - x
    room = torch.where(offset > 0, 1 - x, x)
    size = offset.abs()
    low, high = torch.zeros_like(radius.to(x)), size.flatten(1).amax(1)

    def shrunk(t: Tensor) -> Tensor:
        return torch.minimum((size - per_image(t, x)).clamp_min(0), room)

    inside = shrunk(low).flatten(1).sum(1) <= radius
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        far = shrunk(middle).flatten(1).sum(1) > radius
        low, high = torch.where(far, middle, low), torch.where(far, high, middle)
    return (x + offset.sign() * shrunk(torch.where(inside, 0.0, high))).clamp(0, 1)
