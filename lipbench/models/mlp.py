"""Multilayer perceptron."""

import math
from collections.abc import Sequence

from torch import nn

from lipbench.layers import ConstraintFactory
from lipbench.models.heads import ActivationFactory, Head, dense, normalization


def mlp(
    shape: tuple[int, int, int],
    classes: int,
    *,
    widths: Sequence[int] = (256, 256),
    constraint: ConstraintFactory = nn.Identity,
    activation: ActivationFactory = nn.ReLU,
    head_kind: Head = "auto",
    mean: Sequence[float] = (0.0,),
    std: Sequence[float] = (1.0,),
) -> nn.Sequential:
    """Dense layers of the given widths between activations. With `nn.Identity` and `nn.ReLU`: the classical network.

    Args:
        shape: of one image, (C, H, W).
        classes: number of classes K; the network gives [N, K] logits (two for a binary task).
        widths: neurons of the hidden layers.
        constraint: applied to every weight (see `lipbench.layers.constraints`).
        activation: makes that of each hidden layer, see `lipbench.models.heads.make_activation`.
        head_kind: see `lipbench.models.heads.head`.
        mean, std: input normalisation per channel, a layer of the model that counts in its constant.
    """
    layers = dense(math.prod(shape), widths, classes, constraint, activation, head_kind)
    return nn.Sequential(*normalization(mean, std), nn.Flatten(), *layers)
