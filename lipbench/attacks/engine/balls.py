"""Balls around an image in L2, L-infinity and L1: what a projected gradient needs of a norm."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from lipbench.geometry import onto_ball, onto_cross, onto_cube, unit


@dataclass(frozen=True)
class Ball:
    """The ball of a norm.

    Attributes:
        norm: "l2", "linf" or "l1".
        onto: (x, images [N, C, H, W], radius [N]) -> images in the ball around x, and in the box where the others are.
        slope: gradient [N, C, H, W] -> its dual norm [N]: how fast a function can fall per unit of the norm.
        largest: number of pixels -> no distance in the box is larger.
    """

    norm: str
    onto: Callable[[Tensor, Tensor, Tensor], Tensor]
    slope: Callable[[Tensor], Tensor]
    largest: Callable[[int], float]


BALLS = {
    "l2": Ball("l2", onto_ball, lambda gradient: unit(gradient)[1], math.sqrt),
    "linf": Ball("linf", onto_cube, lambda gradient: gradient.abs().flatten(1).sum(1), lambda pixels: 1.0),
    "l1": Ball("l1", onto_cross, lambda gradient: gradient.abs().flatten(1).amax(1), float),
}
