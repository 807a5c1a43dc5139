"""Singular values of the layers of a network, to watch them: not a certificate."""

import copy
import math

import torch
from torch import Tensor, nn

from lipbench.layers import (
    ConvexPotential,
    FourierConv2d,
    Sandwich,
    SkewExponential,
    check_declared,
    fills_torus,
    output_size,
    padding_of,
    symbols,
)
from lipbench.layers.algebra.convolution import dense_operator, dense_size
from lipbench.modules import exactly

Shape = tuple[int, ...]
# Up to this size of the dense operator its singular values are computed: a fraction of a second.
DENSE_SIDE = 512
DENSE_ENTRIES = 2**20


def has_matrix(layer: nn.Module) -> bool:
    """Whether this is a type of layer that holds a matrix: exactly a dense layer, a convolution in one of its forms, a
    residual layer around one, or a sandwich layer.
    """
    return exactly(layer, nn.Linear, nn.Conv2d, ConvexPotential, FourierConv2d, SkewExponential, Sandwich)


def layers_with_matrix(model: nn.Module) -> dict[str, nn.Module]:
    """Dotted path -> layer; the matrix inside a residual layer is not a layer of its own."""
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        if has_matrix(module) and not any(name.startswith(f"{outer}.") for outer in found):
            found[name] = module
    return found


def singular_range(layer: nn.Module, shape: Shape) -> tuple[float, float]:
    """Smallest and largest of `singular_values`; NaN twice where they are unknown."""
    values = singular_values(layer, shape)
    return (float(values.min()), float(values.max())) if len(values) else (math.nan, math.nan)


@torch.no_grad()
def singular_values(layer: nn.Module, shape: Shape) -> Tensor:
    """The min(inputs, outputs) singular values of a layer's linear map, from its weight in float64, in no order. Those
    that a convolution has once per patch, as it has where its patches do not overlap, are there once.

    Exact for dense layers, for convolutions whose patches do not overlap, for circular ones that fill their torus, and
    for those whose dense operator is small (smaller side at most 512). For the others they are the singular values of
    the circular convolution around the layer (see `lipbench.layers.symbols`; of `FourierConv2d` its own matrices): the
    largest is then an upper bound, and the smallest says nothing of the border, where the layer's own may be smaller.

    Of `ConvexPotential` they are those of V, the inner layer. The series of `SkewExponential` is no convolution: only
    its dense operator is known.

    Args:
        layer: baked.
        shape: of one input, without the batch.

    Returns:
        float64 [values]; empty where they are unknown: another type of layer, `Sandwich` (not linear), a large
        `SkewExponential`, weights that are not finite, a padding mode other than zeros and circular.
    """
    if type(layer) is ConvexPotential:
        return singular_values(layer.inner, shape)
    if type(layer) is nn.Linear:
        return _values(layer.weight.double())
    if type(layer) is nn.Conv2d and len(shape) == 3 and layer.padding_mode in ("zeros", "circular"):
        return _of_convolution(layer, (shape[1], shape[2]))
    if type(layer) is SkewExponential and _is_small(layer.inner, (shape[1], shape[2])):
        return _values(_matrix(layer, layer.inner.bias, shape))
    if type(layer) is FourierConv2d:
        return _of_frequencies(layer, shape)
    return _unknown()


def _of_frequencies(layer: FourierConv2d, shape: Shape) -> Tensor:
    torus, (_, groups, _, rows, _) = layer.torus, layer.spectrum.shape
    blocks = [n // s for n, s in zip(torus.pixels, torus.stride, strict=True)]
    inputs, outputs = math.prod(shape), groups * rows * math.prod(torus.outputs)
    fills = torus.pixels == torus.size and list(torus.outputs) == blocks
    if not fills and min(inputs, outputs) <= DENSE_SIDE and inputs * outputs <= DENSE_ENTRIES:
        return _values(_matrix(layer, layer.bias, shape))
    real, imaginary = layer.spectrum.double()
    return _values(torch.complex(real, imaginary))


def _is_small(layer: nn.Conv2d, size: tuple[int, int]) -> bool:
    side, entries = dense_size(layer, size)
    return side <= DENSE_SIDE and entries <= DENSE_ENTRIES


def _matrix(layer: nn.Module, bias: Tensor | None, shape: Shape) -> Tensor:
    """[inputs, outputs] in float64 of a layer that adds a bias per channel to a linear map."""
    parameter = next(layer.parameters())
    inputs = math.prod(shape)
    basis = torch.eye(inputs, dtype=torch.float64, device=parameter.device).reshape(inputs, *shape)
    image: Tensor = copy.deepcopy(layer).double().forward(basis)
    return (image if bias is None else image - bias[:, None, None]).flatten(1)


def _of_convolution(layer: nn.Conv2d, size: tuple[int, int]) -> Tensor:
    try:
        check_declared(layer)
    except ValueError:
        return _unknown()
    kernel = layer.weight.double()
    disjoint = all(k <= s for k, s in zip(layer.kernel_size, layer.stride, strict=True)) and set(layer.dilation) == {1}
    if disjoint and not any(map(any, padding_of(layer))):
        matrices = kernel.reshape(layer.groups, -1, math.prod(kernel.shape[1:]))
        values = _values(matrices)
        # Pixels that no patch reads are zeros of a map that has outputs to spare.
        read = math.prod(output_size(layer, size)) * math.prod(layer.kernel_size)
        spare = matrices.shape[-2] > matrices.shape[-1] and read < math.prod(size)
        return torch.cat((values.new_zeros(1), values)) if spare and len(values) else values
    if not fills_torus(layer, size) and _is_small(layer, size):
        return _values(dense_operator(layer, kernel, size))
    try:
        return _values(symbols(layer, kernel, size))
    except ValueError:  # a circular padding that repeats outputs
        return _unknown()


def _values(matrices: Tensor) -> Tensor:
    if not matrices.isfinite().all():
        return _unknown()
    return torch.linalg.svdvals(matrices).flatten()


def _unknown() -> Tensor:
    return torch.empty(0, dtype=torch.float64)
