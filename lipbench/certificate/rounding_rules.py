"""Rules for the rounding of single layers (see `lipbench.certificate.rounding` and docs/rounding.md)."""

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from lipbench.certificate.core import Shape
from lipbench.certificate.exactness import Unbounded, number
from lipbench.certificate.linear import convolution_norm, spectral_norm
from lipbench.certificate.pooling import adaptive_windows
from lipbench.certificate.rounding import (
    LARGEST,
    LIBRARY,
    TINY,
    UNIT,
    Affine,
    Rule,
    Step,
    dot_product,
    gamma,
    norm,
    rounding,
    underflow,
)
from lipbench.layers import (
    Abs,
    AdaptiveL2Pool2d,
    AdaptiveScaledAvgPool2d,
    Antipodal,
    BatchCentering,
    FourierConv2d,
    FullSort,
    GroupSort,
    Householder,
    L2Pool2d,
    LayerCentering,
    MaxMin,
    Normalize,
    Scale,
    ScaledAvgPool2d,
)


def relative(layer: nn.Module, shape: Shape, share: float, largest: float = 1.0, least: float = 0.0) -> Step:
    """The step of a layer whose error is at most a share of the norm of what it is given.

    Args:
        largest: magnitude of its largest constant.
        least: error that it may make however small its input is.
    """
    size = math.prod(shape)

    def step(u: Tensor, reach: Affine) -> tuple[Tensor, Affine]:
        given = reach.plus(norm(u))
        error = (given * share + underflow(size, 4, largest, given)).plus(least)
        return layer(u.clone()), error.within((given * (1 + largest)).plus(largest))

    return step


def dot_products(
    linear: Callable[[Tensor], Tensor],
    absolute: Callable[[Tensor], Tensor],
    constant: float,
    absolute_norm: float,
    terms: int,
    largest: float,
    inexact: float = 0.0,
) -> Step:
    """The step of an affine map, computed by one dot product per output.

    Args:
        linear: the map, in float64.
        absolute: the same with the magnitudes of all weights and of the bias.
        constant: its Lipschitz constant.
        absolute_norm: that of `absolute`.
        terms: products per output, and the bias.
        largest: magnitude of the largest weight.
        inexact: relative error of the weights, and of what else is done to a product.
    """
    of_sum, of_result = dot_product(terms)
    of_sum += inexact

    def step(u: Tensor, reach: Affine) -> tuple[Tensor, Affine]:
        out, sums = linear(u), absolute(u.abs())
        # Of each output before the norm is taken: the largest sums and the largest results are not those of the same.
        here = norm(of_sum * sums + of_result * out.abs())
        grown = reach * (of_sum * absolute_norm + of_result * constant)
        lost = underflow(out[:1].numel(), terms, largest, reach.plus(norm(u)))
        return out, (grown.plus(here) + lost).within((reach * absolute_norm).plus(norm(sums)))

    return step


@rounding.register(nn.Linear)
@rounding.register(nn.Conv2d)
def weighted(layer: nn.Linear | nn.Conv2d, shape: Shape, constant: float) -> Step:
    """One dot product per output, whatever pads the image: products with zeros are exact."""
    absolute = magnitudes(layer)
    terms = layer.weight[0].numel() + (layer.bias is not None)
    largest = float(absolute.weight.max()) if absolute.weight.numel() else 0.0
    return dot_products(layer, absolute, constant, absolute_norm(absolute, shape), terms, largest)


@torch.no_grad()
def magnitudes(layer: nn.Linear | nn.Conv2d) -> nn.Linear | nn.Conv2d:
    """A copy with the magnitudes of weights and bias."""
    absolute = copy.deepcopy(layer)
    for parameter in absolute.parameters():
        parameter.abs_()
    return absolute


def absolute_norm(absolute: nn.Linear | nn.Conv2d, shape: Shape) -> float:
    """Norm of the matrix of magnitudes."""
    if isinstance(absolute, nn.Conv2d):
        return convolution_norm(absolute, (shape[1], shape[2]))
    return spectral_norm(absolute.weight.detach())


@rounding.register(FourierConv2d)
def _fourier(layer: FourierConv2d, shape: Shape, constant: float) -> Step:
    raise Unbounded(
        "it computes by Fourier transforms, whose rounding is not that of a dot product",
        "use a construction that bakes to nn.Conv2d, such as constraint=aoc or orthogonal",
    )


