"""Cases of layers that are linear: dense layers, convolutions, means, permutations of pixels, fixed normalisations."""

import itertools
import math
import random
from fractions import Fraction

import torch
from mpmath import mp
from torch import nn

from helpers.exact import piece, square
from helpers.layer_cases import (
    KINDS,
    ORDINARY,
    TIGHT,
    Case,
    agrees,
    biases,
    checks,
    fractions,
    hold,
    identity,
    numbers,
    unit_images,
)
from lipbench import layers
from lipbench.certificate import convolution_norm, spectral_norm
from lipbench.certificate.rules import linear
from lipbench.layers.constructions.fourier import Torus

# Largest smaller side of a matrix whose norm is proved in rational arithmetic.
SIDE = 20
# Looseness of the bounds of convolutions on large maps (by frequencies, or the reshaped kernel) on these tiny images,
# whose border is as large as their inside.
BY_FREQUENCY = None


@checks(None, "spectral_norm")
def _spectral_norm(rng: random.Random) -> Case:
    matrix = numbers(rng, rng.randint(1, 9), rng.randint(1, 9)).double()
    truth = piece(fractions(matrix))
    if rng.random() < 0.5:
        matrix = torch.complex(matrix, numbers(rng, *matrix.shape).double())
        rows = torch.cat((torch.cat((matrix.real, -matrix.imag), 1), torch.cat((matrix.imag, matrix.real), 1)))
        truth = piece(fractions(rows))
    return Case(nn.Identity().eval(), (1,), [truth], bound=lambda: spectral_norm(matrix))


@checks(None, "norm_bound (Gram iteration)")
def _gram_iteration(rng: random.Random) -> Case:
    """Of rank r it may be r^(1/64) too large after five squarings; float64 rounding is left to the outward slack."""
    matrix = numbers(rng, rng.randint(1, 9), rng.randint(1, 9), kinds=("normal", "integers", "rank one")).double()
    rank = int(torch.linalg.matrix_rank(matrix))
    return Case(
        nn.Identity().eval(),
        (1,),
        [piece(fractions(matrix))],
        rank ** (1 / 64) - 1 + 1e-8,
        bound=lambda: float(layers.norm_bound(matrix, squarings=5)) * (1 + 1e-9),
    )


@checks(nn.Linear)
def _linear(rng: random.Random) -> Case:
    weight = numbers(rng, rng.randint(1, 12), rng.randint(1, 12))
    layer = hold(nn.Linear(weight.shape[1], weight.shape[0]), weight=weight, bias=biases(rng, len(weight), weight))
    return Case(layer, (weight.shape[1],), [piece(fractions(weight))])


def convolution(rng: random.Random, kinds: tuple[str, ...] = KINDS) -> tuple[nn.Conv2d, tuple[int, int]]:
    """Any convolution whose operator is small: stride, padding and its mode, dilation, groups; and its image."""
    while True:
        groups = rng.choice((1, 1, 2))
        into, out = groups * rng.randint(1, 3), groups * rng.randint(1, 3)
        size = (rng.randint(1, 6), rng.randint(1, 6))
        kernel, stride, dilation = ((rng.randint(1, high), rng.randint(1, high)) for high in (4, 3, 2))
        padding = (rng.randint(0, 4), rng.randint(0, 4))
        named = rng.choice(("same", "valid", ""))
        options = {"dilation": dilation, "groups": groups, "padding_mode": rng.choice(("zeros", "zeros", "circular"))}
        if named:
            options |= {"padding": named}
            stride = (1, 1) if named == "same" else stride
        else:
            options |= {"padding": padding}
        layer = nn.Conv2d(into, out, kernel, stride, **options)  # type: ignore[arg-type]
        outputs = output_size(layer, size)
        if min(outputs) < 1 or min(into * math.prod(size), out * math.prod(outputs)) > SIDE:
            continue
        if layer.padding_mode == "circular" and any(max(p) > n for p, n in zip(padding_of(layer), size, strict=True)):
            continue  # torch refuses it
        weight = numbers(rng, *layer.weight.shape, kinds=kinds)
        return hold(layer, weight=weight, bias=biases(rng, out, weight)), size  # type: ignore[return-value]


