"""The inscribed ball is never above the truth, and close to it: hyperplanes, small networks, falsifiers."""

import math
from fractions import Fraction
from typing import Any

import pytest
import torch
from helpers.hyperplanes import cross
from helpers.isometries import images, isometry
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import lipbench
from lipbench import layers
from lipbench.attacks import falsifier
from lipbench.attacks.falsifier import falsifier_float32
from lipbench.certificate import (
    ball_radius,
    best_t,
    certify,
    certify_float,
    certify_inscribed,
    certify_inscribed_float,
    inscribed,
    inscribed_balls,
    lipschitz,
    rounding,
)
from lipbench.judge import Judge, distance

HOSTILE = (math.nan, math.inf, -math.inf, -1.0, 0.0, 5e-324, 1e-300, 1e-9, 1.0, 1e9, 1e300)


def hyperplane(classes: int, pixels: int) -> nn.Sequential:
    model = nn.Sequential(nn.Flatten(), nn.Linear(pixels, classes)).eval().requires_grad_(False)
    model[1].bias.copy_(-model[1].weight.sum(1) / 2)
    return model


def exact(model: nn.Sequential, x: Tensor, y: Tensor) -> Tensor:
    """The distance to the nearest image of the box that a rival wins; inf where there is none."""
    double, shortest = model[1].weight.double(), torch.full((len(x),), torch.inf, dtype=torch.float64)
    logits = x.double().flatten(1) @ double.T + model[1].bias.double()
    for k in range(len(double)):
        rows = (y != k).nonzero()[:, 0]
        fall = logits[rows, y[rows]] - logits[rows, k]
        moved, reached = cross(x[rows], double[y[rows]] - double[k], fall)
        shortest[rows] = torch.minimum(shortest[rows], distance(x[rows], moved).where(reached, torch.inf))
    return shortest


# --- the closed form --------------------------------------------------------------------------------------------------


def in_fractions(x: Tensor, centre: Tensor, depth: float, t: float) -> Fraction:
    """rho^2 in rational arithmetic."""
    s, total, far, square = Fraction(t), Fraction(0), Fraction(0), Fraction(0)
    for pixel, coordinate in zip(x.tolist(), centre.tolist(), strict=True):
        p = Fraction(coordinate) - Fraction(pixel)
        delta = min(max(-s * p, -Fraction(pixel)), 1 - Fraction(pixel))
        total, far, square = total + p * delta, far + p * p, square + delta * delta
    return (s * (Fraction(depth) ** 2 - far + 2 * total) + square) / (1 + s)


@pytest.mark.parametrize("scale", [1e-200, 1e-6, 1.0, 30.0, 1e8, 1e160])
def test_the_closed_form_is_rounded_down(scale: float) -> None:
    x = images("some", 40, (1, 1, 7)).flatten(1).double()
    offset = scale * torch.randn(40, 7, dtype=torch.float64)
    centre = x + offset
    depth = (centre - x).norm(dim=1) * (1 + 10 ** torch.empty(40, dtype=torch.float64).uniform_(-15, 0))
    times = [best_t(x, centre - x, depth), *(torch.full_like(depth, t) for t in HOSTILE)]
    positive = 0
    for t in times:
        found = ball_radius(x, centre, depth, t)
        assert found.isfinite().all()
        assert (found >= 0).all()
        for i in found.nonzero()[:, 0].tolist():
            at = float(t[i]) if math.isfinite(t[i]) else 1e308
            truth = in_fractions(x[i], centre[i], float(depth[i]), at)
            slack = Fraction(0) if math.isfinite(t[i]) else Fraction(1, 10**290)
            assert Fraction(float(found[i])) ** 2 <= truth + slack
            positive += 1
    assert positive >= 20 or scale in (1e-200, 1e160)  # squares under- and overflow


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0, -1.0])
def test_a_depth_that_is_no_positive_number_certifies_nothing(value: float) -> None:
    x = torch.rand(3, 4, dtype=torch.float64)
    assert (ball_radius(x, x, torch.full((3,), value).double(), torch.ones(3).double()) == 0).all()
    centre = x.clone()
    centre[:, 0] = math.nan
    assert (ball_radius(x, centre, torch.ones(3).double(), torch.ones(3).double()) == 0).all()


def test_the_ball_around_the_image_itself_is_the_depth() -> None:
    x, depth = torch.rand(5, 4, dtype=torch.float64), torch.rand(5, dtype=torch.float64)
    found = ball_radius(x, x, depth, torch.full((5,), math.inf).double())
    assert ((found <= depth) & (found >= depth * (1 - 1e-8))).all()


