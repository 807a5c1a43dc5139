"""Carlini and Wagner's L2 attack, batched, with a search over c for every image."""

import math

import torch
from torch import Tensor, nn

from lipbench.attacks.engine import minimum_distance
from lipbench.geometry import per_image, unit
from lipbench.judge import distance
from lipbench.margins import gradient_of, margin, margin_and_gradient, with_gradient

# x = clamp(0.5 + REACH tanh(w)): with more than 0.5, pixels of exactly 0 and 1 have a finite w and a slope of their
# own. w stays where x does not leave [0, 1]: a pixel beyond its bound would have no slope that brings it back.
REACH = 0.55
LIMIT = math.atanh(0.5 / REACH)
# The last step is this share of the first.
LAST = 0.03


@minimum_distance
def carlini_wagner(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    searches: int = 6,
    steps: int = 100,
    lr: float = 1.5,
    start: Tensor | None = None,
) -> Tensor:
    """Minimises ||x' - x||^2 + c max(0, margin(x')) over w, x' = box(w) (Carlini and Wagner, 2017, arXiv 1608.04644,
    section V.A).

    Differs from the paper where its implementations fail: the margin is divided by the norm of its gradient at x, so
    that scale and shift of the logits change nothing and c has the unit of a distance (at a minimum 2 d = c); c starts
    at the linear estimate of that and is searched for each image on its own, until its bracket is closed to 1 %; pixels
    of 0 and 1 can move; later searches start at the best image so far, so that c has succeeded only where the second
    half of a search still met misclassified images.

    Args:
        searches: values of c tried per image.
        steps: steps of Adam for each.
        lr: length of Adam's first steps relative to the distance known so far, decaying to a thirtieth: a pixel
            moves by at most lr distance / sqrt(pixels) a step, on images near the boundary as on images far from it.
            Long first steps reach other basins; they double after each search that has not reached the boundary.
        start: images to begin at; None: x.
    """
    value, gradient = margin_and_gradient(model, x, y)
    slope = unit(gradient)[1]
    slope = slope.where(slope > 0, 1.0)
    reach = (value / slope).clamp(1e-6, 1e3)
    low, high = torch.zeros_like(reach), torch.full_like(reach, torch.inf)
    best, shortest = x.clone(), torch.full_like(reach, torch.inf)
    if start is not None:
        length = distance(x, start).to(reach)
        best, shortest = start.clone(), length.where(length > 0, torch.inf)
    c = 2 * torch.minimum(reach, shortest)
    longer = torch.ones_like(reach)
    for _ in range(searches):
        rows = (high - low > 1e-2 * low).nonzero()[:, 0]
        if not len(rows):
            break
        pace = lr * (longer * torch.minimum(shortest, reach * 4))[rows] / x[0].numel() ** 0.5
        images, lengths, success = _descend(model, x[rows], y[rows], best[rows], (c / slope)[rows], steps, pace)
        better = lengths < shortest[rows]
        best[rows[better]], shortest[rows[better]] = images[better], lengths[better]
        longer[rows[shortest[rows].isinf()]] *= 2
        low[rows[~success]], high[rows[success]] = c[rows[~success]], c[rows[success]]
        c = torch.where(high.isfinite(), (low + high) / 2, 2 * c)
    return best


def _descend(
    model: nn.Module, x: Tensor, y: Tensor, start: Tensor, weight: Tensor, steps: int, pace: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """One run of Adam: the nearest misclassified image met on the way, its distance (inf where there was none), and
    whether the second half of the way met any.
    """
    origin = torch.atanh((start - 0.5) / REACH)
    pace = per_image(pace, x)
    low, high = (-LIMIT - origin) / pace, (LIMIT - origin) / pace
    # Short memories: the margin's gradient changes its direction along the way (measured on MNIST: 1 % nearer images).
    # Adam moves each entry of v by at most about its learning rate, for any gradient: w = origin + pace v. Its
    # usual eps would stop images near the boundary, whose gradients are as small as their distances.
    v = torch.zeros_like(origin).requires_grad_()
    optimizer = torch.optim.Adam([v], lr=1.0, betas=(0.8, 0.9), eps=1e-30)
    best, shortest = start.clone(), torch.full_like(weight, torch.inf)
    success = torch.zeros_like(weight, dtype=torch.bool)
    for step in range(steps):
        images = 0.5 + REACH * torch.tanh(origin + pace * v)
        images = images + (images.clamp(0, 1) - images).detach()  # rounding takes no pixel's slope
        excess = margin(with_gradient(model, images), y)
        objective = (images - x).square().flatten(1).sum(1) + weight * excess.clamp_min(0)
        with torch.no_grad():
            length = distance(x, images).to(weight)
            better = (excess < 0) & (length < shortest)
            best = torch.where(per_image(better, x), images, best)
            shortest = torch.where(better, length, shortest)
            success |= (excess < 0) & (2 * step >= steps)
        if step == steps - 1:
            break
        optimizer.param_groups[0]["lr"] = LAST ** (step / steps)
        v.grad = gradient_of(objective.sum(), v)
        optimizer.step()
        with torch.no_grad():
            v.clamp_(low, high)
    return best.detach(), shortest, success
