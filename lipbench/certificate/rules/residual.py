"""Layers of several products, each by its own inequality on the weights that it really has."""

import math

import torch
from torch import Tensor, nn

from lipbench.certificate.exactness import Unbounded, number
from lipbench.certificate.lipschitz import Shape, lipschitz, outward
from lipbench.certificate.rounding import (
    LIBRARY,
    UNIT,
    Affine,
    Link,
    Step,
    dot_product,
    dot_products,
    follow,
    norm,
    rounding,
    underflow,
)
from lipbench.certificate.rules.linear import (
    CONSTRUCTED,
    absolute_norm,
    check_bias,
    convolution_norm,
    magnitudes,
    spectral_norm,
)
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
from lipbench.layers.constructions.convex_potential import adjoint, convolve
from lipbench.modules import exactly

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


@rounding.register(Residual)
def _residual_rounding(layer: Residual, shape: Shape, constant: float) -> Step:
    """The branch, the sum, and the product with the scale, which is rounded too."""
    scale = number(layer, "scale")
    return _sum(layer.branch, shape, scale, scale)


@rounding.register(ConvexResidual)
def _convex_residual_rounding(layer: ConvexResidual, shape: Shape, constant: float) -> Step:
    share = number(layer, "share")
    return _sum(layer.branch, shape, share, 1 - share)


def _sum(branch: nn.Module, shape: Shape, first: float, second: float) -> Step:
    """first * x + second * branch(x): four roundings of each of the two."""
    links, own, other = rounding.chain(branch, shape), abs(first), abs(second)

    def step(u: Tensor, reach: Affine) -> tuple[Tensor, Affine]:
        out, reached, error = follow(links, u, reach)
        given, gone = reach.plus(norm(u)), reached.plus(norm(out))
        magnitude = given * own + gone * other
        lost = underflow(math.prod(shape), 8, own + other, given + gone)
        local = error * other + magnitude * (4.1 * UNIT) + lost
        return first * u + second * out, local.within(magnitude + given + gone)

    return step


@rounding.register(ConvexPotential)
def _convex_potential_rounding(layer: ConvexPotential, shape: Shape, constant: float) -> Step:
    """x - h V^T sigma(V x + b), each of the two products a dot product."""
    inner, h = layer.inner, number(layer, "step")
    links = rounding.chain(nn.Sequential(inner, layer.activation).eval(), shape)
    (bound,) = lipschitz.layerwise(inner, shape)
    weight, absolute = inner.weight.detach(), magnitudes(inner)

    def back(hidden: Tensor, weight: Tensor) -> Tensor:
        if isinstance(inner, nn.Linear):
            return hidden @ weight
        return convolve(hidden, adjoint(weight, inner.groups), None, inner)

    terms = weight.shape[0] if isinstance(inner, nn.Linear) else weight[:, 0].numel() // inner.groups
    links_back = dot_products(
        lambda hidden: back(hidden, weight),
        lambda hidden: back(hidden, weight.abs()),
        bound.bound,
        absolute_norm(absolute, shape),
        terms,
        float(weight.abs().max()),
    )

    def step(u: Tensor, reach: Affine) -> tuple[Tensor, Affine]:
        hidden, reached, error = follow(links, u, reach)
        out, local = links_back(hidden, reached)
        error = error * bound.bound + local
        given, gone = reach.plus(norm(u)), (reached * bound.bound + local).plus(norm(out))
        magnitude = given + gone * (1 + h)
        lost = underflow(math.prod(shape), 8, h, given + gone)
        local = error * h + magnitude * (4.1 * UNIT) + lost
        return u - h * out, local.within(magnitude)

    return step


@rounding.register(SkewExponential)
def _skew_exponential_rounding(layer: SkewExponential, shape: Shape, constant: float) -> Step:
    """Nine convolutions one after another, each with a kernel of three roundings, and their sum."""
    skew = skew_part(layer.inner)
    size = (shape[1], shape[2])
    true, absolute = convolution_norm(skew, size), absolute_norm(magnitudes(skew), shape)
    of_sum, of_result = dot_product(skew.weight[0].numel())
    largest = float(skew.weight.detach().abs().max())
    bias = layer.inner.bias
    shift = 0.0 if bias is None else float(bias.detach().norm()) * math.sqrt(math.prod(size))

    def step(u: Tensor, reach: Affine) -> tuple[Tensor, Affine]:
        term = total = reach.plus(norm(u))
        error = summed = term * 0.0
        for degree in range(1, TERMS + 1):
            share = absolute * (of_sum + 3.1 * UNIT) + true * of_result
            lost = underflow(math.prod(size) * len(skew.weight), skew.weight[0].numel(), largest, term)
            local = term * (share / degree) + lost
            error = error * (true / degree) + local
            term = term * (true / degree) + local
            total, summed = total + term, summed + error
        # Each of the ten sums is at most the sum of all magnitudes.
        magnitude = total.plus(shift)
        return layer(u), (summed + magnitude * ((TERMS + 2) * UNIT)).within(magnitude * (1 + absolute))

    return step


@rounding.register(Sandwich)
def _sandwich_rounding(layer: Sandwich, shape: Shape, constant: float) -> Step:
    """Two dot products with an activation between them. Psi is an exponential, by which each is multiplied."""
    frame, psi = layer.frame.detach(), math.sqrt(2) * layer.log_psi.detach().exp()
    if not ((psi > 2.0**-60) & (psi < 2.0**60)).all():
        raise Unbounded("its Psi nearly leaves the range of float32", "train it again, with a smaller learning rate")
    a, b = frame.split((len(frame), shape[0]), dim=1)
    into, out_of, bias = b * (2 / psi)[:, None], a * psi[:, None], layer.bias.detach()
    inexact = LIBRARY + 8 * UNIT
    chain = [
        dot_products(
            lambda x: x @ into.T + bias,
            lambda x: x @ into.abs().T + bias.abs(),
            spectral_norm(into),
            spectral_norm(into.abs()),
            shape[0] + 1,
            float(into.abs().max()),
            inexact,
        ),
        *(link.step for link in rounding.chain(layer.activation, tuple(bias.shape))),
        dot_products(
            lambda x: x @ out_of,
            lambda x: x @ out_of.abs(),
            spectral_norm(out_of),
            spectral_norm(out_of.abs()),
            len(frame),
            float(out_of.abs().max()),
            inexact,
        ),
    ]
    constants = [spectral_norm(into), *[1.0] * (len(chain) - 2), spectral_norm(out_of)]
    links = [Link(*both) for both in zip(constants, chain, strict=True)]

    def step(u: Tensor, reach: Affine) -> tuple[Tensor, Affine]:
        out, _, error = follow(links, u, reach)
        return out, error

    return step
