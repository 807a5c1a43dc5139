"""Learned numbers that must stay in a range."""

import torch
from torch import Tensor, nn

from lipbench.layers.constraints.base import Constraint


class Interval(Constraint):
    """Each entry is kept in [low, high]: a learned slope, a learned share.

    `retract_` returns the stored numbers to the range after every step: outside it a clamp has no gradient, and what
    had left could not come back.
    """

    def __init__(self, low: float, high: float):
        super().__init__(nn.Identity())
        self.low = low
        self.high = high

    def forward(self, weight: Tensor) -> Tensor:
        return weight.clamp(self.low, self.high)

    @torch.no_grad()
    def retract_(self, weight: Tensor) -> None:
        weight.clamp_(self.low, self.high)
