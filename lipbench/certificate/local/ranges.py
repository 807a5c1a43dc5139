"""What is known of activations on a region: between which numbers they lie, and between which lines of their inputs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lipbench.certificate.lipschitz import OUTWARD

# As in `lipbench.certificate.relaxation.crown`: eight times what one operation of float64 errs, and operations besides
# a sum's products in one step; above what underflow can lose.
UNIT, OTHERS, TINY = 8 * 2.0**-53, 100, 1e-100


@dataclass(frozen=True)
class Region:
    """Images of the box [0, 1]^n no farther than `radius` [N] from x [N, ...], float64.

    Raises:
        ValueError: a centre outside of the box, of which bounds on the box say nothing.
    """

    x: Tensor
    radius: Tensor

    def __post_init__(self) -> None:
        if not bool(((self.x >= 0) & (self.x <= 1)).all()) or self.x.dtype != torch.float64:
            raise ValueError("Local bounds hold on the box of images: give float64 images with pixels in [0, 1].")


@dataclass(frozen=True)
class Ranges:
    """Of an activation [N, ...]: its value at the centre, between which numbers it lies on the region, and how far in
    L2 it is from the value at the centre, [N].
    """

    at: Tensor
    low: Tensor
    high: Tensor
    radius: Tensor

    @property
    def reach(self) -> Tensor:
        """How far each entry is from its value at the centre."""
        return torch.maximum(self.at - self.low, self.high - self.at).clamp_min(0)

    @property
    def size(self) -> Tensor:
        """The largest magnitude of each entry."""
        return torch.maximum(self.low.abs(), self.high.abs())

    def narrowed(self, low: Tensor, high: Tensor) -> "Ranges":
        """The same with other bounds of the entries, where these are tighter."""
        found = replace(self, low=torch.maximum(self.low, low), high=torch.minimum(self.high, high))
        return replace(found, radius=torch.minimum(self.radius, found.reach.flatten(1).norm(dim=1) * OUTWARD))


# From slopes at the output of a step, [N, R, ...], those at each of its inputs.
Back = Callable[[Tensor], Sequence[Tensor]]


@dataclass(frozen=True)
class Lines:
    """A step on a region: it changes by between slopes[0] * u + middle - spread and slopes[1] * u + middle + spread,
    entry by entry, where u is linear in the changes of its inputs.

    Attributes:
        back: the matrix of u, transposed; None: u is 0.
        slopes: [N, ...] each; None: 1.
        middle: [N, ...]; None: 0.
        spread: [N, ...]; None: 0.
        ball: where u is 0, the change is no longer than this in L2, [N]; else None.
    """

    back: Back | None
    slopes: tuple[Tensor, Tensor] | None = None
    middle: Tensor | None = None
    spread: Tensor | None = None
    ball: Tensor | None = None


Rule = Callable[[Sequence[Ranges]], tuple[Lines, Ranges]]


def of_batch(values: Tensor, like: Tensor) -> Tensor:
    """[N] -> [N, 1, ...]."""
    return values.reshape(-1, *(1,) * (like.ndim - 1))


def length(values: Tensor) -> Tensor:
    return values.flatten(1).norm(dim=1)
