"""Attacks of one gradient: FGSM, its L2 form, and one step along the transport path."""

import torch
from torch import Tensor, nn

from lipbench.attacks.engine import minimum_distance
from lipbench.attacks.engine.boundary import shoot
from lipbench.geometry import per_image, unit
from lipbench.margins import margin_and_gradient


@minimum_distance
def fgsm(model: nn.Module, x: Tensor, y: Tensor, *, sizes: int = 24) -> Tensor:
    """Fast gradient sign method, clamp(x - eps sign(grad margin)) (Goodfellow et al., 2015, arXiv 1412.6572), eps the
    smallest that succeeds.

    The sign minimises the linearised margin in an L-infinity ball; its L2 distance is that of a bad direction.

    Args:
        sizes: values of eps tried, geometrically up to 1 (then the box is left everywhere), before the bisection.
    """
    _, gradient = margin_and_gradient(model, x, y)
    return shoot(model, x, -gradient.sign(), y, _geometric(1.0, sizes, x))


@minimum_distance
def fgm(model: nn.Module, x: Tensor, y: Tensor, *, sizes: int = 24) -> Tensor:
    """Fast gradient method in L2, clamp(x - eps grad margin / ||grad margin||) (Miyato et al., 2017, arXiv 1605.07725),
    eps the smallest that succeeds.

    Args:
        sizes: values of eps tried, geometrically up to 8 diagonals of the box: by then the pixels that the gradient
            moves are at their bounds.
    """
    normal, _ = unit(margin_and_gradient(model, x, y)[1])
    return shoot(model, x, -normal, y, _geometric(8 * x[0].numel() ** 0.5, sizes, x))


@minimum_distance
def transport_path(model: nn.Module, x: Tensor, y: Tensor, *, steps: int = 1) -> Tensor:
    """The path x - t f(x) grad f(x), t >= 0, along which optimal transport carries x to the other class (Serrurier et
    al., 2021, arXiv 2006.06520, proposition 1): for the optimal f, of gradient norm 1, t = 1 lands on the boundary.

    f is the margin in the unit of its gradient, so for any network t = 1 is where its linearisation vanishes.

    Args:
        steps: the path is followed in so many pieces, each along its own gradient, of which all but the last cover
            their share of the remaining f.
    """
    images = x.clone()
    for step in range(steps):
        value, gradient = margin_and_gradient(model, images, y)
        normal, norm = unit(gradient)
        length = value.clamp_min(0) / norm.where(norm > 0, torch.inf)
        direction = -per_image(length, x) * normal
        if step == steps - 1:
            return shoot(model, images, direction, y, [1.0, 1.001, 1.02, 1.1, 1.25, *(1.5**k for k in range(1, 13))])
        images = (images + direction / (steps - step)).clamp(0, 1)
    raise ValueError(f"steps is at least 1, not {steps}.")


def _geometric(largest: float, count: int, x: Tensor) -> list[float]:
    """From a thousandth of a pixel's range up."""
    smallest = 1e-3
    ratio = (largest / smallest) ** (1 / max(1, count - 1))
    return [smallest * ratio**k for k in range(count)]
