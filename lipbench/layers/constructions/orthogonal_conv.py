"""Orthogonal convolutions of any kernel, stride, dilation, groups and ratio of channels: BCOP and its adaptive form."""

import copy
import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lipbench.layers.constraints import Orthogonal
from lipbench.layers.constructions.base import Construction
from lipbench.precision import own_precision


class OrthogonalConv2d(Construction):
    """Adaptive orthogonal convolution (Boissin et al., 2025, arXiv 2501.07930; stride 1: BCOP, Li et al., 2019, arXiv
    1911.00937).

    Its kernel is the composition of three orthogonal maps: a widening of the channels (where there are more outputs
    than inputs), k - s times a 2x2 kernel made of two pairs of complementary projectors, and a reshaped orthonormal
    matrix with kernel = stride = s. With circular or full padding the operator is orthogonal (its rows or its columns
    are orthonormal); with zero padding it is a compression of one, so its norm is at most 1.

    The stored tensors are orthonormal frames under the constraint `Orthogonal`: nothing is orthogonalised in the
    forward pass, and `lipbench.bake` leaves an `nn.Conv2d`.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode: as in
            `nn.Conv2d`, one number for both dimensions.

    Shapes:
        as `nn.Conv2d`.

    Raises:
        ValueError: stride > kernel_size, a stride and a dilation with a common factor (pixels would be read twice and
            others never), or channels that `groups` does not divide.
    """

    mix: Tensor
    widen: Tensor
    frames: Tensor
    bias: Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Literal["zeros", "circular"] = "zeros",
    ):
        super().__init__()
        _check(in_channels, out_channels, kernel_size, stride, dilation, groups)
        self.in_channels, self.out_channels, self.kernel_size = in_channels, out_channels, kernel_size
        self.stride, self.padding, self.dilation, self.groups = stride, padding, dilation, groups
        self.padding_mode = padding_mode
        into, out = in_channels // groups, out_channels // groups
        # The projectors act where there are most channels; a widening followed by a narrowing would lose the norm.
        wide = out // stride**2 if out % stride**2 == 0 else 0
        self.middle = max(into, wide)
        self.pairs = kernel_size - stride if self.middle > 1 else 0
        self._add("mix", groups, out, self.middle * stride**2)
        if self.middle > into:
            self._add("widen", groups, self.middle, into)
        if self.pairs:
            self._add("frames", groups * self.pairs * 2, self.middle, self.middle // 2)
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None

    def _add(self, name: str, blocks: int, rows: int, columns: int) -> None:
        """A stack of orthonormal matrices, stored as [blocks * rows, columns]."""
        self.register_parameter(name, nn.Parameter(torch.randn(blocks * rows, columns)))
        parametrize.register_parametrization(self, name, Orthogonal.stack(blocks))

    def kernel(self) -> Tensor:
        """The kernel [out, in / groups, k, k] of the equivalent `nn.Conv2d`."""
        g, s, c = self.groups, self.stride, self.middle
        last = self.mix.reshape(-1, c, s, s)
        kernels = self._projections()
        if self.middle > self.in_channels // g:
            kernels = [self.widen[:, :, None, None], *kernels]
        kernel = None
        for step in (*kernels, last):
            kernel = step if kernel is None else compose(kernel, step, g)
        assert kernel is not None
        missing = self.kernel_size - kernel.shape[-1]  # a single channel has no projectors: a shift stays a shift
        before = missing // 2
        return F.pad(kernel, (before, missing - before) * 2) if missing else kernel

    def _projections(self) -> list[Tensor]:
        """The 2x2 kernels [groups * c, c, 2, 2], each a pair of projectors per dimension."""
        if not self.pairs:
            return []
        c = self.middle
        frames = self.frames.reshape(self.pairs, 2, self.groups, c, c // 2)
        projector = frames @ frames.mT
        both = torch.stack((projector, torch.eye(c, dtype=frames.dtype, device=frames.device) - projector), dim=-3)
        rows, columns = both[:, 0], both[:, 1]  # [pairs, groups, 2, c, c]
        squares = rows[:, :, :, None] @ columns[:, :, None]  # [pairs, groups, 2, 2, c, c]
        return list(squares.permute(0, 1, 4, 5, 2, 3).flatten(1, 2).unbind(0))

    def forward(self, x: Tensor) -> Tensor:
        with own_precision(x):
            kernel = self.kernel()
        return conv2d(x, kernel, self)

    def bake(self) -> nn.Module:
        """The equivalent plain convolution."""
        plain = nn.Conv2d(
            self.in_channels,
            self.out_channels,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            bias=self.bias is not None,
            padding_mode=self.padding_mode,
        )
        plain = plain.to(self.mix.device, self.mix.dtype)
        with torch.no_grad():
            plain.weight.copy_(copy.deepcopy(self).double().kernel())
            if plain.bias is not None and self.bias is not None:
                plain.bias.copy_(self.bias)
        return plain

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}, groups={self.groups}, padding_mode={self.padding_mode}"
        )


def compose(first: Tensor, second: Tensor, groups: int = 1) -> Tensor:
    """The kernel of one convolution after another, both of stride 1 or the second with any stride: [m, i, a, a] and [o,
    m / groups, b, b] -> [o, i, a + b - 1, a + b - 1].
    """
    flipped = second.flip(-1, -2)
    return F.conv2d(first.transpose(0, 1), flipped, padding=second.shape[-1] - 1, groups=groups).transpose(0, 1)


def conv2d(x: Tensor, kernel: Tensor, layer: OrthogonalConv2d) -> Tensor:
    """The plain convolution with the options of `layer`."""
    padding = layer.padding
    if layer.padding_mode == "circular" and padding:
        x, padding = F.pad(x, (padding,) * 4, mode="circular"), 0
    return F.conv2d(x, kernel, layer.bias, layer.stride, padding, layer.dilation, layer.groups)


def _check(in_channels: int, out_channels: int, kernel_size: int, stride: int, dilation: int, groups: int) -> None:
    if stride > kernel_size:
        raise ValueError(
            f"A stride of {stride} with a kernel of {kernel_size} skips pixels: use kernel_size >= stride."
        )
    if math.gcd(stride, dilation) > 1:
        raise ValueError(
            f"stride={stride} and dilation={dilation} have a common factor: pixels between would never be read, so no "
            "kernel is orthogonal. Use dilation=1."
        )
    if in_channels % groups or out_channels % groups:
        raise ValueError(f"groups={groups} must divide both {in_channels} and {out_channels} channels.")
