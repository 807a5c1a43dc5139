"""The rounding in the quadratic programs of `certificate_exact`: against rational arithmetic, and as it is stated."""

from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import pytest
import torch
from helpers.rational import cancelling
from helpers.rational import exact as in_fractions
from torch import nn

pytest.importorskip("piqp", reason="piqp is not installed: pip install lipbench[exact]")

from lipbench.certificate.exact import program
from lipbench.certificate.exact.program import dual
from lipbench.certificate.exact.region import Region, region
from lipbench.certificate.exact.solve import certify_exact
from lipbench.certificate.relaxation.crown import Relaxed
from lipbench.certificate.relaxation.piecewise import Kinks, steps_of
from lipbench.layers import MaxMin

PIXELS = 4
SHAPE = (1, 1, PIXELS)


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    torch.manual_seed(0)
    with torch.no_grad():
        yield


def network(between: nn.Module) -> nn.Sequential:
    parts = (nn.Linear(PIXELS, 6), nn.ReLU(), nn.Linear(6, PIXELS), nn.ReLU())
    return nn.Sequential(nn.Flatten(), *parts, between, nn.Linear(PIXELS, 2)).eval().double()


def relaxed(model: nn.Sequential, x: torch.Tensor) -> Relaxed:
    return Relaxed(steps_of(model, SHAPE), x, torch.tensor([0.3], dtype=torch.float64))


def times(row: np.ndarray, values: list[Fraction]) -> Fraction:
    return sum((Fraction(a) * b for a, b in zip(row.tolist(), values, strict=True)), Fraction(0))


def perturbed(x: torch.Tensor) -> tuple[list[Fraction], list[Fraction]]:
    """A random perturbation, and what it makes of the image x [1, PIXELS]."""
    delta = [Fraction(v) for v in (0.1 * torch.randn(PIXELS, dtype=torch.float64)).tolist()]
    return delta, [Fraction(a) + b for a, b in zip(x[0].tolist(), delta, strict=True)]


@pytest.mark.parametrize("large", [False, True])
def test_what_goes_into_an_open_relu_is_as_near_to_its_expression_as_is_said(large) -> None:
    off = 0
    for _ in range(20):
        between = cancelling(PIXELS, 2.0**20) if large else nn.Identity()
        parts = [nn.Flatten(), nn.Linear(PIXELS, PIXELS), between, nn.Linear(PIXELS, 6), nn.ReLU(), nn.Linear(6, 4)]
        model = nn.Sequential(*(part for part in parts if type(part) is not nn.Identity)).eval().double()
        x = torch.rand(1, PIXELS, dtype=torch.float64)
        around = relaxed(model, x)
        found = region(around, 0, 1, 100)
        assert isinstance(found, Region)
        delta, point = perturbed(x)
        inputs = in_fractions(model[:-2], point)
        values = delta + [Fraction(0)] * len(found.low)
        low, high = around.ranges[-1]
        opened = ((low < 0) & (high > 0))[0].nonzero()[:, 0].tolist()
        assert len(opened) == len(found.low)
        for j, place in enumerate(opened):
            expression = times(found.inner[j], values) + Fraction(float(found.shift[j]))
            apart = abs(inputs[place] - expression)
            assert apart <= Fraction(float(found.error[j]))
            off += apart > 0
    assert off >= 5, "without an error these would be wrong"


def test_what_goes_into_a_sort_behind_a_sort_is_as_near_to_its_expression_as_is_said() -> None:
    """Of the first MaxMin the larger of a and b is b + relu(a - b), where relu(a - b) is a variable."""
    off = 0
    for _ in range(20):
        parts = [nn.Linear(PIXELS, 6), MaxMin(), cancelling_dense(6), nn.Linear(6, 6), MaxMin(), nn.Linear(6, 2)]
        model = nn.Sequential(nn.Flatten(), *parts).eval().double()
        x = torch.rand(1, PIXELS, dtype=torch.float64)
        around = relaxed(model, x)
        found = region(around, 0, 1, 100)
        assert isinstance(found, Region)
        delta, point = perturbed(x)
        entering = [in_fractions(model[:2], point), in_fractions(model[:6], point)]
        kinks = [step for step in around.steps if isinstance(step, Kinks)]
        differences = [
            times(row, into)
            for step, into, (low, high) in zip(kinks, entering, around.ranges, strict=True)
            for row, is_open in zip(step.inner.numpy(), ((low < 0) & (high > 0))[0], strict=True)
            if is_open
        ]
        values = delta + [max(u, Fraction(0)) for u in differences]
        assert len(values) == len(found.lower)
        for row, shift, error, exactly in zip(found.inner, found.shift, found.error, differences, strict=True):
            apart = abs(times(row, values) + Fraction(float(shift)) - exactly)
            assert apart <= Fraction(float(error))
            off += apart > 0
    assert off >= 20, "without an error these would be wrong"


