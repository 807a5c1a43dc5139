"""Attacks that search in L-infinity and in L1."""

import pytest
import torch
from helpers.hyperplanes import SHAPE, Hyperplane, corners, interior
from torch import Tensor

import lipbench
from lipbench import attacks
from lipbench.geometry import onto_cross, onto_cube
from lipbench.judge import Judge, distance

ATTACKS = {"linf": attacks.apgd_linf, "l1": attacks.apgd_l1}


def exact(model: Hyperplane, x: Tensor, y: Tensor, norm: str) -> Tensor:
    """The distance in the box to the hyperplane of two classes, in closed form up to bisection, [N] float64."""
    x, weight = x.double().flatten(1), (model.weight[1] - model.weight[0]).detach().double()
    direction = torch.where(y == 0, 1.0, -1.0).double()[:, None] * weight.sign()
    gap = ((x - 0.5) @ weight).abs()
    room = torch.where(direction > 0, 1 - x, x)
    if norm == "linf":
        low, high = torch.zeros_like(gap), torch.ones_like(gap)
        for _ in range(50):
            middle = (low + high) / 2
            crossed = (weight.abs() * torch.minimum(room, middle[:, None])).sum(1) >= gap
            low, high = torch.where(crossed, low, middle), torch.where(crossed, middle, high)
        return high
    # In L1 the pixels with the largest weights move first, each as far as the box allows.
    order = weight.abs().argsort(descending=True)
    steep, most = weight.abs()[order], room[:, order]
    before = torch.cat([torch.zeros(len(x), 1).double(), (most * steep).cumsum(1)[:, :-1]], 1)
    return torch.minimum(((gap[:, None] - before) / steep).clamp_min(0), most).sum(1)


@pytest.mark.parametrize("images", [interior, corners])
@pytest.mark.parametrize("norm", ATTACKS)
def test_the_nearest_point_of_a_hyperplane_is_found_in_the_norm_of_the_attack(norm, images):
    model, x = Hyperplane(), images(20)
    y = model(x).argmax(1)
    found = ATTACKS[norm](model, x, y)
    assert Judge(model)(found, y).all()
    ratio = distance(x, found, norm) / exact(model, x, y, norm)
    assert (ratio >= 1).all()
    assert ratio.max() <= 1.02
    l2 = attacks.apgd(model, x, y)
    assert distance(x, l2, norm).mean() > 1.2 * distance(x, found, norm).mean(), "the image of L2 is farther"


@pytest.mark.parametrize("norm", ATTACKS)
def test_its_rows_have_every_norm_and_the_start_is_kept_where_it_is_nearer_in_its_own(norm):
    model, x = Hyperplane(), interior(10)
    y = model(x).argmax(1)
    table = lipbench.evaluate(model, x, y, {"found": ATTACKS[norm]}, progress=False)
    rows = table[(table["method"] == "found") & (table["norm"] == norm)].sort_values("index")["distance"]
    found = ATTACKS[norm](model, x, y)
    assert torch.allclose(torch.tensor(rows.to_numpy()), distance(x, found, norm))
    # Weak in its own norm, so that a comparison in L2 would keep this start.
    l2 = attacks.tangent(model, x, y)
    again = ATTACKS[norm](model, x, y, start=l2, lower=distance(x, l2))
    assert (distance(x, again, norm) < distance(x, l2, norm)).all()
    kept = ATTACKS[norm](model, x, y, start=found, steps=1, rounds=1)
    assert (distance(x, kept, norm) <= distance(x, found, norm)).all()


def test_projections_on_the_balls_of_other_norms():
    x, images = torch.rand(6, *SHAPE), torch.rand(6, *SHAPE) * 3 - 1
    radius = torch.tensor([0.5, 1.0, 2.0, 4.0, 8.0, 1e3])
    cube = onto_cube(x, images, radius)
    assert (distance(x, cube, "linf") <= radius + 1e-6).all()
    inside = x + 0.01 * torch.randn(6, *SHAPE)
    assert torch.allclose(onto_cube(x, inside, torch.full((6,), 0.5)), inside)
    cross = onto_cross(x, images, radius)
    assert ((cross >= 0) & (cross <= 1)).all()
    assert (distance(x, cross, "l1") <= radius + 1e-5).all()
    assert torch.equal(cross[5], images[5].clamp(0, 1)), "a ball without effect leaves the box alone"
    # The projection on a convex set is the point p with <images - p, q - p> <= 0 for every q of the set.
    for _ in range(200):
        other = x + torch.rand(6, 1, 1, 1) * (torch.rand(6, *SHAPE) - x) * (torch.rand(6, *SHAPE) < 0.3)
        other = onto_cross(x, other, radius)
        assert (((images - cross) * (other - cross)).flatten(1).sum(1) <= 1e-4).all()
