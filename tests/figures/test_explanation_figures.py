"""Figures of explanations, outlier detection and the plane: from small tables whose numbers are known."""

import numpy as np
import pandas as pd
import pytest
from helpers.results_tree import runs_of

from lipbench.figures import RECIPES, drawings
from lipbench.figures.explanations import explanations
from lipbench.figures.one_class import one_class
from lipbench.figures.plane import _steps, plane, plane_lambda


def folder(root, key, name, table):
    path = root / key / "0"
    path.mkdir(parents=True)
    pd.DataFrame(table).to_csv(path / f"{name}.csv", index=False)
    return path


def test_explanations_are_means_with_intervals(tmp_path):
    rows = {
        "index": [0, 1, 2, 3],
        "attribution": "gradient",
        "metric": "mu_fidelity",
        "baseline": 0.5,
        "value": [0.1, 0.3, 0.5, 0.7],
    }
    made = [folder(tmp_path, f"mnist08/{name}/default", "explanations", rows) for name in ("hkr_cnn", "plain_cnn")]
    figure, table = explanations(runs_of(made))
    own = table[table["network"] == "hkr_cnn"].iloc[0]
    assert own["mean"] == pytest.approx(0.4)
    assert own["high"] - own["mean"] == pytest.approx(1.96 * np.std([0.1, 0.3, 0.5, 0.7], ddof=1) / 2)
    assert (table["images"] == 4).all(), "no published value of another data set stands beside them"
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels[:2] == ["classical", "1-Lipschitz, HKR"]
    assert explanations(runs_of([])) is None


def test_one_class_averages_the_inlier_classes(tmp_path):
    made = []
    for inlier, low in ((3, 0.6), (7, 0.8)):
        auroc = {
            "epsilon": [0.0, 0.28],
            "certified_auroc": [0.9, low],
            "attacked_auroc": [0.9, low + 0.1],
            "lipschitz": 1.0,
        }
        made.append(folder(tmp_path, f"mnist_oneclass/hkr_mlp/dataset.inlier={inlier}", "one_class", auroc))
    figure, table = one_class(runs_of(made))
    assert sorted(set(table["inlier"])) == [3, 7]
    lines = {line.get_label(): line.get_ydata() for line in figure.axes[0].lines}
    assert np.allclose(lines["1-Lipschitz, HKR, certified"], [90, 70])
    assert np.allclose(lines["1-Lipschitz, HKR, attacked"], [90, 80])
    assert np.allclose(lines["B\u00e9thune et al. (2023), certified"], [95.5, 93.2, 89.9, 78.4, 57.5])
    assert one_class(runs_of([])) is None


def squares(root, key):
    ticks = np.linspace(0, 1, 5)
    x, y = (a.ravel() for a in np.meshgrid(ticks, ticks))
    kind = ["grid"] * 25 + ["point"] * 4
    x, y = np.append(x, [0.1, 0.2, 0.8, 0.9]), np.append(y, [0.5] * 4)
    table = {
        "kind": kind,
        "x": x,
        "y": y,
        "label": [-1] * 25 + [0, 0, 1, 1],
        "f": x - 0.5,
        "gradient_x": 1.0,
        "gradient_y": 0.0,
    }
    return folder(root, key, "plane", table)


def test_the_plane_of_a_signed_distance(tmp_path):
    made = [squares(tmp_path, f"two_moons/{name}/default") for name in ("plain_mlp", "hkr_mlp")]
    made += [squares(tmp_path, f"two_moons/hkr_mlp/loss.alpha={alpha}") for alpha in (0.0, 0.9)]
    _, table = plane(runs_of(made))
    assert table["frontier_distance"].tolist() == pytest.approx([0.35, 0.35])
    assert table["gradient_low"].tolist() == table["gradient_high"].tolist() == [1.0, 1.0]
    figure, table = plane_lambda(runs_of(made))
    assert [axis.get_title() for axis in figure.axes] == ["\u03bb = 0", "\u03bb = 9"]
    assert len(table) == 2
    assert plane_lambda(runs_of(made[:2])) is None
    mine = tuple(recipe for recipe in RECIPES if recipe.name.startswith("plane"))
    names = {drawing.name for drawing in drawings(runs_of(made), mine)}
    assert names == {"plane", "plane_lambda_two_moons"}


def test_arrows_end_on_the_frontier_and_stay_in_the_picture():
    points = pd.DataFrame({"f": [0.2, -3.0], "gradient_x": [2.0, 0.0], "gradient_y": [0.0, 1.0]})
    assert np.allclose(_steps(points), [[-0.1, 0.0], [0.0, 0.3]])
