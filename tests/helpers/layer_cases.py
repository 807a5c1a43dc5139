"""Random small layers of every type that has a rule, each with its linear pieces from an independent computation.

A layer is a linear map, or made of pieces that are: its Lipschitz constant is then the largest norm of a piece. The
pieces come from loops over the definition of the layer in rational numbers, never from what the certificate uses.
"""

import copy
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor, nn

from helpers.exact import Piece, is_bound, ratio, reached
from lipbench.certificate import lipschitz
from lipbench.layers import FourierConv2d

Shape = tuple[int, ...]
# Kinds of weights, as hostile as finite numbers can be.
KINDS = (
    "normal",
    "normal",
    "integers",
    "huge",
    "tiny",
    "denormal",
    "rank one",
    "zeros",
    "sparse",
    "mixed",
    "cancelling",
    "extreme",
)
ORDINARY = ("normal", "integers", "rank one", "zeros", "sparse", "mixed", "cancelling")
# Norms between which float64 computes without under- and overflow, the tenth powers of a series included.
SAFE = (1e-280, 1e250)
# Allowed looseness of a bound that is exact up to rounding.
TIGHT = 1e-3


@dataclass(frozen=True)
class Case:
    """A layer, and the truth about it.

    Attributes:
        layer: in evaluation mode.
        shape: of one input.
        pieces: its linear pieces; those of a larger set that holds them prove a bound too.
        limit: largest looseness, bound / truth - 1, that is no fault; None where the bound is an inequality that need
            not be reached.
        floor: what the bound may exceed that by, where large weights that cancel, or that are cropped, leave their
            rounding.
        bound: asks for the bound; None: `lipschitz`.
        refused: whether the layer must be refused.
    """

    layer: nn.Module
    shape: Shape
    pieces: list[Piece]
    limit: float | None = TIGHT
    floor: float = 0.0
    bound: Callable[[], float] | None = None
    refused: bool = False


@dataclass(frozen=True)
class Verdict:
    """What a case shows.

    Attributes:
        bound: what the certificate says.
        proved: whether no piece exceeds it, in rational arithmetic.
        excess: truth / bound - 1, the truth from below, by a rational vector.
        looseness: bound / truth - 1, the same; inf where the bound or the looseness is.
    """

    bound: float
    proved: bool
    excess: float
    looseness: float


Maker = Callable[[random.Random], Case]
# Name of a row -> what makes a case of it, and the type that it checks (None: a function of the certificate).
MAKERS: dict[str, tuple[Maker, type | None]] = {}


def checks(kind: type | None, name: str = "") -> Callable[[Maker], Maker]:
    """Decorator: this makes cases of a type of layer; `name` tells several of one type apart."""

    def add(maker: Maker) -> Maker:
        title = name if kind is None else ", ".join(filter(None, (kind.__name__, name)))
        assert title not in MAKERS
        MAKERS[title] = (maker, kind)
        return maker

    return add


def verdict(case: Case) -> Verdict:
    """Holds the bound of a case against its pieces."""
    bound = lipschitz(case.layer, case.shape) if case.bound is None else case.bound()
    proved = all(is_bound(bound, linear) for linear in case.pieces)
    truth = max((reached(linear) for linear in case.pieces), default=Fraction(0))
    if math.isinf(bound):
        return Verdict(bound, proved, -1.0, math.inf)
    squared = Fraction(bound) ** 2
    return Verdict(bound, proved, ratio(truth, squared) - 1, ratio(squared, truth) - 1)


def is_needless(case: Case, found: Verdict) -> bool:
    """Whether a bound is larger than what is documented: infinite, or loose beyond the limit of the case."""
    truth = max((reached(linear) for linear in case.pieces), default=Fraction(0))
    if case.refused or not Fraction(SAFE[0]) ** 2 < truth < Fraction(SAFE[1]) ** 2:
        return False
    if math.isinf(found.bound) or case.limit is None:
        return math.isinf(found.bound)
    rest = max(Fraction(0), Fraction(found.bound) - Fraction(case.floor))
    return rest**2 > truth * Fraction(1 + case.limit) ** 2


