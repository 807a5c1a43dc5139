"""A graph whose branches act on different parts of its input, as coupling layers and steps over slices do."""

import math

import torch
from torch import Tensor

from lipbench.certificate.lipschitz import OUTWARD, LayerBound, Shape
from lipbench.certificate.tracing.steps import Combination, Copies, Graph

# More parts are not told apart.
PARTS = 64
# Squares of constants between which no digits are lost.
SAFE = (1e-200, 1e200)


def by_parts(graph: Graph, shape: Shape, bounds: list[LayerBound], largest: list[float]) -> float:
    """The constant of a graph whose input is cut into the parts that its slices copy; inf where there is one part only,
    or too many.

    With d the norms of the changes of the parts, a matrix G of each step bounds the square of its change by d^T G d. It
    is the identity for the input; a constant k gives k^2 G; what is side by side is added; and what is summed has the
    matrix of one row, whose entries are the roots of the diagonals. The constant is the root of the largest eigenvalue.

    Args:
        bounds: of the steps.
        largest: magnitudes of the input and of the outputs of the steps.
    """
    sizes = [math.prod(shape), *(math.prod(out) for out in graph.shapes)]
    part = _parts(graph, sizes)
    count = int(part.max()) + 1 if len(part) else 0
    if not 1 < count <= PARTS:
        return math.inf
    grams = [torch.eye(count, dtype=torch.float64)]
    for own, step, places in zip(bounds, graph.steps, graph.inputs, strict=True):
        given = [grams[i] for i in places]
        if isinstance(step, Copies):
            repeats = _repeats(step, [sizes[i] for i in places])
            copied = [_copied(n, part if i == 0 else None, g) for i, g, n in zip(places, given, repeats, strict=True)]
            gram = torch.stack(copied).sum(0)
        elif len(places) > 1:
            factors = step.factors if isinstance(step, Combination) else [largest[places[1]], largest[places[0]]]
            rows = [abs(c) * before.diagonal().sqrt() for c, before in zip(factors, given, strict=True)]
            row = torch.stack(rows).sum(0)
            gram = torch.outer(row, row)
        else:
            gram = own.bound**2 * given[0]
        grams.append(gram * OUTWARD)
        # Squares of very small and very large constants lose digits.
        lost = (gram != 0) & ~((gram > SAFE[0]) & (gram < SAFE[1]))
        if bool(lost.any()) or not (own.bound == 0 or math.sqrt(SAFE[0]) < own.bound**2 < SAFE[1]):
            return math.inf
    top = float(torch.linalg.eigvalsh(grams[-1])[-1]) + 1e-12 * float(grams[-1].diagonal().sum())
    return math.sqrt(max(top, 0.0)) * OUTWARD


def _parts(graph: Graph, sizes: list[int]) -> Tensor:
    """[entries of the input], the number of the part: entries that the same slices copy are one part."""
    masks = []
    for step, places in zip(graph.steps, graph.inputs, strict=True):
        if isinstance(step, Copies) and 0 in places:
            masks.append(_repeats(step, [sizes[i] for i in places])[places.index(0)] > 0)
    if not masks:
        return torch.zeros(0)
    return torch.unique(torch.stack(masks), dim=1, return_inverse=True)[1]


def _repeats(step: Copies, sizes: list[int]) -> list[Tensor]:
    """For each input, how often each of its entries is copied."""
    kept = step.index[step.index >= 0].cpu()
    return list(kept.bincount(minlength=sum(sizes)).split(sizes))


def _copied(repeats: Tensor, part: Tensor | None, gram: Tensor) -> Tensor:
    if part is None:
        return float(repeats.max()) * gram if len(repeats) else 0 * gram
    most = torch.zeros(len(gram), dtype=torch.float64).scatter_reduce(0, part, repeats.double(), "amax")
    return torch.diag(most)
