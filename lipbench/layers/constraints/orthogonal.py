"""Constraints that keep every singular value at 1."""

import torch
from torch import Tensor, nn

from lipbench.layers.algebra.orthonormal import bjorck, norm_bound, orthonormalize, polar
from lipbench.layers.algebra.skew import cayley_transform, exponential_map
from lipbench.layers.constraints.base import Constraint, Factor


class Orthogonal(Constraint):
    """The stored matrix is itself kept orthonormal: by `retract_` after every step, nothing is differentiated through.

    Made for the optimiser `lipbench.training.SpectralDescent`; any other optimiser works too, more slowly. Tall
    matrices have orthonormal columns, wide ones orthonormal rows. The layer starts from an orthonormal matrix.
    """

    def forward(self, weight: Tensor) -> Tensor:
        return weight if self.factor == 1 else weight / self.factor

    def right_inverse(self, weight: Tensor) -> Tensor:
        return polar(self.matrix(weight)).view_as(weight)

    @torch.no_grad()
    def retract_(self, weight: Tensor) -> None:
        weight.copy_(orthonormalize(self.matrix(weight)).view_as(weight))

    def finished(self, weight: Tensor) -> Tensor:
        return (polar(self.matrix(weight)) / self.factor).view_as(weight)


class Bjorck(Constraint):
    """Björck orthonormalisation inside the forward pass, differentiated through (Anil et al., 2019, section 4.2;
    deel-lip).

    It starts from a rigorous bound of the norm (Gram iteration), never a power iteration, and from the last step's
    result: `retract_` leaves the stored matrix orthonormal, so that the few `steps` of the forward pass only project
    its gradient.
    """

    def __init__(
        self, layer: nn.Module, size: tuple[int, int] | None = None, factor: Factor = "strict", steps: int = 3
    ):
        super().__init__(layer, size, factor)
        self.steps = steps

    def forward(self, weight: Tensor) -> Tensor:
        matrix = self.matrix(weight)
        with torch.no_grad():
            bound = norm_bound(matrix)[:, None, None]
            scale = torch.where(bound > 1.2, bound, torch.ones_like(bound))
        return (bjorck(matrix / scale, self.steps) / self.factor).view_as(weight)

    def right_inverse(self, weight: Tensor) -> Tensor:
        return polar(self.matrix(weight)).view_as(weight)

    @torch.no_grad()
    def retract_(self, weight: Tensor) -> None:
        weight.copy_(orthonormalize(self.matrix(weight)).view_as(weight))

    def finished(self, weight: Tensor) -> Tensor:
        return (polar(self.matrix(weight)) / self.factor).view_as(weight)


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
    """Cayley's transform, see `algebra.skew.cayley_transform` (Trockman and Kolter, 2021, arXiv 2104.07167).
    Tall matrices have orthonormal columns, wide ones orthonormal rows.
    """

    transform = staticmethod(cayley_transform)


class Exponential(_Skew):
    """The exponential of the skew part of the matrix, see `algebra.skew.exponential_map` (for dense layers:
    Lezcano-Casado and Martínez-Rubio, 2019, arXiv 1901.08428). Tall matrices have orthonormal columns, wide ones
    orthonormal rows.
    """

    transform = staticmethod(exponential_map)
