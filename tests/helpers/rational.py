"""Small networks in rational arithmetic."""

from fractions import Fraction

import torch
from torch import nn

from lipbench import layers

LARGE = 2.0**40


def exact(module: nn.Module, x: list[Fraction]) -> list[Fraction]:
    """The output of a network for one image."""
    if isinstance(module, nn.Sequential):
        for layer in module:
            x = exact(layer, x)
        return x
    if isinstance(module, nn.Linear):
        rows = zip(module.weight.tolist(), module.bias.tolist(), strict=True)
        return [
            sum((Fraction(w) * value for w, value in zip(row, x, strict=True)), Fraction(bias)) for row, bias in rows
        ]
    if isinstance(module, nn.ReLU):
        return [max(value, Fraction(0)) for value in x]
    if isinstance(module, layers.MaxMin):
        pairs = list(zip(x[: len(x) // 2], x[len(x) // 2 :], strict=True))
        return [*(max(pair) for pair in pairs), *(min(pair) for pair in pairs)]
    if isinstance(module, layers.Residual):
        scale = Fraction(module.scale)
        return [scale * (a + b) for a, b in zip(x, exact(module.branch, x), strict=True)]
    assert isinstance(module, nn.Flatten)
    return x


def cancelling(width: int, large: float = LARGE) -> nn.Sequential:
    """Adds a large number, and takes it away again."""
    first, second = nn.Linear(width, width), nn.Linear(width, width)
    with torch.no_grad():
        first.bias.fill_(large)
        second.bias.copy_(-large * second.weight.sum(1))
    return nn.Sequential(first, nn.ReLU(), second)
