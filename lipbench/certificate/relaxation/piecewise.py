"""A small network as affine maps and rectified differences, in float64: what a linear relaxation is computed from."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipbench.certificate.exactness import Unbounded, number, rule_of, unknown
from lipbench.certificate.lipschitz import FINITE, Shape
from lipbench.layers import Abs, Antipodal, GroupSort, MaxMin, Normalize, Scale, ScaledAvgPool2d, is_circular
from lipbench.modules import exactly

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
# Linear up to a shift, whatever their options.
AFFINE = (
    *(nn.Linear, nn.Conv2d, nn.AvgPool2d, nn.Flatten, nn.Identity, nn.Dropout, nn.PixelUnshuffle, nn.PixelShuffle),
    *(Antipodal, Normalize, Scale, ScaledAvgPool2d),
)


@torch.no_grad()
def steps_of(model: nn.Module, shape: Shape) -> list[Step]:
    """The steps that a network of nested `nn.Sequential` takes from a flat image to its logits, on the CPU.

    Args:
        model: baked, in evaluation mode.
        shape: of one image, (C, H, W).

    Raises:
        Unbounded: a layer of another kind, or one too large; with its name.
    """
    return _walk(model, tuple(shape), "")[0]


def _walk(module: nn.Module, shape: Shape, name: str) -> tuple[list[Step], Shape]:
    refusal = unknown(module)
    if refusal:
        raise refusal.of(name or type(module).__name__)
    if type(module) is not nn.Sequential:
        try:
            return _leaf(module, shape)
        except Unbounded as error:
            raise error.of(f"{name} ({type(module).__name__})" if name else type(module).__name__) from None
    steps: list[Step] = []
    for child, layer in module._modules.items():
        assert layer is not None  # a Sequential cannot hold None
        found, shape = _walk(layer, shape, f"{name}.{child}" if name else child)
        steps += found
    return steps, shape


def _leaf(module: nn.Module, shape: Shape) -> tuple[list[Step], Shape]:
    size, rule = math.prod(shape), rule_of(RULES, module)
    if exactly(module, *AFFINE):
        return _affine(module, shape)
    if rule is None:
        raise Unbounded("linear relaxation has no rule for it", "use ReLU, MaxMin, max pooling, or the certificate")
    if size**2 > ENTRIES:
        raise Unbounded(f"it has {size} inputs", SMALL)
    steps: list[Step] = rule(module, shape)
    out = module(torch.zeros(1, *shape, device=_device(module))).shape[1:]
    return steps, tuple(out)


def _affine(layer: nn.Module, shape: Shape) -> tuple[list[Step], Shape]:
    """Its matrix is read off the images of the basis, without its shift: then every entry is exact, or rounded once."""
    if isinstance(layer, nn.Conv2d) and is_circular(layer):
        reaches = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        if any(reach >= n for reach, n in zip(reaches, shape[1:], strict=True)):
            raise Unbounded("on its torus several taps meet on one pixel and may cancel", "use zero padding")
    exact, size = copy.deepcopy(layer).double().cpu(), math.prod(shape)
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
    return [Affine(weight, bias)], tuple(zero.shape[1:])


def _relu(layer: nn.Module, shape: Shape) -> list[Step]:
    return [Kinks()]


def _abs(layer: nn.Module, shape: Shape) -> list[Step]:
    """|x| = -x + 2 relu(x)."""
    one = _identity(math.prod(shape))
    return [Kinks(direct=-one, rise=2 * one)]


def _leaky_relu(layer: nn.LeakyReLU, shape: Shape) -> list[Step]:
    """s x + (1 - s) relu(x)."""
    one, slope = _identity(math.prod(shape)), number(layer, "negative_slope")
    return [Kinks(direct=slope * one, rise=(1 - slope) * one)]


def _max_min(layer: nn.Module, shape: Shape) -> list[Step]:
    first, second = torch.arange(math.prod(shape)).chunk(2)
    return [_sorted_pairs(first, second, first, second)]


def _group_sort(layer: GroupSort, shape: Shape) -> list[Step]:
    if layer.size != 2:
        raise Unbounded(f"linear relaxation sorts pairs, not groups of {layer.size}", "use GroupSort(2)")
    pairs = torch.arange(math.prod(shape)).reshape(-1, 2, math.prod(shape[1:]))
    first, second = pairs[:, 0].flatten(), pairs[:, 1].flatten()
    return [_sorted_pairs(first, second, second, first)]


def _sorted_pairs(first: Tensor, second: Tensor, larger: Tensor, smaller: Tensor) -> Kinks:
    """The larger of each pair of inputs goes to one output, b + relu(a - b), the smaller to another, a - relu(a - b).

    Args:
        first, second: where a and b are, [n / 2].
        larger, smaller: where they go, [n / 2].
    """
    one = _identity(2 * len(first))
    direct = torch.zeros_like(one)
    direct[larger], direct[smaller] = one[second], one[first]
    rise = (one[larger] - one[smaller]).T
    return Kinks(direct, rise, one[first] - one[second])


def _max_pool(layer: nn.MaxPool2d, shape: Shape) -> list[Step]:
    """Rounds of max(a, b) = b + relu(a - b)."""
    options = {"padding": 0, "dilation": 1, "ceil_mode": False, "return_indices": False}
    for name, value in options.items():
        if getattr(layer, name) not in (value, (value, value)):
            raise Unbounded(f"its {name} is {getattr(layer, name)}", f"use {name}={value}")
    size = math.prod(shape)
    places = torch.arange(size, dtype=torch.float64).reshape(shape[0], 1, *shape[1:])
    windows = F.unfold(places, layer.kernel_size, stride=layer.stride).transpose(1, 2).flatten(0, 1).long()
    steps: list[Step] = []
    while windows.shape[1] > 1:
        pairs = windows.shape[1] // 2
        a, b = (windows[:, k : 2 * pairs : 2].T.flatten() for k in (0, 1))
        rest = windows[:, 2 * pairs :].T.flatten()  # of an odd number one waits for the next round
        one = _identity(size)
        rise = _identity(len(a) + len(rest))[:, : len(a)]
        steps.append(Kinks(one[torch.cat((b, rest))], rise, one[a] - one[b]))
        size = len(a) + len(rest)
        windows = torch.arange(size).reshape(-1, len(windows)).T
    return steps


def _identity(size: int) -> Tensor:
    return torch.eye(size, dtype=torch.float64)


def _device(module: nn.Module) -> torch.device:
    return next(iter([*module.parameters(), *module.buffers()]), torch.zeros(())).device


RULES: dict[type, Callable[[Any, Shape], list[Step]]] = {
    nn.ReLU: _relu,
    Abs: _abs,
    nn.LeakyReLU: _leaky_relu,
    MaxMin: _max_min,
    GroupSort: _group_sort,
    nn.MaxPool2d: _max_pool,
}
