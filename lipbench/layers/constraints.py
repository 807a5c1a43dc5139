"""Constraints on the weight of a dense or convolutional layer.

A constraint is a module registered as a parametrization of `layer.weight`: the user sees a plain `nn.Linear` or
`nn.Conv2d`. Its `forward` maps the stored tensor to the weight that is used; its `retract_`, where it has one, pulls
the stored tensor back after an optimiser's step. `bake` replaces both by fixed numbers. Constraints shape a network;
the certificate measures it.

A kernel [out, in / groups, kh, kw] is constrained as a matrix [groups, out / groups, in / groups * kh * kw]. A
convolution can exceed the norm of that matrix, because a pixel is in several patches: the weight is divided by a
`factor` (see `patch_factor`).
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lipbench.layers.orthogonalize import bjorck, into_basin, norm_bound, polar

Factor = Literal["strict", "lambda"]
ConstraintFactory = Callable[..., nn.Module]


class Constraint(nn.Module):
    """Base: how the weight of one layer is seen as a batch of matrices.

    Args:
        layer: an `nn.Linear` or `nn.Conv2d`.
        size: height and width of the layer's input, for `factor="lambda"` on a convolution.
        factor: "strict" divides a kernel by the largest duplication of a pixel, "lambda" by the average one of the
            CVPR 2021 paper, which is not an upper bound: such a layer can have a norm above 1, and its certificate
                says so.
    """

    def __init__(self, layer: nn.Module, size: tuple[int, int] | None = None, factor: Factor = "strict"):
        super().__init__()
        self.groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
        self.factor = patch_factor(layer, size, factor)

    def matrix(self, weight: Tensor) -> Tensor:
        """[out, in, ...] -> [groups, out / groups, in * ...]."""
        return weight.reshape(self.groups, weight.shape[0] // self.groups, -1)

    def retract_(self, weight: Tensor) -> None:
        """Pulls the stored tensor back in place after an optimiser's step. Nothing to do by default."""

    def finished(self, weight: Tensor) -> Tensor:
        """The weight to bake; differs from `forward` where training stops an iteration early."""
        return self(weight)


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
        matrix = self.matrix(weight)
        # Any optimiser's step may be large: three iterations bring singular values of 1.2 to 1 within 1e-4.
        weight.copy_(bjorck(into_basin(matrix), steps=3).view_as(weight))

    def finished(self, weight: Tensor) -> Tensor:
        return (polar(self.matrix(weight)) / self.factor).view_as(weight)


class Bjorck(Constraint):
    """Björck orthonormalisation inside the forward pass, differentiated through (Anil et al., 2019, section 4.2;
    deel-lip).

    It starts from a rigorous bound of the norm (Gram iteration), never a power iteration, and from the last step's
    result: `retract_` leaves the stored matrix nearly orthonormal, so that a few `steps` in the forward pass converge.
        `bake` finishes the iteration.
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
        matrix = self.matrix(weight)
        weight.copy_(bjorck(into_basin(matrix)).view_as(weight))

    def finished(self, weight: Tensor) -> Tensor:
        return (polar(self.matrix(weight)) / self.factor).view_as(weight)


class UnitRows(Constraint):
    """Each row of a dense head has norm 1: every logit is 1-Lipschitz, their differences are measured by the
    certificate.
    """

    def forward(self, weight: Tensor) -> Tensor:
        return weight / weight.norm(dim=1, keepdim=True).clamp_min(1e-12)


def constrain(layer: nn.Module, constraint: ConstraintFactory, size: tuple[int, int] | None = None) -> nn.Module:
    """Puts a constraint on `layer.weight` and returns the layer.

    Args:
        layer: an `nn.Linear` or `nn.Conv2d`.
        constraint: a constraint class, or a partial of one; `nn.Identity` is the neutral element and leaves the layer
            plain.
        size: height and width of the layer's input (needed by `factor="lambda"` alone).
    """
    if is_free(constraint):
        return layer
    parametrize.register_parametrization(layer, "weight", constraint(layer, size=size))
    return layer


def is_free(constraint: ConstraintFactory) -> bool:
    """Whether this is `nn.Identity`, the neutral constraint, or a partial of it."""
    return getattr(constraint, "func", constraint) is nn.Identity


def constrained_weights(model: nn.Module) -> list[tuple[Constraint, Tensor]]:
    """Every constraint in the model with the stored tensor that it acts on."""
    found: list[tuple[Constraint, Tensor]] = []
    for module in model.modules():
        if isinstance(module, parametrize.ParametrizationList):
            found += [(c, module.original) for c in module if isinstance(c, Constraint)]
    return found


def retract(model: nn.Module) -> None:
    """Pulls every constrained weight of the model back to its constraint set, after an optimiser's step."""
    for constraint, weight in constrained_weights(model):
        constraint.retract_(weight)


