"""Cases of whole networks: the product of their layers, and the gaps of pairs of their logits, on every piece."""

import itertools
import random
from fractions import Fraction

from torch import nn

from helpers.exact import piece
from helpers.layer_cases import Case, checks, fractions, hold, numbers, times
from lipbench import layers
from lipbench.certificate import gaps


def small_network(rng: random.Random) -> tuple[nn.Sequential, list]:
    """Dense layers with ReLU or the absolute value between them; and the matrices [outputs][inputs] of its pieces."""
    widths = [rng.randint(1, 3) for _ in range(rng.randint(2, 3))] + [rng.randint(2, 3)]
    modules: list[nn.Module] = [nn.Flatten()]
    pieces: list = [[[Fraction(i == j) for j in range(widths[0])] for i in range(widths[0])]]
    kinds = rng.choice((("normal", "integers", "rank one"), ("huge", "tiny", "zeros", "sparse")))
    for i, (into, out) in enumerate(itertools.pairwise(widths)):
        weight = numbers(rng, out, into, kinds=kinds).float()
        modules.append(hold(nn.Linear(into, out), weight=weight, bias=numbers(rng, out, kinds=("normal",)).float()))
        pieces = [times(fractions(weight), matrix) for matrix in pieces]
        if i + 2 < len(widths):
            low = rng.choice((0, -1))
            modules.append(nn.ReLU() if low == 0 else layers.Abs())
            masks = list(itertools.product((low, 1), repeat=out))
            pieces = [[[d * x for x in row] for d, row in zip(mask, m, strict=True)] for m in pieces for mask in masks]
    return nn.Sequential(*modules).eval(), pieces


def _network(rng: random.Random) -> tuple[nn.Sequential, list, tuple[int, int, int]]:
    """A small network, some with a scale after the last layer."""
    model, pieces = small_network(rng)
    shape = (1, 1, len(pieces[0][0]))
    if rng.random() < 0.5:
        factor = rng.choice((0.3, 7.0))
        model.append(layers.Scale(factor).eval())
        pieces = [[[Fraction(factor) * x for x in row] for row in matrix] for matrix in pieces]
    return model, pieces, shape


@checks(None, "whole networks")
def _whole(rng: random.Random) -> Case:
    """A product of norms, which need not be reached."""
    model, pieces, shape = _network(rng)
    return Case(model, shape, [piece(matrix) for matrix in pieces], None)


@checks(None, "gaps of whole networks")
def _gaps(rng: random.Random) -> Case:
    model, pieces, shape = _network(rng)
    i, j = rng.choice(list(itertools.permutations(range(len(pieces[0])), 2)))
    rows = [[[a - b for a, b in zip(matrix[i], matrix[j], strict=True)]] for matrix in pieces]
    return Case(model, shape, [piece(row) for row in rows], None, bound=lambda: float(gaps(model, shape)[i, j]))


@checks(None, "gaps of a dense layer")
def _gaps_of_one(rng: random.Random) -> Case:
    """The norms of the differences of its rows, which are reached."""
    weight = numbers(rng, rng.randint(2, 4), rng.randint(1, 5))
    head = hold(nn.Linear(weight.shape[1], len(weight)), weight=weight, bias=weight[:, 0])
    i, j = rng.choice(list(itertools.permutations(range(len(weight)), 2)))
    rows = fractions(weight)
    difference = [[a - b for a, b in zip(rows[i], rows[j], strict=True)]]
    # Rows of large numbers that are nearly the same differ by what is left of their digits.
    floor = 1e-15 * float(weight.double().abs().max())
    shape = (weight.shape[1],)
    return Case(head, shape, [piece(difference)], floor=floor, bound=lambda: float(gaps(head, shape)[i, j]))
