"""Where the search for the centres of inscribed balls begins, and of which rivals."""

import math

import pytest
import torch
from helpers.isometries import images, isometry
from torch import Tensor, nn

import lipbench
from lipbench import layers
from lipbench.certificate import certify, inscribed, inscribed_balls
from lipbench.gate import with_gradient
from lipbench.judge import Judge


def test_a_search_begins_at_a_start_that_the_rival_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    passed: list[Tensor] = []

    def seen(model: nn.Module, points: Tensor) -> Tensor:
        passed.append(points.detach().clone())
        return with_gradient(model, points)

    monkeypatch.setattr(inscribed, "with_gradient", seen)
    model, x = isometry([16, 16, 16], layers.MaxMin(), 4), images("interior", 12, (1, 4, 4))
    y = model(x).argmax(1)
    start = lipbench.attacks.alma(model, x, y)
    assert Judge(model)(start, y).all()
    start[3] = math.nan  # nothing is known of image 3
    inscribed_balls(model, x, y, start=start, steps=1)
    (first,) = passed
    nearest = (certify(model, x, y)[:, None] == rivals_of(model, x, y)).double().argmax(1)
    begun = torch.where((model(start).argmax(1) == nearest)[:, None], start.flatten(1), x.flatten(1))
    begun[3] = x[3].flatten()
    assert torch.equal(first.flatten(1), begun)
    assert (begun != x.flatten(1)).any(1).sum() >= 6


def rivals_of(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The radii of the balls around x, [N, K]."""
    return inscribed_balls(model, x, y, steps=0).radii()


def test_of_many_rivals_the_nearest_have_centres_of_their_own() -> None:
    model, x = isometry([64, 64, 64], layers.MaxMin(), 30), images("some", 10, (1, 8, 8))
    y = model(x).argmax(1)
    around, balls = rivals_of(model, x, y), inscribed_balls(model, x, y, steps=60)
    nearest = around.argsort(1)[:, : inscribed.RIVALS]
    assert len(balls.image)
    assert (nearest[balls.image] == balls.rival[:, None]).any(1).all()
    others = torch.ones_like(around, dtype=torch.bool).scatter(1, nearest, False)
    assert torch.equal(balls.radii()[others], around[others])
    assert (balls.radius() > around.amin(1)).sum() >= 8


def test_a_search_goes_on_from_the_balls_that_are_known() -> None:
    model, x = isometry([16, 16, 16], layers.MaxMin(), 4), images("some", 30, (1, 4, 4))
    y = model(x).argmax(1)
    earlier, flat = inscribed_balls(model, x, y), certify(model, x, y)
    # One trial: where it begins is all that it can find.
    afresh = inscribed_balls(model, x, y, steps=2).radii()
    one = inscribed_balls(model, x, y, steps=1, known=earlier).radii()
    worked_on = torch.zeros_like(one, dtype=torch.bool)
    worked_on[earlier.image, earlier.rival] = True
    assert (one <= earlier.radii() * (1 + 1e-6)).all()
    again = (one >= earlier.radii() * (1 - 1e-6)) & worked_on & (one > 1.001 * flat[:, None])
    assert again.any(1).sum() > 15
    assert (afresh < one)[again].float().mean() > 0.9
    rows = torch.tensor([7, 2, 11])
    assert torch.equal(earlier.of(rows).radius(), earlier.radius()[rows])
    some = inscribed_balls(model, x[rows], y[rows], steps=1, known=earlier.of(rows)).radii()
    assert torch.allclose(some, one[rows], rtol=1e-6)