def numbers(rng: random.Random, *shape: int, kinds: tuple[str, ...] = KINDS) -> Tensor:
    """Weights of a random kind, in float32 or float64."""
    kind, count = rng.choice(kinds), math.prod(shape)
    double = kind == "extreme" or rng.random() < 0.5
    values = [rng.gauss(0, 1) for _ in range(count)]
    if kind == "integers":
        values = [float(rng.randint(-2, 2)) for _ in range(count)]
    elif kind in ("huge", "tiny"):
        values = [value * (1e30 if kind == "huge" else 1e-30) for value in values]
    elif kind == "denormal":
        smallest = 5e-324 if double else 2.0**-149
        values = [rng.randint(-9, 9) * smallest for _ in range(count)]
    elif kind == "rank one":
        columns = math.prod(shape[1:])
        left, right = ([rng.gauss(0, 1) for _ in range(n)] for n in (shape[0], columns))
        values = [left[i // columns] * right[i % columns] for i in range(count)]
    elif kind == "zeros":
        values = [0.0] * count
    elif kind == "sparse":
        values = [value * (rng.random() < 0.2) for value in values]
    elif kind == "mixed":
        values = [value * 10 ** rng.uniform(-25, 25) for value in values]
    elif kind == "cancelling":
        values = [rng.choice((1.0, -1.0, 0.0, 1e-17 * value)) for value in values]
    elif kind == "extreme":
        scale = rng.choice((1e-300, 1e-200, 1e-160, 1e150, 1e200, 1e300))
        values = [value * scale for value in values]
    return torch.tensor(values, dtype=torch.float64).to(torch.float64 if double else torch.float32).reshape(shape)


def biases(rng: random.Random, count: int, like: Tensor) -> Tensor:
    """Biases, which no bound depends on, in the precision of a weight."""
    return numbers(rng, count).to(like).nan_to_num()


def hold(layer: nn.Module, **tensors: Tensor) -> nn.Module:
    """The layer in evaluation mode with these parameters and buffers, in their precision."""
    layer = layer.to(next(iter(tensors.values())).dtype)
    for name, tensor in tensors.items():
        if name in layer._parameters:
            layer._parameters[name] = nn.Parameter(tensor)
        else:
            layer._buffers[name] = tensor
    return layer.eval()


def fractions(tensor: Tensor) -> list:
    """The numbers of a tensor, exactly, in nested lists."""
    return _exactly(tensor.detach().double().tolist())


def _exactly(value: object) -> object:
    return [_exactly(entry) for entry in value] if isinstance(value, list) else Fraction(value)  # type: ignore[arg-type]


def identity(size: int, factor: Fraction | int = 1) -> list[list[Fraction]]:
    return [[Fraction(factor) * (i == j) for j in range(size)] for i in range(size)]


def times(a: list, b: list) -> list:
    """The product of two matrices."""
    columns = list(zip(*b, strict=True))
    return [[sum((x * y for x, y in zip(row, column, strict=True)), Fraction(0)) for column in columns] for row in a]


@torch.no_grad()
def unit_images(layer: nn.Module, shape: Shape) -> Tensor:
    """[outputs, inputs]: the linear part of a layer, by applying it to every basis image in float64."""
    exact = copy.deepcopy(layer).double()
    if isinstance(exact, nn.Conv2d | FourierConv2d):
        exact.bias = None  # a large one would leave its rounding
    basis = torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape)
    zero = exact(torch.zeros(1, *shape, dtype=torch.float64))
    return (exact(basis) - zero).flatten(1).T


def agrees(layer: nn.Module, shape: Shape, matrix: list, scale: float = 1e-300) -> bool:
    """Whether a matrix is what the layer does to basis images, up to the rounding of numbers as large as `scale`."""
    mine = torch.tensor([[float(entry) for entry in row] for row in matrix], dtype=torch.float64)
    theirs = unit_images(layer, shape)
    largest = max(float(mine.abs().max()), scale)
    return theirs.shape == mine.shape and bool(((theirs - mine).abs() <= 1e-9 * largest).all())


def slopes_at(layer: nn.Module, points: Tensor) -> list[list[list[float]]]:
    """The Jacobian at each point [N, ...] in float64, [N][outputs][inputs]."""
    exact = copy.deepcopy(layer).double()
    found = []
    for point in points.double():
        jacobian = torch.autograd.functional.jacobian(lambda x: exact(x[None])[0].flatten(), point)
        found.append(jacobian.reshape(len(jacobian), -1).tolist())
    return found
