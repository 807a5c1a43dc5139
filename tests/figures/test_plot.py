"""`lipbench.plot`: figures of a table in memory, and of a run that was read."""

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.results_tree import make_results

import lipbench
from lipbench.results import COLUMNS


@pytest.fixture
def run(tmp_path):
    return lipbench.read(make_results(tmp_path) / "made08" / "hkr_cnn")


@pytest.mark.parametrize("columns", ["of evaluate", "of read"])
def test_figures_show_the_numbers_of_the_table(run, columns):
    table = run[COLUMNS] if columns == "of evaluate" else run
    l2 = table[table["norm"] == "l2"].pivot_table(index="index", columns="method", values="distance")
    points = lipbench.plot.bracket(table).axes[0].collections[0].get_offsets()
    assert np.allclose(points[:, 0], l2["certificate"])
    assert np.allclose(points[:, 1], l2["lipbench"])
    lines = {line.get_label(): line for line in lipbench.plot.tightness(table).axes[0].lines}
    assert np.allclose(lines["deepfool"].get_xdata(), 1.1 / 0.95, rtol=1e-4)
    curves = {line.get_label(): line for line in lipbench.plot.curves(table).axes[0].lines}
    epsilons = curves["certificate"].get_xdata()
    expected = [100 * (l2["certificate"] > epsilon).mean() for epsilon in epsilons]
    assert np.allclose(curves["certificate"].get_ydata(), expected)
    with pytest.raises(lipbench.ResultsError, match="'linf'"):
        lipbench.plot.curves(table, norm="linf")


def test_other_tables_are_refused_with_what_to_give(run, tmp_path):
    several = lipbench.read(tmp_path)
    for figure in (lipbench.plot.bracket, lipbench.plot.tightness):
        with pytest.raises(ValueError, match="rows of 3"):
            figure(several)
        with pytest.raises(ValueError, match="both"):
            figure(run[run["side"] == "upper"])
    for wrong in (None, run[["index"]], run[:0]):
        with pytest.raises(ValueError, match="columns index, label"):
            lipbench.plot.curves(wrong)
    assert len(lipbench.plot.curves(several).axes) >= 3


def test_a_bracket_is_drawn_as_a_table_is():
    lower, upper = torch.tensor([0.5, 0.0, 0.7]).double(), torch.tensor([0.6, 0.0, torch.inf]).double()
    found = lipbench.Bracket(lower, upper, torch.zeros(3, 1, 2, 2), None, torch.zeros(3).long())
    points = lipbench.plot.bracket(found).axes[0].collections[0].get_offsets()
    assert np.allclose(points, [[0.5, 0.6]]), "the second image is misclassified, the third has no attack"


def test_curves_are_of_all_images_alike_however_uneven_the_classes_are(run):
    table = run[COLUMNS].assign(label=lambda t: (t["index"] == 0).astype(int), prediction=lambda t: t["label"])
    figure = lipbench.plot.curves(table)
    assert figure.get_supylabel() == "accuracy (%)"
    curve = next(line for line in figure.axes[0].lines if line.get_label() == "certificate")
    distances = table[(table["method"] == "certificate") & (table["norm"] == "l2")]["distance"]
    assert np.allclose(curve.get_ydata(), [100 * (distances > epsilon).mean() for epsilon in curve.get_xdata()])


def test_one_panel_fills_its_figure(run):
    width, height = lipbench.plot.bracket(run).get_size_inches()
    assert width < 1.1 * height


def test_without_attacks_the_axis_reaches_as_far_as_the_certificates() -> None:
    images = pd.DataFrame({"index": range(50), "label": 0, "prediction": 0, "norm": "l2"})
    radii = images.assign(method="certificate", side="lower", distance=np.linspace(0.1, 3.0, 50))
    assert 2.8 < lipbench.plot.curves(radii).axes[0].get_xlim()[1] < 3.2
    found = images.assign(method="deepfool", side="upper", distance=np.linspace(1.0, 6.0, 50))
    assert 5.5 < lipbench.plot.curves(pd.concat([radii, found])).axes[0].get_xlim()[1] < 6.4
