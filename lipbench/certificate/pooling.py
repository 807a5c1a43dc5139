"""Rules for poolings."""

import math

import torch
from torch import Tensor, nn

from lipbench.certificate.core import OUTWARD, Shape, Unbounded, lipschitz
from lipbench.certificate.linear import spectral_norm
from lipbench.layers import AdaptiveL2Pool2d, AdaptiveScaledAvgPool2d, L2Pool2d, ScaledAvgPool2d


@lipschitz.register(ScaledAvgPool2d)
@lipschitz.register(L2Pool2d)
@lipschitz.register(AdaptiveScaledAvgPool2d)
@lipschitz.register(AdaptiveL2Pool2d)
def _blocks_apart(layer: nn.Module, shape: Shape) -> float:
    """Unit vectors, or norms, of blocks that do not overlap; the weights are rounded numbers."""
    return OUTWARD


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


@lipschitz.register(nn.AdaptiveMaxPool2d)
def _adaptive_max_pool(layer: nn.AdaptiveMaxPool2d, shape: Shape) -> float:
    """As `nn.MaxPool2d`, with the windows counted."""
    if layer.return_indices:
        raise Unbounded("return_indices=True gives two outputs")
    rows, columns = _adaptive_windows(layer, shape)
    return math.sqrt(float(rows.sum(0).max() * columns.sum(0).max())) * OUTWARD


@lipschitz.register(nn.AdaptiveAvgPool2d)
def _adaptive_avg_pool(layer: nn.AdaptiveAvgPool2d, shape: Shape) -> float:
    """A mean over rows, then over columns: the product of the norms of the two matrices, exactly."""
    return math.prod(spectral_norm(w / w.sum(1, keepdim=True)) for w in _adaptive_windows(layer, shape)) * OUTWARD


def _adaptive_windows(layer: nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d, shape: Shape) -> list[Tensor]:
    """Per dimension [windows, pixels]: 1 where the pixel is in torch's window [floor(i n / m), ceil((i + 1) n / m))."""
    if len(shape) != 3:
        raise Unbounded(f"an adaptive pooling acts on (C, H, W), not on {shape}")
    asked = layer.output_size
    sizes = tuple(asked) if isinstance(asked, tuple | list) else (asked, asked)
    found = []
    for n, size in zip(shape[1:], sizes, strict=True):
        m = n if size is None else size
        index, pixel = torch.arange(m)[:, None], torch.arange(n)
        start, end = index * n // m, -(-(index + 1) * n // m)
        found.append(((start <= pixel) & (pixel < end)).double())
    return found


def _pair(value: object) -> tuple[int, int]:
    if isinstance(value, tuple | list):
        return int(value[0]), int(value[1])
    return int(value), int(value)  # type: ignore[call-overload]
