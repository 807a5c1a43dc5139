"""Norms of small matrices in rational arithmetic: proofs, which no rounding can spoil."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

Number = Fraction | int | float
Matrix = Sequence[Sequence[Number]]
# Bits to which a vector is rounded that shall reach the norm: its error counts squared.
BITS = 40


@dataclass(frozen=True)
class Piece:
    """A linear map W, as its smaller Gram matrix (W^T W or W W^T) in integers over a common denominator.

    Attributes:
        gram: symmetric [n][n] integers.
        denominator: what they are divided by.
        radius: W is known up to a matrix of this norm.
    """

    gram: list[list[int]]
    denominator: int
    radius: Fraction = Fraction(0)


def piece(matrix: Matrix, radius: Number = 0) -> Piece:
    """The piece of a matrix [m][n] of numbers, each taken exactly (a float is a fraction)."""
    rows = [[Fraction(entry) for entry in row] for row in matrix]
    common = math.lcm(*(entry.denominator for row in rows for entry in row), 1)
    whole = [[int(entry * common) for entry in row] for row in rows]
    if whole and len(whole) > len(whole[0]):
        whole = [list(column) for column in zip(*whole, strict=True)]
    gram = [[sum(a * b for a, b in zip(left, right, strict=True)) for right in whole] for left in whole]
    return Piece(gram, common**2, Fraction(radius))


def square(value: Number) -> Piece:
    """The piece of a number whose square this is."""
    fraction = Fraction(value)
    return Piece([[fraction.numerator]], fraction.denominator)


def is_bound(bound: float, linear: Piece) -> bool:
    """Whether bound >= ||W||, proved: (bound - radius)^2 I - W^T W is positive semidefinite."""
    if math.isinf(bound):
        return bound > 0
    rest = Fraction(bound) - linear.radius
    if rest < 0:
        return False
    diagonal, factor = rest.numerator**2 * linear.denominator, rest.denominator**2
    size = len(linear.gram)
    return is_semidefinite(
        [[diagonal * (i == j) - factor * linear.gram[i][j] for j in range(size)] for i in range(size)]
    )


def is_semidefinite(matrix: list[list[int]]) -> bool:
    """Whether a symmetric integer matrix is positive semidefinite, by elimination without fractions (Bareiss, 1968):
    the pivots are those of L D L^T times the leading minor before them. The matrix is overwritten.
    """
    before = 1
    for k, row in enumerate(matrix):
        pivot = row[k]
        if pivot < 0 or (pivot == 0 and any(row[k + 1 :])):
            return False
        if pivot == 0:
            continue
        for i in range(k + 1, len(matrix)):
            other = row[i]
            for j in range(i, len(matrix)):
                matrix[i][j] = (pivot * matrix[i][j] - other * row[j]) // before
        before = pivot
    return True


def reached(linear: Piece) -> Fraction:
    """A rational vector's ratio (||W v|| / ||v||)^2, at most ||W||^2 and close to it: v is the eigenvector of the Gram
    matrix, rounded.
    """
    largest = max((abs(entry) for row in linear.gram for entry in row), default=0)
    if largest == 0:
        return Fraction(0)
    # Fractions first: a quotient of integers of hundreds of digits is a float, the integers are none.
    scaled = np.array([[float(Fraction(entry, largest)) for entry in row] for row in linear.gram])
    top = np.linalg.eigh(scaled)[1][:, -1]
    vector = [round(float(entry) * 2**BITS) for entry in top]
    image = [sum(a * b for a, b in zip(row, vector, strict=True)) for row in linear.gram]
    energy = sum(a * b for a, b in zip(image, vector, strict=True))
    return Fraction(energy, linear.denominator * sum(entry**2 for entry in vector))


def ratio(numerator: Fraction, denominator: Fraction) -> float:
    """sqrt(numerator / denominator) of squares that may be too large or too small for floats; 1 for 0 / 0."""
    if denominator == 0:
        return 1.0 if numerator == 0 else math.inf
    try:
        return math.sqrt(numerator / denominator)
    except OverflowError:
        return math.inf
