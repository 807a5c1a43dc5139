"""Bounds stay above the truth: numbers in a short precision, sums that cancel, squares that underflow."""

import copy
import math
import random
from fractions import Fraction

import numpy as np
import pytest
import torch
from helpers import linear_cases, nonlinear_cases
from helpers.layer_cases import MAKERS
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from lipbench import layers
from lipbench.certificate import certify, certify_crown, certify_float, float_layerwise, gaps, lipschitz, why_not
from lipbench.certificate.float64 import Passes, _norm
from lipbench.certificate.radius import row_distances
from lipbench.certificate.smoothing import SmoothingWarning, certify_smoothed
from lipbench.layers.constructions.fourier import Torus
from lipbench.measures.one_class import auroc, one_class
from lipbench.models import Smoothed

assert linear_cases
assert nonlinear_cases

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# How a number can be stored: each gives the stored number.
STORED = {
    **{f"parameter {dtype}": lambda v, dtype=dtype: nn.Parameter(torch.tensor(v, dtype=dtype)) for dtype in DTYPES},
    **{f"tensor {dtype}": lambda v, dtype=dtype: torch.tensor([v], dtype=dtype) for dtype in DTYPES},
    **{kind.__name__: kind for kind in (np.float16, np.float32, np.float64, np.longdouble)},
}


OURS = (layers.Residual, layers.ConvexPotential, layers.Scale)


# --- numbers in a short precision -------------------------------------------------------------------------------------


def options(layer: nn.Module) -> list[str]:
    """The numbers of a layer that are no whole ones."""
    return [name for name, value in vars(layer).items() if type(value) is float]


HOLDERS = {
    name: maker(random.Random(3))
    for name, (maker, kind) in MAKERS.items()
    if kind and options(maker(random.Random(3)).layer)
}


@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True:UserWarning")
@pytest.mark.parametrize("name", HOLDERS)
@pytest.mark.parametrize("stored", STORED)
def test_a_bound_does_not_depend_on_how_a_number_is_stored(name, stored):
    """The bounds for plain floats are proved in tests/test_rigorous_bounds.py."""
    case, rng = copy.deepcopy(HOLDERS[name]), random.Random(0)
    for option in options(case.layer):
        for _ in range(5):
            layer = copy.deepcopy(case.layer)
            with np.errstate(over="ignore"):
                number = STORED[stored](float(getattr(layer, option)) * rng.uniform(1, 2))
            if not math.isfinite(float(torch.as_tensor(float(number)))):
                continue
            _set(layer, option, number)
            found, plain = lipschitz(layer, case.shape), copy.deepcopy(case.layer)
            _set(plain, option, float(number))
            assert found == lipschitz(plain, case.shape) or (found == math.inf and _refuses(layer, case.shape)), option
    if isinstance(case.layer, OURS):
        for wrong in (torch.ones(3), "2"):
            _set(case.layer, option, wrong)
            assert lipschitz(case.layer, case.shape) == math.inf, "it may repeat the image"


def _set(layer: nn.Module, name: str, value: object) -> None:
    layer._parameters.pop(name, None)
    vars(layer).pop(name, None)
    setattr(layer, name, value)


def _refuses(layer: nn.Module, shape: tuple[int, ...]) -> bool:
    """Whether torch's own layer does not take such a number."""
    try:
        layer.double()(torch.zeros(1, *shape, dtype=torch.float64))
    except (TypeError, RuntimeError, UserWarning):
        return not isinstance(layer, OURS)
    return False


def test_there_are_layers_that_hold_numbers():
    kinds = {type(case.layer) for case in HOLDERS.values()}
    assert {layers.Residual, layers.ConvexPotential, layers.Scale, nn.LeakyReLU, nn.BatchNorm2d} <= kinds


@pytest.mark.parametrize("stored", STORED)
def test_learned_scales_steps_and_shares_in_rational_numbers(stored):
    torch.manual_seed(0)
    for _ in range(30):
        value, weight = 1 + 2 * float(torch.rand(())), 1 + float(torch.rand(()))
        inner = nn.Linear(2, 2).eval()
        with torch.no_grad():
            inner.weight.copy_(weight * torch.eye(2))
        w, number = Fraction(inner.weight[0, 0].item()), STORED[stored](value)
        v = Fraction(float(number))
        assert Fraction(lipschitz(layers.Residual(inner, number).eval(), (2,))) >= v * (1 + w)
        assert Fraction(lipschitz(layers.ConvexPotential(inner, number).eval(), (2,))) >= v * w * w - 1
        if isinstance(number, nn.Parameter):
            convex = layers.bake(layers.ConvexResidual(inner))
            convex.share = number
            other = max(abs(1 - v), abs(Fraction(float(1 - number.detach()))))
            assert Fraction(lipschitz(convex, (2,))) >= v + other * w
        scale = layers.Scale(1.0).eval()
        scale.factor = number
        head = nn.Sequential(inner, scale).eval()
        assert Fraction(lipschitz(scale, (2,))) >= v
        assert Fraction(float(gaps(head, (2,))[0, 1])) ** 2 >= 2 * (v * w) ** 2


