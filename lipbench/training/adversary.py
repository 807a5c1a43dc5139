"""Adversarial training: images of a batch replaced by adversarial ones of the network as it is at that step."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lipbench.modules import undisturbed


def l2_pgd_adversary(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    epsilon: float,
    steps: int = 7,
    step_size: float | None = None,
    random_start: bool = True,
) -> Tensor:
    """The inner maximisation of adversarial training (Madry et al., 2018, arXiv 1706.06083, eq. 2.1): projected
    gradient ascent on the cross-entropy of the logits in the L2 ball of radius epsilon and the box; the last iterate.

    It works in evaluation mode: its passes leave running averages and power iterations alone, draw no dropout, and
    attack the network that will be judged. Modes, flags and gradients of the model are as before, afterwards.

    Args:
        model: images -> logits [N, K].
        x: images [N, C, H, W] in [0, 1].
        y: labels [N].
        epsilon: radius, L2, pixels in [0, 1].
        step_size: L2 length of a step; None: 2.5 epsilon / steps, the paper's.
        random_start: starts from a point drawn uniformly in the ball, else from the image. Drawn from torch's generator
            of the CPU, which `fit` seeds for every epoch, so that a resumed training sees the same images.

    Returns:
        images [N, C, H, W] within epsilon of x (up to rounding) and in [0, 1].

    Raises:
        ValueError: a radius or a number of steps that is not positive.
    """
    length = 2.5 * epsilon / max(1, steps) if step_size is None else step_size
    if not (0 < epsilon < math.inf and 0 < length < math.inf and steps >= 1):
        raise ValueError(
            "An adversary needs a finite radius > 0, at least one step and a finite step size > 0; got "
            f"epsilon={epsilon}, steps={steps} and step_size={step_size}. "
            "For ordinary training leave it out (training.adversary=null)."
        )
    moved = _clip(x + _in_ball(x, epsilon), x, epsilon) if random_start else x
    # The frozen weights of parametrized layers are made once, not at every step.
    with undisturbed(model), parametrize.cached():
        for _ in range(steps):
            point = moved.detach().requires_grad_()
            # The copy: a first layer with inplace=True may not overwrite a leaf.
            value = F.cross_entropy(_readable(model(point.clone())), y, reduction="sum")
            (gradient,) = torch.autograd.grad(value, point)
            moved = _clip(point.detach() + length * _direction(gradient), x, epsilon)
    return moved


def _readable(logits: Tensor) -> Tensor:
    """Logits in float64 with a spread of at most 10, by a factor per image: the cross-entropy of larger ones has a
    gradient of exactly 0, which would leave the network without an adversary.
    """
    logits = logits.double()
    spread = (logits.amax(1, keepdim=True) - logits.amin(1, keepdim=True)).detach()
    return logits / (spread / 10).clamp_min(1)


def _in_ball(x: Tensor, epsilon: float) -> Tensor:
    """Per image a point drawn uniformly from the L2 ball around 0."""
    direction = _direction(torch.randn(x.shape))
    lengths = epsilon * torch.rand(len(x), 1, 1, 1) ** (1 / x[0].numel())
    return (lengths * direction).to(x)


def _clip(images: Tensor, x: Tensor, epsilon: float) -> Tensor:
    """Back to the ball around x, then to the box; that brings no pixel further from x."""
    change = images - x
    lengths = change.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    return (x + change * (epsilon / lengths.clamp_min(epsilon))).clamp(0, 1)


def _direction(gradient: Tensor) -> Tensor:
    """Unit length per image, 0 where the gradient is 0; in two steps, so that the squares of small numbers do not
    underflow.
    """
    tiny = torch.finfo(gradient.dtype).tiny
    scaled = gradient / gradient.abs().amax((1, 2, 3), keepdim=True).clamp_min(tiny)
    return scaled / scaled.flatten(1).norm(dim=1).view(-1, 1, 1, 1).clamp_min(tiny)
