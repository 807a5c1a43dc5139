"""The exponential of a skew-symmetric convolution, as a series on the features."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipbench.layers.algebra.convolution import geometry, keeps_size, symbols
from lipbench.layers.algebra.orthonormal import norm_bound
from lipbench.layers.constraints import Constraint
from lipbench.layers.constraints.base import Factor
from lipbench.layers.constructions.base import Construction
from lipbench.layers.constructions.convex_potential import adjoint, convolve

# For a skew A the series misses exp(A) by ||A||^(K+1) / (K+1)!: 2.8e-7 for ||A|| <= 1 and K = 9.
TERMS = 9
LARGEST_NORM = 1.0


class SkewExponential(Construction):
    """exp(A) x with A a convolution that is skew-symmetric: the skew orthogonal convolution (SOC; Singla and Feizi,
    2021, arXiv 2105.11417, section 4), by nine terms of the Taylor series.

    A is L - L^T, exactly skew in floating point. Its zero-padded operator is skew too, so that this layer keeps norms
    with zero padding as well, which no other orthogonal convolution here does. With more outputs than inputs the image
    is padded with zero channels; with fewer, channels of the result are left out.

    After `bake` the module is its own plain form: a convolution `inner` with the fixed kernel L. The certificate is 1
    + ||A||^10 / 10! with the norm of that very A; the constraint `BoundedSkew` keeps it at 1 + 3e-7.

    Args:
        inner: convolution of stride 1 that keeps the size ("same" padding); its bias is added to the result.

    Shapes:
        as `inner`.

    Raises:
        ValueError: a convolution that changes the size of the image.
    """

    def __init__(self, inner: nn.Conv2d):
        super().__init__()
        if not keeps_size(inner):
            raise ValueError(f"The exponential needs a convolution that keeps the image's size, not {inner}.")
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        groups = self.inner.groups
        kernel = skew_kernel(self.inner.weight, groups)
        channels, outputs = len(kernel) // groups, self.inner.out_channels // groups
        wide = x.unflatten(1, (groups, -1))
        wide = F.pad(wide, (0, 0, 0, 0, 0, channels - wide.shape[2])).flatten(1, 2)
        result = term = wide
        for degree in range(1, TERMS + 1):
            term = convolve(term, kernel / degree, None, self.inner)
            result = result + term
        result = result.unflatten(1, (groups, -1))[:, :, :outputs].flatten(1, 2)
        return result if self.inner.bias is None else result + self.inner.bias[:, None, None]

    def bake(self) -> nn.Module:
        return self


class BoundedSkew(Constraint):
    """Scales the kernel of a `SkewExponential` down where the norm of its skew part could exceed 1."""

    def __init__(self, layer: nn.Conv2d, size: tuple[int, int] | None = None, factor: Factor = "strict"):
        super().__init__(layer, size, factor)
        if size is None:
            raise ValueError(f"The norm of {layer} depends on its input: give the size (height, width).")
        self.size = size
        # Lends its padding, ... without being a submodule: it has no weight.
        object.__setattr__(self, "geometry", geometry(layer))
        self.geometry: nn.Conv2d

    def forward(self, weight: Tensor) -> Tensor:
        with torch.no_grad():
            bound = norm_bound(symbols(self.geometry, skew_kernel(weight, self.groups), self.size)).amax()
        return weight * (LARGEST_NORM / bound.clamp_min(LARGEST_NORM))


def skew_kernel(kernel: Tensor, groups: int) -> Tensor:
    """L - L^T of a kernel [out, in / groups, kh, kw], made square by zeros: [groups * c, c, kh, kw], c the larger of
    its numbers of channels per group.
    """
    split = kernel.unflatten(0, (groups, -1))
    channels = max(split.shape[1:3])
    split = F.pad(split, (0, 0, 0, 0, 0, channels - split.shape[2], 0, channels - split.shape[1]))
    square = split.flatten(0, 1)
    return square - adjoint(square, groups)
