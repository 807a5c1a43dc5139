"""Norms of dense layers and convolutions, from their weights in float64."""

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipbench.certificate.core import FINITE, OUTWARD, SMALLEST, Shape, lipschitz, outward
from lipbench.certificate.exactness import Unbounded
from lipbench.layers import (
    FourierConv2d,
    check_declared,
    fills_torus,
    is_circular,
    output_size,
    padding_of,
    patch_factor,
    symbols,
)

# Of float64.
EPS = torch.finfo(torch.float64).eps
# Up to this size of the dense operator's smaller side its exact norm is computed as well.
DENSE_LIMIT = 2048
# The dense operator is built only where it has at most this many entries.
DENSE_ENTRIES = 2**23
# The same for a convolution stored by its frequencies, whose operator takes longer to build.
FOURIER_ENTRIES = 2**20

IMAGES = "put it where images come in, before nn.Flatten"
CONSTRUCTED = "construct it as it shall compute, with zero padding, or circular padding no wider than the kernel"


def spectral_norm(matrix: Tensor) -> float:
    """Largest singular value of [..., m, n] over all matrices, from above, in float64.

    From the eigenvalues of the smaller Gram matrix, which sums of m products miss by m eps ||W||_F^2 at most (Higham,
    2002, section 3.5) and LAPACK by a small multiple of n eps ||W||^2.
    """
    matrix = matrix.to(torch.complex128 if matrix.is_complex() else torch.float64)
    if matrix.shape[-2] < matrix.shape[-1]:
        matrix = matrix.mH
    # A common scale keeps the squares of very small and very large weights from under- and overflowing.
    scale = float(matrix.abs().max())
    if scale == 0 or not math.isfinite(scale):
        return scale
    matrix = _divided(matrix, scale)
    gram = matrix.mH @ matrix
    top = float(torch.linalg.eigvalsh(gram)[..., -1].max())
    rows, columns = matrix.shape[-2:]
    energy = float(gram.diagonal(dim1=-2, dim2=-1).real.sum(-1).max())
    rounding = EPS * (2 * rows * energy + 10 * columns * max(top, 0.0))
    return outward(scale, math.sqrt(top + rounding))


def _divided(matrix: Tensor, scale: float) -> Tensor:
    """By parts: the division of complex numbers has products that underflow."""
    if not matrix.is_complex():
        return matrix / scale
    return torch.view_as_complex(torch.view_as_real(matrix.resolve_conj()) / scale)


@lipschitz.register(nn.Linear)
def _linear(layer: nn.Linear, shape: Shape) -> float:
    return spectral_norm(_finite(layer.weight))


@lipschitz.register(nn.Conv2d)
def _conv2d(layer: nn.Conv2d, shape: Shape) -> float:
    if len(shape) != 3:
        raise Unbounded(f"a convolution acts on (C, H, W), not on {shape}", IMAGES)
    return convolution_norm(layer, (shape[1], shape[2]))