def cancelling_dense(width: int, large: float = 2.0**20) -> nn.Sequential:
    """Two dense layers of which the second takes away what the first adds."""
    return nn.Sequential(*cancelling(width, large)[::2])


def test_the_dual_is_rounded_down(monkeypatch: pytest.MonkeyPatch) -> None:
    programs = [random_program(np.random.default_rng(seed)) for seed in range(200)]
    truth = [lagrangian(*program) for program in programs]
    bounds = [dual(found, 1.0, *rest) for found, *rest in programs]
    for (_, _, rows, levels, weights), bound, least in zip(programs, bounds, truth, strict=True):
        size = float(weights @ (10 * abs(rows).sum(1) + abs(levels)))
        assert least - Fraction(1e-9 * size) <= Fraction(bound) <= least
    monkeypatch.setattr(program, "UNIT", 0.0)
    bounds = [dual(found, 1.0, *rest) for found, *rest in programs]
    assert sum(Fraction(bound) > least for bound, least in zip(bounds, truth, strict=True)) > 20, "rounding counts"


def random_program(rng: np.random.Generator) -> tuple[Region, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A region, a slope, the rows and levels of the region, and multipliers."""
    pixels, count = 5, 4
    inner = rng.normal(size=(count, pixels + count)) * 10.0 ** rng.integers(-3, 4)
    box, sides = (np.sort(rng.normal(size=(2, size)), axis=0) for size in (pixels + count, count))
    found = Region(inner, rng.normal(size=count), np.zeros(count), *sides, inner[:1], inner[:1, 0], *box)
    rows, levels = found.rows()
    return found, rng.normal(size=pixels + count), rows, levels, 1e3 * rng.exponential(size=len(levels))


def lagrangian(found: Region, slope: np.ndarray, rows: np.ndarray, levels: np.ndarray, weights: np.ndarray) -> Fraction:
    """The least ||delta||^2 + <slope, v> + weights (rows v - levels) over the box, in rational arithmetic."""
    value = -times(weights, [Fraction(level) for level in levels.tolist()])
    for i in range(len(slope)):
        linear = Fraction(slope[i]) + times(weights, [Fraction(entry) for entry in rows[:, i].tolist()])
        low, high = Fraction(found.lower[i]), Fraction(found.upper[i])
        if i < found.pixels:
            v = min(max(-linear / 2, low), high)
            value += v * v + linear * v
        else:
            value += min(linear * low, linear * high)
    return value


def test_the_first_cut_leaves_room_for_the_rounding_of_the_judge() -> None:
    """An image counts where the float64 pass may say `other`, so the level grows with what that pass may round."""
    model, x = network(nn.Identity()), torch.rand(1, PIXELS, dtype=torch.float64)
    around = relaxed(model, x)
    before = region(around, 0, 1, 100)
    around.error = around.error + torch.tensor([[0.1, 0.02]])
    after = region(around, 0, 1, 100)
    assert before is not None
    assert after is not None
    assert float(after.levels[0] - before.levels[0]) == pytest.approx(0.12, rel=1e-6)


@pytest.mark.parametrize("shift", [1e8, 1e12])
def test_images_that_rounding_alone_misclassifies_are_not_nearer(shift) -> None:
    """Logits so large that float64 sees a tie well before the boundary, which argmax gives to class 0."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 2)).eval().double()
    model[1].weight.copy_(torch.tensor([[1.0], [0.0]]))
    model[1].bias.copy_(torch.tensor([-0.7, 0.0], dtype=torch.float64) + shift)
    x = torch.zeros(1, 1, 1, 1, dtype=torch.float64)
    line = torch.linspace(0.69, 0.71, 200_001, dtype=torch.float64)
    nearest = float(line[model(line.view(-1, 1, 1, 1)).argmax(1) == 0].min())
    boundary = Fraction(float(model[1].bias[1])) - Fraction(float(model[1].bias[0]))
    assert shift < 1e10 or Fraction(nearest) < boundary, "rounding makes them nearer"
    found = float(certify_exact(model, x, torch.tensor([1])))
    assert found <= nearest
    assert found >= float(boundary) - 1e-12 * shift
