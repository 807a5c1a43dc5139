"""The rounding that inscribed balls take off, at given centres: against rational arithmetic, and as it is stated."""

import math
from collections.abc import Iterator
from fractions import Fraction

import pytest
import torch
from helpers.rational import cancelling, exact
from torch import Tensor, nn

from lipbench.certificate import ball_radius, gaps, inscribed, inscribed_balls
from lipbench.certificate.float64 import Passes
from lipbench.certificate.inscribed import REACH
from lipbench.certificate.rounding import Affine

PIXELS = 6
SHAPE = (1, 1, PIXELS)


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    torch.manual_seed(0)
    with torch.no_grad():
        yield


def ends_at(monkeypatch: pytest.MonkeyPatch, centre: Tensor, rho: float = 1.0) -> None:
    """Every search ends at this centre, and says that its radius is rho."""

    class Found:
        def __init__(self, value, x, image, at_x, start, known):
            self.centre, self.rho = centre.to(x).expand_as(x), torch.full_like(at_x, rho)

        def run(self, steps: int) -> int:
            return 0

    monkeypatch.setattr(inscribed, "Search", Found)


def margin(model: nn.Module, centre: Tensor) -> float:
    first, second = model(centre[None])[0].tolist()
    return first - second


def near_the_frontier(model: nn.Module, inner: Tensor, far: float) -> Tensor:
    """A point about so far away at which the margin of class 0 is positive in float64, and hardly so."""
    outer = inner
    while margin(model, outer) > 0:
        outer = far * torch.randn(PIXELS, dtype=torch.float64)
    for _ in range(200):
        middle = (inner + outer) / 2
        inner, outer = (middle, outer) if margin(model, middle) > 0 else (inner, middle)
    return inner


KINDS = {"plain": lambda: nn.Linear(PIXELS, PIXELS), "cancels": lambda: cancelling(PIXELS, 2.0**20)}


@pytest.mark.parametrize("far", [1.0, 1e6])
@pytest.mark.parametrize("kind", KINDS)
def test_no_depth_is_above_the_exact_one(kind, far, monkeypatch) -> None:
    beyond, positive = 0, 0
    for _ in range(24):
        model = nn.Sequential(nn.Flatten(), KINDS[kind](), nn.Linear(PIXELS, 2)).eval().double()
        x = torch.rand(PIXELS, dtype=torch.float64)
        model[2].bias[0] += 0.2 - margin(model, x)
        inner = x
        while far > 1 and margin(model, inner) < 0.1 * far:
            inner = far * torch.randn(PIXELS, dtype=torch.float64)
        scale = float(gaps(model, SHAPE)[0, 1])
        for centre in (near_the_frontier(model, inner, far), inner + 1e-3):
            ends_at(monkeypatch, centre)
            (depth,) = inscribed_balls(model, x.view(1, *SHAPE), torch.tensor([0])).depth.tolist()
            true = exact(model, [Fraction(value) for value in centre.tolist()])
            truth = (true[0] - true[1]) / Fraction(scale)
            assert depth == 0 or Fraction(depth) <= truth
            beyond += truth <= 0 < margin(model, centre)
            positive += depth > 0
    assert beyond >= 1, "rounding alone would have given these a depth"
    assert positive >= 8


@pytest.mark.parametrize(("rho", "is_kept"), [(1.0, True), (5.0, True), (0.1, False)])
def test_the_rounding_of_float32_is_taken_off_as_far_as_the_radius_may_reach(rho, is_kept, monkeypatch) -> None:
    """h is the first pixel less 0.5. The rounding is made large: 0.01 at x, 0.05 more at the other end of the box."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, 2)).eval()
    model[1].weight.zero_()
    model[1].weight[0, 0], model[1].bias[0], model[1].bias[1] = 1.0, -0.5, 0.0
    x, y = torch.full((1, *SHAPE), 0.9), torch.tensor([0])
    centre = x.flatten().clone()
    centre[0] = 3.0
    right = inscribed.float_radii

    def rounded(*given):
        radii, _ = right(*given)
        return radii, Affine(torch.full_like(radii, 0.01), torch.full_like(radii, 0.05))

    monkeypatch.setattr(inscribed, "float_radii", rounded)
    ends_at(monkeypatch, centre, rho)
    task = inscribed._Task(steps=1)
    (balls,) = inscribed._Prover.of(model, x, y, task, in_float32=True).parts(x, y, task)
    # The rounding is that of the images within the radius that the search reached, so no larger radius counts.
    share = min(1.0, rho * REACH / math.sqrt(PIXELS))
    depth = (2.5 - 0.01 - 0.05 * share) / float(gaps(model, SHAPE)[0, 1])
    assert balls.depth.item() == pytest.approx(depth if is_kept else 0.0, rel=1e-6)
    if is_kept:
        ball = ball_radius(x.flatten(1).double(), centre[None].double(), balls.depth, balls.t)
        assert 0.3 < float(ball) < 0.4
        assert float(balls.radius()) >= float(ball)


def test_the_slack_of_float64_is_taken_off_as_it_is_stated(monkeypatch) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, 2)).eval().double()
    x = torch.rand(1, *SHAPE).double()
    y = model(x).argmax(1)
    centre = x.flatten() + 3 * (model[1].weight[y[0]] - model[1].weight[1 - y[0]])
    ends_at(monkeypatch, centre)
    before = inscribed_balls(model, x, y).depth.item()
    right = Passes.__call__

    def with_slack(this, points):
        logits, slack = right(this, points)
        return logits, slack + 0.1 * (points.flatten(1) - centre).norm(dim=1).eq(0)

    monkeypatch.setattr(Passes, "__call__", with_slack)
    after = inscribed_balls(model, x, y).depth.item()
    assert before - after == pytest.approx(0.1 / float(gaps(model, SHAPE)[0, 1]), rel=1e-6)
