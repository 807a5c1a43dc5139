"""The exact distance of small networks, against closed forms, grids, attacks and certificates."""

import importlib
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import lipbench
from lipbench.certificate import certify, certify_crown
from lipbench.evaluation.bounds import attack_images, certify_images
from lipbench.layers import Abs, FullSort, GroupSort, MaxMin
from lipbench.results.laws import violations
from lipbench.training import adam, fit

pytest.importorskip("piqp", reason="piqp is not installed: pip install lipbench[exact]")

from lipbench.attacks.exact import exact, exact_attack
from lipbench.certificate.exact import program
from lipbench.certificate.exact.program import dual, minimise
from lipbench.certificate.exact.region import region
from lipbench.certificate.exact.solve import certify_exact
from lipbench.certificate.relaxation.crown import Relaxed
from lipbench.certificate.relaxation.piecewise import steps_of

PLANE = (1, 1, 2)
# What an image of float32 has to lie beyond the boundary, and the gap.
CLOSE = 1 + 2e-5


def plane(classes: int, activation, seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    # A sort of 12 numbers is 66 relus, and the whole plane then takes a minute.
    first, second = (6, 4) if activation is FullSort else (12, 6)
    model = nn.Sequential(
        *(nn.Flatten(), nn.Linear(2, first), activation(), nn.Linear(first, second), activation()),
        nn.Linear(second, classes),
    )
    with torch.no_grad():
        for layer in (model[1], model[3]):
            layer.weight *= 3
            layer.bias -= 0.5 * layer.weight.sum(1)
    return model.eval()


def grid(number: int = 1001) -> torch.Tensor:
    line = torch.linspace(0, 1, number, dtype=torch.float64)
    return torch.cartesian_prod(line, line).reshape(-1, *PLANE)


def test_a_hyperplane_and_the_corners_of_the_box() -> None:
    """The nearest image of a halfspace is clip(x - t w) for one t, also where pixels are stuck at 0 or 1."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).eval()
    x = torch.rand(12, 1, 3, 4).round(decimals=1)
    x[:4] = x[:4].round()
    y = model(x).argmax(1)
    weight = model[1].weight.detach().double().diff(dim=0)[0].neg()
    shift = float(model[1].bias.detach().double().diff().neg())
    found, compared = exact(model, x, y), 0
    for i in range(len(x)):
        image, normal = x[i].double().flatten(), weight * (1 - 2 * int(y[i]))
        offset, low, high = shift * (1 - 2 * int(y[i])), 0.0, 1e4
        if (image - high * normal).clamp(0, 1) @ normal + offset > 0:
            assert found.lower[i] == found.upper[i] == torch.inf
            continue
        for _ in range(200):
            middle = (low + high) / 2
            outside = (image - middle * normal).clamp(0, 1) @ normal + offset > 0
            low, high = (middle, high) if outside else (low, middle)
        distance = float(((image - high * normal).clamp(0, 1) - image).norm())
        assert distance * (1 - 3e-6) <= found.lower[i] <= distance * (1 + 1e-12)
        assert distance <= found.upper[i] * (1 + 1e-12)
        assert found.upper[i] <= distance * CLOSE
        compared += 1
    assert compared >= 6


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("activation", [nn.ReLU, MaxMin, lambda: GroupSort(3), FullSort, Abs])
def test_on_the_plane_no_point_of_a_grid_is_nearer_and_one_is_as_near(classes, activation) -> None:
    model = plane(classes, activation, seed=classes)
    x = torch.rand(5, *PLANE)
    y = model(x).argmax(1)
    found = exact(model, x, y)
    points = grid()
    with torch.no_grad():
        labels = model.double()(points).argmax(1)
    for i in range(len(x)):
        lengths = (points[labels != y[i]] - x[i].double()).flatten(1).norm(dim=1)
        nearest = float(lengths.min()) if len(lengths) else np.inf
        assert found.lower[i] <= nearest
        if np.isfinite(nearest):
            # An image next to a kink may need a margin of 1e-4 before both precisions agree.
            assert found.upper[i] <= min(nearest, float(found.lower[i]) * (1 + 3e-4) + 1e-6)
            assert nearest <= found.upper[i] + 0.005


def digits_network(*widths: int, activation=nn.ReLU, keep=(0, 8)) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    data = lipbench.data.digits(keep=keep)
    model = lipbench.models.mlp((1, 8, 8), len(keep), widths=widths, activation=activation)
    fit(model, data, lipbench.losses.cross_entropy, adam, epochs=8, batch_size=32, progress=False)
    return model.eval(), data.test.images.float() / 255, data.test.labels


def test_on_digits_it_lies_between_certificates_and_attacks_and_finds_a_wrong_one() -> None:
    model, x, y = digits_network(16, 8, activation=MaxMin)
    x, y = x[:8], y[:8]
    tables = [
        certify_images(model, x, y, method, name).table
        for name, method in (
            *(("certificate", certify), ("certificate_crown", certify_crown), ("certificate_exact", certify_exact)),
        )
    ]
    tables += [
        attack_images(model, x, y, method, name).table
        for name, method in (("lipbench", lipbench.attacks.lipbench), ("exact", exact_attack))
    ]
    assert not len(violations(pd.concat(tables)))
    product, crown, lower, attack, upper = (t[t["norm"] == "l2"]["distance"].to_numpy() for t in tables)
    right = lower > 0
    assert right.sum() >= 6
    assert (np.maximum(product, crown)[right] < lower[right]).all()
    assert (upper[right] <= lower[right] * CLOSE).all()
    assert (upper <= attack).all()
    # A certificate that is 5 % larger than the distance is found out by the exact images, one far below it is not.
    wrong = tables[2].assign(method="wrong", distance=lambda t: 1.05 * t["distance"])
    assert violations(pd.concat([wrong, tables[4]]))["index"].nunique() == right.sum()


def test_convolutions_max_pooling_and_ten_classes() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(
        *(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(2, 4, 1), GroupSort(4)),
        *(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(4, 10)),
    )
    model, x = model.eval().double(), torch.rand(4, 1, 4, 4, dtype=torch.float64)
    with torch.no_grad():
        model[-1].bias -= model(x).mean(0)  # several labels, so that there are adversarial images
    y = model(x).argmax(1)
    assert len(set(y.tolist())) > 1
    before = x.clone()
    found = exact(model, x, y)
    assert torch.equal(x, before)  # float64 images are not changed in place
    assert (found.lower > 0).all()
    assert found.upper.isfinite().all()
    assert (found.upper <= found.lower * CLOSE + 1e-6).all()
    assert torch.equal(found.images.double().sub(x.double()).flatten(1).norm(dim=1), found.upper)
    near = x[:, None].double() + torch.randn(4, 2000, 1, 4, 4, dtype=torch.float64)
    move = near - x[:, None].double()
    move *= (found.lower / move.flatten(2).norm(dim=2).T).T[..., None, None, None]
    inside = (x[:, None].double() + move).clamp(0, 1)
    with torch.no_grad():
        labels = model.double()(inside.flatten(0, 1)).argmax(1).reshape(4, 2000)
    assert (labels == y[:, None]).all()


@pytest.mark.parametrize(("channels", "kernel", "pooling"), [(2, 2, 3), (1, 2, 2), (3, 3, 2)])
def test_max_pooling_against_a_program_of_every_activation_pattern(channels, kernel, pooling, monkeypatch) -> None:
    """Also where the nearest image is so much nearer than that of the attack that the search begins afresh."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    patterns = importlib.import_module("activation_patterns")
    torch.manual_seed(0)
    model, x = patterns.network(channels, kernel, 1, 0, pooling, 3, size=4).eval().double(), torch.rand(5, 1, 4, 4)
    x = x.double()
    with torch.no_grad():
        model[0].bias += 0.3  # few windows are dead
        model[-1].weight *= 3
        model[-1].bias -= model(x).mean(0)
    y = model(x).argmax(1)
    nearest = [patterns.nearest(model, image, int(label)) for image, label in zip(x, y, strict=True)]
    truth = torch.tensor(nearest, dtype=torch.float64)
    assert truth.isfinite().all()
    found = exact(model, x, y)
    assert (found.lower <= truth * (1 + 1e-9)).all()
    assert (found.lower >= truth * (1 - 3e-6)).all()
    assert (found.upper >= truth * (1 - 1e-9)).all()
    assert (found.upper <= truth * CLOSE).all()


def test_a_bracket_of_too_little_time_is_wide_and_holds() -> None:
    model, x, y = digits_network(32, 16)
    x, y = x[:3], y[:3]
    started = time.monotonic()
    short = exact(model, x, y, seconds=0.02)
    assert time.monotonic() - started < 20
    whole = exact(model, x, y)
    assert (short.lower <= whole.lower * (1 + 1e-6)).all()
    assert (short.lower < 0.99 * whole.lower).any()
    assert (short.lower > 0).all()
    assert (whole.upper <= short.upper).all()
    assert (whole.lower >= whole.upper / CLOSE).all()


@pytest.mark.parametrize("lie", ["nothing", "infinite", "random"])
def test_no_answer_of_the_solver_is_believed(lie, monkeypatch) -> None:
    model = plane(3, nn.ReLU, seed=3)
    x = torch.rand(4, *PLANE)
    y = model(x).argmax(1)
    truth = exact(model, x, y)
    values = {"nothing": 0.0, "infinite": np.inf}

    def solved(part, curvature, slope, rows, sides):
        weights = np.random.default_rng(0).exponential(size=len(sides))
        return np.zeros(len(slope)), np.full(len(sides), values[lie]) if lie in values else weights

    monkeypatch.setattr(program, "_solved", solved)
    found = exact(model, x, y, seconds=1)
    assert (found.lower <= truth.upper).all()
    assert (found.upper >= truth.lower).all()


def test_the_bound_of_any_multipliers_is_below_every_image_of_the_region() -> None:
    model, x = plane(2, nn.ReLU, seed=2), torch.rand(1, *PLANE)
    own = int(model(x).argmax(1))
    steps = steps_of(model, PLANE)
    points = grid(101)
    with torch.no_grad():
        wrong = points[model.double()(points).argmax(1) != own]
    assert len(wrong)
    lengths = (wrong - x.double()).flatten(1).norm(dim=1)
    least, radius = float(lengths.min()) ** 2, 1.2 * float(lengths.min())
    wrong = wrong[lengths < radius]
    ball = Relaxed(steps, x.double().flatten(1), torch.tensor([radius], dtype=torch.float64))
    whole = region(ball, own, 1 - own, 100)
    assert whole is not None
    assert len(whole.low) >= 3
    rows, sides = whole.rows()
    nothing = np.zeros(len(whole.lower))
    random = np.random.default_rng(0)
    for _ in range(50):
        weights = random.exponential(size=len(sides)) * random.integers(0, 2, len(sides))
        assert dual(whole, 1.0, nothing, rows, sides, weights) <= least
    assert minimise(whole).bound <= least
    # On the linear piece of the nearest of these images the bound is its distance, up to the width of the grid.
    shift = (wrong[lengths[lengths < radius].argmin()] - x.double()).flatten().numpy()
    signs = whole.values(np.append(shift, np.zeros(len(whole.low))))[2:] > 0
    assert 0.8 * least < minimise(whole.fixed(signs, ~signs)).bound <= least
    for point in wrong[:50]:
        values = np.append((point.flatten() - x.double().flatten()).numpy(), np.zeros(len(whole.low)))
        values = whole.values(values)
        assert (rows @ values <= sides + 1e-12).all()


def test_mistakes_have_distance_0_and_a_box_without_adversarial_images_infinity() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2)).eval()
    with torch.no_grad():
        model[1].weight.copy_(torch.eye(2))
        model[1].bias.copy_(torch.tensor([3.0, 0.0]))
    x, y = torch.rand(2, *PLANE), torch.tensor([0, 1])
    found = exact(model, x, y)
    assert found.lower.tolist() == found.upper.tolist() == [torch.inf, 0.0]
    assert torch.equal(found.images, x)
    assert certify_exact(model, x, y).tolist() == [torch.inf, 0.0]