def test_the_best_t_is_no_worse_than_others() -> None:
    x = images("some", 200, (1, 4, 4)).flatten(1).double()
    offset = torch.randn(200, 16, dtype=torch.float64)
    depth = offset.norm(dim=1) * torch.empty(200, dtype=torch.float64).uniform_(1.01, 2)
    t = best_t(x, offset, depth)
    best = ball_radius(x, x + offset, depth, t)
    assert (best > 0).all()
    # A ball that holds the whole box is left nowhere: its radius grows with t for ever.
    left = t < 1e5
    assert left.sum() > 20
    for factor in (0.5, 0.9, 1.1, 2.0):
        assert (ball_radius(x, x + offset, depth, factor * t) <= best * (1 + 1e-9))[left].all()


# --- against the truth ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["corners", "some", "interior"])
@pytest.mark.parametrize(("classes", "pixels"), [(2, 1), (2, 36), (10, 36), (3, 100)])
def test_hyperplanes(kind: str, classes: int, pixels: int) -> None:
    model, x = hyperplane(classes, pixels), images(kind, 60, (1, 1, pixels))
    y = model.double()(x.double()).argmax(1)
    model = model.float()
    truth, flat, found = exact(model, x, y), certify(model, x, y), certify_inscribed(model, x, y)
    assert (found <= truth).all()
    assert (found >= flat).all()
    reached = (flat > 1e-4) & truth.isfinite()
    # The ball touches the hyperplane in the nearest image of the box.
    assert (found[reached] >= 0.98 * truth[reached]).float().mean() >= 0.9
    if kind == "corners" and pixels > 1:
        assert (found > 1.1 * flat)[reached].any()


@pytest.mark.parametrize("wrong", [1.01, 1.0001])
def test_a_wrong_constant_is_found(wrong: float, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = hyperplane(2, 64), images("interior", 60, (1, 8, 8))
    y = model(x).argmax(1)
    truth = exact(model, x, y)
    right = inscribed.gaps_of
    monkeypatch.setattr(inscribed, "gaps_of", lambda *given: right(*given) / wrong)
    assert (certify_inscribed(model, x, y) > truth).any()


def grid_distance(model: nn.Module, x: Tensor, y: Tensor, size: int = 401) -> Tensor:
    """The distance to the nearest adversarial point of a grid of the unit square: an upper bound."""
    line = torch.linspace(0, 1, size, dtype=torch.float64)
    points = torch.cartesian_prod(line, line)
    labels = model.double()(points.view(-1, 1, 1, 2)).argmax(1)
    apart = torch.cdist(x.double().flatten(1), points)
    return apart.masked_fill(labels[None] == y[:, None], torch.inf).amin(1)


ACTIVATIONS = {"maxmin": layers.MaxMin(), "sort": layers.FullSort(), "abs": layers.Abs(), "relu": nn.ReLU()}


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    st.sampled_from(sorted(ACTIVATIONS)),
    st.sampled_from(["corners", "some", "interior"]),
    st.sampled_from([2, 3, 10]),
    st.integers(0, 2**31),
)
def test_small_networks_against_a_grid(name: str, kind: str, classes: int, seed: int) -> None:
    torch.manual_seed(seed)
    model, x = isometry([2, 8, 8], ACTIVATIONS[name], classes), images(kind, 20, (1, 1, 2))
    y = model(x).argmax(1)
    found, flat = certify_inscribed(model, x, y), certify(model, x, y)
    assert (found >= flat).all()
    assert (found <= grid_distance(model, x, y)).all()


@pytest.mark.parametrize(("name", "classes"), [("maxmin", 2), ("sort", 3), ("abs", 2), ("relu", 2)])
def test_between_the_margin_and_the_exact_distance(name: str, classes: int) -> None:
    exactly = pytest.importorskip("lipbench.certificate.exact.solve", reason="pip install lipbench[exact]")
    model, x = isometry([9, 6, 6], ACTIVATIONS[name], classes), images("some", 12, (1, 3, 3))
    y = model(x).argmax(1)
    found, flat = certify_inscribed(model, x, y), certify(model, x, y)
    lower, points = exactly.solve(model, x, y, seconds=20)
    truth = distance(x, points)
    known = truth > 0  # some rival can win nowhere in the box
    assert known.sum() >= 8
    assert torch.allclose(lower[known], truth[known], rtol=1e-5)
    assert (found <= truth)[known].all()
    assert (found <= lower)[~known].all()
    # Nearer to the truth than the margin is; a ReLU does not keep the gradient's norm.
    gain = ((found - flat) / (truth - flat))[known]
    assert gain.median() > (0.0 if name == "relu" else 0.2)


