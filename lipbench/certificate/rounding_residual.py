"""Rules for the rounding of layers of several products."""

import math

from torch import Tensor, nn

from lipbench.certificate.core import Shape, lipschitz
from lipbench.certificate.exactness import Unbounded, number
from lipbench.certificate.linear import convolution_norm, spectral_norm
from lipbench.certificate.residual import skew_part
from lipbench.certificate.rounding import (
    LIBRARY,
    UNIT,
    Affine,
    Link,
    Step,
    dot_product,
    follow,
    norm,
    rounding,
    underflow,
)
from lipbench.certificate.rounding_rules import absolute_norm, dot_products, magnitudes
from lipbench.layers import ConvexPotential, ConvexResidual, Residual, Sandwich, SkewExponential
from lipbench.layers.constructions import TERMS
from lipbench.layers.constructions.convex_potential import adjoint, convolve


@rounding.register(Residual)
def _residual(layer: Residual, shape: Shape, constant: float) -> Step:
    """The branch, the sum, and the product with the scale, which is rounded too."""
    scale = number(layer, "scale")
    return _sum(layer.branch, shape, scale, scale)


@rounding.register(ConvexResidual)
def _convex_residual(layer: ConvexResidual, shape: Shape, constant: float) -> Step:
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
def _convex_potential(layer: ConvexPotential, shape: Shape, constant: float) -> Step:
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
def _skew_exponential(layer: SkewExponential, shape: Shape, constant: float) -> Step:
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
def _sandwich(layer: Sandwich, shape: Shape, constant: float) -> Step:
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
