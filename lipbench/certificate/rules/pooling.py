"""Rules for poolings."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipbench.certificate.exactness import Unbounded
from lipbench.certificate.lipschitz import OUTWARD, Shape, lipschitz, outward
from lipbench.certificate.relaxation import Kinks, affine, relaxation
from lipbench.certificate.relaxation.piecewise import Step as Piece
from lipbench.certificate.relaxation.piecewise import identity
from lipbench.certificate.rounding import (
    TINY,
    Affine,
    RoundingRule,
    Step,
    _of_the_result,
    _shifted,
    gamma,
    norm,
    rounding,
    underflow,
)
from lipbench.certificate.rules.linear import IMAGES, spectral_norm
from lipbench.layers import (
    AdaptiveL2Pool2d,
    AdaptiveScaledAvgPool2d,
    L2Pool2d,
    ScaledAvgPool2d,
)


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
        raise Unbounded("with ceil_mode=True windows beyond the border are not bounded", "use ceil_mode=False")
    if layer.return_indices:
        raise Unbounded("return_indices=True gives two outputs", "use return_indices=False")
    return _most_windows(_windows(layer, shape, _pair(layer.dilation)))


@lipschitz.register(nn.AvgPool2d)
def _avg_pool(layer: nn.AvgPool2d, shape: Shape) -> float:
    """A mean over rows, then over columns: the product of the norms of the two matrices, exactly. Padding counts as
    zeros.
    """
    if layer.ceil_mode or layer.divisor_override is not None:
        raise Unbounded(
            "with ceil_mode=True or a divisor_override its divisor is not the window's size",
            "use ceil_mode=False and no divisor_override",
        )
    if any(_pair(layer.padding)) and not layer.count_include_pad:
        raise Unbounded(
            "with count_include_pad=False the divisor shrinks at the border", "use count_include_pad=True or padding=0"
        )
    norms = [spectral_norm(windows) for windows in _windows(layer, shape, (1, 1))]
    return outward(*norms) / math.prod(_pair(layer.kernel_size)) * OUTWARD


@lipschitz.register(nn.AdaptiveMaxPool2d)
def _adaptive_max_pool(layer: nn.AdaptiveMaxPool2d, shape: Shape) -> float:
    """As `nn.MaxPool2d`, with the windows counted."""
    if layer.return_indices:
        raise Unbounded("return_indices=True gives two outputs", "use return_indices=False")
    return _most_windows(adaptive_windows(layer, shape))


@lipschitz.register(nn.AdaptiveAvgPool2d)
def _adaptive_avg_pool(layer: nn.AdaptiveAvgPool2d, shape: Shape) -> float:
    """A mean over rows, then over columns: the product of the norms of the two matrices, exactly."""
    return math.prod(spectral_norm(w / w.sum(1, keepdim=True)) for w in adaptive_windows(layer, shape)) * OUTWARD


def _most_windows(windows: list[Tensor]) -> float:
    count = math.prod(int(w.sum(0).max()) for w in windows)
    return math.sqrt(count) * OUTWARD if count > 1 else float(count)


def _windows(layer: nn.MaxPool2d | nn.AvgPool2d, shape: Shape, dilation: tuple[int, int]) -> list[Tensor]:
    """Per dimension [windows, pixels]: 1 where the pixel is in the window, whose padding has no pixels."""
    if len(shape) != 3:
        raise Unbounded(f"a pooling acts on (C, H, W), not on {shape}", IMAGES)
    options = (_pair(layer.kernel_size), _pair(layer.stride), _pair(layer.padding), dilation)
    found = []
    for n, k, s, p, d in zip(shape[1:], *options, strict=True):
        count = (n + 2 * p - d * (k - 1) - 1) // s + 1
        if count < 1:
            raise ValueError(f"its windows are larger than the image of {n} pixels")
        offset = torch.arange(n) - (torch.arange(count)[:, None] * s - p)
        found.append(((offset >= 0) & (offset <= d * (k - 1)) & (offset % d == 0)).double())
    return found


def adaptive_windows(layer: nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d, shape: Shape) -> list[Tensor]:
    """Per dimension [windows, pixels]: 1 where the pixel is in torch's window [floor(i n / m), ceil((i + 1) n / m))."""
    if len(shape) != 3:
        raise Unbounded(f"an adaptive pooling acts on (C, H, W), not on {shape}", IMAGES)
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


