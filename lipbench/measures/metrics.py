"""What an explanation is worth: deletion, insertion, mu-fidelity, stability; a number per image each.

A pixel is all channels of a place: its attribution is the sum over them, and they are removed together. To remove a
pixel is to give it the value of the baseline.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lipbench.randomness import keys, normal, uniform

Attribution = Callable[[nn.Module, Tensor, Tensor], Tensor]


@torch.no_grad()
def deletion(
    model: nn.Module, x: Tensor, y: Tensor, attribution: Tensor, *, steps: int = 28, baseline: float = 0.0
) -> Tensor:
    """Area under the probability of y while pixels are removed, those of the largest attribution first (Petsiuk et
    al., 2018, arXiv 1806.07421), [N] in [0, 1]: the smaller, the better.

    The probability is the softmax of the logits, as in the paper: it depends on their scale, and networks of unequal
    scales compare by `mu_fidelity` instead.

    Args:
        attribution: of the logit of y, [N, C, H, W].
        steps: equal shares in which the pixels are removed.
        baseline: the value that removed pixels get, in [0, 1].
    """
    return _area(model, x, y, attribution, steps, torch.full_like(x, baseline))


@torch.no_grad()
def insertion(
    model: nn.Module, x: Tensor, y: Tensor, attribution: Tensor, *, steps: int = 28, baseline: float = 0.0
) -> Tensor:
    """Area under the probability of y while the pixels of the image, those of the largest attribution first, are put
    into the baseline (Petsiuk et al., 2018; they start from a blurred image instead), [N] in [0, 1]: the larger, the
    better. Arguments as in `deletion`.
    """
    empty = torch.full_like(x, baseline)
    return _area(model, empty, y, attribution, steps, x)


def _area(model: nn.Module, start: Tensor, y: Tensor, attribution: Tensor, steps: int, end: Tensor) -> Tensor:
    """Area under the probability of y on the way from start to end, pixel by pixel in the order of the attribution."""
    scores = _pixels(attribution)
    order = scores.argsort(dim=1, descending=True, stable=True)
    places = torch.arange(order.shape[1], device=order.device)
    rank = torch.empty_like(order).scatter_(1, order, places.expand_as(order))
    curve = []
    for step in range(steps + 1):
        changed = (rank < round(step / steps * rank.shape[1])).view(len(start), 1, *start.shape[2:])
        probabilities = model(torch.where(changed, end, start)).softmax(1)
        curve.append(probabilities.gather(1, y[:, None])[:, 0])
    return torch.trapezoid(torch.stack(curve), dim=0) / steps


@torch.no_grad()
def mu_fidelity(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    attribution: Tensor,
    *,
    subsets: int = 200,
    share: float = 0.2,
    cells: int | None = None,
    baseline: float = 0.0,
    seed: int = 0,
) -> Tensor:
    """Correlation, over random subsets S of the pixels, of the attribution of S with the fall of the logit of y when S
    is removed (Bhatt et al., 2020, arXiv 2005.00631, definition 3), [N] in [-1, 1]: 1 is perfect. It does not depend on
    the scale of the logits, nor on that of the attribution.

    Where one of the two is constant there is no correlation: such an explanation explains nothing, and gets 0.

    Args:
        attribution: of the logit of y, [N, C, H, W].
        subsets: their number, at least 3.
        share: of the pixels (or cells) that are in a subset.
        cells: pixels are removed by square cells, so many per side; None: one by one.
        baseline: the value that removed pixels get, in [0, 1].
        seed: of the subsets, which depend on it and on the image alone.
    """
    height, width = x.shape[2:]
    grid = (height, width) if cells is None else (min(cells, height), min(cells, width))
    size = max(1, round(share * grid[0] * grid[1]))
    key, scores = keys(x, seed), _pixels(attribution)
    before = model(x.clone()).gather(1, y[:, None])[:, 0].double()
    parts, falls = [], []
    for draw in range(subsets):
        numbers = uniform(key, (grid[0] * grid[1],), draw)
        chosen = torch.zeros_like(numbers).scatter_(1, numbers.topk(size, dim=1).indices, 1.0).view(-1, 1, *grid)
        removed = nn.functional.interpolate(chosen, (height, width), mode="nearest").to(x.device) > 0.5
        after = model(x.masked_fill(removed, baseline)).gather(1, y[:, None])[:, 0].double()
        parts.append((scores * removed.flatten(1)).sum(1).double())
        falls.append(before - after)
    return _correlation(torch.stack(parts), torch.stack(falls))


def stability(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    attribution: Tensor,
    explain: Attribution,
    *,
    radius: float = 0.5,
    samples: int = 8,
    seed: int = 0,
) -> Tensor:
    """Mean distance of the explanation of the image to those of random images at a distance `radius`, each explanation
    divided by its norm (the average sensitivity of Bhatt et al., 2020, definition 2), [N] in [0, 2]: the smaller, the
    better. The images are clipped to [0, 1].

    Args:
        attribution: explain(model, x, y).
        radius: L2, pixels in [0, 1].
        samples: random images per image.
        seed: of these images, which depend on it and on the image alone.
    """
    key, own, total = keys(x, seed), _normalized(attribution), torch.zeros(len(x), dtype=torch.float64)
    for draw in range(samples):
        direction = normal(key, tuple(x.shape[1:]), 2 * draw).to(x).flatten(1)
        step = radius * direction / direction.norm(dim=1, keepdim=True)
        moved = (x + step.view_as(x)).clamp(0, 1)
        total += (_normalized(explain(model, moved, y)) - own).norm(dim=1).double().cpu()
    return total / samples


def _pixels(attribution: Tensor) -> Tensor:
    """[N, C, H, W] -> [N, H W], channels added."""
    return attribution.sum(1).flatten(1)


def _normalized(attribution: Tensor) -> Tensor:
    """[N, C, H, W] -> [N, C H W] of norm 1; 0 stays 0."""
    flat = attribution.flatten(1)
    return flat / flat.norm(dim=1, keepdim=True).clamp_min(torch.finfo(flat.dtype).tiny)


def _correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's, over the first dimension, [J, N] -> [N]; 0 where one of them is constant up to rounding."""
    centered = [t - t.mean(0) for t in (a, b)]
    norms = [c.norm(dim=0) for c in centered]
    # The numbers behind a and b are float32.
    constant = [n <= 1e-6 * t.norm(dim=0) for n, t in zip(norms, (a, b), strict=True)]
    flat = constant[0] | constant[1]
    product = (centered[0] * centered[1]).sum(0) / (norms[0] * norms[1]).where(~flat, 1.0)
    return product.masked_fill(flat, 0.0).clamp(-1, 1)
