"""Orthonormal matrices as functions of a skew-symmetric one, differentiated through in every step."""

from torch import Tensor

from lipbench.layers.constraints.base import Constraint
from lipbench.layers.skew import cayley_transform, exponential_map


class _Skew(Constraint):
    """The stored tensor is free: any value of it gives an orthonormal matrix."""

    @staticmethod
    def transform(matrix: Tensor) -> Tensor:
        """[..., F, m, n] -> orthonormal."""
        raise NotImplementedError

    def forward(self, weight: Tensor) -> Tensor:
        return (self.transform(self.matrix(weight)[:, None]) / self.factor).reshape(weight.shape)

    def finished(self, weight: Tensor) -> Tensor:
        return self(weight.double()).to(weight.dtype)


class Cayley(_Skew):
    """Cayley's transform, see `lipbench.layers.skew.cayley_transform` (Trockman and Kolter, 2021, arXiv 2104.07167).
    Tall matrices have orthonormal columns, wide ones orthonormal rows.
    """

    transform = staticmethod(cayley_transform)


class Exponential(_Skew):
    """The exponential of the skew part of the matrix, see `lipbench.layers.skew.exponential_map` (for dense layers:
    Lezcano-Casado and Martínez-Rubio, 2019, arXiv 1901.08428). Tall matrices have orthonormal columns, wide ones
    orthonormal rows.
    """

    transform = staticmethod(exponential_map)
