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
from typing import Literal, Self

from torch import Tensor, nn
from torch.nn.utils import parametrize

from lipbench.layers.algebra.convolution import check_padding
from lipbench.precision import own_precision

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

    @classmethod
    def stack(cls, blocks: int) -> Self:
        """The constraint of a stack of `blocks` matrices, stored as [blocks * rows, columns]."""
        constraint = cls(nn.Identity())
        constraint.groups = blocks
        return constraint

    def __call__(self, weight: Tensor) -> Tensor:
        with own_precision(weight):
            constrained: Tensor = super().__call__(weight)
        return constrained

    def matrix(self, weight: Tensor) -> Tensor:
        """[out, in, ...] -> [groups, out / groups, in * ...]."""
        return weight.reshape(self.groups, weight.shape[0] // self.groups, -1)

    def retract_(self, weight: Tensor) -> None:
        """Pulls the stored tensor back in place after an optimiser's step. Nothing to do by default."""

    def finished(self, weight: Tensor) -> Tensor:
        """The weight to bake; differs from `forward` where training stops an iteration early."""
        return self(weight)


def constrain(layer: nn.Module, constraint: ConstraintFactory, size: tuple[int, int] | None = None) -> nn.Module:
    """Makes a layer 1-Lipschitz: the layer itself with a constraint on `layer.weight`, or the construction that takes
    its place.

    Args:
        layer: an `nn.Linear` or `nn.Conv2d`.
        constraint: called with the layer and its input's size; a constraint class, a family of
            `lipbench.layers.families`, or a partial of one; `nn.Identity` is the neutral element and leaves the layer
            plain.
        size: height and width of the layer's input.
    """
    if is_free(constraint):
        return layer
    made = constraint(layer, size=size)
    if not isinstance(made, Constraint):
        return made
    parametrize.register_parametrization(layer, "weight", made)
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


def patch_factor(layer: nn.Module, size: tuple[int, int] | None, factor: Factor) -> float:
    """What the norm of a reshaped kernel has to be divided by, so that the convolution has at most that norm.

    strict: sqrt of the product over both dimensions of ceil(k gcd(s, d) / s): the largest number of patches that a
        pixel is in.
    lambda: sqrt((k w - r(r+1)) (k h - r(r+1)) / (h w)) with k = 2 r + 1, stride 1: the average number (Serrurier et
        al., CVPR 2021). It is smaller than the strict one and not an upper bound.

    Raises:
        ValueError: "strict" with a padding that repeats pixels (see `check_padding`); "lambda" without an input size,
            with a stride, dilation or an even kernel; an unknown name.
    """
    if not isinstance(layer, nn.Conv2d):
        return 1.0
    if factor == "strict":
        check_padding(layer, size)
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
