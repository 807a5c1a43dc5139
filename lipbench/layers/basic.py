"""Small layers: input normalisation, scaling, residual sums, the two logits of a binary network."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lipbench.layers.constraints import Interval


class Normalize(nn.Module):
    """`(x - mean) / std` per channel. Its Lipschitz constant is 1 / min(std): it counts in every certificate.

    Shapes:
        [N, C, H, W] -> [N, C, H, W]; `mean` and `std` have C entries or one.

    Raises:
        ValueError: a standard deviation is not positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float] = (0.0,), std: Sequence[float] = (1.0,)):
        super().__init__()
        if min(std) <= 0:
            raise ValueError(f"Normalize needs positive standard deviations, not {list(std)}.")
        self.register_buffer("mean", torch.tensor(list(mean)).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(list(std)).view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


class Residual(nn.Module):
    """`scale * (x + branch(x))`. With `scale` = 0.5 and a 1-Lipschitz branch: 1-Lipschitz, not norm preserving.

    Shapes:
        the branch keeps the shape of its input.
    """

    def __init__(self, branch: nn.Module, scale: float = 1.0):
        super().__init__()
        self.branch = branch
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * (x + self.branch(x))

    def extra_repr(self) -> str:
        return f"scale={self.scale}"


class ConvexResidual(nn.Module):
    """`share * x + (1 - share) * branch(x)` with a learned share in [0, 1]: with a 1-Lipschitz branch, 1-Lipschitz and
    not norm preserving.

    A plain number once baked; the certificate is |share| + |1 - share| L(branch) of that very number.

    Args:
        branch: keeps the shape of its input.
        share: initial one, in [0, 1].

    Shapes:
        any, kept.

    Raises:
        ValueError: the initial share is not in [0, 1].
    """

    share: Tensor

    def __init__(self, branch: nn.Module, share: float = 0.5):
        super().__init__()
        if not 0 <= share <= 1:
            raise ValueError(f"The share of the input starts in [0, 1], not at {share}.")
        self.branch = branch
        self.share = nn.Parameter(torch.tensor(float(share)))
        parametrize.register_parametrization(self, "share", Interval(0.0, 1.0))

    def forward(self, x: Tensor) -> Tensor:
        share = self.share
        return share * x + (1 - share) * self.branch(x)


class Scale(nn.Module):
    """`factor * x`: its Lipschitz constant is the factor, exactly.

    Shapes:
        any, kept.

    Raises:
        ValueError: the factor is not positive and finite.
    """

    def __init__(self, factor: float):
        super().__init__()
        if not 0 < factor < math.inf:
            raise ValueError(f"Scale needs a positive factor, not {factor}.")
        self.factor = float(factor)

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x

    def extra_repr(self) -> str:
        return str(self.factor)


def k_lipschitz(model: nn.Module, k: float) -> nn.Sequential:
    """Makes a k-Lipschitz network of a 1-Lipschitz one: its output times k, so that k is reached where 1 was.

    Certified radii do not change: margins and constants grow alike. Losses with a margin or a temperature do.

    Raises:
        ValueError: k is not positive and finite.
    """
    return nn.Sequential(model, Scale(k))


class Antipodal(nn.Module):
    """One function f becomes the two logits (-f/2, f/2), whose difference is f: class 1 where f > 0.

    Every multiclass attack and loss then runs as it is, and the certificate is |f(x)| / L(f).

    Shapes:
        [N, 1] -> [N, 2].

    Raises:
        ValueError: the input has another number of columns than one.
    """

    def forward(self, f: Tensor) -> Tensor:
        if f.ndim != 2 or f.shape[1] != 1:
            raise ValueError(f"antipodal wraps a network with one logit, [N, 1]; this one gives {list(f.shape)}.")
        return torch.cat((-f / 2, f / 2), dim=1)


def antipodal(model: nn.Module) -> nn.Sequential:
    """Makes a two-class classifier of a network with one logit f, [N, 1]: logits (-f/2, f/2)."""
    return nn.Sequential(model, Antipodal())
