"""Small networks that keep the norm of the gradient, and images for them."""

import itertools

import torch
from torch import Tensor, nn


def isometry(widths: list[int], activation: nn.Module, classes: int = 2) -> nn.Sequential:
    """Orthogonal dense layers, which keep the gradient's norm, with the activation between them."""
    parts: list[nn.Module] = [nn.Flatten()]
    for into, out in itertools.pairwise(widths):
        dense = nn.Linear(into, out)
        nn.init.orthogonal_(dense.weight)
        parts += [dense, activation]
    head = nn.Linear(widths[-1], classes)
    nn.init.orthogonal_(head.weight)
    return nn.Sequential(*parts, head).eval().requires_grad_(False)


def images(kind: str, count: int, shape: tuple[int, int, int]) -> Tensor:
    """Random images: "corners" of the box, in its "interior", or with "some" pixels of 0 and 1."""
    if kind == "corners":
        return torch.randint(0, 2, (count, *shape)).float()
    x = torch.rand(count, *shape)
    return x if kind == "interior" else torch.where(torch.rand_like(x) < 0.7, x.round(), x)
