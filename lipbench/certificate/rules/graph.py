"""Rules of the steps of a traced network (`lipbench.certificate.tracing.steps`), and of the graph that they are in."""

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lipbench.certificate.exactness import Unbounded, number
from lipbench.certificate.lipschitz import OUTWARD, LayerBound, Shape, kind_of, lipschitz, output_shape, outward
from lipbench.certificate.rounding import (
    SLACK,
    UNIT,
    Affine,
    Step,
    follow,
    gamma,
    norm,
    relative,
    rounding,
    underflow,
)
from lipbench.certificate.rules.normalization import BY_THE_IMAGE
from lipbench.certificate.rules.parts import by_parts
from lipbench.certificate.tracing.steps import (
    Centering,
    Combination,
    Copies,
    Diagonal,
    Elementwise,
    Extreme,
    Folded,
    Graph,
    LogSoftmax,
    Matmul,
    Product,
    Refused,
    Rows,
    Shift,
    Softmax,
    Sort,
    Standardized,
    Total,
)
from lipbench.layers import MaxMin


@lipschitz.register(Refused)
def _refused(step: Refused, shape: Shape) -> float:
    raise step.reason


@lipschitz.register(Rows)
def _rows(step: Rows, shape: Shape) -> float:
    """Rows are apart: each is moved by the layer's constant at most."""
    (bound,) = lipschitz.layerwise(step.layer, shape[1:])
    if bound.why:
        raise Unbounded(bound.why, bound.remedy)
    return bound.bound


@lipschitz.register(Shift)
def _shift(step: Shift, shape: Shape) -> float:
    return 1.0


@lipschitz.register(Diagonal)
def _diagonal(step: Diagonal, shape: Shape) -> float:
    return outward(float(step.factor.abs().max())) if step.factor.numel() else 0.0


@lipschitz.register(Total)
def _total(step: Total, shape: Shape) -> float:
    """Sums of groups that do not overlap: the norm of a row of ones."""
    return outward(abs(step.factor), math.sqrt(step.count))


@lipschitz.register(Centering)
def _centering(step: Centering, shape: Shape) -> float:
    """A projection."""
    return OUTWARD


@lipschitz.register(Extreme)
@lipschitz.register(Sort)
def _picks(step: nn.Module, shape: Shape) -> float:
    """A group of numbers moves its largest one, or its sorted ones, by its own norm at most."""
    return 1.0


@lipschitz.register(Softmax)
def _softmax(step: Softmax, shape: Shape) -> float:
    """diag(p) - p p^T: each row sums to 2 p (1 - p) in magnitude, 1/2 at most (Gershgorin)."""
    return 0.5


@lipschitz.register(LogSoftmax)
def _log_softmax(step: LogSoftmax, shape: Shape) -> float:
    """I - 1 p^T is a projection, whose norm is that of 1 p^T: sqrt K times |p| <= 1."""
    return outward(math.sqrt(math.prod(shape)))


@lipschitz.register(Elementwise)
def _elementwise(step: Elementwise, shape: Shape) -> float:
    return step.slope


@lipschitz.register(Folded)
@torch.no_grad()
def _folded(step: Folded, shape: Shape) -> float:
    """Batch normalisation in evaluation multiplies the rows of the weight: the norm of that product, in float64."""
    first: Any = copy.deepcopy(step.first).double()
    norm: Any = step.norm
    (own,) = lipschitz.layerwise(norm, output_shape(step.first, shape))
    if own.why:
        raise Unbounded(own.why, own.remedy)
    scale = (norm.running_var.double() + number(norm, "eps")).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.double()
    first.weight = nn.Parameter(first.weight * scale.reshape(-1, *(1,) * (first.weight.ndim - 1)))
    return outward(lipschitz(first, shape))


# --- steps of several inputs ------------------------------------------------------------------------------------------


def _sum(step: Combination, constants: Sequence[Any]) -> Any:
    terms = [constant * abs(factor) for constant, factor in zip(constants, step.factors, strict=True)]
    return sum(terms[1:], start=terms[0])


def _apart(step: nn.Module, constants: Sequence[Any]) -> Any:
    """Inputs side by side: the root of the sum of squares."""
    return constants[0] if len(constants) == 1 else _root_of_squares(constants)


def _copies(step: Copies, constants: Sequence[Any]) -> Any:
    return _apart(step, constants) * (math.sqrt(step.repeats) if step.repeats > 1 else float(step.repeats))


def _root_of_squares(values: Sequence[Any]) -> Any:
    if not isinstance(values[0], Affine):
        return math.hypot(*values)
    # |a + t b| <= |a| + t |b|, of vectors.
    return Affine(*(torch.stack(part).norm(dim=0) for part in ([v.at for v in values], [v.slope for v in values])))


# From the step and a bound for each of its inputs, a number or an `Affine`, the same kind of bound of its output.
COMBINED: dict[type, Callable[[Any, Sequence[Any]], Any]] = {Combination: _sum, Copies: _copies}


