"""DeepFool, batched, with steps that respect the box."""

import torch
from torch import Tensor, nn

from lipbench.attacks.boundary import to_boundary
from lipbench.attacks.judging import Judge, margin, undisturbed


def deepfool(
    model: nn.Module, x: Tensor, y: Tensor, *, steps: int = 50, overshoot: float = 0.02, candidates: int = 10
) -> Tensor:
    """DeepFool (Moosavi-Dezfooli et al., 2016, arXiv 1511.04599, algorithm 2): to the nearest linearised boundary,
    again and again.

    Differs from the paper in two points: the step is the shortest one *inside the box* that reaches the linearised
        boundary (the paper's
    is clipped and falls short on images of 0s and 1s), and the last image is bisected to the boundary.

    Args:
        x: images [N, C, H, W] in [0, 1].
        steps: at most; an image leaves the batch once it is misclassified.
        overshoot: relative, so that the boundary is crossed and not only reached.
        candidates: classes with the largest logits that are considered, one backward pass each.
    """
    with undisturbed(model):
        margin(model(x[:1]), y[:1])  # refuses a network with one logit, by name
        images = x.clone()
        todo = torch.arange(len(x), device=x.device)
        for _ in range(steps):
            logits, gaps, gradients = _linearize(model, images[todo], y[todo], candidates)
            open_ = ~Judge.misclassified(logits, y[todo])
            todo, gaps, gradients = todo[open_], gaps[open_], gradients[open_]
            if not len(todo):
                break
            norms = gradients.flatten(2).norm(dim=2)
            nearest_class = (gaps / norms.clamp_min(1e-30)).masked_fill(norms == 0, torch.inf).argmin(1)
            rows = torch.arange(len(todo), device=x.device)
            gap, normal = gaps[rows, nearest_class], gradients[rows, nearest_class]
            images[todo] = step_in_box(images[todo], normal, (1 + overshoot) * gap)
        return to_boundary(model, x, images, y)


def step_in_box(x: Tensor, normal: Tensor, descent: Tensor) -> Tensor:
    """The nearest image in [0, 1] at which the linear function with this gradient has fallen by `descent`: clamp(x - t
    normal).

    The minimiser of a distance under one linear and the box constraints has this form (its Lagrange conditions), and
    the fall grows with t: a bisection finds t. Where even the corner of the box is not enough, the corner is returned.

    Args:
        x, normal: [N, C, H, W].
        descent: [N], >= 0.
    """
    norm = normal.double().flatten(1).norm(dim=1)
    flat = norm == 0  # no direction falls: stay
    norm = norm.masked_fill(flat, 1.0)
    unit, start = normal.double() / norm.view(-1, 1, 1, 1), x.double()
    target = (descent.double() / norm).masked_fill(flat, 0.0)
    low, high = torch.zeros_like(target), target.clone()

    def image(t: Tensor) -> Tensor:
        return (start - t.view(-1, 1, 1, 1) * unit).clamp(0, 1)

    def fall(t: Tensor) -> Tensor:
        return ((start - image(t)) * unit).flatten(1).sum(1)

    for _ in range(20):
        short = fall(high) < target
        if not short.any():
            break
        low, high = torch.where(short, high, low), torch.where(short, 2 * high + 1e-12, high)
    for _ in range(30):
        middle = (low + high) / 2
        short = fall(middle) < target
        low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    return image(high).to(x.dtype)


def _linearize(model: nn.Module, x: Tensor, y: Tensor, candidates: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits [N, K]; for the best other classes z_y - z_k [N, M] and its gradient [N, M, C, H, W]."""
    x = x.detach().requires_grad_()
    logits = model(x)
    others = logits.detach().scatter(1, y[:, None], -torch.inf)
    classes = others.topk(min(candidates, logits.shape[1] - 1), dim=1).indices
    gaps = logits.gather(1, y[:, None]) - logits.gather(1, classes)
    last = gaps.shape[1] - 1
    gradients = [torch.autograd.grad(gaps[:, k].sum(), x, retain_graph=k < last)[0] for k in range(gaps.shape[1])]
    return logits.detach(), gaps.detach(), torch.stack(gradients, 1)
