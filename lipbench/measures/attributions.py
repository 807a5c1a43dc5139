"""Attributions: functions (model, x, y, **options) -> [N, C, H, W], how much each number of an image counts for the
logit of class y.
"""

import torch
from torch import Tensor, nn

from lipbench.randomness import keys, normal


def logit_gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """d z_y / d x of each image, [N, C, H, W]; the gradients of the weights are left alone."""
    point = x.detach().clone().requires_grad_()
    with torch.enable_grad():
        # The copy: a first layer with inplace=True may not overwrite a leaf.
        logits = model(point.clone()).gather(1, y[:, None])
        return torch.autograd.grad(logits.sum(), point)[0]


def gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """abs(d z_y / d x): the saliency map (Simonyan et al., 2014, arXiv 1312.6034)."""
    return logit_gradient(model, x, y).abs()


def smooth_gradient(
    model: nn.Module, x: Tensor, y: Tensor, *, samples: int = 16, sigma: float = 0.15, seed: int = 0
) -> Tensor:
    """abs of the mean gradient over noisy copies of the image, SmoothGrad (Smilkov et al., 2017, arXiv 1706.03825).

    Args:
        samples: noisy copies, at least 1.
        sigma: standard deviation of the noise, in units of pixels in [0, 1]: the paper's 10 to 20 % of their range.
        seed: of the noise, which depends on it and on the image alone.
    """
    key, total = keys(x, seed), torch.zeros_like(x)
    for draw in range(samples):
        # A normal number takes two uniform ones.
        noise = normal(key, tuple(x.shape[1:]), 2 * draw).to(x)
        total += logit_gradient(model, x + sigma * noise, y)
    return (total / samples).abs()


def integrated_gradients(model: nn.Module, x: Tensor, y: Tensor, *, steps: int = 32, baseline: float = 0.0) -> Tensor:
    """(x - b) times the mean gradient on the segment from b to x (Sundararajan et al., 2017, arXiv 1703.01365), by the
    midpoint rule. The attributions of an image add up to z_y(x) - z_y(b), up to the error of that rule.

    Args:
        baseline: the value of every pixel of b, in [0, 1].
    """
    offset, total = x - baseline, torch.zeros_like(x)
    for step in range(steps):
        total += logit_gradient(model, baseline + (step + 0.5) / steps * offset, y)
    return offset * total / steps
