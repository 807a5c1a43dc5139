"""Skew-symmetric constructions: transforms, series, Fourier form, sandwich, and what they refuse."""

import copy
import math

import pytest
import torch
from helpers.trained import largest_jacobian_norm, singular_values, train
from torch import nn

from lipbench import layers
from lipbench.certificate import layerwise, lipschitz
from lipbench.layers import bake, constrain
from lipbench.layers.algebra.skew import cayley_transform, exponential_map
from lipbench.layers.constructions import TERMS
from lipbench.training import adam

SHAPES = [(5, 5), (7, 5), (5, 7), (20, 4), (4, 20), (1, 1), (3, 1)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("transform", [cayley_transform, exponential_map])
def test_transforms_are_orthonormal_from_any_matrix(transform, dtype, shape):
    for scale in (1e-3, 1.0, 30.0):
        matrix = scale * torch.randn(2, 3, *shape, dtype=dtype)
        values = torch.linalg.svdvals(transform(matrix))
        assert values.min() >= 1 - 1e-6
        assert values.max() <= 1 + 1e-6
        other = transform(scale * torch.randn_like(matrix))
        real = max(shape) == 1 and dtype is torch.float64  # nothing is skew
        assert real or not torch.allclose(transform(matrix), other, atol=1e-5), "a constant is orthonormal too"


@pytest.mark.parametrize("rows", [4, 6, 12])
def test_transforms_are_those_of_their_papers(rows):
    matrix = 0.3 * torch.randn(1, rows, 4, dtype=torch.float64)
    square, below = matrix[0, :4], matrix[0, 4:]
    skew = torch.zeros(rows, rows, dtype=torch.float64)
    skew[:4, :4], skew[4:, :4], skew[:4, 4:] = square - square.T, below, -below.T
    assert torch.linalg.matrix_norm(skew, 2) <= math.pi / 2, "beyond, the exponent is scaled"
    assert torch.allclose(exponential_map(matrix)[0], torch.matrix_exp(skew)[:, :4], atol=1e-7)
    a, identity = square - square.T + below.T @ below, torch.eye(4, dtype=torch.float64)
    paper = torch.cat(((identity - a) @ torch.linalg.inv(identity + a), -2 * below @ torch.linalg.inv(identity + a)))
    assert torch.allclose(cayley_transform(matrix)[0], paper)
    for transform in (exponential_map, cayley_transform):
        torch.autograd.gradcheck(transform, matrix.requires_grad_())


def test_series_and_frequencies_are_the_same_exponential():
    conv = nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular")
    with torch.no_grad():
        conv.weight.mul_(0.4)
    assert 0.3 < skew_norm(conv, (6, 5)) < 1, "beyond, the series needs more terms"
    series = layers.SkewExponential(copy.deepcopy(conv)).double()
    frequencies = layers.FourierOrthogonalConv2d(conv, (6, 5), exponential_map).double()
    x = torch.rand(2, 4, 6, 5, dtype=torch.float64)
    assert torch.allclose(series(x), frequencies(x), atol=1e-6)


@pytest.mark.parametrize("channels", [(4, 4), (2, 6), (6, 2)])
@pytest.mark.parametrize(("groups", "dilation"), [(1, 1), (2, 1), (1, 2)])
def test_the_zero_padded_exponential_keeps_norms(channels, groups, dilation):
    """Where every other orthogonal convolution loses them: 8x8, 3x3, smallest singular value 0.03."""
    layer = nn.Conv2d(*channels, 3, padding=dilation, groups=groups, dilation=dilation)
    layer = constrain(layer, layers.soc, size=(8, 7))
    assert type(layer) is layers.SkewExponential
    train(layer, (channels[0], 8, 7), lambda m: adam(m, lr=3e-2), steps=40)
    with torch.no_grad():
        layer.inner.parametrizations.weight.original.mul_(10)  # so that the constraint is at its limit
    x = torch.rand(2, channels[0], 8, 7)
    before = layer(x)
    baked = bake(layer)
    assert (baked(x) - before).abs().max() <= 1e-3
    values = singular_values(baked, (channels[0], 8, 7))
    assert values.max() <= 1 + 1e-5
    assert values.min() >= 0.99
    assert values.max() <= lipschitz(baked, (channels[0], 8, 7)) <= 1 + 1e-5


def test_the_certificate_of_the_series_knows_its_truncation():
    """Without its constraint the truncated series leaves the unit ball, and the bound says by how much."""
    layer = layers.SkewExponential(nn.Conv2d(4, 4, 3, padding=1, bias=False)).eval()
    for norm in (1.0, 3.0, 6.0):
        with torch.no_grad():
            layer.inner.weight.mul_(norm / skew_norm(layer.inner, (6, 6)))
        exact = singular_values(layer, (4, 6, 6)).max().item()
        bound = lipschitz(layer, (4, 6, 6))
        assert exact <= bound
        assert bound == pytest.approx(1 + norm ** (TERMS + 1) / math.factorial(TERMS + 1), rel=1e-6)
        if norm == 6:
            assert exact > 1.5, "a bound of 1 would be wrong here"


def skew_norm(conv: nn.Conv2d, size: tuple[int, int]) -> float:
    skew = copy.deepcopy(conv)
    skew.bias = None
    skew.weight = nn.Parameter((conv.weight - conv.weight.transpose(0, 1).flip(2, 3)).detach())
    return singular_values(skew, (4, *size)).max().item()


def test_the_series_is_refused_where_it_is_not_known():
    layer = layers.SkewExponential(nn.Conv2d(4, 4, 3, padding=1)).eval()
    assert lipschitz(layer, (4, 6, 6)) < math.inf
    layer.inner.register_forward_hook(lambda *_: None)
    assert "hook" in layerwise(layer, (4, 6, 6))[0].reason
    layer = layers.SkewExponential(nn.Conv2d(4, 4, 3, padding=1)).eval()
    layer.inner = nn.Conv2d(4, 4, 3, padding=0).eval()
    assert "transpose" in layerwise(layer, (4, 6, 6))[0].reason
    layer.inner = nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect").eval()
    assert lipschitz(layer, (4, 6, 6)) == math.inf
    with pytest.raises(ValueError, match="keeps the image's size"):
        layers.SkewExponential(nn.Conv2d(4, 4, 2))
    with pytest.raises(ValueError, match="size"):
        layers.BoundedSkew(nn.Conv2d(4, 4, 3, padding=1))


ODD = {
    "even kernel, stride": ({"kernel_size": 4, "stride": 2, "padding": 1}, (6, 8)),
    "rectangular": ({"kernel_size": (3, 1), "padding": (1, 0)}, (5, 6)),
    "same, even kernel": ({"kernel_size": 4, "padding": "same"}, (6, 5)),
    "strides differ": ({"kernel_size": 3, "stride": (1, 2), "padding": 1}, (5, 6)),
    "kernel wraps": ({"kernel_size": 5, "padding": 2}, (2, 3)),
    "one pixel": ({"kernel_size": 3, "padding": 1}, (1, 1)),
    "grouped": ({"kernel_size": 3, "padding": 1, "groups": 2}, (4, 5)),
    "dilated": ({"kernel_size": 3, "padding": 2, "dilation": 2}, (5, 4)),
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")  # in the plain layer
@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("mode", ["zeros", "circular"])
@pytest.mark.parametrize("channels", [(2, 6), (6, 2), (4, 4)])
@pytest.mark.parametrize("transform", [cayley_transform, exponential_map])
def test_fourier_convolutions_of_any_shape(transform, channels, mode, kind):
    options, size = ODD[kind]
    conv = nn.Conv2d(*channels, **options, padding_mode=mode)
    plain = conv(torch.rand(2, channels[0], *size)).shape if kind != "one pixel" or mode == "zeros" else None
    layer = layers.FourierOrthogonalConv2d(conv, size, transform)
    x = torch.rand(2, channels[0], *size)
    before = layer(x)
    assert plain is None or before.shape == plain
    baked = bake(layer)
    assert type(baked) is layers.FourierConv2d
    assert (baked(x) - before).abs().max() <= 1e-5
    values = singular_values(baked, (channels[0], *size))
    bound = lipschitz(baked, (channels[0], *size))
    assert values.max() <= bound <= 1 + 1e-5
    if mode == "circular":
        assert values.min() >= 0.99


def test_the_bound_of_a_fourier_convolution_holds_for_any_spectrum():
    """Also where the matrices of conjugate frequencies are not conjugate, which no convolution has."""
    layer = bake(layers.FourierOrthogonalConv2d(nn.Conv2d(3, 3, 3, padding=1), (4, 5), cayley_transform))
    with torch.no_grad():
        layer.spectrum.copy_(torch.randn_like(layer.spectrum))
    exact = singular_values(layer, (3, 4, 5)).max().item()
    assert 1.5 < exact <= lipschitz(layer, (3, 4, 5)) <= 1.5 * exact
    assert lipschitz(layer, (3, 5, 5)) == math.inf
    with torch.no_grad():
        layer.spectrum[0, 0, 0, 0, 0] = math.nan
    assert lipschitz(layer, (3, 4, 5)) == math.inf


def test_fourier_convolutions_refuse_what_has_no_torus():
    with pytest.raises(ValueError, match="give size"):
        constrain(nn.Conv2d(3, 3, 3, padding=1), layers.cayley)
    with pytest.raises(ValueError, match="On a torus"):
        constrain(nn.Conv2d(3, 3, 3, padding=1, stride=2, padding_mode="circular"), layers.cayley, size=(7, 7))
    with pytest.raises(ValueError, match="On a torus"):
        constrain(nn.Conv2d(3, 3, 4, padding=1, padding_mode="circular"), layers.soc, size=(8, 8))
    with pytest.raises(ValueError, match="reflect"):
        constrain(nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect"), layers.soc, size=(8, 8))
    with pytest.raises(ValueError, match="wider than its kernel"):
        constrain(nn.Conv2d(3, 3, 3, padding=3), layers.cayley, size=(8, 8))
    with pytest.raises(ValueError, match="images of"):
        constrain(nn.Conv2d(3, 3, 3, padding=1), layers.cayley, size=(8, 8))(torch.rand(1, 3, 7, 8))


def test_the_sandwich_is_bounded_by_its_own_inequality():
    for seed in range(5):
        torch.manual_seed(seed)
        layer = bake(layers.Sandwich(10, 8))
        with torch.no_grad():
            layer.log_psi.normal_()
            layer.bias.normal_()
        bound = lipschitz(layer, (10,))
        assert bound == pytest.approx(1, abs=1e-5)
        assert bound / 1.05 <= largest_jacobian_norm(layer, (10,)) <= bound
        with torch.no_grad():
            layer.frame.add_(0.5 * torch.randn_like(layer.frame))
        assert 1.05 < largest_jacobian_norm(layer, (10,)) <= lipschitz(layer, (10,))
        with torch.no_grad():
            layer.frame[:, 8:] *= 0.001  # a small half makes the constant small, which ||[A B]|| alone would not see
        assert largest_jacobian_norm(layer, (10,)) <= lipschitz(layer, (10,)) < 0.2
    layer.activation = layers.MaxMin().eval()
    assert "slopes" in layerwise(layer, (10,))[0].reason
    layer.activation = nn.ReLU().eval()
    with torch.no_grad():
        layer.log_psi[0] = -200
    assert "inverted" in layerwise(layer, (10,))[0].reason


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")  # inside torch's exporter
@pytest.mark.parametrize("kind", ["fourier", "series", "sandwich"])
def test_baked_constructions_are_exported(kind, tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    if kind == "sandwich":
        layer, x = bake(layers.Sandwich(6, 4)), torch.rand(2, 6)
    else:
        conv = nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular" if kind == "fourier" else "zeros")
        layer, x = bake(constrain(conv, layers.soc, size=(6, 5))), torch.rand(2, 3, 6, 5)
    program = torch.onnx.export(layer, (x,), dynamo=True, verbose=False)
    program.save(tmp_path / "layer.onnx")
    session = runtime.InferenceSession(tmp_path / "layer.onnx")
    (out,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert (torch.from_numpy(out) - layer(x)).abs().max() <= 1e-5


@pytest.mark.parametrize("family", [layers.aoc, layers.soc, layers.cayley, layers.aol, layers.sll, layers.liresnet])
def test_no_family_takes_a_padding_that_repeats_pixels(family):
    """A circular padding wider than the kernel gave norms of up to 1.8 under any constraint on the kernel."""
    for conv in (
        nn.Conv2d(2, 2, 3, padding=2, padding_mode="circular"),
        nn.Conv2d(2, 2, 2, stride=2, padding=1, padding_mode="circular"),
        nn.Conv2d(2, 2, 3, padding=1, padding_mode="reflect"),
    ):
        with pytest.raises(ValueError, match=r"repeats outputs|copies border pixels"):
            constrain(conv, family, size=(6, 6))


@pytest.mark.parametrize("family", [layers.aoc, layers.soc, layers.cayley, layers.aol, layers.sll, layers.Orthogonal])
@pytest.mark.parametrize("kernel", [3, 5])
def test_no_family_takes_a_circular_stride_that_does_not_divide_the_image(family, kernel):
    """Patches overlapped where the torus closes: norms of 2 (aoc) and 1.2 (aol), which the certificate saw."""
    conv = nn.Conv2d(2, 8, kernel, stride=2, padding=kernel // 2, padding_mode="circular")
    with pytest.raises(ValueError, match="On a torus"):
        constrain(copy.deepcopy(conv), family, size=(7, 8))
    assert singular_values(bake(constrain(conv, family, size=(8, 8))), (2, 8, 8)).max() <= 1 + 1e-5


def test_orthogonal_convolutions_understand_same_padding():
    conv = constrain(nn.Conv2d(4, 4, 3, padding="same", padding_mode="circular"), layers.aoc, size=(6, 6))
    assert singular_values(bake(conv), (4, 6, 6)).min() >= 0.99
    with pytest.raises(ValueError, match="every side"):
        constrain(nn.Conv2d(4, 4, 4, padding="same"), layers.aoc, size=(6, 6))
