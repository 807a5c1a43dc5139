"""The certificate of the float32 network: its bounds hold for what torch computes and for the worst order of a sum."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lipbench import layers, precision
from lipbench.certificate import (
    Affine,
    Unbounded,
    certify,
    certify_float,
    float_layerwise,
    follow,
    rounding,
    why_not,
)
from lipbench.certificate.rounding import UNIT, dot_product


def conv(*arguments: int, **options: object) -> nn.Conv2d:
    return nn.Conv2d(*arguments, **options)  # type: ignore[arg-type]


def skewed() -> nn.Module:
    layer = layers.SkewExponential(conv(4, 6, 3, padding=1, groups=2))
    with torch.no_grad():
        layer.inner.weight.mul_(0.3)
    return layer


def shifted() -> nn.Module:
    layer = layers.BatchCentering(4)
    layer.running_mean.normal_()
    return layer


def normalised() -> nn.Module:
    layer = nn.BatchNorm2d(4)
    with torch.no_grad():
        for tensor in (layer.weight, layer.bias, layer.running_mean):
            assert tensor is not None
            tensor.normal_()
    return layer


# (layer, shape of its input). Each computes something that rounds, or is exact; none refuses.
KNOWN = {
    "dense": (lambda: nn.Linear(12, 7), (12,)),
    "no bias": (lambda: nn.Linear(5, 9, bias=False), (5,)),
    "convolution": (lambda: conv(4, 6, 3, padding=1), (4, 6, 6)),
    "strided": (lambda: conv(4, 6, 3, stride=2, padding="valid", dilation=2), (4, 7, 7)),
    "same": (lambda: conv(4, 4, 3, padding="same"), (4, 6, 6)),
    "grouped": (lambda: conv(4, 8, 2, stride=2, groups=2), (4, 6, 6)),
    "circular": (lambda: conv(4, 3, 3, padding=1, padding_mode="circular"), (4, 5, 5)),
    "relu": (nn.ReLU, (4, 3, 3)),
    "in place": (lambda: nn.ReLU(inplace=True), (4, 3, 3)),
    "leaky": (lambda: nn.LeakyReLU(0.3), (4, 3, 3)),
    "prelu": (lambda: nn.PReLU(4, init=0.3), (4, 3, 3)),
    "hardtanh": (lambda: nn.Hardtanh(-0.1, 0.7), (4, 3, 3)),
    "maxmin": (layers.MaxMin, (4, 3, 3)),
    "groupsort": (layers.GroupSort, (4, 3, 3)),
    "groupsort of four": (lambda: layers.GroupSort(4), (4, 3, 3)),
    "fullsort": (layers.FullSort, (9,)),
    "abs": (layers.Abs, (9,)),
    "scale": (lambda: layers.Scale(0.3), (9,)),
    "antipodal": (layers.Antipodal, (1,)),
    "normalize": (lambda: layers.Normalize((0.3, 0.1, 0.2, 0.5), (0.3, 0.2, 0.7, 0.1)), (4, 3, 3)),
    "batch norm": (normalised, (4, 3, 3)),
    "batch centering": (shifted, (4, 3, 3)),
    "layer centering": (layers.LayerCentering, (4, 3, 3)),
    "scaled pool": (lambda: layers.ScaledAvgPool2d(3), (4, 7, 7)),
    "average pool": (lambda: nn.AvgPool2d(3, 2, 1), (4, 7, 7)),
    "adaptive pool": (lambda: nn.AdaptiveAvgPool2d((2, 3)), (4, 7, 7)),
    "adaptive scaled pool": (lambda: layers.AdaptiveScaledAvgPool2d(2), (4, 7, 7)),
    "norm pool": (lambda: layers.L2Pool2d(3), (4, 7, 7)),
    "adaptive norm pool": (lambda: layers.AdaptiveL2Pool2d(2), (4, 7, 7)),
    "max pool": (lambda: nn.MaxPool2d(3, 2, 1), (4, 7, 7)),
    "unshuffle": (lambda: nn.PixelUnshuffle(2), (4, 6, 6)),
    "flatten": (nn.Flatten, (4, 3, 3)),
    "residual": (lambda: layers.Residual(nn.Sequential(conv(4, 4, 3, padding=1), nn.ReLU()), 0.3), (4, 6, 6)),
    "convex residual": (lambda: layers.ConvexResidual(nn.Linear(6, 6), 0.3), (6,)),
    "convex potential": (lambda: layers.ConvexPotential(nn.Linear(6, 9), 1.7), (6,)),
    "convex potential of convolutions": (
        lambda: layers.ConvexPotential(conv(4, 6, 3, padding=1, groups=2), 1.7, nn.LeakyReLU(0.3)),
        (4, 6, 6),
    ),
    "skew exponential": (skewed, (4, 6, 6)),
    "householder": (lambda: layers.Householder(4), (4, 3, 3)),
    "sandwich": (lambda: layers.Sandwich(7, 5), (7,)),
}
ROUNDS_NOTHING = {"relu", "in place", "groupsort of four", "fullsort", "abs", "antipodal", "max pool", "unshuffle"}
ROUNDS_NOTHING |= {"flatten", "maxmin", "groupsort"}


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e3])
def test_the_error_of_a_layer_is_bounded(name, scale):
    make, shape = KNOWN[name]
    layer = layers.bake(make())
    exact = copy.deepcopy(layer).double()
    links = rounding.chain(exact, shape)
    x = torch.randn(64, *shape)
    away = 0.1 * torch.randn_like(x)
    given, u = scale * (x + away), scale * x.double()
    reach = (given.double() - u).flatten(1).norm(dim=1) * (1 + 1e-12)  # of the sum of squares itself
    out, reached, error = follow(links, u, Affine(torch.zeros_like(reach), reach))
    with torch.no_grad():
        truth, computed = exact(given.double()), layer(given.clone()).double()
    done = (computed - truth).flatten(1).norm(dim=1)
    with torch.no_grad():
        assert torch.allclose(out, exact(u.clone()), rtol=1e-12)
    assert (done <= error.at + error.slope).all()
    assert ((computed - out).flatten(1).norm(dim=1) <= reached.at + reached.slope).all()
    if name not in ROUNDS_NOTHING and (name, scale) != ("hardtanh", 1e-3):
        assert done.max() > 0  # else the test would show nothing
        assert (error.at + error.slope).max() < 1e-3 * truth.flatten(1).norm(dim=1).max()


@pytest.mark.parametrize("kind", [layers.MaxMin, layers.GroupSort])
def test_pairs_that_are_sorted_by_relu_round(kind):
    x = (1e3 * torch.randn(500, 8)).requires_grad_()
    layer = kind().eval()
    done = (layer(x).double() - layer(x.detach().double())).norm(dim=1)
    zero = torch.zeros(len(x), dtype=torch.float64)
    _, _, error = follow(rounding.chain(layer, (8,)), x.detach().double(), Affine(zero, zero))
    assert done.max() > 0
    assert (done <= error.at).all()


def added_in_order(terms: np.ndarray) -> float:
    total = np.float32(0)
    for term in terms:
        total = np.float32(total + term)
    return float(total)


def test_a_dot_product_is_bounded_in_the_worst_order_and_nearly_reaches_its_bound():
    # Each small number is lost against 1: as much as can be lost.
    terms = np.array([1.0] + [0.9999 * 2.0**-24] * 999, dtype=np.float32)
    exact = terms.astype(np.float64).sum()
    of_sum, of_result = dot_product(len(terms))
    bound = of_sum * exact + of_result * exact
    assert 0.9 * bound < abs(added_in_order(terms) - exact) <= bound


def test_partial_sums_that_cancel_are_bounded_in_any_order():
    rng = np.random.default_rng(0)
    of_sum, of_result = dot_product(2000)
    for _ in range(20):
        a = rng.standard_normal(1000).astype(np.float32)
        terms = np.concatenate((np.sort(a)[::-1], -a[rng.permutation(1000)]))  # the positive ones first
        wide = terms.astype(np.float64)
        worst = max(
            abs(added_in_order(terms) - wide.sum()),
            abs(added_in_order(np.concatenate((wide[wide > 0], wide[wide < 0])).astype(np.float32)) - wide.sum()),
        )
        assert worst <= of_sum * np.abs(wide).sum() + of_result * abs(wide.sum())


def random_network(classes: int = 5) -> nn.Module:
    return layers.bake(
        nn.Sequential(
            layers.Normalize((0.5,), (0.5,)),
            nn.Conv2d(1, 6, 3, padding=1),
            layers.MaxMin(),
            layers.ScaledAvgPool2d(2),
            layers.Residual(nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.ReLU()), 0.5),
            nn.Flatten(),
            nn.Linear(96, classes),
        )
    )


def labelled(model: nn.Module, images: int = 50, shape: tuple[int, ...] = (1, 8, 8)) -> tuple[Tensor, Tensor]:
    x = torch.rand(images, *shape)
    with torch.no_grad():
        return x, model(x).argmax(1)


def test_it_is_a_little_below_the_certificate_of_exact_arithmetic():
    model = random_network()
    x, y = labelled(model)
    exact, deployed = certify(model, x, y), certify_float(model, x, y)
    assert (deployed <= exact).all()
    assert deployed.max() > 0
    assert (exact - deployed).max() < 1e-3
    assert (certify_float(model, x, (y + 1) % 5) == 0).all()


@pytest.mark.parametrize("batch_size", [1, 7])
def test_it_does_not_depend_on_the_batch(batch_size):
    model = random_network()
    x, y = labelled(model)
    assert torch.allclose(certify_float(model, x, y), certify_float(model, x, y, batch_size=batch_size), atol=1e-12)
    with pytest.raises(ValueError, match="at least one"):
        certify_float(model, x[:0], y[:0])


@pytest.mark.parametrize("factor", [1e-6, 0.3, 1e6])
def test_a_scale_behind_the_head_changes_little(factor):
    model = random_network()
    x, y = labelled(model)
    scaled = nn.Sequential(model, layers.Scale(factor)).eval()
    before, after = certify_float(model, x, y), certify_float(scaled, x, y)
    assert (after <= before).all()
    assert torch.allclose(before, after, atol=1e-4)


def test_two_classes_with_one_function():
    model = layers.antipodal(nn.Sequential(nn.Flatten(), nn.Linear(64, 1))).eval()
    x, y = labelled(model)
    with torch.no_grad():
        f = model(x.double().float()).double().diff(dim=1)[:, 0]
        distance = f.abs() / model[0][1].weight.double().norm()  # type: ignore[index]
    found = certify_float(model, x, y)
    assert (found < distance).all()
    assert (found > distance - 1e-4).all()


def test_large_numbers_that_cancel_are_not_certified():
    """Exact arithmetic certifies all of them; the float32 network loses the image between two large numbers."""
    first, last = nn.Linear(4, 4), nn.Linear(4, 2)
    with torch.no_grad():
        first.weight.copy_(torch.eye(4))
        first.bias.fill_(3e4)
        last.weight.copy_(torch.tensor([[1.0, 0, 0, 0], [0, 1.0, 0, 0]]))
        last.bias.zero_()
    model = nn.Sequential(nn.Flatten(), first, last).eval()
    x = torch.tensor([[0.5, 0.499, 0, 0]]).view(1, 1, 2, 2)
    y = torch.tensor([0])
    assert certify(model, x, y) > 0
    assert certify_float(model, x, y) == 0
    assert certify_float(model, torch.tensor([[0.9, 0.1, 0, 0]]).view(1, 1, 2, 2), y) > 0.5


def of_weight(weight: list[list[float]]) -> nn.Module:
    layer = nn.Linear(len(weight[0]), len(weight), bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
    return nn.Sequential(nn.Flatten(), layer).eval()


@pytest.mark.parametrize(
    "model",
    [
        of_weight([[1.0, 1.0], [1.0, 1.0]]),  # a tie
        of_weight([[1e-42, 0.0], [0.0, 1e-42]]),  # logits below the smallest normal number
        of_weight([[3e38, 3e38], [-3e38, -3e38]]),  # overflow
        nn.Sequential(of_weight([[1e38, 0.0], [0.0, 1e38]]), layers.Scale(1e-30)).eval(),
        nn.Sequential(of_weight([[1.0, 0.0], [0.0, 1.0]]), layers.Scale(1e-30), layers.Scale(1e-30)).eval(),
        nn.Sequential(of_weight([[1.0, 0.0], [0.0, 1.0]]), layers.Scale(1e-46), of_weight([[1.0, 0.0], [0.0, 1.0]])),
        of_weight([[math.nan, 0.0], [0.0, 1.0]]),
    ],
    ids=["tie", "underflow", "overflow", "overflow between", "underflow between", "underflow before", "nan"],
)
def test_what_leaves_the_range_of_float32_is_not_certified(model):
    model.eval()
    x = torch.tensor([[0.9, 0.1]]).view(1, 1, 1, 2)
    assert certify_float(model, x, torch.tensor([0])) == 0


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.Tanh(), "no standard"),
        (layers.bake(nn.Sequential(nn.Softmax(dim=1)))[0], "Softmax"),
        (
            layers.bake(layers.FourierOrthogonalConv2d(nn.Conv2d(1, 1, 3, padding=1), (4, 4), lambda matrix: matrix)),
            "Fourier",
        ),
    ],
    ids=["tanh", "softmax", "fourier"],
)
def test_an_unknown_layer_makes_it_zero_with_the_reason(layer, reason):
    model = nn.Sequential(layer, nn.Flatten(), nn.Linear(16, 3)).eval()
    x = torch.rand(3, 1, 4, 4)
    assert (certify_float(model, x, model(x).argmax(1)) == 0).all()
    found = float_layerwise(model, (1, 4, 4))
    assert len(found) == 3
    assert reason in found[0].reason
    assert math.isinf(found[0].bound)
    with pytest.raises(Unbounded):
        rounding.chain(model, (1, 4, 4))


def test_a_layer_of_ones_own_gets_a_rule():
    class Half(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x / 2

    class Third(nn.Module):
        pass

    rounding.register(Half)(lambda layer, shape, constant: lambda u, reach: (u / 2, reach * 0.0))
    try:
        u, zero = torch.ones(1, 3, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
        out, _ = rounding.step(Half(), (3,), 0.5)(u, Affine(zero, zero))
        assert out.eq(0.5).all()
        with pytest.raises(Unbounded, match=r"rounding\.register"):
            rounding.step(Third(), (3,), 0.5)
    finally:
        del rounding._rules[Half]


def test_another_arithmetic_than_that_of_float32_is_not_certified(monkeypatch):
    model = random_network()
    x, y = labelled(model)
    assert why_not(model, x) == ""
    assert (certify_float(copy.deepcopy(model).double(), x.double(), y) == 0).all()
    with torch.autocast("cpu"):
        assert "autocast" in why_not(model, x)
        assert (certify_float(model, x, y) == 0).all()
        with precision.float32_products():
            assert why_not(model, x) == ""
    monkeypatch.setenv("ONEDNN_DEFAULT_FPMATH_MODE", "BF16")
    assert "ONEDNN" in why_not(model, x)


def test_convolutions_of_winograd_and_fourier_are_not_certified():
    model = random_network()
    x, y = labelled(model)
    before = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)  # the public switch warns of what else it sets
    try:
        with torch.backends.nnpack.flags(enabled=True):
            assert "NNPACK" in why_not(model, x)
            assert (certify_float(model, x, y) == 0).all()
            with precision.float32_products():
                assert certify_float(model, x, y).max() > 0
            assert why_not(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), x) == ""
    finally:
        torch._C._set_mkldnn_enabled(before)


def test_the_unit_roundoff_is_that_of_float32():
    assert torch.finfo(torch.float32).eps / 2 == UNIT