def _averages(count: Callable[..., int], roundings: int) -> RoundingRule:
    """Sums of so many numbers with positive weights, each rounded a few times: the error is relative to the same sums
    of the magnitudes.
    """

    def rule(layer: nn.Module, shape: Shape, constant: float) -> Step:
        share, size = gamma(count(layer, shape) + roundings), math.prod(shape)

        def step(u: Tensor, reach: Affine) -> tuple[Tensor, Affine]:
            given, magnitude = reach.plus(norm(u)), (reach * constant).plus(norm(layer(u.abs())))
            return layer(u), (magnitude * share + underflow(size, size, 1.0, given)).within(given + magnitude)

        return step

    return rule


def _norms(count: Callable[..., int], roundings: int) -> RoundingRule:
    """Roots of sums of squares: relative to the result. Squares below TINY are lost, each with a root of 2^-63."""

    def rule(layer: nn.Module, shape: Shape, constant: float) -> Step:
        added = count(layer, shape)
        relative_ = _of_the_result(layer, shape, constant, gamma(added + roundings))
        return _shifted(relative_, 8 * math.sqrt(TINY) * math.prod(shape))

    return rule


def _block(layer: nn.Module, shape: Shape) -> int:
    return int(layer.kernel_size) ** 2  # type: ignore[arg-type]


def _window(layer: nn.AvgPool2d, shape: Shape) -> int:
    size = layer.kernel_size
    return math.prod(size) if isinstance(size, tuple | list) else int(size) ** 2


def _adaptive(layer: nn.AdaptiveAvgPool2d, shape: Shape) -> int:
    return math.prod(int(windows.sum(1).max()) for windows in adaptive_windows(layer, shape))


def _sides(layer: nn.Module, shape: Shape) -> int:
    """Two products of matrices, one after another."""
    return shape[1] + shape[2]


rounding.register(ScaledAvgPool2d)(_averages(_block, 6))

rounding.register(nn.AvgPool2d)(_averages(_window, 6))

rounding.register(nn.AdaptiveAvgPool2d)(_averages(_adaptive, 6))

rounding.register(AdaptiveScaledAvgPool2d)(_averages(_sides, 12))

rounding.register(L2Pool2d)(_norms(_block, 8))

rounding.register(AdaptiveL2Pool2d)(_norms(_sides, 8))

relaxation.register(nn.AvgPool2d)(affine)
relaxation.register(ScaledAvgPool2d)(affine)


@relaxation.register(nn.MaxPool2d)
def _max_pool_steps(layer: nn.MaxPool2d, shape: Shape) -> list[Piece]:
    """Rounds of max(a, b) = b + relu(a - b)."""
    options = {"padding": 0, "dilation": 1, "ceil_mode": False, "return_indices": False}
    for name, value in options.items():
        if getattr(layer, name) not in (value, (value, value)):
            raise Unbounded(f"its {name} is {getattr(layer, name)}", f"use {name}={value}")
    size = math.prod(shape)
    places = torch.arange(size, dtype=torch.float64).reshape(shape[0], 1, *shape[1:])
    windows = F.unfold(places, layer.kernel_size, stride=layer.stride).transpose(1, 2).flatten(0, 1).long()
    steps: list[Piece] = []
    while windows.shape[1] > 1:
        pairs = windows.shape[1] // 2
        a, b = (windows[:, k : 2 * pairs : 2].T.flatten() for k in (0, 1))
        rest = windows[:, 2 * pairs :].T.flatten()  # of an odd number one waits for the next round
        one = identity(size)
        rise = identity(len(a) + len(rest))[:, : len(a)]
        steps.append(Kinks(one[torch.cat((b, rest))], rise, one[a] - one[b]))
        size = len(a) + len(rest)
        windows = torch.arange(size).reshape(-1, len(windows)).T
    return steps