@lipschitz.register(Combination)
@lipschitz.register(Copies)
def _combined(step: nn.Module, shape: Shape) -> float:
    """Of one input, or of all inputs together where each is the same."""
    count = len(step.factors) if isinstance(step, Combination) else 1
    return outward(COMBINED[type(step)](step, [1.0] * count))


@lipschitz.register(Product)
@lipschitz.register(Matmul)
def _product(step: Product | Matmul, shape: Shape) -> float:
    raise Unbounded(
        f"it multiplies activations by activations, which has no global bound ({step.line})",
        "multiply by numbers, or by activations that are bounded; or use certificate_local, which bounds it near an "
        "image",
    )


@lipschitz.register(Standardized)
def _standardized(step: Standardized, shape: Shape) -> float:
    raise Unbounded(f"{BY_THE_IMAGE[0]} ({step.line})", BY_THE_IMAGE[1])


def steps_of(graph: Graph, shape: Shape) -> list[LayerBound]:
    """The bound of each step of a graph, by itself: for one input, or for several that move as far each."""
    shapes, bounds, largest = [tuple(shape), *graph.shapes], [], [math.inf]
    for name, step, places in zip(graph.names, graph.steps, graph.inputs, strict=True):
        given = [largest[i] for i in places]
        if type(step) is Product and max(given) < math.inf:
            bounds.append(LayerBound(name, kind_of(step), outward(sum(given))))
        elif type(step) in COMBINED and len(places) > 1:
            bound = outward(COMBINED[type(step)](step, [1.0] * len(places)))
            bounds.append(LayerBound(name, kind_of(step), bound))
        else:
            (found,) = lipschitz.layerwise(step, shapes[places[0]])
            bounds.append(LayerBound(name, found.kind, found.bound, found.why, found.remedy))
        largest.append(magnitude(step, given))
    return bounds


def magnitude(step: nn.Module, given: Sequence[float]) -> float:
    """A bound of the magnitude of every output, for every image whatsoever: of a step that is bounded itself, or whose
    inputs are.

    Args:
        given: the same of its inputs; inf where there is none.
    """
    kind = type(step)
    step = step.layer if isinstance(step, Rows) else step
    if kind in (nn.Sigmoid, nn.Tanh, Softmax):
        return 1.0
    if isinstance(step, Copies) and not step.repeats:
        return abs(step.constant)
    found = math.inf
    if kind is nn.Hardtanh:
        found = max(abs(number(step, "min_val")), abs(number(step, "max_val")))
    elif math.inf in given:
        found = math.inf
    elif kind is Product:
        found = outward(*given)
    elif isinstance(step, Combination):
        found = outward(_sum(step, given))
    elif isinstance(step, Copies):
        found = max(*given, abs(step.constant))
    elif kind in (nn.Identity, nn.Flatten, nn.ReLU, Extreme, Sort, MaxMin):
        found = max(given)
    elif isinstance(step, Shift):
        found = outward(given[0] + float(step.bias.abs().max()))
    elif isinstance(step, Diagonal):
        found = outward(given[0], float(step.factor.abs().max()))
    return found


@lipschitz.register(Graph)
def _graph(graph: Graph, shape: Shape) -> float:
    """The constant of each step as a function of the input: products along a chain, sums where branches are added,
    roots of sums of squares where they are side by side. Where branches act on parts of the input, the parts are told
    apart.
    """
    constants, largest, bounds = [1.0], [math.inf], steps_of(graph, shape)
    for own, step, places in zip(bounds, graph.steps, graph.inputs, strict=True):
        if own.why:
            raise Unbounded(f"{own.name or own.kind}: {own.why}", own.remedy)
        given, limits = [constants[i] for i in places], [largest[i] for i in places]
        if isinstance(step, Product):  # |a b - a' b'| <= |b| |a - a'| + |a'| |b - b'|
            constants.append(outward(given[0] * limits[1] + given[1] * limits[0]))
        elif len(places) > 1:
            constants.append(outward(COMBINED[type(step)](step, given)))
        else:
            constants.append(outward(own.bound * given[0]))
        largest.append(magnitude(step, limits))
    return min(constants[-1], by_parts(graph, shape, bounds, largest))


# --- rounding ---------------------------------------------------------------------------------------------------------

# What copies and compares rounds nothing.
for _kind in (Extreme, Sort):
    rounding.register(_kind)(lambda step, shape, constant: relative(step, shape, 0.0))


@rounding.register(Copies)
def _copies_rounding(step: Copies, shape: Shape, constant: float) -> Step:
    """Only the constant is rounded."""
    return relative(step, shape, 0.0, abs(step.constant), UNIT * abs(step.constant) * math.sqrt(len(step.index)))


@rounding.register(Rows)
def _rows_rounding(step: Rows, shape: Shape, constant: float) -> Step:
    """Row by row, each with the reach of all of them: the root of the sum of squares of their errors."""
    inner, count = rounding.step(step.layer, shape[1:], constant), shape[0]

    def forward(u: Tensor, reach: Affine) -> tuple[Tensor, Affine]:
        each = Affine(reach.at.repeat_interleave(count), reach.slope.repeat_interleave(count))
        out, local = inner(u.flatten(0, 1), each)
        parts = (part.reshape(-1, count).norm(dim=1) for part in (local.at, local.slope))
        return out.unflatten(0, (len(u), count)), Affine(*parts)

    return forward


