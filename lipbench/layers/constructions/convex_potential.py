"""Residual layers that step down a convex potential."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from lipbench.layers.algebra.convolution import keeps_size
from lipbench.layers.constructions.base import Construction


class ConvexPotential(Construction):
    """x - h V^T sigma(V x + b): a gradient step down a convex potential, 1-Lipschitz for h ||V||^2 <= 2.

    With V = W / ||W|| and h = 2 the convex potential layer (CPL; Meunier et al., 2022, arXiv 2110.12690, eq. 5); with
    V = T^(-1/2) W of almost orthogonal rows the SDP-based layer (SLL; Araujo et al., 2023, arXiv 2303.03169, theorem
    3). The constraint on `inner.weight` makes the difference. The activation must have slopes in [0, 1]: with MaxMin
    or the absolute value the inequality does not hold, and the certificate refuses.

    After `bake` the module is its own plain form: a convolution or dense layer `inner` with a fixed weight, used twice.
    The certificate is max(1, h ||V||^2 - 1) with the norm of that very weight.

    Args:
        inner: dense layer, or convolution of stride 1 that keeps the size ("same" padding), constrained; its bias is b.
        step: h.
        activation: a module with slopes in [0, 1].

    Shapes:
        [N, D] or [N, C, H, W], kept.

    Raises:
        ValueError: a convolution that changes the size of the image.
    """

    def __init__(self, inner: nn.Linear | nn.Conv2d, step: float = 2.0, activation: nn.Module | None = None):
        super().__init__()
        if isinstance(inner, nn.Conv2d) and not keeps_size(inner):
            raise ValueError(f"A residual layer needs a convolution that keeps the image's size, not {inner}.")
        self.inner = inner
        self.step = step
        self.activation = nn.ReLU() if activation is None else activation

    def forward(self, x: Tensor) -> Tensor:
        weight = self.inner.weight
        if isinstance(self.inner, nn.Linear):
            hidden = self.activation(F.linear(x, weight, self.inner.bias))
            return x - self.step * F.linear(hidden, weight.t())
        hidden = self.activation(convolve(x, weight, self.inner.bias, self.inner))
        return x - self.step * convolve(hidden, adjoint(weight, self.inner.groups), None, self.inner)

    def bake(self) -> nn.Module:
        return self

    def extra_repr(self) -> str:
        return f"step={self.step}"


def convolve(x: Tensor, kernel: Tensor, bias: Tensor | None, layer: nn.Conv2d) -> Tensor:
    padding: Any = layer.padding
    if layer.padding_mode == "circular":
        x, padding = F.pad(x, layer._reversed_padding_repeated_twice, mode="circular"), 0
    return F.conv2d(x, kernel, bias, 1, padding, layer.dilation, layer.groups)


def adjoint(kernel: Tensor, groups: int) -> Tensor:
    """The kernel of the transposed convolution, as a convolution: channels swapped, taps flipped."""
    split = kernel.reshape(groups, -1, *kernel.shape[1:])
    return split.transpose(1, 2).flatten(0, 1).flip(-1, -2)
