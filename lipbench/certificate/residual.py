"""Layers of several products, each by its own inequality on the weights that it really has."""

import math

import torch
from torch import nn

from lipbench.certificate.core import OUTWARD, Shape, Unbounded, lipschitz, unknown
from lipbench.certificate.linear import convolution_norm, spectral_norm
from lipbench.layers import (
    ConvexPotential,
    ConvexResidual,
    Residual,
    Sandwich,
    SkewExponential,
    check_declared,
    geometry,
    keeps_size,
)
from lipbench.layers.constructions import TERMS, skew_kernel


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
    if not layer.step >= 0:
        raise Unbounded(f"its step is {layer.step}, not a number of at least 0")
    (inner,) = lipschitz.layerwise(layer.inner, shape)
    if inner.reason:
        raise Unbounded(f"its inner layer: {inner.reason}")
    return max(1.0, layer.step * inner.bound**2 - 1) * OUTWARD


@lipschitz.register(SkewExponential)
def _skew_exponential(layer: SkewExponential, shape: Shape) -> float:
    """1 + ||A||^(K+1) / (K+1)!: A = L - L^T is skew by construction, so exp(A) is orthogonal and the series misses it
    by the remainder of e^(i t), |t| <= ||A||. Zero channels before it and channels left out after it add nothing.
    """
    reason = unknown(layer.inner)
    if reason:
        raise Unbounded(f"its inner convolution: {reason}")
    if type(layer.inner) is not nn.Conv2d or not keeps_size(layer.inner) or len(shape) != 3:
        raise Unbounded(f"its inner layer, {layer.inner}, has no transpose of the same form")
    try:  # of the layer itself: its skew part is constructed anew
        check_declared(layer.inner)
    except ValueError as error:
        raise Unbounded(f"its inner convolution: {error}") from error
    norm = convolution_norm(_skew(layer.inner), (shape[1], shape[2]))
    return (1 + norm ** (TERMS + 1) / math.factorial(TERMS + 1)) * OUTWARD


@torch.no_grad()
def _skew(inner: nn.Conv2d) -> nn.Conv2d:
    """The convolution with the kernel L - L^T, in float64."""
    skew, kernel = geometry(inner), skew_kernel(inner.weight.double(), inner.groups)
    skew.in_channels = skew.out_channels = len(kernel)
    skew.weight = nn.Parameter(kernel)
    return skew


@lipschitz.register(Sandwich)
def _sandwich(layer: Sandwich, shape: Shape) -> float:
    """min(||[A B]||^2, 2 ||A|| ||B||): Psi commutes with the diagonal 0 <= D <= I of slopes, so outputs differ by 2 A^T
    D B d. With R = D^(1/2) [A B] and z = (u, v), z' = (u, -v), unit u and v: 4 u^T A^T D B v = |R z|^2 - |R z'|^2 <= 2
    ||[A B]||^2.

    It is the bound of the inequality, for every slope D: with few neurons, where no slopes reach it together, it can
    exceed the layer's own constant by far more than rounding.
    """
    reason = unknown(layer.activation)
    if reason or not _slope_in_unit_interval(layer.activation):
        raise Unbounded(f"its activation, {layer.activation}: {reason or 'slopes in [0, 1] are needed'}")
    psi = layer.log_psi.detach().exp()
    if not (psi.isfinite().all() and (1 / psi).isfinite().all()):
        raise Unbounded("its Psi cannot be inverted")
    frame = layer.frame.detach()
    if frame.ndim != 2 or len(frame) != len(psi) or shape != (frame.shape[1] - len(frame),):
        raise Unbounded(f"its frame {list(frame.shape)} does not fit an input of shape {shape}")
    a, b = frame.split((len(frame), shape[0]), dim=1)
    whole = spectral_norm(frame)
    return min(whole * whole, 2 * spectral_norm(a) * spectral_norm(b)) * OUTWARD


def _slope_in_unit_interval(activation: nn.Module) -> bool:
    if type(activation) is nn.LeakyReLU:
        return 0 <= activation.negative_slope <= 1
    if type(activation) is nn.PReLU:
        return bool(((activation.weight >= 0) & (activation.weight <= 1)).all())
    return type(activation) in (nn.ReLU, nn.ReLU6, nn.Sigmoid, nn.Tanh, nn.Identity)
