"""Networks made of the layers of deel-torchlip and of orthogonium (extra `peers`), to be compared with ours.

The libraries are imported when a network is built, never before. In training their own code runs; `lipbench.bake`
leaves plain layers with the weights that they use, and only that is certified.
"""

import importlib
import math
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

from torch import nn

from lipbench.layers import (
    Antipodal,
    ConstraintFactory,
    FullSort,
    GroupSort,
    L2Pool2d,
    MaxMin,
    PeerLayer,
    is_free,
)

Maker = Callable[..., nn.Module]


def deel_mlp(
    shape: tuple[int, int, int],
    classes: int,
    *,
    widths: Sequence[int] = (128, 64, 32),
    constraint: ConstraintFactory = nn.Identity,
    baked: bool = False,
) -> nn.Sequential:
    """deel-torchlip, dense: SpectralLinear and FullSort, the head a FrobeniusLinear, whose rows have norm 1 (Serrurier
    et al., CVPR 2021, arXiv 2006.06520; the library's tutorial on MNIST 0 against 8).

    Args:
        shape: of one image, (C, H, W).
        classes: number of classes K; with two, one function f and the logits (-f/2, f/2).
        widths: neurons of the hidden layers.
        constraint: `nn.Identity` only: these layers bring their own.
        baked: the plain layers that `lipbench.bake` leaves, untrained; they need no library.

    Raises:
        ImportError: the library is not installed.
        ValueError: another constraint than `nn.Identity`.
    """
    _refuse("deel_mlp", constraint)
    dense = _maker(baked, lambda: _deel().SpectralLinear, nn.Linear)
    head = _maker(baked, lambda: _deel().FrobeniusLinear, nn.Linear)
    activation = _maker(baked, lambda: _deel().FullSort, FullSort)
    return nn.Sequential(nn.Flatten(), *_dense(math.prod(shape), classes, widths, dense, activation, head))


def deel_cnn(
    shape: tuple[int, int, int],
    classes: int,
    *,
    channels: Sequence[int] = (16, 32),
    widths: Sequence[int] = (64,),
    constraint: ConstraintFactory = nn.Identity,
    baked: bool = False,
) -> nn.Sequential:
    """deel-torchlip, convolutional: stages of a 3x3 SpectralConv2d padded with zeros, GroupSort2 and
    ScaledL2NormPool2d(2); then dense layers with the same activation and the head of `deel_mlp` (the library's
    tutorials on MNIST).

    Args:
        channels: output channels of the convolution of each stage.
        widths: neurons of the hidden dense layers.
        shape, classes, constraint, baked: as in `deel_mlp`.

    Raises:
        ImportError, ValueError: as `deel_mlp`; or the image is too small for that many stages.
    """
    _refuse("deel_cnn", constraint)
    conv = _maker(baked, lambda: _deel().SpectralConv2d, nn.Conv2d)
    dense = _maker(baked, lambda: _deel().SpectralLinear, nn.Linear)
    head = _maker(baked, lambda: _deel().FrobeniusLinear, nn.Linear)
    activation = _maker(baked, lambda: _deel().GroupSort2, GroupSort)
    pooling = _maker(baked, lambda: _deel().ScaledL2NormPool2d, L2Pool2d)
    before, height, width = shape
    layers: list[nn.Module] = []
    for after in channels:
        if min(height, width) < 2:
            raise ValueError(f"An image of {shape[1]}x{shape[2]} is too small for {len(channels)} stages of deel_cnn.")
        layers += [conv(before, after, kernel_size=3, padding=1), activation(), pooling(2)]
        before, height, width = after, height // 2, width // 2
    layers.append(nn.Flatten())
    return nn.Sequential(*layers, *_dense(before * height * width, classes, widths, dense, activation, head))


def orthogonium_mlp(
    shape: tuple[int, int, int],
    classes: int,
    *,
    widths: Sequence[int] = (128, 64, 32),
    constraint: ConstraintFactory = nn.Identity,
    baked: bool = False,
) -> nn.Sequential:
    """orthogonium, dense: OrthoLinear and MaxMin.

    Args, raises: as in `deel_mlp`.
    """
    _refuse("orthogonium_mlp", constraint)
    dense = _maker(baked, lambda: _orthogonium().OrthoLinear, nn.Linear)
    activation = _maker(baked, lambda: _orthogonium().MaxMin, MaxMin)
    return nn.Sequential(nn.Flatten(), *_dense(math.prod(shape), classes, widths, dense, activation, dense))


