"""Residual layers, each by its own inequality on the weights that it really has."""

import torch
from torch import nn

from lipbench.certificate.core import OUTWARD, Shape, Unbounded, lipschitz, unknown
from lipbench.layers import ConvexPotential, ConvexResidual, Residual, keeps_size


@lipschitz.register(Residual)
def _residual(layer: Residual, shape: Shape) -> float:
    return abs(layer.scale) * (1 + lipschitz.branch(layer.branch, shape)) * OUTWARD


@lipschitz.register(ConvexResidual)
def _convex_residual(layer: ConvexResidual, shape: Shape) -> float:
    share = float(layer.share.detach())
    return (abs(share) + abs(1 - share) * lipschitz.branch(layer.branch, shape)) * OUTWARD


@lipschitz.register(ConvexPotential)
def _convex_potential(layer: ConvexPotential, shape: Shape) -> float:
    """max(1, h ||V||^2 - 1): the Jacobian is I - h V^T D V with 0 <= D <= I, symmetric, so its eigenvalues lie in
    [1 - h ||V||^2, 1]. A weight that misses its constraint loosens the bound and never falsifies it.
    """
    for part in (layer.inner, layer.activation):
        reason = unknown(part)
        if reason:
            raise Unbounded(f"its {type(part).__name__}: {reason}")
    if not _slope_in_unit_interval(layer.activation):
        raise Unbounded(
            f"x - h V^T sigma(V x) is bounded for activations with slopes in [0, 1], not for {layer.activation}"
        )
    if type(layer.inner) is not nn.Linear and not (type(layer.inner) is nn.Conv2d and keeps_size(layer.inner)):
        raise Unbounded(f"its inner layer, {layer.inner}, has no adjoint of the same form")
    return max(1.0, layer.step * lipschitz(layer.inner, shape) ** 2 - 1) * OUTWARD if layer.step >= 0 else torch.inf


def _slope_in_unit_interval(activation: nn.Module) -> bool:
    if type(activation) is nn.LeakyReLU:
        return 0 <= activation.negative_slope <= 1
    if type(activation) is nn.PReLU:
        return bool(((activation.weight >= 0) & (activation.weight <= 1)).all())
    return type(activation) in (nn.ReLU, nn.ReLU6, nn.Sigmoid, nn.Tanh, nn.Identity)