# What copies, compares or changes signs rounds nothing: but numbers below the smallest normal one may become 0.
_EXACT: tuple[type, ...] = (
    nn.Identity,
    nn.Flatten,
    nn.PixelUnshuffle,
    nn.PixelShuffle,
    nn.ReLU,
    nn.ReLU6,
    nn.MaxPool2d,
    nn.AdaptiveMaxPool2d,
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
    Abs,
    FullSort,
    Antipodal,
)
for _kind in _EXACT:
    rounding.register(_kind)(lambda layer, shape, constant: relative(layer, shape, 0.0))


@rounding.register(MaxMin)
@rounding.register(GroupSort)
def _sorted_pairs(layer: MaxMin | GroupSort, shape: Shape, constant: float) -> Step:
    """Exact by minimum and maximum; where a gradient is wanted, a - relu(a - b) and b + relu(a - b): two roundings, of
    a - b and of the result, (2 sqrt 2 + 1) / sqrt 2 of the norm of a pair at most.
    """
    return relative(layer, shape, 3.1 * UNIT)


@rounding.register(Householder)
def _householder(layer: Householder, shape: Shape, constant: float) -> Step:
    """A sine, a cosine, and at most eight roundings of numbers up to twice the norm of a pair."""
    return relative(layer, shape, 4 * LIBRARY + 32 * UNIT, 2.0)


@rounding.register(nn.LeakyReLU)
def _leaky_relu(layer: nn.LeakyReLU, shape: Shape, constant: float) -> Step:
    """The slope is rounded, and the product."""
    slope = abs(number(layer, "negative_slope"))
    return relative(layer, shape, 2.1 * UNIT * slope, slope)


@rounding.register(nn.PReLU)
def _prelu(layer: nn.PReLU, shape: Shape, constant: float) -> Step:
    largest = float(layer.weight.detach().abs().max())
    return relative(layer, shape, 1.1 * UNIT * largest, largest)


@rounding.register(nn.Hardtanh)
def _hardtanh(layer: nn.Hardtanh, shape: Shape, constant: float) -> Step:
    """Only the two limits are rounded."""
    largest = max(abs(number(layer, "min_val")), abs(number(layer, "max_val")))
    return relative(layer, shape, 0.0, largest, UNIT * largest * math.sqrt(math.prod(shape)))


@rounding.register(Scale)
def _scale(layer: Scale, shape: Shape, constant: float) -> Step:
    """The factor is rounded, and the product."""
    return relative(layer, shape, 2.1 * UNIT * constant, constant)


def _unspecified(layer: nn.Module, shape: Shape, constant: float) -> Step:
    raise Unbounded(
        f"no standard says how exactly {type(layer).__name__} is computed in float32",
        "use nn.ReLU, or lipbench.layers.MaxMin",
    )


_UNSPECIFIED: tuple[type, ...] = (nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU, nn.ELU, nn.Softplus)
for _kind in _UNSPECIFIED:
    rounding.register(_kind)(_unspecified)


@rounding.register(Normalize)
def _normalize(layer: Normalize, shape: Shape, constant: float) -> Step:
    """A difference and a quotient: two roundings of the result."""
    if constant > LARGEST:
        raise Unbounded("it divides by a number that may be flushed to 0", "use a larger std")
    return _of_the_result(layer, shape, constant, 2.1 * UNIT, constant + float(layer.mean.abs().max()))


@rounding.register(BatchCentering)
def _batch_centering(layer: BatchCentering, shape: Shape, constant: float) -> Step:
    """x + (bias - mean): the shift is rounded, and the sum."""
    shift = float((layer.bias - layer.running_mean).detach().norm()) * math.sqrt(math.prod(shape[1:]))
    return _shifted(relative(layer, shape, 2.1 * UNIT, shift), 2.1 * UNIT * shift)