def orthogonium_cnn(
    shape: tuple[int, int, int],
    classes: int,
    *,
    channels: Sequence[Sequence[int]] = ((32, 32), (64,)),
    padding_mode: Literal["zeros", "circular"] = "circular",
    widths: Sequence[int] = (64, 32),
    constraint: ConstraintFactory = nn.Identity,
    baked: bool = False,
) -> nn.Sequential:
    """orthogonium, convolutional: stages of a PixelUnshuffle(2) and 3x3 AdaptiveOrthoConv2d that keep the size, each
    followed by MaxMin; then OrthoLinear and MaxMin (Boissin et al., 2025, arXiv 2501.07930).

    Args:
        channels: output channels of the convolutions of each stage.
        padding_mode: of the convolutions. Circular ones (the library's default) keep the norm everywhere; zeros lose
            it at the border and are faster.
        widths: neurons of the hidden dense layers.
        shape, classes, constraint, baked: as in `deel_mlp`.

    Raises:
        ImportError, ValueError: as `deel_mlp`; or the sides of the image are no multiples of 2 ^ stages.
    """
    _refuse("orthogonium_cnn", constraint)
    conv = _maker(baked, lambda: _orthogonium().AdaptiveOrthoConv2d, nn.Conv2d)
    dense = _maker(baked, lambda: _orthogonium().OrthoLinear, nn.Linear)
    activation = _maker(baked, lambda: _orthogonium().MaxMin, MaxMin)
    before, height, width = shape
    block = 2 ** len(channels)
    if height % block or width % block:
        raise ValueError(
            f"orthogonium_cnn with {len(channels)} stages needs images whose sides are multiples of {block}, "
            f"not {height}x{width}."
        )
    layers: list[nn.Module] = []
    for stage in channels:
        layers.append(nn.PixelUnshuffle(2))
        before, height, width = 4 * before, height // 2, width // 2
        for after in stage:
            layers += [conv(before, after, kernel_size=3, padding=1, padding_mode=padding_mode), activation()]
            before = after
    layers.append(nn.Flatten())
    return nn.Sequential(*layers, *_dense(before * height * width, classes, widths, dense, activation, dense))


def _dense(
    features: int, classes: int, widths: Sequence[int], dense: Maker, activation: Maker, head: Maker
) -> list[nn.Module]:
    """Hidden dense layers and the head, [N, D] -> logits [N, K]."""
    layers: list[nn.Module] = []
    for width in widths:
        layers += [dense(features, width), activation()]
        features = width
    return [*layers, head(features, 1), Antipodal()] if classes == 2 else [*layers, head(features, classes)]


def _maker(baked: bool, peer: Callable[[], Maker], plain: Maker) -> Maker:
    """What makes the layers of one kind: the peer's, ready for `lipbench.bake`, or at once the plain ones.

    Args:
        peer: gives the class of the peer; not called where `baked`, so that the library may be missing.
        plain: takes the same arguments.
    """

    def make(*arguments: Any, **options: Any) -> nn.Module:
        if baked:
            return plain(*arguments, **options)
        return PeerLayer(peer()(*arguments, **options), partial(plain, *arguments, **options))

    return make


def _refuse(name: str, constraint: ConstraintFactory) -> None:
    if not is_free(constraint):
        kind = getattr(constraint, "func", constraint)
        raise ValueError(
            f"The layers of {name} bring their own constraint, so {getattr(kind, '__name__', kind)} cannot be added: "
            "use constraint=free."
        )


def _deel() -> Any:
    return _library("deel.torchlip", "deel-torchlip")


def _orthogonium() -> Any:
    return _library("orthogonium.layers", "orthogonium")


def _library(module: str, package: str) -> Any:
    try:
        with warnings.catch_warnings():
            # orthogonium's docstrings hold "\(": said when Python compiles them, so only on the first import.
            for category in (DeprecationWarning, SyntaxWarning):
                warnings.filterwarnings(
                    "ignore", message=r"invalid escape sequence|.*is an invalid escape", category=category
                )
            return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"This network is made of the layers of {package}, which cannot be imported ({error}). "
            "Install it: pip install lipbench[peers]"
        ) from error
