"""Initialisers, in place as those of `torch.nn.init`: 1-Lipschitz layers begin where no singular value vanishes.

A kernel [out, in / groups, kh, kw] is seen as the matrices [groups, out / groups, in / groups * kh * kw], as by the
constraints. The values that a weight has are where each begins, so the random numbers are those of torch's default.
"""

import torch
from torch import Tensor

from lipbench.layers.algebra.orthonormal import bjorck, norm_bound, polar


@torch.no_grad()
def orthogonal_(weight: Tensor, groups: int = 1) -> Tensor:
    """The orthonormal matrix that is nearest to the weight: rows, or columns of a tall one, exactly orthonormal (up to
    rounding), for any weight.

    Args:
        weight: [out, in, ...] of a dense layer or a convolution with these groups.
    """
    return weight.copy_(polar(_matrices(weight, groups)).view_as(weight))


@torch.no_grad()
def bjorck_(weight: Tensor, steps: int = 15, groups: int = 1) -> Tensor:
    """The weight by a bound of its norm, then Björck's iteration: norm at most 1, and orthonormal after enough steps
    (30 for a square matrix; small singular values of an early stop stay small). The initialiser of deel-lip (Serrurier
    et al., CVPR 2021), with a Gram bound in place of its power iteration, which can start outside the iteration's
    basin.

    Args:
        weight: [out, in, ...] of a dense layer or a convolution with these groups.
        steps: of the iteration.
    """
    matrix = _matrices(weight, groups).double()
    bound = norm_bound(matrix)[:, None, None].clamp_min(torch.finfo(weight.dtype).tiny)
    return weight.copy_(bjorck(matrix / bound, steps).view_as(weight))


@torch.no_grad()
def delta_orthogonal_(weight: Tensor, groups: int = 1) -> Tensor:
    """A kernel whose middle tap alone is not zero, and orthonormal (Xiao et al., 2018, arXiv 1806.05393, algorithm 1):
    with stride 1 and "same" padding the convolution keeps the norm, also with padded zeros, where a reshaped
    orthonormal kernel has singular values between nearly 0 and more than 1.

    Args:
        weight: [out, in / groups, kh, kw].

    Raises:
        ValueError: the weight is not that of a convolution.
    """
    if weight.ndim != 4:
        raise ValueError(f"A delta-orthogonal weight is a kernel [out, in, kh, kw], not {list(weight.shape)}.")
    middle = weight[:, :, (weight.shape[2] - 1) // 2, (weight.shape[3] - 1) // 2].clone()
    weight.zero_()
    weight[:, :, (weight.shape[2] - 1) // 2, (weight.shape[3] - 1) // 2] = orthogonal_(middle, groups)
    return weight


def _matrices(weight: Tensor, groups: int) -> Tensor:
    return weight.reshape(groups, weight.shape[0] // groups, -1)
