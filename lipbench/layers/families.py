"""Families: one construction of the field each, for every layer of a network.

A family is called with an ordinary layer and the size of its input, as any constraint (see
`lipbench.layers.constrain`), and returns what takes the layer's place: a constraint on its weight, or a construction.
So one and the same builder makes the network of each family and its classical twin. What a paper leaves open (a
residual layer that changes the number of channels, dense layers of a convolutional method) is filled by its nearest
relative, named below.
"""

from collections.abc import Callable

from torch import nn
from torch.nn.utils import parametrize

from lipbench.layers.algebra.convolution import check_padding, is_circular, keeps_size, padding_of
from lipbench.layers.algebra.skew import cayley_transform, exponential_map
from lipbench.layers.constraints import (
    AOL,
    Cayley,
    Constraint,
    Exponential,
    LinearResidual,
    Orthogonal,
    SpectralOperator,
)
from lipbench.layers.constructions import (
    BoundedSkew,
    Construction,
    ConvexPotential,
    FourierOrthogonalConv2d,
    OrthogonalConv2d,
    Sandwich,
    SkewExponential,
)

Size = tuple[int, int] | None


def aoc(layer: nn.Module, size: Size = None) -> Constraint | Construction:
    """Adaptive orthogonal convolutions (arXiv 2501.07930; with stride 1, BCOP, arXiv 1911.00937); orthogonal dense
    layers. A kernel that equals its stride is an orthogonal matrix of patches, the cheapest of all.
    """
    if not isinstance(layer, nn.Conv2d) or _is_patches(layer):
        return Orthogonal(layer, size)
    return OrthogonalConv2d(
        layer.in_channels,
        layer.out_channels,
        _one(layer, "kernel_size"),
        _one(layer, "stride"),
        _padding(layer, size),
        _one(layer, "dilation"),
        layer.groups,
        bias=layer.bias is not None,
        padding_mode=layer.padding_mode,  # type: ignore[arg-type]
    )


def soc(layer: nn.Module, size: Size = None) -> Constraint | Construction:
    """Skew orthogonal convolutions (arXiv 2105.11417): the exponential of a skew-symmetric convolution. Circular ones
    and those that change the size are exponentials at each frequency, without a series; the zero-padded ones that
    keep the size are a series, and keep norms. Dense layers and patches: the exponential of a matrix.
    """
    if not isinstance(layer, nn.Conv2d) or _is_patches(layer):
        return Exponential(layer, size)
    if is_circular(layer) or not keeps_size(layer):
        return FourierOrthogonalConv2d(layer, size, exponential_map)
    parametrize.register_parametrization(layer, "weight", BoundedSkew(layer, size))
    return SkewExponential(layer)


def cayley(layer: nn.Module, size: Size = None) -> Constraint | Construction:
    """Cayley layers (arXiv 2104.07167): Cayley's transform at each frequency; of the matrix of a dense layer or of
    patches. With zero padding the compression of one on a larger torus.
    """
    if not isinstance(layer, nn.Conv2d) or _is_patches(layer):
        return Cayley(layer, size)
    return FourierOrthogonalConv2d(layer, size, cayley_transform)


def sandwich(layer: nn.Module, size: Size = None) -> Constraint | Construction:
    """Sandwich layers (arXiv 2301.11526) in place of dense layers; Cayley layers where there is a kernel, and for a
    single output, which one neuron could not give both signs.
    """
    if not isinstance(layer, nn.Linear) or layer.out_features == 1:
        return cayley(layer, size)
    return Sandwich(layer.in_features, layer.out_features)


def aol(layer: nn.Module, size: Size = None) -> Constraint:
    """Almost orthogonal layers (arXiv 2208.03160), dense and convolutional."""
    return AOL(layer, size)


def cpl(layer: nn.Module, size: Size = None) -> Constraint | Construction:
    """Convex potential layers (arXiv 2110.12690) where the layer keeps its shape; elsewhere the weight divided by the
    norm of its operator.
    """
    return _residual(layer, lambda inner: SpectralOperator(inner, size), lambda outer: SpectralOperator(outer, size))


def sll(layer: nn.Module, size: Size = None) -> Constraint | Construction:
    """SDP-based Lipschitz layers (arXiv 2303.03169) where the layer keeps its shape; elsewhere almost orthogonal
    ones.
    """
    return _residual(layer, lambda inner: AOL(inner, size, side="rows", weights=True), lambda outer: AOL(outer, size))


def liresnet(layer: nn.Module, size: Size = None) -> Constraint:
    """(I + W) / ||I + W|| (arXiv 2301.12549), dense and convolutional."""
    return LinearResidual(layer, size)


def _residual(
    layer: nn.Module, inner: Callable[[nn.Module], Constraint], outer: Callable[[nn.Module], Constraint]
) -> Constraint | Construction:
    if not keeps_shape(layer):
        return outer(layer)
    parametrize.register_parametrization(layer, "weight", inner(layer))
    return ConvexPotential(layer)  # type: ignore[arg-type]


def keeps_shape(layer: nn.Module) -> bool:
    """Whether the output of a dense layer or convolution has the shape of its input."""
    if isinstance(layer, nn.Linear):
        return layer.in_features == layer.out_features
    assert isinstance(layer, nn.Conv2d)
    return layer.in_channels == layer.out_channels and keeps_size(layer)


def _is_patches(layer: nn.Conv2d) -> bool:
    return layer.kernel_size == layer.stride and not any(map(any, padding_of(layer))) and set(layer.dilation) == {1}


def _padding(layer: nn.Conv2d, size: Size) -> int:
    """A square padding as one number, also of `padding="same"`."""
    check_padding(layer, size)
    sides = {side for both in padding_of(layer) for side in both}
    if len(sides) != 1:
        raise ValueError(f"An orthogonal convolution needs the same padding on every side, not {padding_of(layer)}.")
    return sides.pop()


def _one(layer: nn.Conv2d, name: str) -> int:
    """A square option as one number."""
    first, second = getattr(layer, name)
    if first != second:
        raise ValueError(f"An orthogonal convolution needs the same {name} in both dimensions, not {(first, second)}.")
    return int(first)
