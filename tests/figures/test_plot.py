"""`lipbench.plot`: figures of a table in memory, and of a run that was read."""

import numpy as np
import pytest
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