@torch.no_grad()
def convolution_norm(layer: nn.Conv2d, size: tuple[int, int]) -> float:
    """Upper bound of the norm of a convolution on images of this size.

    The smallest of: the reshaped kernel's norm times the strict factor (exact for stride = kernel); the Fourier bound
    on a torus; the exact norm of the dense operator where that is small.

    Raises:
        Unbounded: a padding mode other than zeros and circular, a circular padding wider than the kernel, or
            attributes that are not those of what it computes (see `lipbench.layers.check_declared`).
    """
    kernel = _finite(layer.weight).double()
    # A power of two keeps all digits, and sums from under- and overflowing.
    exponent = math.frexp(float(kernel.abs().max()))[1]
    for part in (-exponent // 2, -exponent - -exponent // 2):  # 2^1074 is none
        kernel = kernel * math.ldexp(1.0, part)
    try:
        check_declared(layer)
        spectrum = symbols(layer, kernel, size)
    except ValueError as error:
        raise Unbounded(str(error), CONSTRUCTED) from error
    groups = kernel.reshape(layer.groups, -1, *kernel.shape[1:])
    bounds = []
    if not is_circular(layer):
        bounds.append(spectral_norm(groups.flatten(2)) * patch_factor(layer, None, "strict") * OUTWARD)
        if all(k <= s for k, s in zip(layer.kernel_size, layer.stride, strict=True)) and set(layer.dilation) == {1}:
            return _ldexp(bounds[0], exponent)
    # Taps that meet on one pixel of a small torus may cancel: what is left is as wrong as they are large.
    pixels = 2 * spectrum.shape[1] * spectrum.shape[3] / kernel.shape[1]
    rounding = EPS * (math.prod(layer.kernel_size) ** 1.5 + 64) * math.sqrt(pixels) * float(kernel.norm())
    bounds.append(spectral_norm(spectrum) + rounding)
    if not fills_torus(layer, size) and _dense_is_small(layer, size):
        exact = spectral_norm(dense_operator(layer, kernel, size))
        bounds.append(exact + rounding if is_circular(layer) else exact)
    return _ldexp(min(bounds), exponent)


def _ldexp(bound: float, exponent: int) -> float:
    return math.nextafter(math.ldexp(bound, exponent), math.inf) if bound else 0.0


@lipschitz.register(FourierConv2d)
@torch.no_grad()
def _fourier(layer: FourierConv2d, shape: Shape) -> float:
    """The largest norm of a frequency's matrix: the transforms, the zeros around and the crop add nothing. On small
    images with zeros around or a crop the exact norm of the dense operator as well, where they shorten it.
    """
    _, groups, _, rows, _ = _finite(layer.spectrum).shape
    check_bias(layer.bias, groups * rows)
    bound, torus = frequency_norm(layer), layer.torus
    outputs = math.prod(torus.outputs) * groups * rows
    whole = torus.pixels == torus.size and all(
        n == m * s for n, m, s in zip(torus.size, torus.outputs, torus.stride, strict=True)
    )
    if whole or bound < SMALLEST or math.prod(shape) * max(math.prod(shape), outputs) > FOURIER_ENTRIES:
        return bound
    exact = copy.deepcopy(layer).double()
    exact.bias = None  # a shift, which would only add its rounding
    basis = torch.eye(math.prod(shape), dtype=torch.float64, device=layer.spectrum.device).reshape(-1, *shape)
    # A crop may leave small numbers, which the transforms miss by the rounding of the large ones.
    return min(bound, spectral_norm(exact(basis).flatten(1)) + bound * (OUTWARD - 1))


def frequency_norm(layer: FourierConv2d) -> float:
    """The largest norm of the matrix of a frequency: that of the convolution on the whole torus."""
    real, imaginary = layer.spectrum.detach().double()
    return spectral_norm(torch.complex(real, imaginary))


def check_bias(bias: Tensor | None, outputs: int) -> None:
    """
    Raises:
        Unbounded: a bias of another shape than one number per output channel: broadcasting would repeat the image.
    """
    if bias is not None and tuple(bias.shape) != (outputs,):
        raise Unbounded(
            f"its bias has the shape {list(bias.shape)} for {outputs} output channels", "give one number per channel"
        )


def _finite(weight: Tensor) -> Tensor:
    if not weight.isfinite().all():
        raise Unbounded("its weights are not finite", FINITE)
    return weight.detach()


def _dense_is_small(layer: nn.Conv2d, size: tuple[int, int]) -> bool:
    side, entries = dense_size(layer, size)
    return side <= DENSE_LIMIT and entries <= DENSE_ENTRIES


def dense_size(layer: nn.Conv2d, size: tuple[int, int]) -> tuple[int, int]:
    """The smaller side of the matrix of the whole convolution, and the number of its entries."""
    inputs = layer.in_channels * math.prod(size)
    outputs = layer.out_channels * math.prod(output_size(layer, size))
    return min(inputs, outputs), inputs * outputs


def dense_operator(layer: nn.Conv2d, kernel: Tensor, size: tuple[int, int]) -> Tensor:
    """The matrix of each group of the convolution, [groups, inputs, outputs] in float64, by applying it to every
    basis image.

    Args:
        layer: gives stride, padding, dilation and groups.
        kernel: [out, in / groups, kh, kw] in float64.
    """
    (top, bottom), (left, right) = padding_of(layer)
    groups = kernel.reshape(layer.groups, -1, *kernel.shape[1:])
    channels = groups.shape[2]
    inputs = channels * math.prod(size)
    basis = torch.eye(inputs, dtype=torch.float64, device=groups.device).reshape(inputs, channels, *size)
    mode = "circular" if layer.padding_mode == "circular" else "constant"
    padded = F.pad(basis, (left, right, top, bottom), mode=mode)
    images = [F.conv2d(padded, kernel, stride=layer.stride, dilation=layer.dilation) for kernel in groups]
    return torch.stack([image.flatten(1) for image in images])
