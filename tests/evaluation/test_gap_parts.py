"""The measure `bracket`: four distances of each image, none below the one before, and the bars that show them."""

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.results_tree import make_results, runs_in
from torch import nn

from lipbench import certificate, layers
from lipbench.evaluation.parts import COLUMNS, parts_of_the_gap
from lipbench.figures.gap import PARTS, gap_parts, gap_parts_of
from lipbench.margins import predict


def network(classes: int) -> nn.Module:
    """1-Lipschitz: orthogonal rows."""
    torch.manual_seed(1)
    linear = nn.Linear(36, 16), nn.Linear(16, classes)
    for layer in linear:
        nn.init.orthogonal_(layer.weight)
    return nn.Sequential(nn.Flatten(), linear[0], layers.MaxMin(), linear[1]).eval()


@pytest.mark.parametrize("classes", [2, 5])
def test_four_distances_that_grow(classes: int) -> None:
    model = network(classes)
    images = torch.randint(0, 256, (30, 1, 6, 6), dtype=torch.uint8)
    labels = predict(model, images.float() / 255)
    labels[3] = (labels[3] + 1) % classes
    table = parts_of_the_gap(model, images, labels, number=20)
    assert list(table) == COLUMNS
    assert set(table["index"]) <= set(range(40)) - {3}
    assert len(table) == 20
    few = parts_of_the_gap(model, images, labels, number=20, attacked=5)
    assert few["index"].tolist() == [0, 1, 2, 4], "of the images that are attacked"
    found = table[COLUMNS[1:]].to_numpy()
    assert (np.diff(found, axis=1) >= 0).all()
    assert (found[:, 0] > 0).all()
    flat = certificate.certify(model, images.float() / 255, labels)[table["index"].tolist()]
    assert np.allclose(found[:, 0], flat.numpy(), rtol=1e-6)
    assert (found[:, 1] > 1.001 * found[:, 0]).any(), "the box adds something"
    if classes == 2:
        assert (found[:, 2] == found[:, 1]).all(), "there is one rival"
    else:
        assert (found[:, 2] > found[:, 1]).any()


def test_without_a_right_image_the_table_is_empty() -> None:
    model = network(2)
    images = torch.randint(0, 256, (4, 1, 6, 6), dtype=torch.uint8)
    wrong = 1 - predict(model, images.float() / 255)
    table = parts_of_the_gap(model, images, wrong)
    assert list(table) == COLUMNS
    assert table.empty


def test_the_bars_are_means_in_percent_of_the_distance(tmp_path) -> None:
    record = pd.DataFrame([[0, 1.0, 1.5, 1.6, 2.0], [1, 3.0, 4.0, 4.0, 4.0]], columns=COLUMNS)
    figure, table = gap_parts_of({"hkr_cnn": record})
    assert np.allclose(table[[*PARTS]].to_numpy(), [[25.0, 2.5, 10.0]])
    bars = figure.axes[0].patches
    assert np.allclose([bar.get_width() for bar in bars], [25.0, 2.5, 10.0])
    assert np.allclose([bar.get_x() for bar in bars], [0, 25.0, 27.5])
    root = make_results(tmp_path, illustrated=False)
    assert gap_parts(runs_in(root)) is None
    record.to_csv(root / "made08" / "hkr_cnn" / "default" / "0" / "bracket.csv", index=False)
    drawn = gap_parts(runs_in(root))
    assert drawn is not None
    assert list(drawn[1]) == ["dataset", "experiment", "images", *PARTS]
    record.assign(distance=100.0).to_csv(root / "made08" / "hkr_cnn" / "default" / "0" / "bracket.csv", index=False)
    assert gap_parts(runs_in(root)) is None, "all of a loose certificate's gap is due to layers"
