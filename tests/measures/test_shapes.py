"""Shapes with known distances: the distances by brute force, and the law for a network's own frontier."""

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.experiments import experiment
from helpers.results_tree import runs_of
from matplotlib.path import Path as Outline

import lipbench
from lipbench.data import shapes
from lipbench.figures.shapes import errors
from lipbench.figures.shapes import shapes as drawn
from lipbench.outlines import CENTER, POLYGONS, RADIUS, SHAPES, signed_distance

POINTS = np.random.default_rng(0).random((400, 2))
# Points of each edge, and of the circle.
DENSE = 4000


def outline(shape: str) -> np.ndarray:
    """Points of an outline, as dense as 1 / 4,000 of an edge."""
    share = np.linspace(0, 1, DENSE)[:, None]
    if shape == "circle":
        angle = 2 * np.pi * share[:, 0]
        return CENTER + RADIUS * np.stack([np.cos(angle), np.sin(angle)], 1)
    edges = [(a, b) for ring in POLYGONS[shape] for a, b in zip(ring, np.roll(ring, -1, axis=0), strict=True)]
    return np.concatenate([a + share * (b - a) for a, b in edges])


@pytest.mark.parametrize("shape", SHAPES)
def test_the_distance_is_that_to_the_nearest_of_many_points_of_the_outline(shape):
    found, edge = signed_distance(shape, POINTS), outline(shape)
    nearest = np.array([np.hypot(*(edge - point).T).min() for point in POINTS])
    assert (np.abs(found) <= nearest + 1e-12).all()
    assert np.allclose(np.abs(found), nearest, atol=2e-4)
    if shape == "circle":
        inside = np.hypot(*(POINTS - CENTER).T) < RADIUS
    else:
        rings = [Outline(ring).contains_points(POINTS) for ring in POLYGONS[shape]]
        inside = np.logical_xor.reduce(rings)
    assert np.array_equal(found > 0, inside)
    assert 0.1 < inside.mean() < 0.4
    assert ((edge > 0) & (edge < 1)).all(), "the nearest point of the outline lies in the box of images"


def test_the_hole_of_the_letter_is_outside():
    assert signed_distance("letter", np.array([[0.5, 0.5], [0.5, 0.38]])).tolist() == pytest.approx([-0.06, 0.06])


@pytest.mark.parametrize("shape", SHAPES)
def test_points_are_labelled_by_their_side_and_are_in_one_split(shape):
    data = shapes(shape)
    splits = (data.train, data.validation, data.test)
    assert [len(split) for split in splits] == [10000, 400, 500]
    for split in splits:
        points = split.images.view(-1, 2).numpy() / 255
        assert np.array_equal(signed_distance(shape, points) > 0, split.labels.numpy() == 1)
        assert split.labels.double().mean() == 0.5
    every = torch.cat([split.images for split in splits]).view(-1, 2)
    assert len(every.unique(dim=0)) == len(every)
    assert torch.equal(shapes(shape).test.images, data.test.images)


def test_an_unknown_shape_is_refused():
    with pytest.raises(ValueError, match="circle, square, star, letter"):
        shapes("heart")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of a run of a network that has learned a part of the star."""
    made = experiment(
        "shapes/hkr_mlp",
        tmp_path_factory.mktemp("results"),
        *("dataset.shape=star", "training.epochs=8", "attack=[carlini_wagner]", "images=40"),
        "certificate=[certificate]",
    )
    made.run()
    return made.folder


def other_side(model: torch.nn.Module, cells: int = 300) -> list[np.ndarray]:
    """Points next to the network's frontier, by bisection on the edges of a grid: those of label 0, those of 1."""
    ticks = torch.linspace(0, 1, cells + 1, dtype=torch.float64)
    grid = torch.cartesian_prod(ticks, ticks).view(cells + 1, cells + 1, 2)
    exact = model.double()

    def label(points: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return exact(points.reshape(-1, 1, 1, 2)).argmax(1)

    pairs = torch.cat(
        [
            torch.stack([grid[1:].reshape(-1, 2), grid[:-1].reshape(-1, 2)]),
            torch.stack([grid[:, 1:].reshape(-1, 2), grid[:, :-1].reshape(-1, 2)]),
        ],
        1,
    )
    ends = [label(end) for end in pairs]
    zero, one = (pairs[:, ends[0] != ends[1]].clone() for _ in range(2))
    first = ends[0][ends[0] != ends[1]] == 0
    zero, one = torch.where(first[:, None], zero[0], zero[1]), torch.where(first[:, None], one[1], one[0])
    for _ in range(45):
        middle = (zero + one) / 2
        is_one = (label(middle) == 1)[:, None]
        zero, one = torch.where(is_one, zero, middle), torch.where(is_one, middle, one)
    return [zero.numpy(), one.numpy()]


def test_no_certificate_exceeds_the_distance_to_the_frontier_of_the_network(folder):
    table = lipbench.read(folder)
    rows = table[(table["method"] == "certificate") & (table["norm"] == "l2")].set_index("index")
    points = shapes("star").test.images.view(-1, 2).numpy() / 255
    sides = other_side(lipbench.load(folder))
    right = rows.index[rows["label"] == rows["prediction"]]
    radii = rows.loc[right, "distance"].to_numpy()
    nearest = np.array([np.hypot(*(sides[1 - rows.loc[i, "label"]] - points[i]).T).min() for i in right])
    assert len(right) > 350
    assert (radii <= nearest).all()
    assert np.median(radii / nearest) > 0.5
    # The frontier of the network is not the outline of the shape: no law binds the certificate to that.
    truth = np.abs(signed_distance("star", points))[right]
    assert (radii > truth).any()


def test_of_the_true_distance_both_errors_are_0():
    ticks = np.linspace(0, 1, 51)
    x, y = (a.ravel() for a in np.meshgrid(ticks, ticks))
    pixels = np.array([[51, 102], [128, 128], [250, 10]])
    plane = pd.DataFrame({"kind": ["grid"] * len(x) + ["point"] * 3, "x": [*x, *pixels[:, 0] / 255]})
    plane["y"] = [*y, *pixels[:, 1] / 255]
    truth = np.abs(signed_distance("circle", pixels / 255))
    images = pd.DataFrame({"label": [0, 1, 0], "prediction": [0, 1, 1], "certificate": truth, "upper": truth * 2})
    found = errors("circle", plane.round(5), images, outline("circle"))
    assert found["points"] == 2
    assert found["certificate_to_truth"] == pytest.approx(1, abs=1e-12)
    assert found["attack_to_truth"] == found["attack_to_certificate"] == pytest.approx(2, abs=1e-12)
    assert found["frontier_max"] < 1e-12
    assert errors("circle", plane, images, outline("square"))["frontier_max"] > 0.04


def test_the_figure_of_a_run(folder):
    figure, table = drawn(runs_of([folder]))
    assert [axis.get_title() for axis in figure.axes if axis.get_visible()] == ["star"]
    (row,) = table.to_dict("records")
    assert row["attack_to_certificate"] >= 1
    assert row["attack_to_truth"] >= row["certificate_to_truth"]
    assert 0 < row["frontier_mean"] < row["frontier_max"] < 0.2
    assert drawn(runs_of([])) is None
