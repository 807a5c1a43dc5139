"""The layers of orthogonium as layers that have rules. Imported with the first of them that is met, never before."""

import importlib
import math
from typing import Any

import torch
from torch import nn

from lipbench.certificate.exactness import Unbounded
from lipbench.certificate.lipschitz import OUTWARD, Shape, lipschitz, outward
from lipbench.certificate.rounding import LIBRARY, UNIT, Step, relative, rounding
from lipbench.certificate.rules.equal import centered, plain_conv, plain_linear, shifted
from lipbench.certificate.rules.linear import convolution_norm, spectral_norm
from lipbench.layers import Abs, MaxMin


def _of(module: str) -> Any:
    return importlib.import_module(f"orthogonium.layers.{module}")


activations, normalization = _of("custom_activations"), _of("normalization")

for _kind in (_of("linear.ortho_linear").OrthoLinear, _of("linear.ortho_linear").UnitNormLinear):
    lipschitz.equal(_kind)(plain_linear)

# Their constraint is a parametrization of the weight; their forward is that of torch's convolution.
for _module, _name in {
    "conv.AOC.rko_conv": "RKOConv2d",
    "conv.AOC.fast_block_ortho_conv": "FastBlockConv2d",
    "conv.AOC.bcop_x_rko_conv": "BcopRkoConv2d",
    "conv.adaptiveSOC.soc_x_rko_conv": "SOCRkoConv2d",
    "conv.adaptiveSOC.fast_skew_ortho_conv": "FastSOC",
    "conv.AOL.aol": "AOLConv2D",
}.items():
    lipschitz.equal(getattr(_of(_module), _name))(plain_conv)


@lipschitz.equal(activations.Abs)
def _abs(layer: Any, shape: Shape) -> nn.Module:
    return Abs()


@lipschitz.equal(activations.MaxMin)
def _max_min(layer: Any, shape: Shape) -> nn.Module:
    _first_axis(layer)
    return MaxMin()


def _is_image(shape: Shape) -> None:
    if len(shape) != 3:
        raise Unbounded(f"it acts on (C, H, W), and repeats an input of shape {shape}", "put it before nn.Flatten")


def _first_axis(layer: Any) -> None:
    if layer.axis != 1:
        raise Unbounded(f"it acts on axis {layer.axis}", "use axis=1")


@lipschitz.register(activations.SoftHuber)
def _soft_huber(layer: Any, shape: Shape) -> float:
    """d (sqrt(1 + (z / d)^2) - 1): slopes in [-1, 1]."""
    return OUTWARD


@lipschitz.register(activations.HouseHolder)
def _householder(layer: Any, shape: Shape) -> float:
    """A reflection of pairs, or the identity, over sqrt 2."""
    _first_axis(layer)
    _is_image(shape)
    if layer.theta.numel() * 2 != shape[0]:
        raise Unbounded(f"it has {layer.theta.numel()} angles for {shape[0]} channels", "give one angle per pair")
    return OUTWARD / math.sqrt(2)


@rounding.register(activations.HouseHolder)
def _householder_rounding(layer: Any, shape: Shape, constant: float) -> Step:
    """As deel-torchlip's, and a quotient."""
    return relative(layer, shape, 12 * LIBRARY + 100 * UNIT, 2.0)


@lipschitz.equal(normalization.LayerCentering2D)
def _layer_centering(layer: Any, shape: Shape) -> nn.Module:
    _is_image(shape)
    return centered(shape, (-2, -1), layer.bias.flatten())


@lipschitz.equal(normalization.BatchCentering2D)
@torch.no_grad()
def _batch_centering(layer: Any, shape: Shape) -> nn.Module:
    _is_image(shape)
    return nn.Sequential(shifted(-layer.running_mean.flatten(), shape), shifted(layer.bias.flatten(), shape))


blocks = _of("conv.SLL.sll_layer")


@lipschitz.register(blocks.SDPBasedLipschitzDense)
@torch.no_grad()
def _sll_dense(layer: Any, shape: Shape) -> float:
    """x - 2 W^T T relu(W x + b): its Jacobian I - 2 W^T T D W with 0 <= D <= I is symmetric, with eigenvalues in
    [1 - 2 ||T^(1/2) W||^2, 1] (Araujo et al., 2023, arXiv 2303.03169).
    """
    if type(layer.activation) is not nn.ReLU or shape != (layer.weight.shape[1],):
        raise Unbounded("its activation is no ReLU, or its input no vector of its size", "use it as it is made")
    scale = layer.compute_t()
    if not (scale >= 0).all():
        raise Unbounded("its scaling is negative", "train it again")
    norm = spectral_norm(layer.weight.double() * scale.double().sqrt()[:, None])
    return max(OUTWARD, outward(2.0, norm, norm) - 1)


@lipschitz.register(blocks.SDPBasedLipschitzResBlock)
@torch.no_grad()
def _sll_block(layer: Any, shape: Shape) -> float:
    """The same of a convolution that is scaled already."""
    kernel, padding = layer.kernel, layer.padding
    if type(layer.activation) is not nn.ReLU or len(shape) != 3 or kernel.shape[2] != 2 * padding + 1:
        raise Unbounded("its activation is no ReLU, or its padding does not keep the size", "use odd kernels")
    conv = nn.Conv2d(shape[0], len(kernel), kernel.shape[2], padding=padding, groups=layer.groups, bias=False)
    conv.weight = nn.Parameter(kernel.detach())
    norm = convolution_norm(conv, (shape[1], shape[2]))
    return max(OUTWARD, outward(2.0, norm, norm) - 1)
