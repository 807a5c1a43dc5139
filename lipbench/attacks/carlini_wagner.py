"""Carlini and Wagner's L2 attack, batched, with a search over c for every image."""

import torch
from torch import Tensor, nn

from lipbench.attacks.boundary import to_boundary
from lipbench.attacks.judging import distance, margin, margin_and_gradient, undisturbed

# x = clamp(0.5 + REACH tanh(w)): with more than 0.5, pixels of exactly 0 and 1 have a finite w and a slope of their
# own.
REACH = 0.55


def carlini_wagner(
    model: nn.Module, x: Tensor, y: Tensor, *, searches: int = 6, steps: int = 50, lr: float = 0.3
) -> Tensor:
    """Minimises ||x' - x||^2 + c max(0, margin(x')) over w, x' = box(w) (Carlini and Wagner, 2017, arXiv 1608.04644,
    section V.A).

    Differs from the paper where its implementations fail: the margin is divided by the norm of its gradient at x, so
        that scale and shift of the
    logits change nothing and c has the unit of a distance (at a minimum 2 d = c); c starts at the linear estimate of
    that and is searched for each image on its own; pixels of 0 and 1 can move; later searches start at the best image
    so far.

    Args:
        x: images [N, C, H, W] in [0, 1].
        searches: values of c tried per image.
        steps: steps of Adam for each.
        lr: length of Adam's first steps relative to the distance known so far, decaying to a tenth of it: a pixel
            moves by at most lr distance / sqrt(pixels) a step, on images near the boundary as on images far from it.
    """
    with undisturbed(model):
        value, gradient = margin_and_gradient(model, x, y)
        slope = gradient.flatten(1).norm(dim=1)
        slope = torch.where(slope > 0, slope, torch.ones_like(slope))
        reach = (value / slope).clamp(1e-6, 1e3)
        c = 2 * reach
        low, high = torch.zeros_like(c), torch.full_like(c, torch.inf)
        best, shortest = x.clone(), torch.full_like(c, torch.inf)
        for _ in range(searches):
            start = torch.where(shortest.isfinite().view(-1, 1, 1, 1), best, x)
            pace = lr * torch.minimum(shortest, reach * 4) / x[0].numel() ** 0.5
            images, lengths = _descend(model, x, y, start, c / slope, steps, pace)
            success = lengths.isfinite()
            better = lengths < shortest
            best = torch.where(better.view(-1, 1, 1, 1), images, best)
            shortest = torch.where(better, lengths, shortest)
            low, high = torch.where(success, low, c), torch.where(success, c, high)
            c = torch.where(high.isfinite(), (low + high) / 2, 2 * c)
        return to_boundary(model, x, best, y)


def _descend(
    model: nn.Module, x: Tensor, y: Tensor, start: Tensor, weight: Tensor, steps: int, pace: Tensor
) -> tuple[Tensor, Tensor]:
    """One run of Adam: the nearest misclassified image met on the way, and its distance (inf where there was none)."""
    origin = torch.atanh((start - 0.5) / REACH)
    pace = pace.view(-1, 1, 1, 1)
    # Short memories: the margin's gradient changes its direction along the way (measured on MNIST: 1 % nearer images).
    # Adam moves each entry of v by at most about its learning rate, whatever the gradient: w = origin + pace v.
    v = torch.zeros_like(origin).requires_grad_()
    optimizer = torch.optim.Adam([v], lr=1.0, betas=(0.8, 0.9))
    best, shortest = start.clone(), torch.full_like(weight, torch.inf)
    for step in range(steps):
        images = (0.5 + REACH * torch.tanh(origin + pace * v)).clamp(0, 1)
        excess = margin(model(images), y)
        objective = (images - x).square().flatten(1).sum(1) + weight * excess.clamp_min(0)
        with torch.no_grad():
            length = distance(x, images).to(weight)
            better = (excess < 0) & (length < shortest)
            best = torch.where(better.view(-1, 1, 1, 1), images, best)
            shortest = torch.where(better, length, shortest)
        if step == steps - 1:
            break
        optimizer.param_groups[0]["lr"] = 1 - 0.9 * step / steps
        (v.grad,) = torch.autograd.grad(objective.sum(), v)
        optimizer.step()
    return best.detach(), shortest
