"""From an image to somewhere near the boundary, in a few passes."""

import math

import torch
from torch import Tensor

from lipbench.attacks.engine.sliding import margin_in_distance
from lipbench.geometry import onto_halfspace, per_image, unit
from lipbench.judge import Classifier, distance
from lipbench.margins import gradient_of, gradients_of, margin

# No step is shorter than this share of the distance from x, so that the boundary is crossed.
CRAWL = 0.1
# Relative change of the radius in the first steps of an oscillation, and its growth before any success.
CHANGE, GROWTH = 0.1, 0.2


def oscillate(model: Classifier, x: Tensor, y: Tensor, *, steps: int, start: Tensor | None = None) -> Tensor:
    """Steps along the gradient on a sphere around x that shrinks where the image is misclassified and grows where it is
    not, as in DDN; its nearest misclassified image, or its last image where there is none.

    Args:
        steps: forward and backward passes.
        start: images to begin at, and with them the first radius; None: x. At x it is the linearised distance.
    """
    images, best = x.clone() if start is None else start.clone(), x.clone()
    shortest = torch.full((len(x),), torch.inf, dtype=torch.float64, device=x.device)
    radius = unit(images - x)[1]
    for step in range(steps if len(x) else 0):
        shrinking = (1 + math.cos(math.pi * step / steps)) / 2
        value, normal = margin_in_distance(model, images, y)
        length = distance(x, images)
        success = value < 0
        better = success & (length < shortest)
        best = torch.where(per_image(better, x), images, best)
        shortest = torch.where(better, length, shortest)
        change = CHANGE * max(shrinking, 0.01)
        # Far from any misclassified image the radius grows fast: the linearised distance may be far too short.
        outward = torch.where(shortest.isinf(), 1 + GROWTH, 1 + change)
        changed = torch.where(success, (1 - change) * torch.minimum(radius, length.to(radius)), outward * radius)
        radius = torch.where(radius > 0, changed, value.abs().clamp(1e-6, x[0].numel() ** 0.5))
        pace = radius * max(shrinking, 0.01)
        offset, _ = unit(images - x - per_image(pace, x) * normal)
        images = (x + per_image(radius, x) * offset).clamp(0, 1)
    return torch.where(per_image(shortest.isfinite(), x), best, images)


def approach(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    *,
    steps: int,
    share: float,
    rival: Tensor | None = None,
) -> Tensor:
    """DeepFool towards one class; an image stops once it is misclassified.

    Args:
        steps: forward and backward passes, at most.
        share: of the way to the linearised boundary that a step goes, in (0, 1].
        rival: class [N]; None: the one with the largest logit after each step.
    """
    images = x.clone()
    todo = torch.arange(len(x), device=x.device)
    for _ in range(steps):
        if not len(todo):
            break
        here = images[todo].requires_grad_()
        with torch.enable_grad():
            logits = model(here)
            value = margin(logits, y[todo])
            open_ = value.detach() > 0
            if rival is not None:
                value = (logits.gather(1, y[todo, None]) - logits.gather(1, rival[todo, None]))[:, 0]
        gradient = gradient_of(value.sum(), here)
        here, value = here.detach(), value.detach()
        normal, slope = unit(gradient)
        whole = value / slope.where(slope > 0, torch.inf)
        least = CRAWL * (distance(x[todo], here).to(whole) + whole)
        descent = torch.maximum(share * whole, torch.minimum(1.02 * whole, least))
        moved = onto_halfspace(here, normal, (normal * here).flatten(1).sum(1) - descent)
        images[todo[open_]] = moved[open_]
        todo = todo[open_]
    return images


def rivals(model: Classifier, x: Tensor, y: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The other classes with the nearest linearised boundaries in the box, nearest first, these distances, [N, M] each,
    and the nearest images of the first ones.

    One forward pass, and a backward pass for each of the `count` classes with the largest logits.
    """

    def gaps(images: Tensor) -> Tensor:
        logits = model(images)
        found.append(logits.detach().scatter(1, y[:, None], -torch.inf).topk(min(count, logits.shape[1] - 1)).indices)
        return logits.gather(1, y[:, None]) - logits.gather(1, found[-1])

    found: list[Tensor] = []
    values, gradients = gradients_of(gaps, x)
    normals, slopes = unit(gradients.flatten(0, 1))
    origin = x.repeat_interleave(values.shape[1], 0)
    level = (normals * origin).flatten(1).sum(1) - values.flatten() / slopes.where(slopes > 0, 1.0)
    reached = onto_halfspace(origin, normals, level)
    distances = distance(origin, reached).to(values).where(slopes > 0, torch.inf).view_as(values)
    order = distances.argsort(1)
    nearest = reached.view(*values.shape, *x.shape[1:])[torch.arange(len(x), device=x.device), order[:, 0]]
    return found[-1].gather(1, order), distances.gather(1, order), nearest
