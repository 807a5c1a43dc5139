"""Activations that keep the norm of the gradient: sorts of neurons.

A sort permutes its inputs, so its Jacobian is a permutation matrix: 1-Lipschitz and norm preserving
(Anil et al., 2019, "Sorting out Lipschitz function approximation", section 4).
All act on dimension 1: features of [N, D], channels of [N, C, H, W].
"""

import torch
from torch import Tensor, nn


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
        a, b = x.chunk(2, dim=1)
        return torch.cat((torch.maximum(a, b), torch.minimum(a, b)), dim=1)


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
            a, b = groups.unbind(2)
            return torch.stack((torch.minimum(a, b), torch.maximum(a, b)), dim=2).flatten(1, 2)
        return groups.sort(dim=2).values.flatten(1, 2)

    def extra_repr(self) -> str:
        return str(self.size)


class FullSort(nn.Module):
    """Sorts all neurons in ascending order: GroupSort with one group (Anil et al., 2019).

    Shapes:
        [N, D, ...] -> [N, D, ...].
    """

    def forward(self, x: Tensor) -> Tensor:
        return x.sort(dim=1).values
