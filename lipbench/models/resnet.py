"""Residual network: stages of residual blocks, each stage at half the resolution of the one before."""

import math
from collections.abc import Sequence

from torch import nn

from lipbench.layers import ConstraintFactory, Residual, constrain, is_free
from lipbench.models.convnet import output_shape
from lipbench.models.heads import ActivationFactory, Head, dense, make_activation, normalization


def resnet(
    shape: tuple[int, int, int],
    classes: int,
    *,
    width: int = 32,
    depth: Sequence[int] = (2, 2),
    kernel_size: int = 3,
    widths: Sequence[int] = (256,),
    constraint: ConstraintFactory = nn.Identity,
    transition: ConstraintFactory | None = None,
    activation: ActivationFactory = nn.ReLU,
    head_kind: Head = "auto",
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
) -> nn.Sequential:
    """Each stage halves the image by a 2x2 convolution of stride 2, to `width` channels and then twice as many as
    before, and has `depth[i]` blocks; then dense layers.

    A block is what its constraint makes of a convolution that keeps the shape, and an activation:

    * `cpl`, `sll`: x - 2 V^T relu(V x + b), a residual layer by construction;
    * `liresnet`: (I + W) / ||I + W||, the residual sum inside one kernel;
    * `aoc`, `soc`, `cayley`: an orthogonal convolution, which keeps norms and gradients without a sum;
    * `nn.Identity`, the plain twin: x + conv(activation(conv(x))), whose last convolution starts at 0, so that a deep
      network starts as a shallow one, without a normalisation.

    Args:
        shape: of one image, (C, H, W).
        classes: number of classes K.
        width: channels of the first stage.
        depth: blocks of each stage; as many stages as numbers.
        kernel_size: of the convolutions in the blocks, odd.
        widths: hidden dense layers after the stages.
        constraint: of the blocks.
        transition: of everything that changes the shape, which is no residual sum: the halvings, the dense layers and
            the head; None: the constraint of the blocks. Of a classical network it is not used.
        activation, head_kind, mean, std: as in `convnet`.

    Raises:
        ValueError: an even kernel, or an image that cannot be halved so often.
    """
    _check(shape, kernel_size, len(depth))
    outer = constraint if transition is None or is_free(constraint) else transition
    layers = normalization(mean, std)
    for stage, blocks in enumerate(depth):
        c, h, w = output_shape(layers, shape)
        channels = width * 2**stage
        layers.append(constrain(nn.Conv2d(c, channels, 2, 2), outer, size=(h, w)))
        for _ in range(blocks):
            layers += _block(channels, (h // 2, w // 2), kernel_size, constraint, activation)
    features = math.prod(output_shape(layers, shape))
    return nn.Sequential(*layers, nn.Flatten(), *dense(features, widths, classes, outer, activation, head_kind))


def _check(shape: tuple[int, int, int], kernel_size: int, stages: int) -> None:
    if kernel_size % 2 == 0:
        raise ValueError(f"A block keeps the image's size: give an odd kernel_size, not {kernel_size}.")
    if min(shape[1:]) < 2**stages:
        raise ValueError(
            f"An image of {shape[1]}x{shape[2]} cannot be halved {stages} times: use fewer stages (model.depth)."
        )


def _block(
    channels: int, size: tuple[int, int], kernel_size: int, constraint: ConstraintFactory, activation: ActivationFactory
) -> list[nn.Module]:
    def conv() -> nn.Conv2d:
        return nn.Conv2d(channels, channels, kernel_size, padding=kernel_size // 2)

    if not is_free(constraint):
        return [constrain(conv(), constraint, size=size), make_activation(activation, channels)]
    last = conv()
    nn.init.zeros_(last.weight)
    assert last.bias is not None
    nn.init.zeros_(last.bias)
    return [Residual(nn.Sequential(conv(), make_activation(activation, channels), last))]
