"""Linear algebra of orthonormal matrices. All functions act on the last two dimensions, batched over the others."""

import torch
from torch import Tensor


def norm_bound(matrix: Tensor, squarings: int = 4) -> Tensor:
    """Upper bound of the spectral norm by Gram iteration, [..., m, n], real or complex -> [...], real.

    After t squarings the bound is at most rank^(2^-(t+1)) times the norm, and never below it (Delattre et al.,
    2023, arXiv 2305.16173, theorem 1), up to rounding. Unlike power iteration it can serve to scale a weight before
    Björck.
    """
    gram = _gram(matrix)
    scale = _frobenius(gram).clamp_min(torch.finfo(gram.dtype).tiny)
    log_norm = scale.log()  # log of the factor taken out of G so far, divided by its power
    gram = gram / scale[..., None, None]
    for t in range(1, squarings + 1):
        gram = gram @ gram
        scale = _frobenius(gram).clamp_min(torch.finfo(gram.dtype).tiny)
        log_norm = log_norm + scale.log() / 2**t
        gram = gram / scale[..., None, None]
    return (log_norm / 2).exp()


def bjorck(matrix: Tensor, steps: int = 1) -> Tensor:
    """Björck's iteration of order 1, W <- 1.5 W - 0.5 W W^T W: singular values s -> 1.5 s - 0.5 s^3.

    Converges to the nearest orthonormal matrix from 0 < s < sqrt 3 (Björck and Bowie, 1971), and maps
    [0, 2] into [0, 1]: stopping early loses norm preservation, never the bound.
    """
    for _ in range(steps):
        if matrix.shape[-2] >= matrix.shape[-1]:
            matrix = 1.5 * matrix - 0.5 * matrix @ (matrix.mT @ matrix)
        else:
            matrix = 1.5 * matrix - 0.5 * (matrix @ matrix.mT) @ matrix
    return matrix


def into_basin(matrix: Tensor) -> Tensor:
    """Scales a matrix whose norm could exceed 1.2 down to at most 1, where Björck converges; leaves others alone."""
    bound = norm_bound(matrix)[..., None, None]
    return matrix / torch.where(bound > 1.2, bound, torch.ones_like(bound))


def orthonormalize(matrix: Tensor, limit: int = 30) -> Tensor:
    """Björck's iteration from wherever an optimiser's step has led, until it has converged (to about 1e-5; `limit`
    steps at most, which only a nearly singular matrix needs).
    """
    matrix = into_basin(matrix)
    for _ in range(limit):
        tall = matrix.shape[-2] >= matrix.shape[-1]
        excess = matrix.mT @ matrix if tall else matrix @ matrix.mT
        excess.diagonal(dim1=-2, dim2=-1).sub_(1)
        matrix = matrix - (matrix @ excess if tall else excess @ matrix) / 2
        # One step squares the error: what was 3e-3 is below 1e-5 now.
        if excess.norm(dim=(-2, -1)).max() < 3e-3:
            break
    return matrix


def polar(matrix: Tensor) -> Tensor:
    """The nearest orthonormal matrix, U V^T of the singular value decomposition, computed in float64."""
    u, _, vt = torch.linalg.svd(matrix.double(), full_matrices=False)
    return (u @ vt).to(matrix.dtype)


def _gram(matrix: Tensor) -> Tensor:
    """The smaller of W^H W and W W^H."""
    if matrix.shape[-2] >= matrix.shape[-1]:
        return matrix.mH @ matrix
    return matrix @ matrix.mH


def _frobenius(matrix: Tensor) -> Tensor:
    """The norm of a complex tensor takes torch ten times as long as the squares of its parts."""
    parts = torch.view_as_real(matrix.resolve_conj()).flatten(-2) if matrix.is_complex() else matrix
    return parts.norm(dim=(-2, -1))
