"""A small network as affine maps and rectified differences, in float64: what a linear relaxation is computed from."""

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lipbench.certificate.exactness import Unbounded, rule_of, unknown
from lipbench.certificate.lipschitz import FINITE, Shape
from lipbench.layers import Normalize, is_circular

# The largest matrix of a step: 128 MiB.
ENTRIES = 2**24
SMALL = "linear relaxation is for small networks: use certificate=[certificate]"


@dataclass(frozen=True)
class Affine:
    """x -> weight x + bias, [n] -> [m]."""

    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class Kinks:
    """x -> direct x + rise relu(inner x), [n] -> [m]. None: of `direct` nothing, of `rise` and `inner` the identity."""

    direct: Tensor | None = None
    rise: Tensor | None = None
    inner: Tensor | None = None


Step = Affine | Kinks
StepsRule = Callable[[Any, Shape], list[Step]]


class Relaxation:
    """The register of the rules."""

    def __init__(self) -> None:
        self.rules: dict[type, StepsRule] = {}

    def register(self, kind: type) -> Callable[[StepsRule], StepsRule]:
        """Decorator for the rule of a type: `rule(layer, shape) -> steps` of a layer and the shape of its input without
        the batch. Raise `Unbounded(why, remedy)` for what has no steps. `affine` is the rule of linear layers.

        The rule is used for exactly this type, not for subclasses.
        """

        def add(rule: StepsRule) -> StepsRule:
            self.rules[kind] = rule
            return rule

        return add


relaxation = Relaxation()


@torch.no_grad()
def steps_of(model: nn.Module, shape: Shape) -> list[Step]:
    """The steps that a network of nested `nn.Sequential` takes from a flat image to its logits, on the CPU.

    Args:
        model: baked, in evaluation mode.
        shape: of one image, (C, H, W).

    Raises:
        Unbounded: a layer of another kind, or one too large; with its name.
    """
    steps: list[Step] = []
    shape = tuple(shape)
    for name, layer in _pooled_first(list(_leaves(model, ""))):
        try:
            found, shape = _leaf(layer, shape)
        except Unbounded as error:
            raise error.of(f"{name} ({type(layer).__name__})" if name else type(layer).__name__) from None
        steps += found
    return steps


def _leaves(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    """The layers inside nested `nn.Sequential`, with their names."""
    refusal = unknown(module)
    if refusal:
        raise refusal.of(name or type(module).__name__)
    if type(module) is not nn.Sequential:
        yield name, module
        return
    for child, layer in module._modules.items():
        assert layer is not None  # a Sequential cannot hold None
        yield from _leaves(layer, f"{name}.{child}" if name else child)


def _pooled_first(layers: list[tuple[str, nn.Module]]) -> list[tuple[str, nn.Module]]:
    """The same function: max pooling goes before the ReLU that it follows. They commute, to the last bit, and after the
    pooling there are fewer ReLUs.
    """
    for i in range(len(layers) - 1):
        if type(layers[i][1]) is nn.ReLU and type(layers[i + 1][1]) is nn.MaxPool2d:
            layers[i], layers[i + 1] = layers[i + 1], layers[i]
    return layers


def _leaf(module: nn.Module, shape: Shape) -> tuple[list[Step], Shape]:
    size, rule = math.prod(shape), rule_of(relaxation.rules, module)
    if rule is None:
        raise Unbounded("linear relaxation has no rule for it", "use ReLU, MaxMin, max pooling, or the certificate")
    if rule is not affine and size**2 > ENTRIES:
        raise Unbounded(f"it has {size} inputs", SMALL)
    steps: list[Step] = rule(module, shape)
    return steps, tuple(_in_float64(module)(torch.zeros(1, *shape, dtype=torch.float64)).shape[1:])


def affine(layer: nn.Module, shape: Shape) -> list[Step]:
    """The rule of layers that are linear up to a shift, whatever their options.

    The matrix is read off the images of the basis, without the shift: then every entry is exact, or rounded once.
    """
    if isinstance(layer, nn.Conv2d) and is_circular(layer):
        reaches = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        if any(reach >= n for reach, n in zip(reaches, shape[1:], strict=True)):
            raise Unbounded("on its torus several taps meet on one pixel and may cancel", "use zero padding")
    exact, size = _in_float64(layer), math.prod(shape)
    zero: Tensor = exact(torch.zeros(1, *shape, dtype=torch.float64))
    if zero[0].numel() * size > ENTRIES or len(zero) != 1:
        raise Unbounded(f"its matrix is {zero[0].numel()} x {size}", SMALL)
    if isinstance(layer, nn.Flatten) or not any(True for _ in (*layer.parameters(), *layer.buffers())):
        pass
    elif isinstance(exact, Normalize):
        exact.mean.zero_()
    else:
        exact.bias = None  # type: ignore[assignment]
    basis: Tensor = exact(torch.eye(size, dtype=torch.float64).reshape(size, *shape))
    if len(basis) != size:
        raise Unbounded("it mixes the images of a batch", "keep the dimension of the batch")
    weight, bias = basis.flatten(1).T.contiguous(), zero.flatten()
    if not (weight.isfinite().all() and bias.isfinite().all()):
        raise Unbounded("its weights are not finite", FINITE)
    return [Affine(weight, bias)]


def identity(size: int) -> Tensor:
    """The matrix, float64 [size, size]."""
    return torch.eye(size, dtype=torch.float64)


def _in_float64(layer: nn.Module) -> nn.Module:
    return copy.deepcopy(layer).double().cpu()
