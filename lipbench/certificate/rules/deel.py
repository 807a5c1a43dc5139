"""The layers of deel-torchlip as layers that have rules, before and after `vanilla_export`. Imported with the first of
them that is met, never before.
"""

import importlib
import math
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from lipbench.certificate.exactness import Unbounded, number
from lipbench.certificate.lipschitz import OUTWARD, Shape, lipschitz
from lipbench.certificate.rounding import LIBRARY, UNIT, Step, relative, rounding
from lipbench.certificate.rules.equal import centered, plain_conv, plain_linear, pooled, shifted
from lipbench.certificate.tracing.steps import Combination
from lipbench.layers import AdaptiveL2Pool2d, FullSort, GroupSort, ScaledAvgPool2d
from lipbench.modules import duplicate

deel: Any = importlib.import_module("deel.torchlip.modules")


def _scaled(layer: Any, *steps: nn.Module) -> nn.Module:
    """Times the coefficient that the layer multiplies its output by."""
    factor = number(layer, "_coefficient_lip")
    return nn.Sequential(*steps, *([] if factor == 1 else [Combination((factor,))]))


for _kind in (deel.SpectralLinear, deel.FrobeniusLinear):
    lipschitz.equal(_kind)(plain_linear)


def _conv(layer: Any, shape: Shape) -> nn.Module:
    """Its own padding is the identity, but for the mode "symmetric"."""
    if not isinstance(layer.pad, FunctionType) or layer.pad.__module__ != deel.PadConv2d.__module__:
        raise Unbounded("it pads by itself", "use padding_mode zeros or circular")
    return plain_conv(layer, shape)


for _kind in (deel.SpectralConv2d, deel.FrobeniusConv2d, deel.PadConv2d):
    lipschitz.equal(_kind)(_conv)


@lipschitz.equal(deel.GroupSort)
@lipschitz.equal(deel.GroupSort2)
@lipschitz.equal(deel.FullSort)
def _group_sort(layer: Any, shape: Shape) -> nn.Module:
    size = layer.group_size
    return _scaled(layer, FullSort() if size is None or size >= shape[0] else GroupSort(int(size)))


@lipschitz.equal(deel.LPReLU)
def _lprelu(layer: Any, shape: Shape) -> nn.Module:
    limit, prelu = number(layer, "_coefficient_lip"), nn.PReLU(layer.weight.numel())
    prelu.weight = nn.Parameter(layer.weight.detach().clamp(-limit, limit))
    return prelu


@lipschitz.equal(deel.ScaledAvgPool2d)
def _avg_pool(layer: Any, shape: Shape) -> nn.Module:
    factor, size = number(layer, "scalingFactor"), layer.kernel_size
    simple = factor == size and layer.stride in (None, size) and not layer.ceil_mode and not layer.padding
    if simple and layer.divisor_override is None:
        return _scaled(layer, ScaledAvgPool2d(size))
    options = (size, layer.stride, layer.padding, layer.ceil_mode, layer.count_include_pad, layer.divisor_override)
    return _scaled(layer, nn.AvgPool2d(*options), Combination((factor,)))


@lipschitz.equal(deel.ScaledAdaptiveAvgPool2d)
def _adaptive_avg_pool(layer: Any, shape: Shape) -> nn.Module:
    factor = math.sqrt(shape[-2] * shape[-1])
    return _scaled(layer, nn.AdaptiveAvgPool2d(layer.output_size), Combination((factor,)))


@lipschitz.equal(deel.ScaledL2NormPool2d)
def _l2_pool(layer: Any, shape: Shape) -> nn.Module:
    return _scaled(layer, pooled(layer, shape))


@lipschitz.equal(deel.ScaledAdaptativeL2NormPool2d)
def _adaptive_l2_pool(layer: Any, shape: Shape) -> nn.Module:
    return _scaled(layer, AdaptiveL2Pool2d(1))


@lipschitz.equal(deel.InvertibleDownSampling)
def _down(layer: Any, shape: Shape) -> nn.Module:
    """Its forward is torch's, without the coefficient."""
    return nn.PixelUnshuffle(layer.downscale_factor)


@lipschitz.equal(deel.InvertibleUpSampling)
def _up(layer: Any, shape: Shape) -> nn.Module:
    return nn.PixelShuffle(layer.upscale_factor)


@lipschitz.equal(deel.LayerCentering)
def _layer_centering(layer: Any, shape: Shape) -> nn.Module:
    return centered(shape, layer.dim, layer.bias)


@lipschitz.equal(deel.BatchLipNorm)
@lipschitz.equal(deel.BatchCentering)
@torch.no_grad()
def _batch_lip_norm(layer: Any, shape: Shape) -> nn.Module:
    """(x - mean) * scale + bias in evaluation: one scale for all channels, as the layer itself computes it. A factory
    that shares scales among layers is for their product alone.
    """
    own: Any = duplicate(layer)
    own.factory = None
    mean, scale = own._get_mean_and_update(training=False), own.get_scaling_factor(training=False)
    steps = [shifted(-mean, shape), Combination((float(scale),))]
    return nn.Sequential(*steps, *([] if layer.bias is None else [shifted(layer.bias, shape)]))


@lipschitz.equal(deel.ScaleBiasLayer)
def _scale_bias(layer: Any, shape: Shape) -> nn.Module:
    """What `vanilla_export` makes of a `BatchLipNorm`."""
    scale = Combination((number(layer, "scalar"),))
    return scale if layer.bias is None else nn.Sequential(scale, shifted(layer.bias, shape))


@lipschitz.register(deel.MaxMin)
def _max_min(layer: Any, shape: Shape) -> float:
    """x -> (relu(x), relu(-x)), of which one moves."""
    return abs(number(layer, "_coefficient_lip")) * OUTWARD


@lipschitz.register(deel.HouseHolder)
def _householder(layer: Any, shape: Shape) -> float:
    """A reflection of pairs, or the identity; the coefficient is not used."""
    return reflects(layer.theta, shape)


def reflects(theta: Tensor, shape: Shape) -> float:
    """
    Raises:
        Unbounded: not one angle for each pair of channels.
    """
    if theta.numel() * 2 != shape[0]:
        raise Unbounded(f"it has {theta.numel()} angles for {shape[0]} channels", "give one angle per pair of channels")
    return OUTWARD


@rounding.register(deel.MaxMin)
def _max_min_rounding(layer: Any, shape: Shape, constant: float) -> Step:
    return relative(layer, shape, 2.1 * UNIT * constant, constant)


@rounding.register(deel.HouseHolder)
def reflection_rounding(layer: Any, shape: Shape, constant: float) -> Step:
    """A sine, a cosine, and at most eight roundings of numbers up to twice the norm of a pair. Where rounding decides
    the side of the line, both sides differ by twice the distance from it.
    """
    return relative(layer, shape, 12 * LIBRARY + 96 * UNIT, 2.0)
