"""Activations: most of them keep the norm of the gradient.

A sort permutes its inputs, an absolute value changes signs, a Householder activation reflects: their Jacobians are
orthogonal matrices (Anil et al., 2019, "Sorting out Lipschitz function approximation", section 4; Singla et al., 2022,
arXiv 2108.04062). ReLU, LeakyReLU, sigmoid and tanh are torch's own.
All act on dimension 1: features of [N, D], channels of [N, C, H, W].
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lipbench.layers.constraints import Interval


class MaxMin(nn.Module):
    """The larger of each pair of neurons goes to the first half, the smaller to the second.

    GroupSort with groups of two, neuron i paired with neuron i + D/2 (no copy is needed to form the pairs).

    Shapes:
        [N, D, ...] -> [N, D, ...], D even.

    Raises:
        ValueError: D is odd.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] % 2:
            raise ValueError(f"MaxMin pairs neurons: it needs an even number of them, not {x.shape[1]}.")
        low, high = _sorted_pair(*x.chunk(2, dim=1))
        return torch.cat((high, low), dim=1)


class GroupSort(nn.Module):
    """Sorts each group of `size` consecutive neurons in ascending order (Anil et al., 2019).

    Shapes:
        [N, D, ...] -> [N, D, ...], D a multiple of `size`.

    Raises:
        ValueError: D is not a multiple of `size`, or `size` < 1.
    """

    def __init__(self, size: int = 2):
        super().__init__()
        if size < 1:
            raise ValueError(f"GroupSort needs a group size of at least 1, not {size}.")
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] % self.size:
            raise ValueError(f"GroupSort({self.size}) needs a multiple of {self.size} neurons, not {x.shape[1]}.")
        groups = x.unflatten(1, (-1, self.size))
        if self.size == 2:  # torch and onnxruntime compare two to four times faster than they sort
            return torch.stack(_sorted_pair(*groups.unbind(2)), dim=2).flatten(1, 2)
        return groups.sort(dim=2).values.flatten(1, 2)

    def extra_repr(self) -> str:
        return str(self.size)


def _sorted_pair(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The smaller and the larger of each two numbers.

    Where a gradient is wanted, by way of relu(a - b): the backward pass of torch's minimum and maximum, which shares
    ties, takes four times as long. The values then differ in their last digit from those without a gradient.
    """
    if torch.is_grad_enabled() and a.requires_grad:
        excess = torch.relu(a - b)
        return a - excess, b + excess
    return torch.minimum(a, b), torch.maximum(a, b)


class FullSort(nn.Module):
    """Sorts all neurons in ascending order: GroupSort with one group (Anil et al., 2019).

    Shapes:
        [N, D, ...] -> [N, D, ...].
    """

    def forward(self, x: Tensor) -> Tensor:
        return x.sort(dim=1).values


class Abs(nn.Module):
    """|x| of each neuron: it keeps the norm of the gradient (which is 0 at exactly 0).

    Shapes:
        any, kept.
    """

    def forward(self, x: Tensor) -> Tensor:
        return x.abs()


class Householder(nn.Module):
    """Reflects a pair of neurons at a learned line where they lie beyond it (Singla et al., 2022, arXiv 2108.04062,
    definition 1).

    With the unit normal v = (sin(angle / 2), -cos(angle / 2)) of the line, a pair z becomes z - 2 min(v z, 0) v: z
    itself where v z > 0, else (I - 2 v v^T) z. Neuron i is paired with neuron i + D/2 as in `MaxMin`, which is the
    angle pi / 2, the initial one.

    The angle is stored, so every value of it is exactly a reflection: nothing to constrain and nothing to bake.

    Args:
        channels: D, even; one angle per pair.

    Shapes:
        [N, D, ...] -> [N, D, ...].

    Raises:
        ValueError: D is odd, or the input has another number of neurons.
    """

    def __init__(self, channels: int):
        super().__init__()
        if channels < 2 or channels % 2:
            raise ValueError(f"Householder pairs neurons: it needs an even number of them, not {channels}.")
        self.angle = nn.Parameter(torch.full((channels // 2,), math.pi / 2))

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] != 2 * len(self.angle):
            raise ValueError(f"This Householder pairs {2 * len(self.angle)} neurons, not {x.shape[1]}.")
        half = (self.angle / 2).view(-1, *(1,) * (x.ndim - 2))
        sine, cosine = half.sin(), half.cos()
        a, b = x.chunk(2, dim=1)
        beyond = 2 * (b * cosine - a * sine).relu()
        return torch.cat((a + beyond * sine, b - beyond * cosine), dim=1)

    def extra_repr(self) -> str:
        return str(2 * len(self.angle))


def clamped_prelu(channels: int, slope: float = 0.25) -> nn.PReLU:
    """`nn.PReLU` whose learned slopes stay in [-1, 1]: 1-Lipschitz; a plain `nn.PReLU` once baked. Slopes of -1 and 1
    keep the norm of the gradient.

    Args:
        channels: number of slopes: that of the input's channels, or 1 for a common one.
        slope: initial one, in [-1, 1].

    Raises:
        ValueError: the initial slope is not in [-1, 1].
    """
    if not -1 <= slope <= 1:
        raise ValueError(f"A clamped PReLU starts from a slope in [-1, 1], not {slope}.")
    layer = nn.PReLU(channels, init=slope)
    parametrize.register_parametrization(layer, "weight", Interval(-1.0, 1.0))
    return layer