@rounding.register(Shift)
def _shift_rounding(step: Shift, shape: Shape, constant: float) -> Step:
    """The sum is rounded, of what it is given and of the shift, which may be a rounded product itself."""
    added, largest = float(step.bias.norm()), float(step.bias.abs().max())
    own = relative(step, shape, 1.1 * UNIT, 1 + largest)

    def forward(u: Tensor, reach: Affine) -> tuple[Tensor, Affine]:
        out, local = own(u, reach)
        return out, local.plus(2.2 * UNIT * added)

    return forward


@rounding.register(Diagonal)
def _diagonal_rounding(step: Diagonal, shape: Shape, constant: float) -> Step:
    """A product, or a quotient whose divisor's inverse is rounded."""
    return relative(step, shape, 3.1 * UNIT * constant, constant)


@rounding.register(Combination)
def _combination_rounding(step: Combination, shape: Shape, constant: float) -> Step:
    """Of one input: the factor is rounded, and the product."""
    exact = set(step.factors) <= {1.0, -1.0}
    return relative(step, shape, 0.0 if exact else 3.1 * UNIT * constant, constant)


@rounding.register(Centering)
def _centering_rounding(step: Centering, shape: Shape, constant: float) -> Step:
    """As `lipbench.layers.LayerCentering`, group by group."""
    return relative(step, shape, gamma(step.count + 3) + 2 * UNIT)


@rounding.register(Folded)
def _folded_rounding(step: Folded, shape: Shape, constant: float) -> Step:
    """One after the other, as they are computed."""
    links = rounding.chain(nn.Sequential(step.first, step.norm).eval(), shape)

    def forward(u: Tensor, reach: Affine) -> tuple[Tensor, Affine]:
        out, _, error = follow(links, u, reach)
        return out, error

    return forward


def _total_rounding(step: Total, shape: Shape, constant: float) -> Step:
    """A sum of n numbers in any order, and a factor: relative to the sum of magnitudes."""
    share, size = gamma(step.count + 4), math.prod(shape)

    def forward(u: Tensor, reach: Affine) -> tuple[Tensor, Affine]:
        given, magnitude = reach.plus(norm(u)), (reach * constant).plus(norm(step(u.abs())))
        return step(u), (magnitude * share + underflow(size, size, 1.0, given)).within(given + magnitude)

    return forward


rounding.register(Total)(_total_rounding)


def _unspecified(step: nn.Module, shape: Shape, constant: float) -> Step:
    raise Unbounded(f"no standard says how exactly {kind_of(step)} is computed in float32", "use torch.relu")


for _unknown in (Elementwise, Softmax, LogSoftmax, Product, Matmul, Standardized):
    rounding.register(_unknown)(_unspecified)


def _several(step: nn.Module, values: list[Tensor], reaches: list[Affine]) -> tuple[Tensor, Affine]:
    """The output of a step of several inputs, and the error of its own."""
    out = step(*values)
    if not isinstance(step, Combination):
        return out, reaches[0] * 0.0
    given = [reach.plus(norm(value)) for value, reach in zip(values, reaches, strict=True)]
    magnitude = _sum(step, given)
    largest = max(map(abs, step.factors))
    lost = underflow(out[:1].numel(), 4 * len(values), largest, sum(given[1:], start=given[0]))
    return out, (magnitude * ((2 * len(values) + 2.1) * UNIT) + lost).within(magnitude)


@rounding.register(Graph)
def _graph_rounding(graph: Graph, shape: Shape, constant: float) -> Step:
    """Step by step, as in a chain; where branches meet, their reaches and errors do as their constants."""
    bounds, shapes, steps = steps_of(graph, shape), [tuple(shape), *graph.shapes], []
    for own, step, places in zip(bounds, graph.steps, graph.inputs, strict=True):
        if own.why:
            raise Unbounded(own.why, own.remedy)
        steps.append(None if len(places) > 1 else rounding.step(step, shapes[places[0]], own.bound))

    def forward(u: Tensor, reach: Affine) -> tuple[Tensor, Affine]:
        found = [(u, reach, reach * 0.0)]
        for own, step, places, single in zip(bounds, graph.steps, graph.inputs, steps, strict=True):
            values, reaches, errors = (list(part) for part in zip(*(found[i] for i in places), strict=True))
            if single is None:
                combine = COMBINED[type(step)]
                (out, local), arrived, kept = (
                    _several(step, values, reaches),
                    combine(step, reaches),
                    combine(step, errors),
                )
            else:
                out, local = single(values[0], reaches[0])
                arrived, kept = reaches[0] * own.bound, errors[0] * own.bound
            local = local * SLACK
            found.append((out, arrived * OUTWARD + local, kept * OUTWARD + local))
        return found[-1][0], found[-1][2]

    return forward
