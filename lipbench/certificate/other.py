"""Rules for layers without a matrix of their own: activations, poolings, shapes, normalisation."""

import math

import torch
from torch import Tensor, nn

from lipbench.certificate.core import OUTWARD, Rule, Shape, Unbounded, lipschitz
from lipbench.layers import FullSort, GroupSort, L2Pool2d, MaxMin, Normalize, ScaledAvgPool2d


def _constant(value: float) -> Rule:
    return lambda layer, shape: value


# Permutations and copies of pixels, sorts (permutation matrices), and activations whose slope is at most the constant.
for _kind, _value in {
    nn.Identity: 1.0,
    nn.PixelUnshuffle: 1.0,
    nn.PixelShuffle: 1.0,
    nn.ReLU: 1.0,
    nn.ReLU6: 1.0,
    nn.Tanh: 1.0,
    nn.Hardtanh: 1.0,
    nn.Sigmoid: 0.25,
    nn.Softplus: 1.0,
    nn.GELU: 1.13,  # the largest slope is 1.1290
    nn.SiLU: 1.1,  # 1.0999
    MaxMin: 1.0,
    GroupSort: 1.0,
    FullSort: 1.0,
    ScaledAvgPool2d: 1.0,
    L2Pool2d: 1.0,
    nn.Dropout: 1.0,
    nn.Dropout1d: 1.0,
    nn.Dropout2d: 1.0,
}.items():
    lipschitz.register(_kind)(_constant(_value))


@lipschitz.register(nn.Flatten)
def _flatten(layer: nn.Flatten, shape: Shape) -> float:
    if layer.start_dim < 1:
        raise Unbounded("it flattens the batch as well: use start_dim >= 1")
    return 1.0


@lipschitz.register(nn.LeakyReLU)
def _leaky_relu(layer: nn.LeakyReLU, shape: Shape) -> float:
    return max(1.0, abs(layer.negative_slope))


@lipschitz.register(nn.PReLU)
def _prelu(layer: nn.PReLU, shape: Shape) -> float:
    return max(1.0, float(layer.weight.detach().abs().max()))


@lipschitz.register(nn.ELU)
def _elu(layer: nn.ELU, shape: Shape) -> float:
    return max(1.0, abs(layer.alpha))


@lipschitz.register(Normalize)
def _normalize(layer: Normalize, shape: Shape) -> float:
    if len(shape) != 3 or any(len(t) not in (1, shape[0]) for t in (layer.mean, layer.std)):
        raise Unbounded(f"its mean or std does not fit {shape}: broadcasting would repeat the image")
    return float((1 / layer.std.double().abs()).max()) * OUTWARD


@lipschitz.register(nn.MaxPool2d)
def _max_pool(layer: nn.MaxPool2d, shape: Shape) -> float:
    """sqrt of the largest number of windows that a pixel is in: each window passes one pixel on."""
    if layer.ceil_mode:
        raise Unbounded("ceil_mode=True: windows beyond the border are not bounded")
    if layer.return_indices:
        raise Unbounded("return_indices=True gives two outputs")
    counts = [
        math.ceil(k * math.gcd(s, d) / s)
        for k, s, d in zip(_pair(layer.kernel_size), _pair(layer.stride), _pair(layer.dilation), strict=True)
    ]
    return math.sqrt(math.prod(counts)) * (OUTWARD if math.prod(counts) > 1 else 1.0)


@lipschitz.register(nn.AvgPool2d)
def _avg_pool(layer: nn.AvgPool2d, shape: Shape) -> float:
    """A mean has norm 1 / sqrt(size); a pixel is in at most the product of ceil(k / s) windows."""
    if layer.ceil_mode or layer.divisor_override is not None:
        raise Unbounded("ceil_mode=True or a divisor_override: its divisor is not the window's size")
    kernel, stride, padding = _pair(layer.kernel_size), _pair(layer.stride), _pair(layer.padding)
    if any(padding) and not layer.count_include_pad:
        raise Unbounded("count_include_pad=False: the divisor shrinks at the border")
    windows = math.prod(math.ceil(k / s) for k, s in zip(kernel, stride, strict=True))
    return math.sqrt(windows / math.prod(kernel)) * OUTWARD


@lipschitz.register(nn.AdaptiveAvgPool2d)
def _adaptive_avg_pool(layer: nn.AdaptiveAvgPool2d, shape: Shape) -> float:
    if _pair(layer.output_size) != (1, 1):
        raise Unbounded("only the global average, output_size=1, is bounded")
    return 1 / math.sqrt(math.prod(shape[1:])) * OUTWARD


def _batch_norm(layer: nn.BatchNorm2d, shape: Shape) -> float:
    """In evaluation an affine map: max |gamma| / sqrt(var + eps)."""
    if layer.running_var is None:
        raise Unbounded("without running statistics it depends on the batch")
    gamma: Tensor = torch.ones_like(layer.running_var) if layer.weight is None else layer.weight.detach()
    # float32 rounding inside the layer is covered by going outward further than elsewhere.
    return float((gamma.double().abs() / (layer.running_var.double() + layer.eps).sqrt()).max()) * OUTWARD


lipschitz.register(nn.BatchNorm1d)(_batch_norm)
lipschitz.register(nn.BatchNorm2d)(_batch_norm)


def _pair(value: object) -> tuple[int, int]:
    if isinstance(value, tuple | list):
        return int(value[0]), int(value[1])
    return int(value), int(value)  # type: ignore[call-overload]
