"""Rules for layers whose constant is the same whatever their input: permutations, fixed slopes, neutral layers."""

import math

from torch import nn

from lipbench.certificate.core import OUTWARD, Rule, Shape, lipschitz, outward
from lipbench.certificate.exactness import Unbounded, number
from lipbench.layers import Abs, Antipodal, FullSort, GroupSort, Householder, LayerCentering, MaxMin, Scale


def _constant(value: float) -> Rule:
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