@torch.no_grad()
def bake(model: nn.Module) -> nn.Module:
    """Replaces, in place, every parametrization by a fixed weight and returns the model in evaluation mode.

    Iterations that training stops early are finished first. Afterwards the network consists of plain layers with no
    hidden state: this very network is stored, attacked and certified.
    """
    for module in list(model.modules()):
        if parametrize.is_parametrized(module):
            _bake_layer(module)
    return model.eval()


def _bake_layer(module: nn.Module) -> None:
    lists = dict(module.parametrizations.items())  # type: ignore[union-attr, operator]
    # Not `remove_parametrizations`: it takes the property off the class, which a deep copy of the layer shares.
    original_class = parametrize.type_before_parametrizations(module)
    del module.parametrizations
    module.__class__ = original_class
    for name, steps in lists.items():
        value = steps.original
        for step in steps:
            value = step.finished(value) if isinstance(step, Constraint) else step(value)
        value = value.detach().clone()
        if isinstance(steps.original, nn.Parameter):
            module.register_parameter(name, nn.Parameter(value))
        else:
            module.register_buffer(name, value)


def patch_factor(layer: nn.Module, size: tuple[int, int] | None, factor: Factor) -> float:
    """What the norm of a reshaped kernel has to be divided by, so that the convolution has at most that norm.

    strict: sqrt of the product over both dimensions of ceil(k gcd(s, d) / s): the largest number of patches that a
        pixel is in.
    lambda: sqrt((k w - r(r+1)) (k h - r(r+1)) / (h w)) with k = 2 r + 1, stride 1: the average number (Serrurier et
        al., CVPR
    2021). It is smaller than the strict one and not an upper bound.

    Raises:
        ValueError: "lambda" without an input size, with a stride, dilation or an even kernel; an unknown name.
    """
    if not isinstance(layer, nn.Conv2d):
        return 1.0
    if factor == "strict":
        return math.sqrt(
            math.prod(
                math.ceil(k * math.gcd(s, d) / s)
                for k, s, d in zip(layer.kernel_size, layer.stride, layer.dilation, strict=True)
            )
        )
    if factor == "lambda":
        odd = all(k % 2 for k in layer.kernel_size)
        if size is None or set(layer.stride) != {1} or set(layer.dilation) != {1} or not odd:
            raise ValueError(
                "factor='lambda' is defined by the paper for odd kernels, stride 1 and dilation 1, and needs "
                f"the input's size; got {layer} with size {size}. Use factor='strict'."
            )
        return math.sqrt(
            math.prod((k * n - (k // 2) * (k // 2 + 1)) / n for k, n in zip(layer.kernel_size, size, strict=True))
        )
    raise ValueError(f"factor is 'strict' or 'lambda', not {factor!r}.")


def _spectral_norm(matrix: Tensor) -> Tensor:
    """Largest singular value, [..., m, n] -> [...], differentiable: u^T W v with u, v held fixed."""
    with torch.no_grad():
        tall = matrix.shape[-2] >= matrix.shape[-1]
        gram = matrix.mT @ matrix if tall else matrix @ matrix.mT
        top = torch.linalg.eigh(gram).eigenvectors[..., -1:]
        other = matrix @ top if tall else matrix.mT @ top
        other = other / other.norm(dim=-2, keepdim=True).clamp_min(1e-12)
        u, v = (other, top) if tall else (top, other)
    return (u.mT @ matrix @ v)[..., 0, 0]
