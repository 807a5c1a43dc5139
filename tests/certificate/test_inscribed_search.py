"""The search for the centre of an inscribed ball, on functions that need no network."""

import math

import pytest
import torch
from torch import Tensor

from lipbench.certificate.inscribed_ball import best_t
from lipbench.certificate.inscribed_search import Search, Value, lowest, radius


@pytest.mark.parametrize("entries", [1, 2, 6])
def test_the_weights_of_the_planes_are_about_the_best(entries: int) -> None:
    """No weight that is used could move to where it gains much more; a plane that is not there has none."""
    planes = torch.randn(200, entries, 8, dtype=torch.float64)
    gram, error = planes @ planes.mT, torch.rand(200, entries, dtype=torch.float64)
    error[:, 3:4] = 1e9
    weights = lowest(gram, error)
    assert (weights >= 0).all()
    assert torch.allclose(weights.sum(1), torch.ones(200, dtype=torch.float64))
    assert (weights[:, 3:4] == 0).all()
    slope = (gram @ weights[:, :, None])[:, :, 0] + error
    assert ((weights * slope).sum(1) - slope.amin(1) < 0.1 * gram.diagonal(dim1=1, dim2=2).amax(1)).all()


def polyhedron(size: int) -> tuple[Value, Tensor, Tensor]:
    """The depth in a polyhedron, some points in it, and their depths."""
    torch.manual_seed(0)
    normals = torch.randn(1, size) + 0.7 * torch.randn(8, size)
    normals = normals / normals.norm(dim=1, keepdim=True)

    def value(points: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        # Sums, whose digits do not depend on how many points there are.
        heights = torch.stack([((points - 0.5) * normal).sum(1) for normal in normals], 1) + 1
        return heights.amin(1), normals[heights.argmin(1)]

    x = torch.randint(0, 2, (100, size)) * 0.9 + 0.05
    x = x[value(x, x[:, 0])[0] > 0]
    return value, x, value(x, x[:, 0])[0]


def test_the_search_climbs_along_kinks() -> None:
    """The best centres lie where several faces are equally near."""
    value, x, at_x = polyhedron(60)
    rows = torch.arange(len(x))
    short, long = (Search(value, x, rows, at_x) for _ in range(2))
    short.run(38)
    long.run(400)
    assert (long.rho / at_x).median() > 1.1
    assert (short.rho >= 0.97 * long.rho).all()
    assert (short.rho >= 0.985 * long.rho).float().mean() > 0.9


@pytest.mark.parametrize("size", [60, 900])
def test_the_search_of_an_image_does_not_depend_on_the_others(size: int) -> None:
    value, x, at_x = polyhedron(size)
    together = Search(value, x, torch.arange(len(x)), at_x)
    together.run(30)
    for number in range(0, len(x), 9):
        alone = Search(value, x[number : number + 1], torch.tensor([0]), at_x[number : number + 1])
        alone.run(30)
        assert torch.equal(alone.centre[0], together.centre[number])


def test_a_plane_touches_half_of_the_squared_radius() -> None:
    """On a smooth h: in the trial that made it, it has the value and the slope of rho^2 / 2."""

    def value(points: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        away = points + 1
        return away.norm(dim=1) - 0.5, away / away.norm(dim=1, keepdim=True)

    x = torch.randint(0, 2, (50, 12)).double() * 0.8 + 0.1
    at_x = value(x, x[:, 0])[0]
    search = Search(value, x, torch.arange(len(x)), at_x)
    search.begin(search.next_pairs())
    first = search.first.clone()
    search.step(torch.arange(len(x)))

    def half_square(offset: Tensor) -> Tensor:
        depth, _ = value(x + offset, x[:, 0])
        t = best_t(x, offset, depth, 40)
        return radius(offset, depth, t, torch.clamp(-t[:, None] * offset, -x, 1 - x)).square() / 2

    plane, height = search.planes[:, 0], search.heights[:, 0]
    assert torch.allclose((plane * first).sum(1) + height, half_square(first), rtol=1e-6)
    for axis in range(12):
        nudge = torch.zeros_like(x)
        nudge[:, axis] = 1e-5
        slope = (half_square(first + nudge) - half_square(first - nudge)) / 2e-5
        assert torch.allclose(plane[:, axis], slope, rtol=1e-3, atol=1e-4)


def test_a_search_survives_what_a_network_may_say() -> None:
    """Now and then no number, a depth below 0, or one beyond all bounds: the best ball stays."""
    value, x, at_x = polyhedron(60)
    calls = iter(range(10**6))

    def broken(points: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        depth, gradient = value(points, rows)
        kind = next(calls) % 6
        if kind == 2:
            return depth, gradient * math.nan
        return {3: -depth, 4: depth * math.nan, 5: depth + 1e25}.get(kind, depth), gradient

    search = Search(broken, x, torch.arange(len(x)), at_x)
    search.run(30)
    sane = search.rho < 1e20
    assert sane.any()
    assert (search.rho >= at_x).all()
    assert search.centre[sane].isfinite().all()