def padding_of(layer: nn.Conv2d) -> list[tuple[int, int]]:
    """(before, after) per dimension, as torch documents it."""
    if layer.padding == "valid":
        return [(0, 0), (0, 0)]
    if layer.padding == "same":
        reach = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        return [(n // 2, n - n // 2) for n in reach]
    return [(int(p), int(p)) for p in layer.padding]


def output_size(layer: nn.Conv2d, size: tuple[int, int]) -> tuple[int, int]:
    options = zip(size, padding_of(layer), layer.dilation, layer.kernel_size, layer.stride, strict=True)
    height, width = ((n + sum(p) - d * (k - 1) - 1) // s + 1 for n, p, d, k, s in options)
    return height, width


def convolution_matrix(layer: nn.Conv2d, weight: list, size: tuple[int, int]) -> list[list[Fraction]]:
    """[outputs][inputs] of a convolution, tap by tap.

    Args:
        weight: [out][in / groups][kh][kw] of fractions.
    """
    out, into, (height, width) = len(weight), len(weight[0]), size
    (top, _), (left, _) = padding_of(layer)
    matrix = []
    for channel, y, x in itertools.product(range(out), *map(range, output_size(layer, size))):
        row = [Fraction(0)] * (into * layer.groups * height * width)
        first = channel // (out // layer.groups) * into
        taps = itertools.product(range(into), *map(range, layer.kernel_size))
        for c, ky, kx in taps:
            i = y * layer.stride[0] + ky * layer.dilation[0] - top
            j = x * layer.stride[1] + kx * layer.dilation[1] - left
            if layer.padding_mode == "circular":
                i, j = i % height, j % width
            if 0 <= i < height and 0 <= j < width:
                row[((first + c) * height + i) * width + j] += weight[channel][c][ky][kx]
        matrix.append(row)
    return matrix


def _of_convolution(rng: random.Random) -> tuple[nn.Conv2d, tuple[int, int], list, bool]:
    layer, size = convolution(rng)
    matrix = convolution_matrix(layer, fractions(layer.weight), size)
    assert agrees(layer, (layer.in_channels, *size), matrix)
    extents = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
    repeats = layer.padding_mode == "circular" and any(
        sum(p) > n for p, n in zip(padding_of(layer), extents, strict=True)
    )
    return layer, size, matrix, repeats


@checks(nn.Conv2d)
def _conv2d(rng: random.Random) -> Case:
    layer, size, matrix, repeats = _of_convolution(rng)
    floor = 1e-8 * float(layer.weight.detach().double().abs().sum()) if layer.padding_mode == "circular" else 0.0
    return Case(layer, (layer.in_channels, *size), [piece(matrix)], _limit(layer, size), floor, refused=repeats)


@checks(nn.Conv2d, "without its dense operator")
def _conv2d_large(rng: random.Random) -> Case:
    """What is computed on large maps, where the dense operator is not."""
    layer, size, matrix, repeats = _of_convolution(rng)

    def bound() -> float:
        limit, linear.DENSE_LIMIT = linear.DENSE_LIMIT, 0
        try:
            return math.inf if repeats else convolution_norm(layer, size)
        finally:
            linear.DENSE_LIMIT = limit

    return Case(layer, (layer.in_channels, *size), [piece(matrix)], BY_FREQUENCY, bound=bound, refused=repeats)


def _limit(layer: nn.Conv2d, size: tuple[int, int]) -> float | None:
    """Where patches do not overlap the bound is that of one whole patch, and an image may hold none."""
    if not all(k <= s for k, s in zip(layer.kernel_size, layer.stride, strict=True)) or set(layer.dilation) != {1}:
        return TIGHT
    options = zip(size, padding_of(layer), layer.kernel_size, layer.stride, output_size(layer, size), strict=True)
    whole = [any(0 <= y * s - p <= n - k for y in range(count)) for n, (p, _), k, s, count in options]
    return TIGHT if all(whole) else None


@checks(layers.FourierConv2d)
def _fourier(rng: random.Random) -> Case:
    """Any matrices at the frequencies, of a real convolution or of none, on a torus with zeros around and a crop."""
    groups, into, out = rng.choice((1, 1, 2)), rng.randint(1, 2), rng.randint(1, 2)
    stride = (rng.randint(1, 2), rng.randint(1, 2))
    blocks = (rng.randint(1, 3), rng.randint(1, 3))
    pixels = (stride[0] * blocks[0], stride[1] * blocks[1])
    size = tuple(rng.randint(1, n) for n in pixels)
    outputs = tuple(rng.randint(1, n) for n in blocks)
    torus = Torus(size, stride, pixels, outputs)  # type: ignore[arg-type]
    real = rng.random() < 0.5
    if real:
        kernel = numbers(rng, groups, out, into * math.prod(stride), *blocks, kinds=ORDINARY).double()
        both = torch.view_as_real(torch.fft.rfft2(kernel).flatten(3).permute(0, 3, 1, 2))
        spectrum = both.movedim(-1, 0).contiguous()
    else:
        frequencies = blocks[0] * (blocks[1] // 2 + 1)
        spectrum = numbers(rng, 2, groups, frequencies, out, into * math.prod(stride), kinds=ORDINARY)
    layer = layers.FourierConv2d(spectrum, biases(rng, groups * out, spectrum), torus).eval()
    shape = (groups * into, *size)
    matrix = _fourier_matrix(fractions(spectrum), torus, shape)
    largest = float(spectrum.abs().max())
    assert agrees(layer, shape, matrix, largest)
    # The twiddle factors have 45 decimals.
    radius = Fraction(largest) / 10**40
    # Of a frequency that is its own conjugate only the real part is used.
    floor = 1e-8 * float(spectrum.double().abs().sum())
    return Case(layer, shape, [piece(matrix, radius)], TIGHT if real else None, floor)


def _fourier_matrix(spectrum: list, torus: Torus, shape: tuple[int, ...]) -> list[list[Fraction]]:
    """[outputs][inputs] by the sum over all frequencies: those of the half plane that are not their own conjugates
    count twice, by their real part.
    """
    mp.dps = 50
    (sh, sw), rows, columns = torus.stride, torus.pixels[0] // torus.stride[0], torus.pixels[1] // torus.stride[1]
    groups, out, half = len(spectrum[0]), len(spectrum[0][0][0]), columns // 2 + 1
    into = shape[0] // groups

    def entry(group: int, o: int, y: int, x: int, c: int, i: int, j: int) -> Fraction:
        phase = (c * sh + i % sh) * sw + j % sw
        total = Fraction(0)
        for u, v in itertools.product(range(rows), range(half)):
            turn = 2 * (mp.mpf(u * (y - i // sh)) / rows + mp.mpf(v * (x - j // sw)) / columns)
            cosine, sine = (_fraction(value) for value in (mp.cospi(turn), mp.sinpi(turn)))
            real, imaginary = (spectrum[part][group][u * half + v][o][phase] for part in (0, 1))
            alone = v == 0 or 2 * v == columns
            total += (real * cosine - imaginary * sine) * (1 if alone else 2)
        return total / (rows * columns)

    outputs = list(itertools.product(range(groups), range(out), *map(range, torus.outputs)))
    inputs = list(itertools.product(range(groups), range(into), range(shape[1]), range(shape[2])))
    return [[entry(*o, *i[1:]) if o[0] == i[0] else Fraction(0) for i in inputs] for o in outputs]


def _fraction(value: object) -> Fraction:
    """An mpmath number, rounded to 45 decimals."""
    return Fraction(int(mp.nint(value * mp.mpf(10) ** 45)), 10**45)  # type: ignore[operator]


@checks(nn.AvgPool2d)
def _avg_pool(rng: random.Random) -> Case:
    kernel, stride = ((rng.randint(1, 3), rng.randint(1, 3)) for _ in range(2))
    padding = tuple(rng.randint(0, k // 2) for k in kernel)
    layer = nn.AvgPool2d(kernel, stride, padding)  # type: ignore[arg-type]
    size = tuple(rng.randint(k, k + 2) for k in kernel)
    one = nn.Conv2d(1, 1, kernel, stride, padding)  # type: ignore[arg-type]
    mean = [[[[Fraction(1, math.prod(kernel))] * kernel[1]] * kernel[0]]]
    matrix = convolution_matrix(one, mean, size)  # type: ignore[arg-type]
    assert agrees(layer, (1, *size), matrix)
    return Case(layer.eval(), (rng.randint(1, 2), *size), [piece(matrix)])


@checks(nn.AdaptiveAvgPool2d)
def _adaptive_avg(rng: random.Random) -> Case:
    size = (rng.randint(1, 5), rng.randint(1, 4))
    asked = (rng.randint(1, 5), rng.choice((None, rng.randint(1, 4))))
    layer = nn.AdaptiveAvgPool2d(asked).eval()  # type: ignore[arg-type]
    windows = [adaptive_windows(n, n if m is None else m) for n, m in zip(size, asked, strict=True)]
    matrix = [
        [
            Fraction(i in rows and j in columns) / (len(rows) * len(columns))
            for i in range(size[0])
            for j in range(size[1])
        ]
        for rows, columns in itertools.product(*windows)
    ]
    assert agrees(layer, (1, *size), matrix)
    return Case(layer, (rng.randint(1, 2), *size), [piece(matrix)])


def adaptive_windows(pixels: int, outputs: int) -> list[range]:
    return [
        range(math.floor(Fraction(i * pixels, outputs)), math.ceil(Fraction((i + 1) * pixels, outputs)))
        for i in range(outputs)
    ]


@checks(layers.ScaledAvgPool2d)
def _scaled_avg(rng: random.Random) -> Case:
    kernel = rng.randint(1, 3)
    size = (rng.randint(kernel, 5), rng.randint(kernel, 5))
    one = nn.Conv2d(1, 1, kernel, kernel)
    matrix = convolution_matrix(one, [[[[Fraction(1, kernel)] * kernel] * kernel]], size)
    layer = layers.ScaledAvgPool2d(kernel).eval()
    assert agrees(layer, (1, *size), matrix)
    return Case(layer, (rng.randint(1, 2), *size), [piece(matrix)])


@checks(layers.AdaptiveScaledAvgPool2d)
def _adaptive_scaled(rng: random.Random) -> Case:
    size = (rng.randint(1, 5), rng.randint(1, 5))
    layer = layers.AdaptiveScaledAvgPool2d((rng.randint(1, size[0]), rng.randint(1, size[1]))).eval()
    units = unit_images(layer, (1, *size))
    blocks = units != 0
    assert (blocks.sum(0) <= 1).all(), "blocks do not overlap"
    weights = blocks.sum(1, keepdim=True).double().rsqrt() * blocks
    assert torch.allclose(units, weights, rtol=1e-12)
    # Rows of n entries 1 / sqrt n on pixels of their own: W W^T is the identity.
    return Case(layer, (1, *size), [piece(identity(len(units)))])


def _moves(layer: nn.Module, shape: tuple[int, ...]) -> Case:
    """A layer that moves pixels, or leaves them: a matrix of zeros and ones."""
    units = unit_images(layer.eval(), shape)
    assert ((units == 0) | (units == 1)).all()
    return Case(layer, shape, [piece(fractions(units))])


for _kind, _dimensions in {
    nn.Identity: 2,
    nn.Flatten: 2,
    nn.Dropout: 2,
    nn.Dropout1d: 1,
    nn.Dropout2d: 2,
    nn.Dropout3d: 3,
    nn.AlphaDropout: 2,
    nn.FeatureAlphaDropout: 2,
}.items():
    checks(_kind)(lambda rng, kind=_kind, n=_dimensions: _moves(kind(), (rng.randint(1, 3), *(rng.randint(1, 2),) * n)))


@checks(nn.PixelShuffle)
def _shuffle(rng: random.Random) -> Case:
    factor = rng.randint(1, 2)
    return _moves(nn.PixelShuffle(factor), (factor**2, rng.randint(1, 2), rng.randint(1, 2)))


@checks(nn.PixelUnshuffle)
def _unshuffle(rng: random.Random) -> Case:
    factor = rng.randint(1, 2)
    return _moves(nn.PixelUnshuffle(factor), (rng.randint(1, 2), factor, factor * rng.randint(1, 2)))


@checks(layers.Antipodal)
def _antipodal(rng: random.Random) -> Case:
    return Case(layers.Antipodal().eval(), (1,), [piece([[Fraction(-1, 2)], [Fraction(1, 2)]])])


@checks(layers.Scale)
def _scale(rng: random.Random) -> Case:
    factor = abs(float(numbers(rng, 1))) or 1.0
    return Case(layers.Scale(factor).eval(), (2,), [piece(identity(2, Fraction(factor)))])


@checks(layers.Normalize)
def _normalize(rng: random.Random) -> Case:
    channels = rng.randint(1, 3)
    count = rng.choice((1, channels))
    std = numbers(rng, count, 1, 1).abs()
    std = torch.where(std > 0, std, torch.ones_like(std))
    layer = hold(layers.Normalize(), std=std, mean=torch.zeros_like(std))
    return Case(layer, (channels, 2, 2), [piece([[1 / entry]]) for entry in fractions(std.flatten())])


def _batch_norm(kind: type, dimensions: int) -> None:
    @checks(kind)
    def make(rng: random.Random) -> Case:
        channels = rng.randint(1, 3)
        layer = kind(channels, affine=True, eps=rng.choice((1e-5, 1e-3, 0.0)))
        gamma, variance = numbers(rng, channels).double(), numbers(rng, channels).double().abs()
        if layer.eps == 0:
            variance = torch.where(variance > 0, variance, torch.ones_like(variance))
        hold(layer, weight=gamma, running_var=variance)
        pairs = zip(fractions(gamma), fractions(variance), strict=True)
        pieces = [square(g**2 / (v + Fraction(layer.eps))) for g, v in pairs]
        return Case(layer, (channels, *(2,) * dimensions), pieces)


for _norm, _dimensions in ((nn.BatchNorm1d, 0), (nn.BatchNorm2d, 2), (nn.BatchNorm3d, 3)):
    _batch_norm(_norm, _dimensions)


@checks(layers.BatchCentering)
def _batch_centering(rng: random.Random) -> Case:
    layer = hold(layers.BatchCentering(2), bias=numbers(rng, 2, kinds=("integers",)))
    return _moves(layer.double(), (2, rng.randint(1, 2), 2))


@checks(layers.LayerCentering)
def _layer_centering(rng: random.Random) -> Case:
    shape = tuple(rng.randint(1, 3) for _ in range(rng.randint(1, 3)))
    size = math.prod(shape)
    matrix = [[Fraction(i == j) - Fraction(1, size) for j in range(size)] for i in range(size)]
    assert size == 1 or agrees(layers.LayerCentering().eval(), shape, matrix)
    # Of a single number nothing is left.
    return Case(layers.LayerCentering().eval(), shape, [piece(matrix)], TIGHT if size > 1 else None)


def refuses(kind: type, make: nn.Module, shape: tuple[int, ...]) -> None:
    @checks(kind)
    def _refused(rng: random.Random) -> Case:
        return Case(make.eval(), shape, [], refused=True)


refuses(nn.LayerNorm, nn.LayerNorm(3), (3,))
refuses(nn.RMSNorm, nn.RMSNorm(3), (3,))
refuses(nn.GroupNorm, nn.GroupNorm(1, 2), (2, 2, 2))
refuses(nn.InstanceNorm1d, nn.InstanceNorm1d(2), (2, 3))
refuses(nn.InstanceNorm2d, nn.InstanceNorm2d(2), (2, 3, 3))
refuses(nn.InstanceNorm3d, nn.InstanceNorm3d(2), (2, 3, 3, 3))
refuses(nn.LocalResponseNorm, nn.LocalResponseNorm(2), (2, 3, 3))
