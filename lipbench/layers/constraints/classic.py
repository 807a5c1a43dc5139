"""The constraints of the first papers: clipping, Frobenius, spectral; rows of norm 1 for a head."""

import math

import torch
from torch import Tensor

from lipbench.layers.constraints.base import Constraint


class Clip(Constraint):
    """Weight clipping of WGAN: |W_ij| <= 1 / (sqrt(nm) factor), so that ||W|| <= max|W_ij| sqrt(nm) <= 1."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight.clamp(-self._limit(weight), self._limit(weight))

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight.clamp(-self._limit(weight), self._limit(weight))

    @torch.no_grad()
    def retract_(self, weight: Tensor) -> None:
        weight.clamp_(-self._limit(weight), self._limit(weight))

    def _limit(self, weight: Tensor) -> float:
        return 1 / (math.sqrt(self.matrix(weight)[0].numel()) * self.factor)


class Frobenius(Constraint):
    """W / ||W||_F: the spectral norm is at most the Frobenius norm."""

    def forward(self, weight: Tensor) -> Tensor:
        matrix = self.matrix(weight)
        norm = matrix.norm(dim=(1, 2), keepdim=True).clamp_min(1e-12)
        return (matrix / (norm * self.factor)).view_as(weight)


class Spectral(Constraint):
    """W / ||W||_2 with the true norm, from the eigenvalues of the smaller Gram matrix, at every step.

    A power iteration would be below the norm and the layer above 1.
    """

    def forward(self, weight: Tensor) -> Tensor:
        matrix = self.matrix(weight)
        norm = _spectral_norm(matrix)[:, None, None].clamp_min(1e-12)
        return (matrix / (norm * self.factor)).view_as(weight)


class UnitRows(Constraint):
    """Each row of a dense head has norm 1: every logit is 1-Lipschitz, their differences are measured by the
    certificate.
    """

    def forward(self, weight: Tensor) -> Tensor:
        return weight / weight.norm(dim=1, keepdim=True).clamp_min(1e-12)


def _spectral_norm(matrix: Tensor) -> Tensor:
    """Largest singular value, [..., m, n] -> [...], differentiable: u^T W v with u, v held fixed."""
    u, v = top_singular_vectors(matrix)
    return (u.mT @ matrix @ v)[..., 0, 0]


@torch.no_grad()
def top_singular_vectors(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Left and right singular vectors of the largest singular value, [..., m, n] -> [..., m, 1], [..., n, 1]."""
    tall = matrix.shape[-2] >= matrix.shape[-1]
    gram = matrix.mH @ matrix if tall else matrix @ matrix.mH
    top = torch.linalg.eigh(gram).eigenvectors[..., -1:]
    other = matrix @ top if tall else matrix.mH @ top
    other = other / other.norm(dim=-2, keepdim=True).clamp_min(1e-12)
    return (other, top) if tall else (top, other)
