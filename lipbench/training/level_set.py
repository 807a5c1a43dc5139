"""Negatives of one-class training: images of label 0 that are led towards the inliers, step by step."""

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lipbench.losses import binary_function
from lipbench.modules import undisturbed


def level_set_negatives(
    model: nn.Module, x: Tensor, y: Tensor, *, level: float = 0.0, steps: int = 8, rate: float = 1.25
) -> Tensor:
    """Moves the images of label 0 towards {f = level} by Newton-Raphson steps of random lengths,
    x <- x + rate u max(0, level - f(x)) grad f(x) / ||grad f(x)||^2, u uniform in [0, 1] per image (Béthune et al.,
    2023, arXiv 2303.01978, algorithm 1); images of label 1 stay. It is an `adversary` of `lipbench.fit`.

    Starting from noise, images of label 0 are all that lies around the inliers: f learns the signed distance to these.
    Images beyond the level are left there. Modes, flags and gradients of the model are as before, afterwards.

    Args:
        model: images -> two logits; f = z_1 - z_0.
        x: images [N, C, H, W] in [0, 1].
        y: labels [N].
        level: of f; the paper's is minus the margin of the hinge.
        rate: 1 would reach the level in one step of u = 1, if f were linear.

    Returns:
        images [N, C, H, W] in [0, 1].

    Raises:
        ValueError: no step, a rate that is not positive, or a network without two logits.
    """
    if steps < 1 or not rate > 0:
        raise ValueError(f"Negatives need at least one step and a rate > 0; got steps={steps}, rate={rate}.")
    outside = y == 0
    moved = x[outside]
    # From the generator that `fit` seeds for every epoch: a resumed training sees the same images.
    lengths = rate * torch.rand(len(moved), 1, 1, 1).to(x)
    # The frozen weights of parametrized layers are made once, not at every step.
    with undisturbed(model), parametrize.cached():
        for _ in range(steps):
            point = moved.detach().requires_grad_()
            f = binary_function(model(point.clone()))
            (gradient,) = torch.autograd.grad(f.sum(), point)
            missing = (level - f.detach()).clamp_min(0)
            squared = gradient.flatten(1).square().sum(1)
            step = (missing / squared.clamp_min(1e-8)).view(-1, 1, 1, 1)
            moved = (point.detach() + lengths * step * gradient).clamp(0, 1)
    result = x.clone()
    result[outside] = moved
    return result
