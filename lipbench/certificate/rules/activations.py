"""Rules for layers whose constant is the same for every input: permutations, fixed slopes, neutral layers."""

import math

import torch
from torch import Tensor, nn

from lipbench.certificate.exactness import Unbounded, number
from lipbench.certificate.lipschitz import OUTWARD, ConstantRule, Shape, lipschitz, outward
from lipbench.certificate.relaxation import Kinks, affine, relaxation
from lipbench.certificate.relaxation.piecewise import Step as Piece
from lipbench.certificate.relaxation.piecewise import identity
from lipbench.certificate.rounding import (
    LIBRARY,
    UNIT,
    Step,
    relative,
    rounding,
)
from lipbench.layers import (
    Abs,
    Antipodal,
    FullSort,
    GroupSort,
    Householder,
    LayerCentering,
    MaxMin,
    Scale,
)


def _constant(value: float) -> ConstantRule:
    return lambda layer, shape: value


# Permutations and copies of pixels, sorts (permutation matrices), projections, and activations whose slope is at most
# the constant.
for _kind, _value in {
    nn.Identity: 1.0,
    nn.PixelUnshuffle: 1.0,
    nn.PixelShuffle: 1.0,
    nn.ReLU: 1.0,
    nn.ReLU6: 1.0,
    nn.Tanh: 1.0,
    nn.Hardtanh: 1.0,
    nn.Sigmoid: 0.25,
    nn.GELU: 1.13,  # the largest slope is 1.1290
    nn.SiLU: 1.1,  # 1.0999
    MaxMin: 1.0,
    GroupSort: 1.0,
    FullSort: 1.0,
    Abs: 1.0,
    LayerCentering: OUTWARD,
    Antipodal: math.sqrt(0.5) * OUTWARD,
    # The identity in evaluation mode; `lipschitz` refuses training mode.
    nn.Dropout: 1.0,
    nn.Dropout1d: 1.0,
    nn.Dropout2d: 1.0,
    nn.Dropout3d: 1.0,
    nn.AlphaDropout: 1.0,
    nn.FeatureAlphaDropout: 1.0,
}.items():
    lipschitz.register(_kind)(_constant(_value))


@lipschitz.register(Householder)
def _householder(layer: Householder, shape: Shape) -> float:
    """A reflection for any angle: I - 2 v v^T, v a sine and a cosine, rounded in the precision of the angle."""
    pairs = shape[0] // 2
    if tuple(layer.angle.shape) != (pairs,):
        raise Unbounded(
            f"it has angles of shape {list(layer.angle.shape)}, not [{pairs}]: broadcasting would repeat it",
            "give one angle per pair of channels",
        )
    half = layer.angle.detach() / 2
    squares = half.sin().double().square() + half.cos().double().square()
    return outward(max(1.0, float((2 * squares - 1).max())))


@lipschitz.register(nn.Flatten)
def _flatten(layer: nn.Flatten, shape: Shape) -> float:
    if layer.start_dim < 1:
        raise Unbounded("it flattens the batch as well", "use start_dim >= 1")
    return 1.0


@lipschitz.register(nn.LeakyReLU)
def _leaky_relu(layer: nn.LeakyReLU, shape: Shape) -> float:
    return max(1.0, abs(number(layer, "negative_slope")))


@lipschitz.register(nn.PReLU)
def _prelu(layer: nn.PReLU, shape: Shape) -> float:
    return max(1.0, float(layer.weight.detach().abs().max()))


@lipschitz.register(nn.ELU)
def _elu(layer: nn.ELU, shape: Shape) -> float:
    return max(1.0, abs(number(layer, "alpha")))


@lipschitz.register(nn.Softplus)
def _softplus(layer: nn.Softplus, shape: Shape) -> float:
    """The slope is a sigmoid. At its threshold torch jumps down to the identity, by log(1 + exp(-threshold)) / beta:
    2e-9 / beta at the default of 20, below the rounding of float64 from 37 on.
    """
    threshold, beta = number(layer, "threshold"), number(layer, "beta")
    if not 37 <= threshold <= 700:
        fault = "it jumps" if threshold < 37 else "exp overflows"
        raise Unbounded(f"{fault} at its threshold of {threshold:g}", "use nn.Softplus(threshold=40)")
    if beta == 0 or math.isinf(beta):
        raise Unbounded(f"it divides by beta, which is {beta:g}", "use a finite beta that is not 0")
    return 1.0


@lipschitz.register(Scale)
def _scale(layer: Scale, shape: Shape) -> float:
    return outward(abs(number(layer, "factor")))


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


@rounding.register(MaxMin)
@rounding.register(GroupSort)
def _sorted_pairs(layer: MaxMin | GroupSort, shape: Shape, constant: float) -> Step:
    """Exact by minimum and maximum; where a gradient is wanted, a - relu(a - b) and b + relu(a - b): two roundings, of
    a - b and of the result, (2 sqrt 2 + 1) / sqrt 2 of the norm of a pair at most.
    """
    return relative(layer, shape, 3.1 * UNIT)


