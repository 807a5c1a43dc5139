"""The Lipschitz bound of every type of layer against a proof in rational arithmetic: never below, without tolerance."""

import functools
import itertools
import math
import random
from collections.abc import Sequence
from fractions import Fraction

import pytest
import torch
from helpers import linear_cases, network_cases, nonlinear_cases
from helpers.exact import is_bound, piece, ratio, reached
from helpers.layer_cases import MAKERS, fractions, hold, is_needless, numbers, verdict
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import nn

import lipbench
from lipbench import layers
from lipbench.certificate import LayerBound, certify, convolution_norm, gaps, lipschitz, product, spectral_norm
from lipbench.layers.constructions.fourier import Torus

assert linear_cases
assert nonlinear_cases

# The same cases in every run: what is found once is found by everybody.
fixed = functools.partial(
    settings,
    derandomize=True,
    deadline=None,
    database=None,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)


class Drawn(random.Random):
    """Whole numbers and choices (shapes, strides, kinds of weights, ...) are hypothesis's; weights come from a seed."""

    def __init__(self, data: st.DataObject):
        super().__init__(data.draw(st.integers(0, 2**16)))
        self._data = data

    def randint(self, a: int, b: int) -> int:
        return self._data.draw(st.integers(a, b))

    def choice(self, seq: Sequence) -> object:  # type: ignore[override]
        return seq[self.randint(0, len(seq) - 1)]


OURS, STEPS = ("torch.nn", "lipbench"), "lipbench.certificate.tracing.steps"


def test_every_type_with_a_rule_is_checked():
    checked = {kind for _, kind in MAKERS.values()}
    # Other tests register types of their own. Steps of traced networks have theirs in test_tracing.py.
    own = [kind for kind in lipschitz.kinds if kind.__module__.startswith(OURS) and kind.__module__ != STEPS]
    missing = [kind for kind in own if kind not in checked]
    assert not missing, f"write cases for {missing} in tests/linear_cases.py or tests/nonlinear_cases.py"
    assert {nn.Linear, nn.Conv2d, layers.Sandwich} <= set(lipschitz.kinds)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
@pytest.mark.parametrize("name", MAKERS)
@fixed(max_examples=5)
@given(data=st.data())
def test_a_bound_is_never_below_the_truth_and_not_needlessly_above(name, data):
    case = MAKERS[name][0](Drawn(data))
    found = verdict(case)
    assert found.proved, (case.layer, case.shape, found)
    assert found.excess <= 1e-15, "the other half of the proof: a vector that is longer"
    assert not case.refused or math.isinf(found.bound)
    assert not is_needless(case, found), (case.layer, case.shape, found)


@pytest.mark.parametrize("name", [name for name, (_, kind) in MAKERS.items() if kind is not None])
@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_have_no_bound(name, poison):
    layer = MAKERS[name][0](random.Random(1)).layer
    shape = MAKERS[name][0](random.Random(1)).shape
    for tensor in (*layer.parameters(), *layer.buffers()):
        if tensor.is_floating_point():
            before = tensor.detach().clone()
            with torch.no_grad():
                tensor.view(-1)[-1] = poison
            assert lipschitz(layer, shape) == math.inf
            with torch.no_grad():
                tensor.copy_(before)


def test_the_checks_find_wrong_bounds():
    matrix = [[3, 0], [4, 5]]  # of norm sqrt 45
    assert is_bound(math.nextafter(math.sqrt(45), math.inf), piece(matrix))
    assert not is_bound(math.nextafter(math.sqrt(45), 0), piece(matrix))
    assert not is_bound(6.7082039, piece(matrix))
    assert reached(piece(matrix)) <= 45 <= reached(piece(matrix)) * (1 + Fraction(1, 10**15))
    assert is_bound(0.0, piece([[0, 0]]))
    assert not is_bound(1.0, piece([[1.0]], 1e-30))
    assert not is_bound(1.0, piece([[1, 0], [0, 1], [1, 1]]))
    assert ratio(Fraction(10) ** 900, Fraction(1)) == math.inf


# --- what these checks found ------------------------------------------------------------------------------------------


def test_denormal_weights_are_rounded_up():
    smallest = math.ulp(0.0)
    matrix = torch.full((1, 2), smallest, dtype=torch.float64)
    assert spectral_norm(matrix) >= 2 * smallest, "the square root of 2 of them, rounded up"
    conv = hold(nn.Conv2d(1, 1, (1, 2), bias=False), weight=matrix.reshape(1, 1, 1, 2))
    assert convolution_norm(conv, (1, 3)) >= 2 * smallest
    assert 0 < spectral_norm(torch.complex(matrix, matrix)) < math.inf
    gamma = hold(nn.BatchNorm1d(1), weight=matrix[0, :1], running_var=torch.full((1,), 9.0, dtype=torch.float64))
    assert lipschitz(gamma, (1,)) > 0, "5e-324 / 3 is 0"
    frame = layers.bake(layers.Sandwich(1, 1))
    frame.frame = nn.Parameter(torch.full((1, 2), 1e-170, dtype=torch.float64))
    assert lipschitz(frame.double(), (1,)) > 0, "the square of 1e-170 is 0"