def _batch_norm(layer: nn.BatchNorm2d, shape: Shape, constant: float) -> Step:
    """alpha x + beta, alpha = gamma / sqrt(var + eps), beta = bias - mean alpha, or any other order of these: 16
    roundings are enough for all.
    """
    mean, variance = layer.running_mean, layer.running_var
    assert mean is not None  # else it has no constant
    assert variance is not None
    variance = variance + number(layer, "eps")
    if not float(variance.min()) > 2.0**-60:
        raise Unbounded("its variance is nearly 0, so that its inverse may overflow", "use a larger eps")
    weight = torch.ones_like(variance) if layer.weight is None else layer.weight.detach()
    alpha = weight.abs() / variance.sqrt()
    shift = mean.abs() * alpha + (0 if layer.bias is None else layer.bias.detach().abs())
    added = float(shift.norm()) * math.sqrt(math.prod(shape[1:]))
    share = 16 * UNIT * float(alpha.max())
    return _shifted(relative(layer, shape, share, constant + added), 16 * UNIT * added)


rounding.register(nn.BatchNorm1d)(_batch_norm)
rounding.register(nn.BatchNorm2d)(_batch_norm)
rounding.register(nn.BatchNorm3d)(_batch_norm)


@rounding.register(LayerCentering)
def _layer_centering(layer: LayerCentering, shape: Shape, constant: float) -> Step:
    """The mean of n numbers, n times: its error is n roundings of their mean magnitude, at most norm / sqrt n."""
    return relative(layer, shape, gamma(math.prod(shape) + 3) + 2 * UNIT)


def _of_the_result(layer: nn.Module, shape: Shape, constant: float, share: float, largest: float = 1.0) -> Step:
    """The step of a layer whose error is at most a share of the norm of its result."""
    size = math.prod(shape)

    def step(u: Tensor, reach: Affine) -> tuple[Tensor, Affine]:
        out, given = layer(u.clone()), reach.plus(norm(u))
        result = (reach * constant).plus(norm(out))
        error = result * share + underflow(size, size, largest, given)
        return out, error.within((given * (1 + largest)).plus(largest))

    return step


def _shifted(step: Step, error: float) -> Step:
    """A step that makes an error more, whatever it is given."""

    def more(u: Tensor, reach: Affine) -> tuple[Tensor, Affine]:
        out, local = step(u, reach)
        return out, local.plus(error)

    return more


def _averages(count: Callable[..., int], roundings: int) -> Rule:
    """Sums of so many numbers with positive weights, each rounded a few times: the error is relative to the same sums
    of the magnitudes.
    """

    def rule(layer: nn.Module, shape: Shape, constant: float) -> Step:
        share, size = gamma(count(layer, shape) + roundings), math.prod(shape)

        def step(u: Tensor, reach: Affine) -> tuple[Tensor, Affine]:
            given, magnitude = reach.plus(norm(u)), (reach * constant).plus(norm(layer(u.abs())))
            return layer(u), (magnitude * share + underflow(size, size, 1.0, given)).within(given + magnitude)

        return step

    return rule


def _norms(count: Callable[..., int], roundings: int) -> Rule:
    """Roots of sums of squares: relative to the result. Squares below TINY are lost, each with a root of 2^-63."""

    def rule(layer: nn.Module, shape: Shape, constant: float) -> Step:
        added = count(layer, shape)
        relative_ = _of_the_result(layer, shape, constant, gamma(added + roundings))
        return _shifted(relative_, 8 * math.sqrt(TINY) * math.prod(shape))

    return rule


def _block(layer: nn.Module, shape: Shape) -> int:
    return int(layer.kernel_size) ** 2  # type: ignore[arg-type]


def _window(layer: nn.AvgPool2d, shape: Shape) -> int:
    size = layer.kernel_size
    return math.prod(size) if isinstance(size, tuple | list) else int(size) ** 2


def _adaptive(layer: nn.AdaptiveAvgPool2d, shape: Shape) -> int:
    return math.prod(int(windows.sum(1).max()) for windows in adaptive_windows(layer, shape))


def _sides(layer: nn.Module, shape: Shape) -> int:
    """Two products of matrices, one after another."""
    return shape[1] + shape[2]


rounding.register(ScaledAvgPool2d)(_averages(_block, 6))
rounding.register(nn.AvgPool2d)(_averages(_window, 6))
rounding.register(nn.AdaptiveAvgPool2d)(_averages(_adaptive, 6))
rounding.register(AdaptiveScaledAvgPool2d)(_averages(_sides, 12))
rounding.register(L2Pool2d)(_norms(_block, 8))
rounding.register(AdaptiveL2Pool2d)(_norms(_sides, 8))
