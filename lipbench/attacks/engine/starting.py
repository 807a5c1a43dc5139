"""Some adversarial image, for attacks that begin at the boundary and for images whose gradients lead nowhere."""

import torch
from torch import Tensor, nn

from lipbench.attacks.engine.boundary import to_boundary
from lipbench.randomness import keys, uniform

NOISES = 32


@torch.no_grad()
def adversarial_start(model: nn.Module, x: Tensor, y: Tensor, seed: int = 0) -> Tensor:
    """Some adversarial image for each, at the boundary: on the ray to its negative, to black, grey or white, or to one
    of several images of noise, of which every other is black and white; x itself where none is adversarial. Decisions
    alone are asked.
    """
    best, key = x.clone(), keys(x, seed)
    rows = torch.arange(len(x), device=x.device)
    for number in range(4 + NOISES):
        origin = x[rows]
        if number < 4:
            end = (1 - origin, torch.zeros_like(origin), torch.ones_like(origin), torch.full_like(origin, 0.5))[number]
        else:
            end = uniform(key[rows], tuple(x.shape[1:]), number).to(x)
            end = end.round() if number % 2 else end
        best[rows] = to_boundary(model, origin, end, y[rows], steps=10)
        rows = (best == x).flatten(1).all(1).nonzero()[:, 0]
        if not len(rows):
            break
    return best
