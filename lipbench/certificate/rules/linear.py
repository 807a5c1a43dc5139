"""Norms of dense layers and convolutions, from their weights in float64."""

import copy
import math

import torch
from torch import Tensor, nn

from lipbench.certificate.exactness import Unbounded
from lipbench.certificate.lipschitz import FINITE, OUTWARD, SMALLEST, Shape, lipschitz, outward
from lipbench.certificate.relaxation import affine, relaxation
from lipbench.certificate.rounding import (
    Step,
    dot_products,
    rounding,
)
from lipbench.layers import (
    FourierConv2d,
    check_declared,
    fills_torus,
    is_circular,
    patch_factor,
    symbols,
)
from lipbench.layers.algebra.convolution import dense_operator, dense_size

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


@rounding.register(nn.Linear)
@rounding.register(nn.Conv2d)
def weighted(layer: nn.Linear | nn.Conv2d, shape: Shape, constant: float) -> Step:
    """One dot product per output, for any padding: products with zeros are exact."""
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
def _fourier_rounding(layer: FourierConv2d, shape: Shape, constant: float) -> Step:
    raise Unbounded(
        "it computes by Fourier transforms, whose rounding is not that of a dot product",
        "use a construction that bakes to nn.Conv2d, such as constraint=aoc or orthogonal",
    )


relaxation.register(nn.Linear)(affine)
relaxation.register(nn.Conv2d)(affine)