@pytest.mark.parametrize("classes", [2, 10])
def test_the_falsifiers_find_nothing_within_it(classes: int) -> None:
    model, x = isometry([64, 32, 32], layers.MaxMin(), classes), images("some", 40, (1, 8, 8))
    y = model(x).argmax(1)
    found, deployed = certify_inscribed(model, x, y), certify_inscribed_float(model, x, y)
    for attack, radii in ((falsifier, torch.maximum(found, deployed)), (falsifier_float32, deployed)):
        adversarial = attack(model, x, y)
        judge = Judge(model)
        wrong = (judge if attack is falsifier else judge.deployed)(adversarial, y)
        assert wrong.any()
        assert (distance(x, adversarial)[wrong] >= radii[wrong]).all()
    assert (found > 1.001 * certify(model, x, y)).any()


# --- what it is for ordinary and for unusual networks -----------------------------------------------------------------


def test_a_network_without_a_bound_costs_nothing_and_has_none() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2), nn.LayerNorm(2)).eval()
    x, y = torch.rand(3, 1, 2, 2), torch.zeros(3, dtype=torch.long)
    assert (certify_inscribed(model, x, y) == 0).all()
    assert (certify_inscribed_float(model, x, y) == 0).all()
    assert (inscribed_balls(model, x, y).radius() == 0).all()


class Turnstile(nn.Module):
    """Changes nothing, and counts what passes forwards and backwards, through all of its copies."""

    forwards = backwards = 0

    def forward(self, x: Tensor) -> Tensor:
        Turnstile.forwards += len(x)
        if x.requires_grad:
            x.register_hook(self._back)
        return x

    def _back(self, gradient: Tensor) -> None:
        Turnstile.backwards += len(gradient)


@pytest.mark.parametrize("method", [certify_inscribed, certify_inscribed_float])
@pytest.mark.parametrize("kind", ["flat", "steep", "started"])
def test_what_is_counted_is_what_the_network_sees(method: Any, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lipschitz, "_rules", {**lipschitz._rules, Turnstile: lambda layer, shape: 1.0})
    exactly = {Turnstile: lambda layer, shape, constant: lambda u, reach: (layer(u), reach * 0.0)}
    monkeypatch.setattr(rounding, "_rules", {**rounding._rules, **exactly})
    plain = isometry([16, 16, 16], layers.MaxMin() if kind != "flat" else nn.ReLU(), 3)
    if kind == "flat":  # no unit of it is active anywhere
        plain[1].bias.fill_(-100.0)
    model, x = nn.Sequential(Turnstile(), *plain).eval(), images("some", 12, (1, 4, 4))
    y = model(x).argmax(1)
    start = lipbench.attacks.ddn(plain, x, y) if kind == "started" else None
    told = [0, 0]

    def count(forwards: int, backwards: int) -> None:
        told[0] += forwards
        told[1] += backwards

    monkeypatch.setattr(Turnstile, "forwards", 0)
    monkeypatch.setattr(Turnstile, "backwards", 0)
    found = method(model, x, y, start=start, batch_size=5, count=count)
    assert 0 <= Turnstile.forwards - told[0] <= 5, "a few passes of one image say what shapes the layers have"
    assert Turnstile.backwards == told[1]
    if kind == "flat":
        assert told[0] <= 3 * len(x), "what `certify` needs, and one gradient"
        assert told[1] <= len(x)
        around = certify if method is certify_inscribed else certify_float
        assert torch.equal(found, around(model, x, y, batch_size=5))
        assert not len(inscribed_balls(model, x, y).image)
    else:
        assert told[1] > 10 * len(x)


def test_misclassified_images_have_the_radius_zero() -> None:
    model, x = isometry([16, 16], layers.MaxMin(), 3), torch.rand(10, 1, 4, 4)
    y = model(x).argmin(1)
    assert (certify_inscribed(model, x, y) == 0).all()
    assert (certify_inscribed_float(model, x, y) == 0).all()


