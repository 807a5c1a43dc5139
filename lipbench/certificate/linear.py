"""Norms of dense layers and convolutions, from their weights in float64.

A convolution is bounded by embedding it in a circular one, which the Fourier transform splits into one small matrix
per frequency (Sedghi et al., 2019, arXiv 1805.10408; zero padding: the zero-padded operator is a compression of the
circular one on a larger torus).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipbench.certificate.core import OUTWARD, Shape, Unbounded, lipschitz
from lipbench.layers import patch_factor

# Up to this size of the dense operator's smaller side its exact norm is computed as well.
DENSE_LIMIT = 2048
# The dense operator is built only where it has at most this many entries.
DENSE_ENTRIES = 2**23


def spectral_norm(matrix: Tensor) -> float:
    """Largest singular value of [..., m, n] over all matrices, from above, in float64.

    From the eigenvalues of the smaller Gram matrix: their error is a small multiple of n eps ||W||^2, far inside the
        slack of 1e-9.
    """
    matrix = matrix.to(torch.complex128 if matrix.is_complex() else torch.float64)
    if matrix.shape[-2] < matrix.shape[-1]:
        matrix = matrix.mH
    # A common scale keeps the squares of very small and very large weights from under- and overflowing.
    scale = float(matrix.abs().max())
    if scale == 0 or not math.isfinite(scale):
        return scale
    matrix = matrix / scale
    top = float(torch.linalg.eigvalsh(matrix.mH @ matrix)[..., -1].max())
    return scale * math.sqrt(max(top, 0.0)) * OUTWARD


@lipschitz.register(nn.Linear)
def _linear(layer: nn.Linear, shape: Shape) -> float:
    return spectral_norm(_finite(layer.weight))


@lipschitz.register(nn.Conv2d)
def _conv2d(layer: nn.Conv2d, shape: Shape) -> float:
    if len(shape) != 3:
        raise Unbounded(f"a convolution acts on (C, H, W), not on {shape}")
    return convolution_norm(layer, (shape[1], shape[2]))


@torch.no_grad()
def convolution_norm(layer: nn.Conv2d, size: tuple[int, int]) -> float:
    """Upper bound of the norm of a convolution on images of this size.

    The smallest of: the reshaped kernel's norm times the strict factor (exact for stride = kernel); the Fourier bound
        on a torus; the exact
    norm of the dense operator where that is small.

    Raises:
        Unbounded: a padding mode other than zeros and circular, or a circular padding wider than the kernel.
    """
    kernel = _finite(layer.weight).double()
    if layer.padding_mode not in ("zeros", "circular"):
        raise Unbounded(f"padding_mode={layer.padding_mode!r} copies border pixels, which can exceed the kernel's norm")
    padding = _padding(layer)
    circular = layer.padding_mode == "circular" and any(any(p) for p in padding)
    groups = kernel.reshape(layer.groups, -1, *kernel.shape[1:])
    if not circular:
        reshaped = spectral_norm(groups.flatten(2)) * patch_factor(layer, None, "strict") * OUTWARD
        if all(k <= s for k, s in zip(layer.kernel_size, layer.stride, strict=True)) and set(layer.dilation) == {1}:
            return reshaped
    else:
        reshaped = math.inf
    stride, torus = _torus(layer, size, padding, circular)
    bounds = [reshaped, spectral_norm(_symbols(groups, layer, stride, torus))]
    if _dense_is_small(layer, size):
        bounds.append(
            spectral_norm(_dense(layer, groups[:1], size)) if layer.groups == 1 else _dense_grouped(layer, size)
        )
    return min(bounds)


def _finite(weight: Tensor) -> Tensor:
    if not weight.isfinite().all():
        raise Unbounded("its weights are not finite")
    return weight.detach()


def _padding(layer: nn.Conv2d) -> list[tuple[int, int]]:
    """(before, after) per dimension, in pixels."""
    if layer.padding == "valid":
        return [(0, 0)] * 2
    if layer.padding == "same":
        totals = [d * (k - 1) for k, d in zip(layer.kernel_size, layer.dilation, strict=True)]
        return [(total // 2, total - total // 2) for total in totals]
    return [(int(p), int(p)) for p in layer.padding]


def _torus(
    layer: nn.Conv2d, size: tuple[int, int], padding: list[tuple[int, int]], circular: bool
) -> tuple[list[int], list[int]]:
    """Stride and size of the circular convolution whose norm bounds the layer's, per dimension.

    Zeros: a kernel of extent d (k - 1) + 1 never wraps on a torus of n + min(p, d (k - 1)) pixels; padding beyond d (k
        - 1) only sees zeros.
    Circular: the torus of the image itself where the stride divides it; otherwise every position is kept (stride 1).
    """
    strides, torus = [], []
    for n, k, s, d, (before, after) in zip(size, layer.kernel_size, layer.stride, layer.dilation, padding, strict=True):
        reach = d * (k - 1)
        if circular:
            if before + after > reach:
                raise Unbounded(
                    f"a circular padding of {before} + {after} pixels repeats outputs: at most {reach} is bounded"
                )
            strides.append(s if n % s == 0 else 1)
            torus.append(n)
        else:
            wide = n + max(min(before, reach), min(after, reach))
            wide = max(wide, reach + 1)
            strides.append(s)
            torus.append(-(-wide // s) * s)
    return strides, torus


def _symbols(groups: Tensor, layer: nn.Conv2d, stride: list[int], torus: list[int]) -> Tensor:
    """The matrices [groups, frequencies, out, in * s * s] of a strided circular convolution on the torus."""
    count, out, into = groups.shape[:3]
    (kh, kw), (dh, dw), (sh, sw), (mh, mw) = layer.kernel_size, layer.dilation, stride, torus
    placed = groups.new_zeros(count, out, into, mh, mw)
    rows = torch.arange(kh, device=groups.device) * dh % mh
    columns = torch.arange(kw, device=groups.device) * dw % mw
    # Taps that fall on the same pixel of a small torus add up.
    index = (rows[:, None] * mw + columns[None, :]).flatten()
    placed.flatten(3).index_add_(3, index, groups.flatten(3))
    # A stride keeps every s-th output: fold the s x s phases of the input into channels, each with its own transform.
    phases = placed.reshape(count, out, into, mh // sh, sh, mw // sw, sw).permute(0, 1, 2, 4, 6, 3, 5)
    spectrum = torch.fft.fft2(phases.reshape(count, out, into * sh * sw, mh // sh, mw // sw))
    return spectrum.permute(0, 3, 4, 1, 2).flatten(1, 2)


def _dense_is_small(layer: nn.Conv2d, size: tuple[int, int]) -> bool:
    inputs = layer.in_channels * math.prod(size)
    outputs = layer.out_channels * math.prod(_output_size(layer, size))
    return min(inputs, outputs) <= DENSE_LIMIT and inputs * outputs <= DENSE_ENTRIES


def _output_size(layer: nn.Conv2d, size: tuple[int, int]) -> list[int]:
    return [
        (n + sum(p) - d * (k - 1) - 1) // s + 1
        for n, p, k, s, d in zip(size, _padding(layer), layer.kernel_size, layer.stride, layer.dilation, strict=True)
    ]


def _dense(layer: nn.Conv2d, kernel: Tensor, size: tuple[int, int]) -> Tensor:
    """The matrix of one group of the convolution, [in * h * w, outputs], by applying it to every basis image."""
    (top, bottom), (left, right) = _padding(layer)
    inputs = kernel.shape[2] * math.prod(size)
    basis = torch.eye(inputs, dtype=torch.float64, device=kernel.device).reshape(inputs, kernel.shape[2], *size)
    mode = "circular" if layer.padding_mode == "circular" else "constant"
    padded = F.pad(basis, (left, right, top, bottom), mode=mode)
    return F.conv2d(padded, kernel[0], stride=layer.stride, dilation=layer.dilation).flatten(1)


def _dense_grouped(layer: nn.Conv2d, size: tuple[int, int]) -> float:
    groups = layer.weight.detach().double().reshape(layer.groups, 1, -1, *layer.weight.shape[1:])
    return max(spectral_norm(_dense(layer, kernel, size)) for kernel in groups)
