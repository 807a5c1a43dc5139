"""Rounding of the float32 forward pass: a-priori bounds, layer by layer, for every image of the box around x.

The theory and its assumptions are in docs/rounding.md. As in `lipbench.certificate.lipschitz`, rules are found by the
exact type of a layer. A layer without a rule is unknown, with the reason.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lipbench.certificate.exactness import Unbounded, rule_of
from lipbench.certificate.lipschitz import LayerBound, Shape, flat, lipschitz, output_shape
from lipbench.certificate.remedies import REGISTER, REPLACE

# Unit roundoff of float32, and its smallest normal number: below it, results and operands may be flushed to zero.
UNIT, TINY = 2.0**-24, 2.0**-126
# Magnitudes up to this: nothing that is computed from them, squares included, comes near the overflow at 2^128.
LARGEST = 2.0**60
# Sines, cosines and exponentials of the float32 library are within 4 units in the last place: an assumption.
LIBRARY = 8 * UNIT
# On every bound of an error: its own rounding, and that of the float64 activations, which are computed as the float32
# ones are and 2^29 times as exactly.
SLACK = 1 + 1e-6
# More roundings in a row than this are not bounded: the terms of second order would count.
LONGEST = 2**17


@dataclass(frozen=True)
class Affine:
    """at + slope * t, [N] each, float64 and not negative: a bound that grows with the distance r = t * diagonal from
    x, where 0 <= t <= 1 and the diagonal is that of the box of images.
    """

    at: Tensor
    slope: Tensor

    def __add__(self, other: "Affine") -> "Affine":
        return Affine(self.at + other.at, self.slope + other.slope)

    def __mul__(self, factor: float | Tensor) -> "Affine":
        return Affine(self.at * factor, self.slope * factor)

    def plus(self, value: float | Tensor) -> "Affine":
        return replace(self, at=self.at + value)

    def within(self, magnitude: "Affine") -> "Affine":
        """The same; infinite for an image where a magnitude may exceed `LARGEST` somewhere in the box."""
        return replace(self, at=self.at.masked_fill(~(magnitude.at + magnitude.slope <= LARGEST), math.inf))


# From the float64 activations u [N, ...] of x, and a bound of the distance between these and what the float32 layer is
# given: the float64 output at u, and a bound of the error of the float32 layer on any input.
Step = Callable[[Tensor, Affine], tuple[Tensor, Affine]]
RoundingRule = Callable[..., Step]


@dataclass(frozen=True)
class Link:
    """One layer of a chain: its Lipschitz constant in exact arithmetic and its step."""

    constant: float
    step: Step


class Rounding:
    """The register of the rules, and the chains made of them."""

    def __init__(self) -> None:
        self._rules: dict[type, RoundingRule] = {}

    def register(self, kind: type) -> Callable[[RoundingRule], RoundingRule]:
        """Decorator for the rule of a type: `rule(layer, shape, constant) -> Step` of a layer in float64, the shape of
        its input without the batch, and its Lipschitz constant. Raise `Unbounded(why, remedy)` for what has no bound.

        The rule is used for exactly this type, not for subclasses.
        """

        def add(rule: RoundingRule) -> RoundingRule:
            self._rules[kind] = rule
            return rule

        return add

    @torch.no_grad()
    def layerwise(self, module: nn.Module, shape: Shape) -> list[LayerBound]:
        """The Lipschitz constants of `lipbench.certificate.layerwise`, infinite as well where the rounding of a layer
        is not known, with the reason: an infinite one makes `certificate_float` 0.
        """
        return [
            replace(own, bound=math.inf, why=step.why, remedy=step.remedy) if isinstance(step, Unbounded) else own
            for own, step in self._steps(module, shape, None)
        ]

    @torch.no_grad()
    def chain(self, module: nn.Module, shape: Shape, constants: Sequence[LayerBound] | None = None) -> list[Link]:
        """The links of nested plain Sequentials, in order.

        Args:
            constants: what `lipbench.certificate.layerwise(module, shape)` gives, where it is there already.

        Raises:
            Unbounded: a layer whose constant or whose rounding is not known.
        """
        links = []
        for own, step in self._steps(module, shape, constants):
            if isinstance(step, Unbounded):
                raise step.of(own.name or own.kind)
            links.append(Link(own.bound, step))
        return links

    def _steps(
        self, module: nn.Module, shape: Shape, constants: Sequence[LayerBound] | None
    ) -> Iterator[tuple[LayerBound, Step | Unbounded]]:
        """Of each layer its constant, and its step or why there is none."""
        module, known = lipschitz.read(module, shape), True
        bounds = lipschitz.layerwise(module, shape) if constants is None else constants
        # Beyond a container that is unknown, the layers of the module are no longer those of the list.
        layers = flat(module) + [module] * len(bounds)
        for layer, own in zip(layers, bounds, strict=False):
            known = known and not own.why
            if not known:
                yield own, Unbounded(own.why or "a layer before it has no constant", own.remedy)
                continue
            try:
                yield own, self.step(layer, shape, own.bound)
            except Unbounded as error:
                yield own, error
            shape = output_shape(layer, shape)

    def step(self, layer: nn.Module, shape: Shape, constant: float) -> Step:
        """The step of one layer in float64.

        Raises:
            Unbounded: its rounding is not known.
        """
        rule = rule_of(self._rules, layer)
        if any(vars(part).get("computed") for part in layer.modules()):
            raise Unbounded(
                "its weights are computed in the forward pass, in an order of sums that may change",
                "make them a torch parametrization, which lipbench.bake fixes, or a buffer",
            )
        if rule is None:
            raise Unbounded(
                f"the rounding of {type(layer).__name__} in float32 is not known",
                f"{REPLACE}, {REGISTER.replace('lipschitz', 'rounding')}",
            )
        step: Step = rule(layer, shape, constant)
        return step


@torch.no_grad()
def follow(links: list[Link], u: Tensor, reach: Affine) -> tuple[Tensor, Affine, Affine]:
    """Through a chain: the float64 output at u; a bound of the distance between it and the float32 output; and of that
    between the float32 output and the exact one of the same input.

    Args:
        u: float64 activations of x.
        reach: bound of the distance between these and what the float32 chain is given.
    """
    error = reach * 0.0
    for link in links:
        u, local = link.step(u, reach)
        local = local * SLACK
        reach, error = reach * link.constant + local, error * link.constant + local
    return u, reach, error


def norm(x: Tensor) -> Tensor:
    """L2, [N, ...] -> [N]."""
    return x.flatten(1).norm(dim=1)


def gamma(roundings: int) -> float:
    """n u / (1 - n u): what n roundings in a row make of a number, relatively (Higham, 2002, section 3.1).

    Raises:
        Unbounded: too many.
    """
    if roundings > LONGEST:
        raise Unbounded(
            f"it adds up {roundings} numbers: the rounding in float32 would be of their order",
            "use a smaller layer before it",
        )
    return roundings * UNIT / (1 - roundings * UNIT)


def dot_product(terms: int) -> tuple[float, float]:
    """(a, b): the error of a float32 dot product of so many terms is at most a * sum of abs(terms) + b * abs(result),
    for any order of summation, with or without fused operations (docs/rounding.md).

    Args:
        terms: products and, where there is one, the bias.
    """
    half = (terms - 1) * UNIT / 2
    return UNIT + half + 2 * half * gamma(terms), half


def underflow(size: int, terms: int, largest: float, given: Affine) -> Affine:
    """What flushing to zero adds to the error of `size` results, in L2.

    Args:
        terms: operations per result, in all.
        largest: magnitude of the largest weight or constant.
        given: bound of the norm of what the layer is given.
    """
    return given.plus(1 + largest) * (8 * TINY * terms * math.sqrt(size))


rounding = Rounding()


def relative(layer: nn.Module, shape: Shape, share: float, largest: float = 1.0, least: float = 0.0) -> Step:
    """The step of a layer whose error is at most a share of the norm of what it is given.

    Args:
        largest: magnitude of its largest constant.
        least: error that it may make however small its input is.
    """
    size = math.prod(shape)

    def step(u: Tensor, reach: Affine) -> tuple[Tensor, Affine]:
        given = reach.plus(norm(u))
        error = (given * share + underflow(size, 4, largest, given)).plus(least)
        return layer(u.clone()), error.within((given * (1 + largest)).plus(largest))

    return step


def dot_products(
    linear: Callable[[Tensor], Tensor],
    absolute: Callable[[Tensor], Tensor],
    constant: float,
    absolute_norm: float,
    terms: int,
    largest: float,
    inexact: float = 0.0,
) -> Step:
    """The step of an affine map, computed by one dot product per output.

    Args:
        linear: the map, in float64.
        absolute: the same with the magnitudes of all weights and of the bias.
        constant: its Lipschitz constant.
        absolute_norm: that of `absolute`.
        terms: products per output, and the bias.
        largest: magnitude of the largest weight.
        inexact: relative error of the weights, and of what else is done to a product.
    """
    of_sum, of_result = dot_product(terms)
    of_sum += inexact

    def step(u: Tensor, reach: Affine) -> tuple[Tensor, Affine]:
        out, sums = linear(u), absolute(u.abs())
        # Of each output before the norm is taken: the largest sums and the largest results are not those of the same.
        here = norm(of_sum * sums + of_result * out.abs())
        grown = reach * (of_sum * absolute_norm + of_result * constant)
        lost = underflow(out[:1].numel(), terms, largest, reach.plus(norm(u)))
        return out, (grown.plus(here) + lost).within((reach * absolute_norm).plus(norm(sums)))

    return step


def _of_the_result(layer: nn.Module, shape: Shape, constant: float, share: float, largest: float = 1.0) -> Step:
    """The step of a layer whose error is at most a share of the norm of its result."""
    size = math.prod(shape)

    def step(u: Tensor, reach: Affine) -> tuple[Tensor, Affine]:
        out, given = layer(u.clone()), reach.plus(norm(u))
        result = (reach * constant).plus(norm(out))
        error = result * share + underflow(size, size, largest, given)
        return out, error.within((given * (1 + largest)).plus(largest))

    return step


def _shifted(step: Step, error: float) -> Step:
    """A step that adds an error, for any input."""

    def more(u: Tensor, reach: Affine) -> tuple[Tensor, Affine]:
        out, local = step(u, reach)
        return out, local.plus(error)

    return more