@pytest.mark.parametrize("gap", [0.02, 0.3, 0.9, 0.99])
def test_a_large_gap_is_no_proof_that_the_box_is_empty(gap) -> None:
    """The adversarial images of this network lie at the other end of its interval."""
    torch.manual_seed(62)
    widths = ((1, 6), (6, 4), (4, 2))
    dense = [nn.Linear(*width) for width in widths]
    model = nn.Sequential(nn.Flatten(), dense[0], nn.ReLU(), dense[1], nn.ReLU(), dense[2]).eval().double()
    with torch.no_grad():
        for layer in dense[:2]:
            layer.weight *= 4
            layer.bias -= 0.5 * layer.weight.sum(1)
        line = torch.linspace(0, 1, 4001, dtype=torch.float64)
        labels = model(line.view(-1, 1, 1, 1)).argmax(1)
    nearest = float(line[labels != labels[0]].min())
    assert nearest > 0.97
    x = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    found = float(certify_exact(model, x, labels[:1], gap=gap))
    assert (1 - gap) * (nearest - 1 / 4000) * (1 - 1e-9) <= found <= nearest
    # Of the other label the whole interval is empty, for any gap.
    with torch.no_grad():
        dense[2].bias[labels[0]] += 100
    assert float(certify_exact(model, x, labels[:1], gap=gap)) == np.inf


def test_what_cannot_be_solved_is_refused_in_a_sentence() -> None:
    x, y = torch.rand(2, *PLANE), torch.zeros(2, dtype=torch.long)
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 4), nn.Sigmoid(), nn.Linear(4, 2)).eval()
    with pytest.raises(ValueError, match=r"exact cannot solve this network: 2 \(Sigmoid\).*no rule.*use ReLU"):
        exact(model, x, y)
    with pytest.raises(ValueError, match="seconds > 0"):
        certify_exact(plane(2, nn.ReLU, 0), x, y, seconds=0)
