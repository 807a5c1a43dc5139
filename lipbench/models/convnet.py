"""Convolutional network: stages of convolutions, each followed by a pooling, then dense layers."""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import nn

from lipbench.layers import ConstraintFactory, constrain
from lipbench.models.heads import ActivationFactory, Head, dense, make_activation, normalization


def convnet(
    shape: tuple[int, int, int],
    classes: int,
    *,
    channels: Sequence[int] = (16, 32),
    depth: int = 1,
    kernel_size: int = 3,
    stride: int = 1,
    padding: int | None = None,
    padding_mode: Literal["zeros", "circular"] = "zeros",
    widths: Sequence[int] = (100,),
    constraint: ConstraintFactory = nn.Identity,
    activation: ActivationFactory = nn.ReLU,
    dense_activation: ActivationFactory | None = None,
    pooling: Callable[[int], nn.Module] = nn.MaxPool2d,
    pool_first: bool = False,
    pool_last: bool = True,
    head_kind: Head = "auto",
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
) -> nn.Sequential:
    """Stages `depth x (convolution, activation), pooling(2)`, then dense layers.

    With `stride = kernel_size` there is no pooling after a convolution: under an orthogonal constraint that convolution
    is a norm-preserving map of patches. `pool_first` with `nn.PixelUnshuffle` (space-to-depth) and such convolutions
    make the cheapest norm-preserving network.

    Args:
        shape: of one image, (C, H, W).
        classes: number of classes K.
        channels: output channels of the convolutions of each stage.
        depth: convolutions per stage; all but the first keep the number of channels.
        kernel_size, stride, padding, padding_mode: of every convolution; padding None: "same" for stride 1, else 0.
        widths: hidden dense layers after the convolutions.
        constraint: applied to every weight; kernels are divided by a factor, see `lipbench.layers.patch_factor`.
        activation: makes that of every layer but the last, see `lipbench.models.heads.make_activation`.
        dense_activation: that of the dense layers; None: `activation`.
        pooling: called with the block size 2: `nn.MaxPool2d`, `ScaledAvgPool2d`, `L2Pool2d`, `nn.PixelUnshuffle`.
        pool_first, pool_last: whether the image and the last stage are pooled.
        head_kind, mean, std: as in `mlp`.

    Raises:
        ValueError: the image is too small for that many stages.
    """
    if padding is None:
        padding = kernel_size // 2 if stride == 1 else 0
    layers: list[nn.Module] = [*normalization(mean, std), *([pooling(2)] if pool_first else [])]
    for stage, width in enumerate(channels):
        for _ in range(depth):
            c, h, w = output_shape(layers, shape)
            _check_size(shape, min(h, w) + 2 * padding, kernel_size, len(channels))
            conv = nn.Conv2d(c, width, kernel_size, stride, padding, padding_mode=padding_mode)
            layers += [constrain(conv, constraint, size=(h, w)), make_activation(activation, width)]
        if stride == 1 and (pool_last or stage + 1 < len(channels)):
            layers.append(pooling(2))
    features = math.prod(output_shape(layers, shape))
    hidden = dense(features, widths, classes, constraint, dense_activation or activation, head_kind)
    return nn.Sequential(*layers, nn.Flatten(), *hidden)


def _check_size(shape: tuple[int, int, int], left: int, kernel_size: int, stages: int) -> None:
    if left < kernel_size:
        raise ValueError(
            f"An image of {shape[1]}x{shape[2]} is too small for {stages} stages of kernel {kernel_size}: "
            "use fewer channels."
        )


@torch.no_grad()
def output_shape(layers: list[nn.Module], shape: tuple[int, int, int]) -> tuple[int, ...]:
    """Of the output of some layers, for one image."""
    return tuple(nn.Sequential(*layers)(torch.zeros(1, *shape)).shape[1:])
