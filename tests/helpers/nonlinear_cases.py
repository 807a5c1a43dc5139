"""Cases of layers that are not linear: activations by their slopes, sorts and poolings by all of their pieces, sums."""

import itertools
import math
import random
from collections.abc import Callable
from fractions import Fraction

import torch
from mpmath import iv, mp
from torch import nn

from helpers.exact import Piece, piece
from helpers.layer_cases import (
    ORDINARY,
    TIGHT,
    Case,
    Shape,
    checks,
    fractions,
    hold,
    identity,
    numbers,
    slopes_at,
    times,
)
from helpers.linear_cases import adaptive_windows, convolution_matrix
from lipbench import layers
from lipbench.layers.constructions import TERMS


def slope(value: float | Fraction) -> Piece:
    """The piece of an activation whose slopes reach this number, or come close to it, and never exceed it."""
    return piece([[Fraction(value)]])


def above(value: object) -> Fraction:
    """The upper end of an mpmath number or interval, rounded up by the last of its 40 digits."""
    mp.dps = 60
    end = mp.mpf(value.b) if hasattr(value, "b") else mp.mpf(value)  # type: ignore[attr-defined, arg-type]
    return Fraction(int(mp.ceil(end * mp.mpf(10) ** 40)), 10**40)


def largest_slope(derivative: Callable[[object], object], ends: float, beyond: float) -> Fraction:
    """Upper bound of |derivative| by interval arithmetic, within 1e-4: on cells of [-ends, ends] that are halved until
    they are narrow enough; `beyond` outside of them.
    """
    iv.dps = 30
    reached, done, cells = 0.0, Fraction(beyond), [(-ends, ends)]
    while cells:
        left, right = cells.pop()
        middle = (left + right) / 2
        reached = max(reached, float(abs(derivative(iv.mpf(middle))).a))  # type: ignore[attr-defined]
        found = above(abs(derivative(iv.mpf([left, right]))))  # type: ignore[arg-type]
        if found > max(reached, beyond) + 1e-4:
            cells += [(left, middle), (middle, right)]
        else:
            done = max(done, found)
    return done


def _sigmoid(x: object) -> object:
    return 1 / (1 + iv.exp(-x))  # type: ignore[operator]


def _silu(x: object) -> object:
    s = _sigmoid(x)
    return s + x * s * (1 - s)  # type: ignore[operator]


def _tanh_gelu(x: object) -> object:
    """x sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3): 0.5 (1 + tanh u) is a sigmoid."""
    factor = 2 * iv.sqrt(2 / iv.pi)
    s = _sigmoid(factor * (x + iv.mpf("0.044715") * x**3))  # type: ignore[operator]
    return s + x * s * (1 - s) * factor * (1 + 3 * iv.mpf("0.044715") * x**2)  # type: ignore[operator]


def gelu_slope() -> Fraction:
    """Phi(x) + x phi(x) has the derivative (2 - x^2) phi(x): it is largest at sqrt 2."""
    mp.dps = 50
    root = mp.sqrt(2)
    return above(mp.ncdf(root) + root * mp.npdf(root))


# Beyond 8, x s (1 - s) <= x exp(-x) and its like are below 0.003, and s below 1.
SLOPES: dict[str, Fraction] = {}


def _measured(name: str, compute: Callable[[], Fraction]) -> Fraction:
    return SLOPES[name] if name in SLOPES else SLOPES.setdefault(name, compute())


def _activation(kind: type, make: Callable[[random.Random], tuple[nn.Module, Piece]]) -> None:
    @checks(kind)
    def _slopes(rng: random.Random) -> Case:
        layer, steepest = make(rng)
        return Case(layer.eval(), (3,), [steepest])


ONE = slope(1)
for _kind in (nn.ReLU, nn.ReLU6, nn.Tanh, layers.Abs):
    # tanh' = 1 - tanh^2.
    _activation(_kind, lambda rng, kind=_kind: (kind(), ONE))  # type: ignore[misc]
