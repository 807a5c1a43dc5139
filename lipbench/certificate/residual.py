"""Layers of several products, each by its own inequality on the weights that it really has."""

import math

import torch
from torch import nn

from lipbench.certificate.core import Shape, lipschitz, outward
from lipbench.certificate.exactness import Unbounded, exactly, number
from lipbench.certificate.linear import CONSTRUCTED, check_bias, convolution_norm, spectral_norm
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

SLOPES = "use nn.ReLU, nn.Tanh, nn.Sigmoid, nn.Identity, or nn.LeakyReLU with a slope in [0, 1]"
KEEPS_SIZE = "use nn.Linear, or nn.Conv2d of stride 1 with a padding that keeps the size on both sides"


@lipschitz.register(Residual)
def _residual(layer: Residual, shape: Shape) -> float:
    return outward(abs(number(layer, "scale")), 1 + lipschitz.branch(layer.branch, shape))


@lipschitz.register(ConvexResidual)
def _convex_residual(layer: ConvexResidual, shape: Shape) -> float:
    share = number(layer, "share")
    # 1 - share as the layer computes it, in the precision of the share, and as its float64 copy does.
    other = max(abs(1 - share), abs(float(1 - layer.share.detach())))
    return outward(abs(share) + other * lipschitz.branch(layer.branch, shape))


@lipschitz.register(ConvexPotential)
def _convex_potential(layer: ConvexPotential, shape: Shape) -> float:
    """max(1, h ||V||^2 - 1): the Jacobian is I - h V^T D V with 0 <= D <= I, symmetric, so its eigenvalues lie in
    [1 - h ||V||^2, 1]. A weight that misses its constraint loosens the bound and never falsifies it.
    """
    if not _slope_in_unit_interval(layer.activation):
        raise Unbounded(
            f"x - h V^T sigma(V x) is bounded for activations with slopes in [0, 1], not for {layer.activation}", SLOPES
        )
    if type(layer.inner) is not nn.Linear and not (type(layer.inner) is nn.Conv2d and keeps_size(layer.inner)):
        raise Unbounded(f"its inner layer, {layer.inner}, has no adjoint of the same form", KEEPS_SIZE)
    step = number(layer, "step")
    if not step >= 0:
        raise Unbounded(f"its step is {step:g}, not a number of at least 0", "set a step of 0 or more")
    (inner,) = lipschitz.layerwise(layer.inner, shape)
    if inner.why:
        raise Unbounded(f"its inner layer: {inner.why}", inner.remedy)
    return outward(max(1.0, step * inner.bound * inner.bound - 1))


@lipschitz.register(SkewExponential)
def _skew_exponential(layer: SkewExponential, shape: Shape) -> float:
    """1 + ||A||^(K+1) / (K+1)!: A = L - L^T is skew by construction, so exp(A) is orthogonal and the series misses it
    by the remainder of e^(i t), |t| <= ||A||. Zero channels before it and channels left out after it add nothing.
    """
    if type(layer.inner) is not nn.Conv2d or not keeps_size(layer.inner) or len(shape) != 3:
        raise Unbounded(f"its inner layer, {layer.inner}, has no transpose of the same form", KEEPS_SIZE)
    try:  # of the layer itself: its skew part is constructed anew
        check_declared(layer.inner)
    except ValueError as error:
        raise Unbounded(f"its inner convolution: {error}", CONSTRUCTED) from error
    check_bias(layer.inner.bias, layer.inner.out_channels)
    norm = convolution_norm(skew_part(layer.inner), (shape[1], shape[2]))
    return outward(1 + norm ** (TERMS + 1) / math.factorial(TERMS + 1))


@torch.no_grad()
def skew_part(inner: nn.Conv2d) -> nn.Conv2d:
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
    if not _slope_in_unit_interval(layer.activation):
        raise Unbounded(f"its activation, {layer.activation}, is not known to have slopes in [0, 1]", SLOPES)
    psi = layer.log_psi.detach().exp()
    if not (psi.isfinite().all() and (1 / psi).isfinite().all()):
        raise Unbounded("its Psi cannot be inverted", "train it again, with a smaller learning rate")
    frame = layer.frame.detach()
    if frame.ndim != 2 or len(frame) != len(psi) or shape != (frame.shape[1] - len(frame),):
        raise Unbounded(
            f"its frame {list(frame.shape)} does not fit an input of shape {shape}",
            "put nn.Flatten before it, and the number of features that it was made for",
        )
    a, b = frame.split((len(frame), shape[0]), dim=1)
    # The layer multiplies by 2 / (sqrt 2 Psi) and by sqrt 2 Psi, each rounded in the precision of Psi.
    psi = math.sqrt(2) * psi
    rounded = max(1.0, float((psi.double() * (2 / psi).double() / 2).max()))
    whole = spectral_norm(frame)
    return min(outward(rounded, whole, whole), outward(rounded, 2, spectral_norm(a), spectral_norm(b)))


def _slope_in_unit_interval(activation: nn.Module) -> bool:
    if type(activation) is nn.LeakyReLU:
        return 0 <= number(activation, "negative_slope") <= 1
    if type(activation) is nn.PReLU:
        return bool(((activation.weight >= 0) & (activation.weight <= 1)).all())
    return exactly(activation, nn.ReLU, nn.ReLU6, nn.Sigmoid, nn.Tanh, nn.Identity)