@pytest.mark.parametrize("dtype", DTYPES)
def test_angles_and_exponents_that_are_rounded_by_the_layer(dtype):
    torch.manual_seed(1)
    for _ in range(10):
        householder = layers.Householder(4).eval()
        householder.angle = nn.Parameter((3 * torch.randn(2)).to(dtype))
        sandwich = layers.bake(layers.Sandwich(3, 3, nn.Identity())).double()
        sandwich.log_psi = nn.Parameter(torch.randn(3).to(dtype))
        with torch.no_grad():  # A B of norm 1 / 2, the largest for orthonormal rows
            sandwich.frame.copy_(torch.cat((torch.eye(3), torch.eye(3)), 1).mul(0.5**0.5))
        for layer, size in ((householder, 4), (sandwich, 3)):
            bound = lipschitz(layer, (size,))
            for point in torch.randn(5, size, dtype=torch.float64):
                jacobian = torch.autograd.functional.jacobian(lambda x, layer=layer: layer(x[None])[0], point)
                assert float(torch.linalg.matrix_norm(jacobian, 2)) <= bound * (1 + 1e-13)
            assert bound < 1.05


# --- cancellation and underflow ---------------------------------------------------------------------------------------


def slack_of(layer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """What a layer gives in float64, and what is taken off for its rounding."""
    model, shape = nn.Sequential(layer).eval(), tuple(x.shape[1:])
    return Passes(model, shape, lipschitz.layerwise(model, shape))(x)


POOLINGS = [
    nn.AvgPool2d(2),
    nn.MaxPool2d(2),
    nn.AdaptiveAvgPool2d(2),
    nn.AdaptiveMaxPool2d(2),
    layers.ScaledAvgPool2d(2),
    layers.L2Pool2d(2),
    layers.AdaptiveScaledAvgPool2d(2),
    layers.AdaptiveL2Pool2d(2),
]


@pytest.mark.parametrize(
    "layer", [*POOLINGS, layers.LayerCentering(), nn.Conv2d(1, 1, 3)], ids=lambda v: type(v).__name__
)
@pytest.mark.parametrize("power", [-480, -530, -560, -1000, -1040])
def test_what_underflows_is_taken_off(layer, power):
    torch.manual_seed(0)
    layer = copy.deepcopy(layer).double().eval()
    layer.bias = None
    x = torch.rand(8, 1, 4, 4, dtype=torch.float64)
    tiny = torch.ldexp(x, torch.tensor(power))
    # Exact products with a power of two but where `tiny` is itself below the smallest normal number.
    true = layer(torch.ldexp(tiny, torch.tensor(-power // 2)))
    found, slack = slack_of(layer, tiny)
    error = (torch.ldexp(found, torch.tensor(-power // 2)) - true).flatten(1).norm(dim=1)
    assert (torch.ldexp(slack, torch.tensor(-power // 2)) >= error).all()


@pytest.mark.parametrize("layer", [layers.L2Pool2d(2), layers.AdaptiveL2Pool2d(1)], ids=lambda v: type(v).__name__)
def test_no_image_is_certified_for_a_norm_that_underflowed(layer):
    head = nn.Linear(1, 2).double()
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[0.0], [1.0]]))
        head.bias.copy_(torch.tensor([0.5, 0.0]))
    model = nn.Sequential(layers.Scale(2.0**-560), layer, layers.Scale(2.0**560), nn.Flatten(), head).eval()
    x = torch.full((1, 1, 2, 2), 0.3, dtype=torch.float64)  # of norm 0.6 > 0.5
    assert model(x).argmax(1) == 0, "the squares are lost"
    assert certify(model, x, torch.zeros(1, dtype=torch.long)) == 0


def test_norms_of_small_numbers_that_cancel():
    assert _norm(torch.full((1, 4), 2.0**-600, dtype=torch.float64)) == 2.0**-599
    assert _norm(torch.zeros(1, 4)) == 0
    large, small = 2.0**45, 2.0**-600
    first, second = nn.Linear(1, 2, bias=False).double(), nn.Linear(2, 1, bias=False).double()
    with torch.no_grad():
        first.weight.copy_(small * torch.tensor([[large + 1], [-large]], dtype=torch.float64))
        second.weight.fill_(1.0)
    x = torch.rand(20, 1, dtype=torch.float64)
    model = nn.Sequential(first, second, layers.Scale(2.0**600)).eval()
    found, slack = Passes(model, (1,), lipschitz.layerwise(model, (1,)))(x)
    error = (found - x)[:, 0].abs()
    assert error.max() > 1e-4
    assert (slack >= error).all()


def cropped(large: float) -> nn.Module:
    """Two taps on a torus of two pixels: 1 for the pixel that is kept, `large` for the one that is cropped."""
    spectrum = torch.zeros(2, 1, 2, 1, 1, dtype=torch.float64)
    spectrum[0, 0, :, 0, 0] = torch.tensor([large + 1, 1 - large])
    return layers.FourierConv2d(spectrum, None, Torus((1, 1), (1, 1), (1, 2), (1, 1))).eval()


def wrapped(large: float) -> nn.Module:
    """Three taps that meet on the one pixel of a torus: large + 1 - large."""
    conv = nn.Conv2d(1, 1, (1, 3), padding=(0, 1), padding_mode="circular", bias=False).double().eval()
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([large, 1.0, -large]).view(1, 1, 1, 3))
    return conv


@pytest.mark.parametrize("make", [cropped, wrapped])
def test_weights_that_cancel_or_are_cropped_leave_their_rounding(make):
    layer, x = make(2.0**44), torch.rand(200, 1, 1, 1, dtype=torch.float64)
    assert lipschitz(layer, (1, 1, 1)) < 2**20, "nearly 1"
    found, slack = slack_of(layer, x)
    error = (found - x).flatten(1).norm(dim=1)
    assert error.max() > 1e-4
    assert (slack >= error).all()
    small, x = make(0.5), x[:5]
    assert (slack_of(small, x)[1] < 1e-8).all()
    head = nn.Linear(1, 2).double()
    model = nn.Sequential(layer, nn.Flatten(), head).eval()
    with pytest.warns(UserWarning, match="certificate_crown is 0"):
        assert (certify_crown(model, x, torch.zeros(5, dtype=torch.long)) == 0).all()


@pytest.mark.parametrize("power", [10, 40, 46, 50])
def test_scores_that_cancel_are_not_certified_by_their_size(power):
    large = 2.0**power
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(4, 1, bias=False), nn.Linear(1, 1), nn.Linear(1, 1), layers.Antipodal()
    )
    with torch.no_grad():
        model[1].weight.fill_(0.5)
        for layer, bias in ((model[2], large), (model[3], -large)):
            layer.weight.fill_(1.0)
            layer.bias.fill_(bias)
    torch.manual_seed(0)
    y = torch.arange(300) % 2
    x = 0.3 + 0.2 * torch.rand(300, 1, 2, 2) + 0.1 * y[:, None, None, None]
    true = np.array([float(sum(map(Fraction, image)) / 2) for image in x.flatten(1).tolist()])
    table = one_class(model.eval(), x, y, epsilons=(0.0, 0.05), steps=3)
    for epsilon, certified in zip(table["epsilon"], table["certified_auroc"], strict=True):
        assert certified <= auroc(true[y == 1], true[y == 0], 2 * epsilon)
    assert power > 10 or table["certified_auroc"].min() > 0.4


# --- base networks of smoothing ---------------------------------------------------------------------------------------


class Base(nn.Module):
    """Two logits of the mean of each image, by way of a function of all means of the batch."""

    def __init__(self, change):
        super().__init__()
        self.change, self.calls = change, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        f = self.change(x.flatten(1).mean(1) - 0.5, self)
        return torch.stack((-f, f), 1)


DEPEND = {
    "the mean of the batch": lambda f, base: f.mean().expand(len(f)),
    "the mean is taken off": lambda f, base: f - f.mean() / 2,
    "divided by the spread": lambda f, base: f / (f.max() - f.min() + 0.1),
    "a sum along the batch": lambda f, base: f.cumsum(0),
    "a softmax along the batch": lambda f, base: f.softmax(0) - 1 / len(f),
    "the order of the batch": lambda f, base: f.roll(1),
    "the size of the batch": lambda f, base: f * len(f),
    "one image only": lambda f, base: f.new_full((len(f),), f[0].item()),
    "noise of its own": lambda f, base: f + 0.1 * torch.randn(len(f)),
    "the number of the call": lambda f, base: f + base.calls,
    "batch normalisation": lambda f, base: nn.functional.batch_norm(f[:, None], None, None, training=True)[:, 0],
    "another number of images": lambda f, base: f if len(f) > 1 else f.new_full((1,), torch.nan),
}


@pytest.mark.parametrize("name", DEPEND)
@pytest.mark.parametrize("count", [1, 3])
def test_a_base_network_that_looks_at_its_batch_is_not_certified(name, count):
    torch.manual_seed(0)
    x = 0.52 + 0.02 * torch.rand(count, 1, 8, 8)
    y = torch.ones(count, dtype=torch.long)
    model = Smoothed(Base(DEPEND[name]), sigma=0.5, votes=60).eval()
    with pytest.warns(SmoothingWarning, match="depend on the other images|of one image alone"):
        assert (certify_smoothed(model, x, y, samples=200) == 0).all()


def test_a_base_network_of_single_images_is_certified():
    model = Smoothed(Base(lambda f, base: f), sigma=0.5, votes=60).eval()
    x = torch.full((2, 1, 8, 8), 0.9)
    assert (certify_smoothed(model, x, torch.ones(2, dtype=torch.long), samples=200) > 0).all()


# --- the arithmetic of the machine ------------------------------------------------------------------------------------


@pytest.mark.parametrize("machine", ["arm64", "aarch64", "riscv64", "ppc64le", "", "x86_64"])
@pytest.mark.parametrize("one_dnn", [True, False])
def test_convolutions_on_other_machines_have_no_float_certificate(machine, one_dnn, monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr("torch.backends.mkldnn.is_available", lambda: one_dnn)
    dense = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).eval()
    convolutional = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2)).eval()
    x = torch.rand(4, 1, 4, 4)
    known = machine == "x86_64" and one_dnn
    assert ("Winograd" in why_not(convolutional, x)) == (not known)
    assert not why_not(dense, x)
    assert (certify_float(dense, x, dense(x).argmax(1)) > 0).any()
    assert (certify_float(convolutional, x, convolutional(x).argmax(1)) > 0).any() == known


# --- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [certify, certify_float])
def test_a_head_of_many_classes_takes_memory_for_its_weights(method):
    classes, features = 250, 144
    model = nn.Sequential(nn.Flatten(), nn.Linear(features, classes)).eval()
    x = torch.rand(3, 1, 12, 12)
    y = model(x).argmax(1)
    method(model, x, y)  # what is imported at the first call counts for nothing
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        radii = method(model, x, y)
    largest = max(event.self_cpu_memory_usage for event in watched.events())
    assert 8 * classes * features <= largest <= 8 * 4 * classes**2, "the weights in float64, and no K x K x D"
    weight, bias, image = model[1].weight.detach().double(), model[1].bias.detach().double(), x[0].flatten().double()
    apart = (weight[y[0]] - weight).norm(dim=1)
    margins = (weight @ image + bias)[y[0]] - (weight @ image + bias)
    margins[y[0]], apart[y[0]] = math.inf, 1.0
    exact = float((margins / apart).min())
    assert exact * 0.98 <= float(radii[0]) <= exact


def test_row_distances_are_those_of_rational_numbers():
    rng = random.Random(0)
    rows = [[rng.gauss(0, 1) * 10 ** rng.choice((0, 0, -100, -200)) for _ in range(5)] for _ in range(12)]
    rows += [rows[0], [*rows[0][:4], rows[0][4] * (1 + 2**-40)], [0.0] * 5, [1e-300] * 5]
    for scale in (1.0, 1e-8, 1e250):
        weight = torch.tensor(rows, dtype=torch.float64) * scale
        found = row_distances(weight)
        assert torch.equal(found, found.T)
        for i, first in enumerate(weight.tolist()):
            for j, second in enumerate(weight.tolist()):
                square = sum((Fraction(a) - Fraction(b)) ** 2 for a, b in zip(first, second, strict=True))
                bound = float(found[i, j])
                assert (bound == 0) == (square == 0)
                assert bound == math.inf or Fraction(bound) ** 2 >= square
                if Fraction(1, 10**560) < square < 10**600:
                    assert Fraction(bound) ** 2 <= 5 * square * Fraction(1.0001)
    assert (row_distances(torch.zeros(3, 4)) == 0).all()
    assert row_distances(torch.zeros(2, 0)).tolist() == [[0, 0], [0, 0]]


def test_layers_that_are_refused_say_so_for_float32_too():
    layer = layers.Residual(nn.Linear(4, 4), torch.ones(4)).eval()
    assert "shape [4]" in float_layerwise(nn.Sequential(nn.Flatten(), layer).eval(), (1, 2, 2))[1].why
