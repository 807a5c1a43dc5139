"""Sandwich layers: an activation between two halves of one orthonormal frame."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lipbench.layers.constraints import Orthogonal
from lipbench.layers.constructions.base import Construction


class Sandwich(Construction):
    """sqrt 2 A^T Psi sigma(sqrt 2 Psi^-1 B x + b) with [A B] of orthonormal rows and Psi diagonal, positive (Wang and
    Manchester, 2023, arXiv 2301.11526, eq. 14): 1-Lipschitz for every activation with slopes in [0, 1].

    The frame [A B] is under the constraint `Orthogonal`, where the paper differentiates through Cayley's transform:
    nothing is orthogonalised in the forward pass. After `bake` the module is its own plain form. The certificate is
    the smaller of ||[A B]||^2 and 2 ||A|| ||B||, of the weights as they are.

    Args:
        in_features, out_features: as in `nn.Linear`; there are as many neurons as outputs.
        activation: a module with slopes in [0, 1].

    Shapes:
        [N, in_features] -> [N, out_features].
    """

    frame: Tensor

    def __init__(self, in_features: int, out_features: int, activation: nn.Module | None = None):
        super().__init__()
        self.frame = nn.Parameter(torch.randn(out_features, out_features + in_features))
        parametrize.register_parametrization(self, "frame", Orthogonal.stack(1))
        self.log_psi = nn.Parameter(torch.zeros(out_features))
        self.bias = nn.Parameter(torch.zeros(out_features))
        self.activation = nn.ReLU() if activation is None else activation

    def forward(self, x: Tensor) -> Tensor:
        frame, psi = self.frame, math.sqrt(2) * self.log_psi.exp()
        a, b = frame[:, : len(frame)], frame[:, len(frame) :]
        # sqrt 2 Psi^-1 = 2 / (sqrt 2 Psi)
        hidden = self.activation(F.linear(x, b) * (2 / psi) + self.bias)
        return (hidden * psi) @ a

    def bake(self) -> nn.Module:
        return self

    def extra_repr(self) -> str:
        return f"{self.frame.shape[1] - self.frame.shape[0]}, {self.frame.shape[0]}"