def test_a_crop_leaves_the_rounding_of_what_it_removes():
    # Of the two pixels of the torus the image has one, and the large weight reads the other.
    kernel = torch.tensor([1e-12, 1e8], dtype=torch.float64)
    spectrum = torch.view_as_real(torch.fft.rfft(kernel)).T.reshape(2, 1, 2, 1, 1)
    layer = layers.FourierConv2d(spectrum, None, Torus((1, 1), (1, 1), (1, 2), (1, 1))).eval()
    real = [Fraction(value) for value in spectrum[0].flatten().tolist()]
    assert is_bound(lipschitz(layer, (1, 1, 1)), piece([[(real[0] + real[1]) / 2]]))


def test_taps_that_cancel_leave_their_rounding():
    conv = nn.Conv2d(1, 1, (1, 5), padding=(0, 2), padding_mode="circular", bias=False)
    taps = torch.tensor([[[[1.0, 0.0, 1e-17, 0.0, -1.0]]]], dtype=torch.float64)
    assert lipschitz(hold(conv, weight=taps), (1, 1, 2)) >= 1e-17, "the three add up on a torus of two pixels"


def test_a_product_is_rounded_up():
    values = [1.1, 1.3, 1.7, 2.9]
    bound = product([LayerBound("", "", value) for value in values])
    exact = math.prod(map(Fraction, values))
    assert exact <= Fraction(bound) <= exact * (1 + Fraction(1, 10**14))
    assert product([LayerBound("", "", value) for value in (3.0, 1.0, 0.5)]) == 1.5, "exact ones stay"


def test_gaps_of_numbers_beyond_float64_are_infinite():
    head = nn.Linear(2, 2).double().eval()
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1e308, 0.0], [-1e308, 0.0]]))
    assert gaps(head, (2,))[0, 1] == math.inf, "their difference overflows"
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[5e-324, 5e-324], [0.0, 0.0]], dtype=torch.float64))
    assert gaps(nn.Sequential(layers.Scale(1e300), head).eval(), (2,))[0, 1] == math.inf, "sqrt 2 of a denormal is lost"
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[1e-200, 0.0], [0.0, 0.0]], dtype=torch.float64))
    assert gaps(nn.Sequential(head, layers.Scale(1e-200)).eval(), (2,))[0, 1] == math.inf, "not 0"


# --- whole networks ---------------------------------------------------------------------------------------------------


@fixed(max_examples=15)
@given(data=st.data())
def test_random_pairs_of_images_come_no_farther_apart_than_the_gaps_say(data):
    rng = Drawn(data)
    model, pieces = network_cases.small_network(rng)
    exact = model.double()
    shape = (1, 1, len(pieces[0][0]))
    bounds = gaps(model, shape)
    x = torch.tensor([[rng.random() for _ in range(shape[2])] for _ in range(40)]).double().reshape(40, *shape)
    with torch.no_grad():
        logits = exact(x)
    for first, second in itertools.pairwise(range(40)):
        change = logits[first] - logits[second]
        moved = (change[:, None] - change[None, :]).abs()
        rounding = 1e-13 * logits[[first, second]].abs().max() * 10
        assert (moved <= bounds * (x[first] - x[second]).norm() + rounding).nan_to_num(nan=1.0).all()


@fixed(max_examples=15)
@given(data=st.data())
def test_the_radius_of_a_linear_classifier_is_its_distance(data):
    """margin^2 >= radius^2 ||w_y - w_k||^2 for every other class, in rational numbers; and nearly equal for one."""
    rng = Drawn(data)
    features, classes = rng.randint(1, 4), rng.randint(2, 4)
    weight = numbers(rng, classes, features, kinds=("normal", "mixed", "tiny")).float()
    bias = numbers(rng, classes, kinds=("zeros",)).float()
    model = nn.Sequential(nn.Flatten(), hold(nn.Linear(features, classes), weight=weight, bias=bias)).eval()
    x = torch.tensor([rng.random() for _ in range(features)]).reshape(1, 1, 1, -1)
    y = model(x).argmax(1)
    found = float(certify(model, x, y))
    radius = Fraction(0 if math.isinf(found) else found)
    rows, image, own = fractions(weight), fractions(x.flatten()), int(y)
    distances = []
    largest = max(abs(a * b) for row in rows for a, b in zip(row, image, strict=True))
    for k in set(range(classes)) - {own}:
        difference = [a - b for a, b in zip(rows[own], rows[k], strict=True)]
        margin = sum((a * b for a, b in zip(difference, image, strict=True)), Fraction(0))
        energy = sum((a * a for a in difference), Fraction(0))
        assert margin**2 >= radius**2 * energy
        assert margin >= 0 or radius == 0
        if energy and margin > Fraction(1, 10**4) * largest * features:
            distances.append(margin**2 / energy)
        else:
            distances.append(Fraction(0))
    nearest = min(distances)
    assert nearest == 0 or radius**2 >= nearest * Fraction(1 - 1e-4) ** 2


def test_certify_never_exceeds_the_distance_in_the_box_of_a_binary_network():
    model = lipbench.antipodal(nn.Sequential(nn.Flatten(), hold(nn.Linear(1, 1), weight=torch.ones(1, 1)))).eval()
    with torch.no_grad():
        model[0][1].bias.fill_(-0.25)
    assert Fraction(float(lipbench.certify(model, torch.ones(1, 1, 1, 1)))) <= Fraction(3, 4)