def test_the_proof_proves_its_radius() -> None:
    model, x = isometry([16, 16, 16], layers.MaxMin(), 4), images("some", 30, (1, 4, 4))
    y = model(x).argmax(1)
    balls = inscribed_balls(model, x, y)
    assert torch.equal(balls.radius(), certify_inscribed(model, x, y))
    assert balls.check(balls.radius())
    assert not balls.check(balls.radius() * 1.0001)
    assert (balls.centre < 0).any()  # outside of the box
    assert torch.equal(balls.at_x.amin(1), certify(model, x, y))
    # Each depth is what the float64 network says, rounded down.
    logits = model.double()(balls.centre)
    rows = torch.arange(len(logits))
    gaps = lipbench.certificate.gaps(model, (1, 4, 4))[y[balls.image], balls.rival]
    depth = (logits[rows, y[balls.image]] - logits[rows, balls.rival]) / gaps
    assert ((balls.depth <= depth) & (balls.depth >= depth * (1 - 1e-6) - 1e-9)).all()


def test_the_search_leaves_a_place_where_all_centres_are_alike() -> None:
    """Where the ball around x touches the frontier inside of the box, no first step gains anything."""
    model, split = lipbench.load("digits08/hkr_mlp"), lipbench.data.digits(keep=(0, 8)).validation
    x, y = lipbench.images.pixels(split.images), split.labels
    flat = certify(model, x, y)
    right = flat > 0
    gain = certify_inscribed(model, x, y)[right] / flat[right]
    assert (gain > 1.00001).float().mean() > 0.9


def test_parts_of_the_images_and_a_start_change_nothing_that_is_proved() -> None:
    model, x = isometry([16, 16, 16], layers.MaxMin(), 2), images("some", 30, (1, 4, 4))
    y = model(x).argmax(1)
    whole, parts = certify_inscribed(model, x, y), certify_inscribed(model, x, y, batch_size=7)
    assert torch.allclose(whole, parts, rtol=2e-3)
    adversarial = lipbench.attacks.alma(model, x, y)
    upper = distance(x, adversarial).where(Judge(model)(adversarial, y), torch.inf)
    started = certify_inscribed(model, x, y, start=adversarial, steps=20)
    assert (started <= upper).all()
    assert (started >= certify(model, x, y)).all()
    with pytest.raises(ValueError, match="start="):
        certify_inscribed(model, x, y, start=adversarial[:2])
    for method in (certify_inscribed, certify_inscribed_float, inscribed_balls):
        for steps in (-5, 2.5, True, "40"):
            with pytest.raises(ValueError, match=f"steps={steps!r}"):
                method(model, x, y, steps=steps)


def test_a_guess_of_t_changes_little() -> None:
    x = images("some", 200, (1, 4, 4)).flatten(1).double()
    offset = torch.randn(200, 16, dtype=torch.float64)
    depth = offset.norm(dim=1) * torch.empty(200, dtype=torch.float64).uniform_(1.01, 2)
    t = best_t(x, offset, depth, 20)
    radii = ball_radius(x, x + offset, depth, t)
    for guess in (0.5 * t, t, 2 * t, torch.full_like(t, math.nan), 0 * t):
        found = ball_radius(x, x + offset, depth, best_t(x, offset, depth, 20, guess))
        assert torch.allclose(found, radii, rtol=1e-9)
    near = ball_radius(x, x + offset, depth, best_t(x, offset, depth, 2, 0.97 * t))
    assert (near >= 0.999 * radii).all()


def test_the_certificate_of_float32_is_below_and_close() -> None:
    model, x = isometry([64, 32, 32], layers.MaxMin(), 2), images("some", 40, (1, 8, 8))
    y = model(x).argmax(1)
    # Two searches: at a kink they may go different ways, the later the more.
    for steps, close in ((4, 1e-3), (40, 5e-3)):
        found, deployed = (c(model, x, y, steps=steps) for c in (certify_inscribed, certify_inscribed_float))
        assert (deployed >= certify_float(model, x, y)).all()
        assert (deployed >= (1 - close) * found - 1e-4).float().mean() >= 0.9
        assert steps > 4 or (deployed < found).float().mean() >= 0.9


def test_the_model_is_left_as_it_was() -> None:
    model, x = isometry([16, 16], layers.MaxMin(), 2).requires_grad_(True), torch.rand(5, 1, 4, 4)
    before, given = {name: value.clone() for name, value in model.state_dict().items()}, x.clone()
    certify_inscribed(model, x, model(x).argmax(1))
    assert torch.equal(x, given)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_where_no_centre_is_better_no_batch_is_empty() -> None:
    """`nn.PixelUnshuffle` returns a batch of no images as it is."""
    torch.manual_seed(0)
    layers = (nn.PixelUnshuffle(2), nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3))
    model, x = nn.Sequential(*layers).eval(), torch.full((3, 1, 8, 8), 0.5)
    y = model(x).argmax(1)
    assert torch.equal(certify_inscribed(model, x, y, steps=0), certify(model, x, y))