@rounding.register(Householder)
def _householder_rounding(layer: Householder, shape: Shape, constant: float) -> Step:
    """A sine, a cosine, and at most eight roundings of numbers up to twice the norm of a pair."""
    return relative(layer, shape, 4 * LIBRARY + 32 * UNIT, 2.0)


@rounding.register(nn.LeakyReLU)
def _leaky_relu_rounding(layer: nn.LeakyReLU, shape: Shape, constant: float) -> Step:
    """The slope is rounded, and the product."""
    slope = abs(number(layer, "negative_slope"))
    return relative(layer, shape, 2.1 * UNIT * slope, slope)


@rounding.register(nn.PReLU)
def _prelu_rounding(layer: nn.PReLU, shape: Shape, constant: float) -> Step:
    largest = float(layer.weight.detach().abs().max())
    return relative(layer, shape, 1.1 * UNIT * largest, largest)


@rounding.register(nn.Hardtanh)
def _hardtanh(layer: nn.Hardtanh, shape: Shape, constant: float) -> Step:
    """Only the two limits are rounded."""
    largest = max(abs(number(layer, "min_val")), abs(number(layer, "max_val")))
    return relative(layer, shape, 0.0, largest, UNIT * largest * math.sqrt(math.prod(shape)))


@rounding.register(Scale)
def _scale_rounding(layer: Scale, shape: Shape, constant: float) -> Step:
    """The factor is rounded, and the product."""
    return relative(layer, shape, 2.1 * UNIT * constant, constant)


def _unspecified(layer: nn.Module, shape: Shape, constant: float) -> Step:
    raise Unbounded(
        f"no standard says how exactly {type(layer).__name__} is computed in float32",
        "use nn.ReLU, or lipbench.layers.MaxMin",
    )


_UNSPECIFIED: tuple[type, ...] = (nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU, nn.ELU, nn.Softplus)


for _kind in _EXACT:
    rounding.register(_kind)(lambda layer, shape, constant: relative(layer, shape, 0.0))

for _kind in _UNSPECIFIED:
    rounding.register(_kind)(_unspecified)


for _kind in (nn.Identity, nn.Flatten, nn.Dropout, nn.PixelUnshuffle, nn.PixelShuffle, Antipodal, Scale):
    relaxation.register(_kind)(affine)


@relaxation.register(nn.ReLU)
def _relu_steps(layer: nn.Module, shape: Shape) -> list[Piece]:
    return [Kinks()]


@relaxation.register(Abs)
def _abs_steps(layer: nn.Module, shape: Shape) -> list[Piece]:
    """|x| = -x + 2 relu(x)."""
    one = identity(math.prod(shape))
    return [Kinks(direct=-one, rise=2 * one)]


@relaxation.register(nn.LeakyReLU)
def _leaky_relu_steps(layer: nn.LeakyReLU, shape: Shape) -> list[Piece]:
    """s x + (1 - s) relu(x)."""
    one, slope = identity(math.prod(shape)), number(layer, "negative_slope")
    return [Kinks(direct=slope * one, rise=(1 - slope) * one)]


@relaxation.register(MaxMin)
def _max_min_steps(layer: nn.Module, shape: Shape) -> list[Piece]:
    first, second = torch.arange(math.prod(shape)).chunk(2)
    return [_pairs(first, second, first, second, math.prod(shape))]


@relaxation.register(GroupSort)
def _group_sort_steps(layer: GroupSort, shape: Shape) -> list[Piece]:
    return _groups(shape, layer.size)


@relaxation.register(FullSort)
def _full_sort_steps(layer: FullSort, shape: Shape) -> list[Piece]:
    return _groups(shape, shape[0])


def _groups(shape: Shape, size: int) -> list[Piece]:
    """Neighbours in order, at even and at odd places in turn, as often as a group is large (odd-even transposition)."""
    groups = torch.arange(math.prod(shape)).reshape(-1, size, math.prod(shape[1:])).transpose(1, 2).reshape(-1, size)
    rounds = size if size > 2 else size - 1
    pairs = [(groups[:, k % 2 : size - 1 : 2].flatten(), groups[:, k % 2 + 1 :: 2].flatten()) for k in range(rounds)]
    return [_pairs(first, second, second, first, groups.numel()) for first, second in pairs]


def _pairs(first: Tensor, second: Tensor, larger: Tensor, smaller: Tensor, size: int) -> Kinks:
    """The larger of each pair of inputs goes to one output, b + relu(a - b), the smaller to another, a - relu(a - b).
    Other inputs stay where they are.

    Args:
        first, second: where a and b are, [m].
        larger, smaller: where they go, [m].
        size: number of inputs.
    """
    one = identity(size)
    direct = one.clone()
    direct[larger], direct[smaller] = one[second], one[first]
    rise = (one[larger] - one[smaller]).T
    return Kinks(direct, rise, one[first] - one[second])
