"""Orthogonal convolutions made in the Fourier domain: Cayley layers, and the exponential of a circular convolution."""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipbench.layers.algebra.convolution import geometry, is_circular, output_size, padding_of, symbols, torus
from lipbench.layers.constructions.base import Construction
from lipbench.precision import own_precision


@dataclass(frozen=True)
class Torus:
    """How a convolution lies on a torus, all in (height, width).

    Attributes:
        size: of the image.
        stride: pixels per output.
        pixels: of the torus, a multiple of the stride and at least the image.
        outputs: of the image after the convolution, at most pixels / stride.
    """

    size: tuple[int, int]
    stride: tuple[int, int]
    pixels: tuple[int, int]
    outputs: tuple[int, int]

    @classmethod
    def of(cls, layer: nn.Conv2d, size: tuple[int, int]) -> "Torus":
        """The image itself where the padding is circular, else the smallest torus that holds its zero padding.

        Raises:
            ValueError: another padding mode; a zero padding wider than the kernel; a circular convolution whose
                outputs are not one for each stride x stride block of the image.
        """
        (sh, sw), (mh, mw) = torus(layer, size)
        outputs = output_size(layer, size)
        circular = is_circular(layer)
        fits = (outputs[0] * layer.stride[0], outputs[1] * layer.stride[1]) == size
        if circular and not fits:
            raise ValueError(
                f"On a torus a convolution with stride s turns n pixels into n / s: {layer} turns {size} into "
                f"{outputs}. Choose a padding of dilation * (kernel_size - 1) / 2 and a stride that divides the size."
            )
        reaches = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        if any(max(p) > reach for p, reach in zip(padding_of(layer), reaches, strict=True)):
            raise ValueError(f"The padding of {layer} is wider than its kernel: there are outputs without a pixel.")
        return cls(size, (sh, sw), (mh, mw), outputs)


class FourierConv2d(nn.Module):
    """A circular convolution stored as one matrix per frequency: the baked form of `FourierOrthogonalConv2d`.

    Its norm is at most the largest norm of these matrices, for any matrices: the transforms keep the norm (of the
    frequencies that are their own conjugates only the real part is used, which shortens it), and so do the zeros
    around an image and the crop after it.

    Args:
        spectrum: [2, groups, F, out / groups, in / groups * s * s], real and imaginary parts at the frequencies of
            `torch.fft.rfft2` on a torus of the pixels of one phase.
        bias: [out], or None.
        torus: how the convolution lies on it.

    Shapes:
        [N, C, H, W] -> [N, out, *torus.outputs], (H, W) = torus.size.

    Raises:
        ValueError: images of another size.
    """

    def __init__(self, spectrum: Tensor, bias: Tensor | None, torus: Torus):
        super().__init__()
        self.spectrum = nn.Parameter(spectrum)
        self.bias = None if bias is None else nn.Parameter(bias)
        self.torus = torus

    def forward(self, x: Tensor) -> Tensor:
        return _convolve(x, torch.complex(self.spectrum[0], self.spectrum[1]), self.bias, self.torus)

    def extra_repr(self) -> str:
        return f"{list(self.spectrum.shape[1:])}, {self.torus}"


class FourierOrthogonalConv2d(Construction):
    """A convolution whose matrix at every frequency is made orthonormal: its operator is exactly orthogonal (its rows
    or its columns are orthonormal) on images of the given size.

    With Cayley's transform the layer of Trockman and Kolter (2021, arXiv 2104.07167), with the exponential that of
    Singla and Feizi (2021, arXiv 2105.11417) without a truncated series. The kernel that results is as large as the
    image. A stride folds s x s pixels into channels; dilation and groups are as in `nn.Conv2d`.

    Orthogonal convolutions are circular. With zero padding the image is put on the smallest torus that holds its
    padding, and the outputs are cropped: a compression, of norm at most 1, which does not keep every norm.

    Args:
        layer: gives the kernel, which is trained, and the shape of the convolution.
        size: height and width of its input.
        transform: from matrices [..., F, m, n] to orthonormal ones, conjugates to conjugates: `cayley_transform` or
            `exponential_map` of `lipbench.layers.algebra.skew`.

    Shapes:
        as `layer`, on images of this size.

    Raises:
        ValueError: no size, a padding that has no torus (see `Torus.of`); images of another size.
    """

    def __init__(self, layer: nn.Conv2d, size: tuple[int, int] | None, transform: Callable[[Tensor], Tensor]):
        super().__init__()
        if size is None:
            raise ValueError(f"An orthogonal {layer} depends on the size of its input: give size=(height, width).")
        self.torus = Torus.of(layer, size)
        self.weight = nn.Parameter(layer.weight.detach().clone())
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().clone())
        self.transform = transform
        # Lends its stride, padding, ... without being a submodule: it has no weight.
        object.__setattr__(self, "geometry", geometry(layer))
        self.geometry: nn.Conv2d

    def spectrum(self) -> Tensor:
        """[groups, F, out / groups, in / groups * s * s], complex and orthonormal."""
        # torch correlates: the matrix of a correlation is the conjugate of the transform of its kernel.
        return self.transform(symbols(self.geometry, self.weight, self.torus.size).conj())

    def forward(self, x: Tensor) -> Tensor:
        with own_precision(x):  # no Fourier transform has a bfloat16 form
            return _convolve(x.to(self.weight.dtype), self.spectrum(), self.bias, self.torus)

    def bake(self) -> nn.Module:
        """The matrices at the frequencies, computed in float64."""
        dtype = self.weight.dtype
        spectrum = torch.view_as_real(copy.deepcopy(self).double().spectrum().resolve_conj()).movedim(-1, 0)
        bias = None if self.bias is None else self.bias.detach().to(dtype)
        return FourierConv2d(spectrum.to(dtype).contiguous(), bias, self.torus)

    def extra_repr(self) -> str:
        return f"{self.geometry}, size={self.torus.size}, {getattr(self.transform, '__name__', self.transform)}"


def _convolve(x: Tensor, spectrum: Tensor, bias: Tensor | None, torus: Torus) -> Tensor:
    if tuple(x.shape[-2:]) != torus.size:
        raise ValueError(f"This convolution is made for images of {torus.size} pixels, not {tuple(x.shape[-2:])}.")
    (h, w), (sh, sw), (mh, mw) = torus.size, torus.stride, torus.pixels
    rows, columns = mh // sh, mw // sw
    x = F.pad(x, (0, mw - w, 0, mh - h))
    # x.shape[0], not len(x): a traced graph would keep the number of images as a constant.
    split = x.reshape(x.shape[0], spectrum.shape[0], -1, rows, sh, columns, sw)
    phases = split.permute(0, 1, 2, 4, 6, 3, 5).flatten(2, 4)
    frequencies = torch.fft.rfft2(phases).flatten(3)
    product = (spectrum @ frequencies.permute(1, 3, 2, 0)).permute(3, 0, 2, 1)  # [N, groups, out, F]
    y = torch.fft.irfft2(product.unflatten(3, (rows, columns // 2 + 1)), s=(rows, columns)).flatten(1, 2)
    y = y[..., : torus.outputs[0], : torus.outputs[1]]
    return y if bias is None else y + bias[:, None, None]