# s (1 - s) <= 1 / 4.
_activation(nn.Sigmoid, lambda rng: (nn.Sigmoid(), slope(Fraction(1, 4))))
_activation(nn.SiLU, lambda rng: (nn.SiLU(), slope(_measured("silu", lambda: largest_slope(_silu, 8, 1.01)))))
_activation(nn.Hardtanh, lambda rng: (nn.Hardtanh(-rng.random(), rng.random() + 0.1), ONE))
_activation(nn.Softplus, lambda rng: (nn.Softplus(rng.choice((-2.0, 0.1, 1.0, 50.0)), rng.choice((37, 40))), ONE))


def _any(rng: random.Random) -> float:
    """Any number of float32, which torch computes in where a layer has no weights."""
    return float(numbers(rng, 1).clamp(-1e37, 1e37))


def _leaky(rng: random.Random) -> tuple[nn.Module, Piece]:
    other = _any(rng)
    return nn.LeakyReLU(other), slope(max(Fraction(1), abs(Fraction(other))))


def _elu(rng: random.Random) -> tuple[nn.Module, Piece]:
    """alpha exp(x), x <= 0."""
    alpha = _any(rng)
    return nn.ELU(alpha), slope(max(Fraction(1), abs(Fraction(alpha))))


def _prelu(rng: random.Random) -> tuple[nn.Module, Piece]:
    weight = numbers(rng, rng.choice((1, 3)))
    return hold(nn.PReLU(len(weight)), weight=weight), slope(max([Fraction(1), *map(abs, fractions(weight))]))


def _gelu(rng: random.Random) -> tuple[nn.Module, Piece]:
    if rng.random() < 0.5:
        return nn.GELU(), slope(_measured("gelu", gelu_slope))
    return nn.GELU("tanh"), slope(_measured("tanh", lambda: largest_slope(_tanh_gelu, 8, 1.01)))


for _kind, _make in {nn.LeakyReLU: _leaky, nn.ELU: _elu, nn.PReLU: _prelu, nn.GELU: _gelu}.items():
    _activation(_kind, _make)


def _sorting(kind: type, make: Callable[[random.Random], tuple[nn.Module, int]]) -> None:
    @checks(kind)
    def _sorts(rng: random.Random) -> Case:
        """One piece for each order of the neurons: all there are."""
        layer, size = make(rng)
        orders = torch.tensor(list(itertools.permutations(range(1, size + 1))), dtype=torch.float64)
        return Case(layer.eval(), (size,), [piece(slopes) for slopes in slopes_at(layer, orders)])


_sorting(layers.MaxMin, lambda rng: (layers.MaxMin(), rng.choice((2, 4))))
_sorting(layers.FullSort, lambda rng: (layers.FullSort(), rng.randint(1, 4)))
_sorting(layers.GroupSort, lambda rng: rng.choice(((layers.GroupSort(2), 4), (layers.GroupSort(3), 3))))


@checks(layers.Householder)
def _householder(rng: random.Random) -> Case:
    """Two pieces per pair: the identity, and [[1 - 2 s^2, 2 s c], [2 s c, 1 - 2 c^2]] with 50 digits of sine and
    cosine.
    """
    mp.dps = 60
    angle = numbers(rng, 1, kinds=("normal", "integers", "zeros", "tiny", "huge"))
    layer = hold(layers.Householder(2), angle=angle)
    half = mp.mpf(float(angle.double())) / 2
    s, c = (Fraction(int(mp.nint(f(half) * mp.mpf(10) ** 50)), 10**50) for f in (mp.sin, mp.cos))
    beyond = [[1 - 2 * s * s, 2 * s * c], [2 * s * c, 1 - 2 * c * c]]
    return Case(layer, (2,), [piece(identity(2)), piece(beyond, Fraction(1, 10**40))])


