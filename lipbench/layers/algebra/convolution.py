"""A convolution as a linear operator: its matrices in the Fourier domain.

A convolution is embedded in a circular one, which the Fourier transform splits into one small matrix per frequency
(Sedghi et al., 2019, arXiv 1805.10408). A zero-padded convolution is a compression of the circular one on a larger
torus, so the largest norm of these matrices bounds it.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def padding_of(layer: nn.Conv2d) -> list[tuple[int, int]]:
    """(before, after) per dimension, in pixels."""
    if layer.padding == "valid":
        return [(0, 0)] * 2
    if layer.padding == "same":
        totals = [d * (k - 1) for k, d in zip(layer.kernel_size, layer.dilation, strict=True)]
        return [(total // 2, total - total // 2) for total in totals]
    if isinstance(layer.padding, int):  # set after the construction, which makes it a pair
        return [(layer.padding, layer.padding)] * 2
    return [(int(p), int(p)) for p in layer.padding]


def check_declared(layer: nn.Conv2d) -> None:
    """Refuses a convolution that computes something else than its attributes say.

    torch reads kernel_size and the channels from the weight, and a circular padding from a private copy that is made
    at construction: attributes that were changed later are not believed.

    Raises:
        ValueError: the weight has another shape than the attributes, or the circular padding another width.
    """
    declared = (layer.out_channels, layer.in_channels // layer.groups, *layer.kernel_size)
    if tuple(layer.weight.shape) != declared:
        raise ValueError(
            f"its weight has the shape {list(layer.weight.shape)}, its attributes say {list(declared)}: construct it "
            "with the sizes it has"
        )
    used = [side for both in reversed(padding_of(layer)) for side in both]
    if layer.padding_mode != "zeros" and list(layer._reversed_padding_repeated_twice) != used:
        raise ValueError(
            f"its padding was changed to {layer.padding} after its construction, which torch ignores where "
            f"padding_mode={layer.padding_mode!r}: construct it anew"
        )


def symbols(layer: nn.Conv2d, kernel: Tensor, size: tuple[int, int]) -> Tensor:
    """The matrices [groups, frequencies, out / groups, in / groups * s * s] of the circular convolution around this
    one, at the frequencies of the half plane (the others' are conjugate, with the same norms).

    Args:
        layer: gives stride, padding, dilation and groups.
        kernel: [out, in / groups, kh, kw], in the precision to compute in.
        size: height and width of the layer's input.

    Raises:
        ValueError: a padding mode other than zeros and circular, or a circular padding wider than the kernel.
    """
    stride, (mh, mw) = torus(layer, size)
    groups = kernel.reshape(layer.groups, -1, *kernel.shape[1:])
    count, out, into = groups.shape[:3]
    (kh, kw), (dh, dw), (sh, sw) = layer.kernel_size, layer.dilation, stride
    placed = groups.new_zeros(count, out, into, mh, mw)
    # Where the taps really lie: a shift changes no norm, but it decides which kernels are skew-symmetric.
    top, left = (before for before, _ in padding_of(layer))
    rows = (torch.arange(kh, device=groups.device) * dh - top) % mh
    columns = (torch.arange(kw, device=groups.device) * dw - left) % mw
    # Taps that fall on the same pixel of a small torus add up.
    index = (rows[:, None] * mw + columns[None, :]).flatten()
    placed.flatten(3).index_add_(3, index, groups.flatten(3))
    # A stride keeps every s-th output: fold the s x s phases of the input into channels, each with its own transform.
    phases = placed.reshape(count, out, into, mh // sh, sh, mw // sw, sw).permute(0, 1, 2, 4, 6, 3, 5)
    # Real kernels: the other half of the frequencies has the conjugate matrices.
    spectrum = torch.fft.rfft2(phases.reshape(count, out, into * sh * sw, mh // sh, mw // sw))
    # Batched products of matrices that lie scattered in memory would be ten times slower.
    return spectrum.permute(0, 3, 4, 1, 2).flatten(1, 2).contiguous()


def torus(layer: nn.Conv2d, size: tuple[int, int]) -> tuple[list[int], list[int]]:
    """Stride and size of the circular convolution whose norm bounds the layer's, per dimension.

    Zeros: a kernel of extent d (k - 1) + 1 never wraps on a torus of n + min(p, d (k - 1)) pixels or more; padding
    beyond d (k - 1) only sees zeros.
    Circular: the torus of the image itself where the stride divides it; otherwise every position is kept (stride 1).

    Raises:
        ValueError: as `symbols`.
    """
    check_padding(layer)
    padding = padding_of(layer)
    circular = is_circular(layer)
    strides, sides = [], []
    for n, k, s, d, (before, after) in zip(size, layer.kernel_size, layer.stride, layer.dilation, padding, strict=True):
        reach = d * (k - 1)
        if circular:
            strides.append(s if n % s == 0 else 1)
            sides.append(n)
        else:
            wide = n + max(min(before, reach), min(after, reach))
            wide = max(wide, reach + 1)
            strides.append(s)
            sides.append(_fast(-(-wide // s)) * s)
    return strides, sides


def check_padding(layer: nn.Conv2d, size: tuple[int, int] | None = None) -> None:
    """Refuses the paddings that repeat pixels or outputs: no bound of the kernel is one of such a convolution.

    Raises:
        ValueError: a padding mode other than zeros and circular; a circular padding wider than the kernel, or with a
            stride that does not divide the size (where that is given): the last patches overlap the first.
    """
    if layer.padding_mode not in ("zeros", "circular"):
        raise ValueError(
            f"padding_mode={layer.padding_mode!r} copies border pixels, which can exceed the kernel's norm: use zeros "
            "or circular"
        )
    if not is_circular(layer):
        return
    if size is not None and any(n % s for n, s in zip(size, layer.stride, strict=True)):
        raise ValueError(
            f"On a torus of {size} pixels the last patches of {layer} overlap the first: use circular padding with a "
            "stride that divides the size"
        )
    for k, d, (before, after) in zip(layer.kernel_size, layer.dilation, padding_of(layer), strict=True):
        if before + after > d * (k - 1):
            raise ValueError(
                f"a circular padding of {before} + {after} pixels repeats outputs: at most {d * (k - 1)} is bounded"
            )


def _fast(length: int) -> int:
    """The next length without a prime factor above 7: its Fourier transform is several times faster."""
    rest = length
    for factor in (2, 3, 5, 7):
        while rest % factor == 0:
            rest //= factor
    return length if rest == 1 else _fast(length + 1)


def output_size(layer: nn.Conv2d, size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of the layer's output on images of this size."""
    height, width = (
        (n + sum(p) - d * (k - 1) - 1) // s + 1
        for n, p, k, s, d in zip(size, padding_of(layer), layer.kernel_size, layer.stride, layer.dilation, strict=True)
    )
    return height, width


def geometry(layer: nn.Conv2d) -> nn.Conv2d:
    """A convolution of the same stride, padding, ... whose weight takes no memory."""
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
    return nn.Conv2d(**{name: getattr(layer, name) for name in names}, device="meta")


def is_circular(layer: nn.Conv2d) -> bool:
    """Whether the layer really pads circularly."""
    return layer.padding_mode == "circular" and any(any(p) for p in padding_of(layer))


def keeps_size(layer: nn.Conv2d) -> bool:
    """Whether the image keeps its height and width and the padding is the same on both sides."""
    if set(layer.stride) != {1}:
        return False
    reaches = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    return all(2 * before == 2 * after == r for (before, after), r in zip(padding_of(layer), reaches, strict=True))


def fills_torus(layer: nn.Conv2d, size: tuple[int, int]) -> bool:
    """Whether the layer is itself the circular convolution of `symbols`, whose singular values are then exactly its
    own: circular padding that keeps every position, and a stride that divides the image.
    """
    if layer.padding_mode != "circular":
        return False
    return all(
        before + after == d * (k - 1) and n % s == 0
        for n, k, s, d, (before, after) in zip(
            size, layer.kernel_size, layer.stride, layer.dilation, padding_of(layer), strict=True
        )
    )


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
