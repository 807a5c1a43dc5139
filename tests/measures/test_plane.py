"""Points of the plane, and what a network does with them."""

import numpy as np
import pytest
import torch
from torch import nn

from lipbench import measures as explain
from lipbench.data import two_circles, two_moons, two_spirals
from lipbench.layers import Antipodal


@pytest.mark.parametrize("make", [two_moons, two_circles, two_spirals])
def test_two_shapes_that_touch_nowhere_and_no_line_separates(make):
    data = make()
    assert data.shape == (1, 1, 2)
    assert [len(split) for split in (data.train, data.validation, data.test)] == [2000, 400, 500]
    points, labels = data.train.images.view(-1, 2).double() / 255, data.train.labels
    assert torch.equal(torch.bincount(labels), torch.tensor([1000, 1000]))
    between = torch.cdist(points[labels == 0], points[labels == 1]).min()
    assert 0.02 < between < 0.25
    best = torch.linalg.lstsq(
        torch.cat([points, torch.ones(2000, 1, dtype=torch.float64)], 1), 2.0 * labels[:, None].double() - 1
    )
    guess = (points @ best.solution[:2] + best.solution[2])[:, 0] > 0
    assert (guess == (labels == 1)).double().mean() < 0.95
    assert torch.equal(make().test.images, data.test.images)
    assert not torch.equal(make(noise=0.05).test.images, data.test.images)


def test_the_circles_are_where_they_should_be():
    data = two_circles(noise=0.0)
    radii = (data.test.images.view(-1, 2).double() / 255 - 0.5).norm(dim=1)
    assert (radii[data.test.labels == 1] - 0.18).abs().max() < 0.01
    assert (radii[data.test.labels == 0] - 0.38).abs().max() < 0.01


def test_the_plane_of_a_linear_network():
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 1), Antipodal())
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[0.6, -0.8]]))
        model[1].bias.fill_(0.1)
    data = two_moons()
    table = explain.plane(model, data.test.images, data.test.labels, cells=4)
    grid = table[table["kind"] == "grid"]
    assert len(grid) == 25
    assert len(table) == 25 + 500
    assert np.allclose(table["f"], 0.6 * table["x"] - 0.8 * table["y"] + 0.1, atol=2e-5)
    assert np.allclose(table["gradient_x"], 0.6)
    assert np.allclose(table["gradient_y"], -0.8)
    assert set(grid["x"]) == set(grid["y"]) == {0, 0.25, 0.5, 0.75, 1}
    points = table[table["kind"] == "point"]
    assert points["label"].tolist() == data.test.labels.tolist()
    with pytest.raises(ValueError, match="two pixels"):
        explain.plane(model, torch.zeros(1, 1, 2, 2), torch.zeros(1).long())