@checks(nn.MaxPool2d)
def _max_pool(rng: random.Random) -> Case:
    while True:
        kernel, stride, dilation = ((rng.randint(1, 3), rng.randint(1, 3)) for _ in range(3))
        padding = tuple(rng.randint(0, k // 2) for k in kernel)
        size = (rng.randint(1, 6), rng.randint(1, 6))
        layer = nn.MaxPool2d(kernel, stride, padding, dilation).eval()  # type: ignore[arg-type]
        windows = []
        for n, k, s, p, d in zip(size, kernel, stride, padding, dilation, strict=True):
            count = (n + 2 * p - d * (k - 1) - 1) // s + 1
            windows.append([[w * s - p + d * t for t in range(k)] for w in range(max(0, count))])
        # A window without a pixel gives minus infinity.
        if all(windows) and all(any(0 <= i < n for i in w) for n, ws in zip(size, windows, strict=True) for w in ws):
            return _maxima(layer, size, windows)


@checks(nn.AdaptiveMaxPool2d)
def _adaptive_max(rng: random.Random) -> Case:
    size = (rng.randint(1, 6), rng.randint(1, 6))
    asked = (rng.randint(1, 6), rng.randint(1, 6))
    windows = [adaptive_windows(n, m) for n, m in zip(size, asked, strict=True)]
    return _maxima(nn.AdaptiveMaxPool2d(asked).eval(), size, windows)


def _maxima(layer: nn.Module, size: tuple[int, int], windows: list) -> Case:
    """Each window passes one of its pixels on: W^T W is diagonal and counts the windows of a pixel."""
    counts = [[sum(i in window for window in both) for i in range(n)] for n, both in zip(size, windows, strict=True)]
    peak = tuple(count.index(max(count)) for count in counts)
    most = max(counts[0]) * max(counts[1])
    image = torch.full((1, 1, *size), -1.0)
    image[0, 0, peak[0], peak[1]] = 0
    higher = image.clone()
    higher[0, 0, peak[0], peak[1]] = 1
    assert (layer(higher) - layer(image)).square().sum() == most, "it is reached"
    return Case(layer, (1, *size), [piece([[1]] * most if most else [[0]])])


def _blocks(layer: nn.Module, size: tuple[int, int]) -> Case:
    """Norms of blocks that do not overlap: each basis image reaches one output at most, by 1."""
    basis = torch.eye(math.prod(size), dtype=torch.float64).reshape(-1, 1, *size)
    outputs = layer(basis).flatten(1)
    assert ((outputs == 0) | ((outputs - 1).abs() < 1e-12)).all()
    assert ((outputs != 0).sum(1) <= 1).all()
    return Case(layer.eval(), (2, *size), [piece(identity(1))])


@checks(layers.L2Pool2d)
def _l2_pool(rng: random.Random) -> Case:
    kernel = rng.randint(1, 3)
    return _blocks(layers.L2Pool2d(kernel), (rng.randint(kernel, 6), rng.randint(kernel, 6)))


@checks(layers.AdaptiveL2Pool2d)
def _adaptive_l2(rng: random.Random) -> Case:
    size = (rng.randint(1, 5), rng.randint(1, 5))
    return _blocks(layers.AdaptiveL2Pool2d((rng.randint(1, size[0]), rng.randint(1, size[1]))), size)


def masks(count: int, rng: random.Random, low: Fraction | int = 0) -> list[tuple[Fraction, ...]]:
    """Diagonals of slopes that are `low` or 1, the corners, where a norm, which is convex, is largest: all of them, or
    the two ends and 14 others.
    """
    ends = [(Fraction(low),) * count, (Fraction(1),) * count]
    corners = list(itertools.product((Fraction(low), Fraction(1)), repeat=count))
    return corners if len(corners) <= 16 else ends + rng.sample(corners, 14)


def scaled(diagonal: tuple[Fraction, ...], matrix: list) -> list:
    return [[d * entry for entry in row] for d, row in zip(diagonal, matrix, strict=True)]


def summed(a: list, b: list, first: Fraction, second: Fraction) -> list:
    return [
        [first * x + second * y for x, y in zip(left, right, strict=True)] for left, right in zip(a, b, strict=True)
    ]


def _sum(rng: random.Random, share: Fraction, other: Fraction) -> tuple[nn.Module, list[Piece], int]:
    """A branch that is dense, or dense with ReLU; and the pieces of share x + other branch(x)."""
    size, linear = rng.randint(1, 4), rng.random() < 0.5
    weight = numbers(rng, size, size, kinds=(*ORDINARY, "huge", "tiny"))
    dense = hold(nn.Linear(size, size), weight=weight)
    dense.bias = None
    branch = dense if linear else nn.Sequential(dense, nn.ReLU())
    matrix = fractions(weight)
    slopes = [(Fraction(1),) * size] if linear else masks(size, rng)
    return branch, [piece(summed(identity(size), scaled(d, matrix), share, other)) for d in slopes], size


@checks(layers.Residual)
def _residual(rng: random.Random) -> Case:
    scale = _any(rng)
    branch, pieces, size = _sum(rng, Fraction(scale), Fraction(scale))
    return Case(layers.Residual(branch, scale).eval(), (size,), pieces, None)


@checks(layers.Residual, "whose terms add up")
def _residual_tight(rng: random.Random) -> Case:
    """A branch of norm ||W|| along one direction: the sum reaches the bound of its terms."""
    vector = numbers(rng, rng.randint(1, 4), 1, kinds=("normal",))
    weight = (vector @ vector.T).double()
    dense = hold(nn.Linear(len(weight), len(weight)), weight=weight, bias=torch.zeros(len(weight)).double())
    total = summed(identity(len(weight)), fractions(weight), Fraction(1, 2), Fraction(1, 2))
    return Case(layers.Residual(dense, 0.5).eval(), (len(weight),), [piece(total)])


@checks(layers.ConvexResidual)
def _convex_residual(rng: random.Random) -> Case:
    share = torch.tensor(rng.choice((0.0, 1.0, rng.random(), rng.gauss(0, 2))))
    exact = Fraction(float(share))
    branch, pieces, size = _sum(rng, exact, 1 - exact)
    layer = layers.bake(layers.ConvexResidual(branch))
    layer.share = nn.Parameter(share.to(next(branch.parameters())))
    return Case(layer, (size,), pieces, None)


@checks(layers.ConvexPotential)
def _convex_potential(rng: random.Random) -> Case:
    step = abs(_any(rng)) if rng.random() < 0.5 else 2.0
    low = rng.choice((0.0, 0.0, 0.25))
    activation = nn.LeakyReLU(low) if low else nn.ReLU()
    if rng.random() < 0.5:
        weight = numbers(rng, rng.randint(1, 4), rng.randint(1, 5))
        inner: nn.Module = hold(nn.Linear(weight.shape[1], len(weight)), weight=weight, bias=weight[:, 0])
        matrix, shape = fractions(weight), (weight.shape[1],)
    else:
        inner, shape = _keeping(rng, 1, rng.randint(1, 2), 3)
        matrix = convolution_matrix(inner, fractions(inner.weight), shape[1:])  # type: ignore[arg-type]
    layer = layers.ConvexPotential(inner, step, activation).eval()  # type: ignore[arg-type]
    transposed = [list(column) for column in zip(*matrix, strict=True)]
    one = identity(len(transposed))
    pieces = [
        piece(summed(one, times(transposed, scaled(d, matrix)), Fraction(1), -Fraction(step)))
        for d in masks(len(matrix), rng, Fraction(low))
    ]
    # Slopes that are never 0 make it shorter than the bound, which asks for the interval [0, 1] alone.
    return Case(layer, shape, pieces, None if low else TIGHT)


def _keeping(rng: random.Random, outputs: int, inputs: int, side: int, groups: int = 1) -> tuple[nn.Conv2d, Shape]:
    """A convolution that keeps the size of its image, and the shape of that."""
    size = (rng.randint(1, 2), rng.randint(1, side))
    kernel, dilation = (rng.choice((1, 3)), rng.choice((1, 3))), rng.randint(1, 2)
    padding = tuple(dilation * (k - 1) // 2 for k in kernel)
    fits = all(p <= n for p, n in zip(padding, size, strict=True))
    mode = rng.choice(("zeros", "circular")) if fits else "zeros"
    layer = nn.Conv2d(
        inputs * groups,
        outputs * groups,
        kernel,
        1,
        padding,
        dilation,
        groups,
        padding_mode=mode,  # type: ignore[arg-type]
    )
    weight = numbers(rng, *layer.weight.shape)
    return hold(layer, weight=weight, bias=weight.flatten(1)[:, 0]), (inputs * groups, *size)  # type: ignore[return-value]


@checks(layers.SkewExponential)
def _skew_exponential(rng: random.Random) -> Case:
    """exp(A) cut after nine terms: A = L - L^T of the matrix L, which zero channels make square."""
    groups, outputs, inputs = rng.randint(1, 2), rng.randint(1, 2), rng.randint(1, 2)
    inner, shape = _keeping(rng, outputs, inputs, 2, groups)
    weight = inner.weight.detach()
    if rng.random() < 0.5:  # as `BoundedSkew` leaves it
        weight = weight / weight.double().abs().sum().clamp_min(1).to(weight) / 2
        inner.weight = nn.Parameter(weight)
    channels, pixels = max(outputs, inputs), math.prod(shape[1:])
    square = nn.Conv2d(
        channels * groups, channels * groups, inner.kernel_size, 1, inner.padding, inner.dilation, groups,
        padding_mode=inner.padding_mode,
    )  # fmt: skip
    wide = torch.zeros(square.weight.shape, dtype=torch.float64)
    split = wide.view(groups, channels, channels, *inner.kernel_size)
    split[:, :outputs, :inputs] = weight.double().view(groups, outputs, inputs, *inner.kernel_size)
    matrix = convolution_matrix(square, fractions(wide), shape[1:])  # type: ignore[arg-type]
    transposed = zip(*matrix, strict=True)
    series = _series([[a - b for a, b in zip(*both, strict=True)] for both in zip(matrix, transposed, strict=True)])
    rows, columns = (
        [g * channels * pixels + i for g in range(groups) for i in range(count * pixels)] for count in (outputs, inputs)
    )
    angle = weight.double().abs().flatten(1).sum().item()
    layer = layers.SkewExponential(inner).eval()
    # Channels left out may shorten it.
    limit = TIGHT if outputs == inputs and 2 * angle <= 1 else None
    return Case(layer, shape, [piece([[series[r][c] for c in columns] for r in rows])], limit)


def _series(skew: list) -> list:
    """The sum of A^k / k! up to the last of its terms, in whole numbers until the end."""
    common = math.lcm(*(entry.denominator for row in skew for entry in row))
    whole = [[int(entry * common) for entry in row] for row in skew]
    size = len(whole)
    total = [[Fraction(i == j) for j in range(size)] for i in range(size)]
    power = [[int(i == j) for j in range(size)] for i in range(size)]
    for k in range(1, TERMS + 1):
        columns = list(zip(*whole, strict=True))
        power = [[sum(a * b for a, b in zip(row, column, strict=True)) for column in columns] for row in power]
        factor = common**k * math.factorial(k)
        pairs = zip(total, power, strict=True)
        total = [[t + Fraction(p, factor) for t, p in zip(*both, strict=True)] for both in pairs]
    return total


@checks(layers.Sandwich)
def _sandwich(rng: random.Random) -> Case:
    """2 A^T D B: Psi commutes with the slopes."""
    outputs, inputs = rng.randint(1, 4), rng.randint(1, 4)
    layer = layers.bake(layers.Sandwich(inputs, outputs))
    frame = numbers(rng, outputs, outputs + inputs)
    orthonormal = rng.random() < 0.5
    if orthonormal:
        frame = torch.linalg.qr(numbers(rng, outputs + inputs, outputs, kinds=("normal",)))[0].T.contiguous()
    layer.frame = nn.Parameter(frame)
    layer.log_psi = nn.Parameter(numbers(rng, outputs, kinds=("normal", "zeros")).to(frame))
    layer.bias = nn.Parameter(torch.zeros_like(layer.log_psi))
    rows = fractions(frame)
    a, b = [row[:outputs] for row in rows], [row[outputs:] for row in rows]
    transposed = [[2 * entry for entry in column] for column in zip(*a, strict=True)]
    pieces = [piece(times(transposed, scaled(d, b))) for d in masks(outputs, rng)]
    return Case(layer, (inputs,), pieces, None)
