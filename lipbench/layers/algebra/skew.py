"""From any matrix to an orthonormal one through a skew-symmetric matrix: Cayley's transform and the exponential.

Both act on the last two dimensions, [..., m, n], real or complex. With U the square part of a tall matrix and W the
rows below it, tall results have orthonormal columns; wide matrices are treated by their adjoint. Small matrices give
results near the identity.
"""

import math

import torch
from torch import Tensor

from lipbench.layers.algebra.orthonormal import norm_bound

# exp(A) = exp(A / 4)^4 with ||A|| <= pi, enough to turn any eigenvector by any angle. The Taylor series of degree 9
# misses exp(A / 4) by (pi / 4)^10 / 10! < 3e-8: the remainder of a skew matrix is that of exp on the imaginary axis.
LARGEST_ANGLE = math.pi
SQUARINGS = 2


def cayley_transform(matrix: Tensor) -> Tensor:
    """(I - A) (I + A)^-1 with A = U - U^H + W^H W and, below, -2 W (I + A)^-1 (Trockman and Kolter, 2021, arXiv
    2104.07167, eq. 6 and appendix on rectangular layers).

    I + A has eigenvalues of real part at least 1, so it can always be inverted.
    """
    if matrix.shape[-2] < matrix.shape[-1]:
        return cayley_transform(matrix.mH).mH
    square, below = _split(matrix)
    identity = _identity(square)
    # inv_ex: no check of a matrix that cannot be singular, which would wait for a GPU.
    twice = 2 * torch.linalg.inv_ex(identity + square - square.mH + below.mH @ below).inverse
    return torch.cat((twice - identity, -below @ twice), dim=-2)


def exponential_map(matrix: Tensor) -> Tensor:
    """The first columns of exp([[U - U^H, -W^H], [W, 0]]), [..., F, m, n] -> the same (Singla and Feizi, 2021, arXiv
    2105.11417, section 3; columns left out as in their section 4.3).

    The exponent is scaled to a norm of at most pi, by one number for all F matrices: at the frequencies of a
    convolution it stays the exponent of a convolution with the same taps.
    """
    if matrix.shape[-2] < matrix.shape[-1]:
        return exponential_map(matrix.mH).mH
    columns = matrix.shape[-1]
    square, below = _split(matrix)
    skew = square - square.mH
    with torch.no_grad():
        bound = norm_bound(skew, squarings=3) + (norm_bound(below, squarings=3) if below.numel() else 0)
        bound = bound.amax(-1)[..., None, None, None]
        scale = LARGEST_ANGLE / bound.clamp_min(LARGEST_ANGLE) / 2**SQUARINGS
    skew, below = skew * scale, below * scale
    if not below.numel():
        return _exponential(skew)
    if below.shape[-2] <= columns:
        corner = below.new_zeros(*below.shape[:-1], below.shape[-2])
        result = _exponential(torch.cat((torch.cat((skew, -below.mH), -1), torch.cat((below, corner), -1)), -2))
        return result[..., :columns]
    # Very tall: the space of the vectors (a, W b) is mapped into itself, and it is the first columns' own.
    identity = _identity(skew).expand_as(skew)
    upper, lower = torch.cat((skew, -below.mH @ below), -1), torch.cat((identity, torch.zeros_like(skew)), -1)
    result = _exponential(torch.cat((upper, lower), -2))[..., :columns]
    return torch.cat((result[..., :columns, :], below @ result[..., columns:, :]), -2)


def _exponential(quarter: Tensor) -> Tensor:
    """exp(4 A) of A: the Taylor series of degree 9 in four products (Paterson and Stockmeyer, 1973), squared twice."""
    identity = _identity(quarter)
    second = quarter @ quarter
    third = second @ quarter
    result = third / math.factorial(9)
    for degree in (6, 3, 0):
        one, two, three = (1 / math.factorial(degree + i) for i in range(3))
        result = result + one * identity + two * quarter + three * second
        if degree:
            result = third @ result
    for _ in range(SQUARINGS):
        result = result @ result
    return result


def _split(matrix: Tensor) -> tuple[Tensor, Tensor]:
    columns = matrix.shape[-1]
    return matrix[..., :columns, :], matrix[..., columns:, :]


def _identity(square: Tensor) -> Tensor:
    return torch.eye(square.shape[-1], dtype=square.dtype, device=square.device)
