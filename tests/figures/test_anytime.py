"""The measure `anytime` and its figure: a curve per attack, 1 where it is the best."""

import numpy as np
import pandas as pd
from helpers.linear_run import dataset, linear
from helpers.results_tree import make_results, runs_in

from lipbench.attacks import distance_by_passes
from lipbench.figures.anytime import anytime, anytime_of
from lipbench.margins import predict

RECORD = pd.DataFrame(
    [("a", 0, 2, 4.0), ("a", 0, 8, 2.0), ("a", 1, 4, 1.0), ("b", 0, 1, 3.0), ("b", 1, 1, 2.0), ("b", 1, 16, 0.5)],
    columns=["attack", "index", "propagations", "distance"],
)


def test_the_measure_records_each_attack_within_its_budget():
    model, test = linear(), dataset().test
    table = distance_by_passes(model, test.images, test.labels, attacks=["deepfool", "ddn"], number=3, budget=60)
    right = (predict(model, test.images[:6].float() / 255) == test.labels[:6]).nonzero()[:3, 0].tolist()
    assert set(table["attack"]) == {"deepfool", "ddn"}
    assert set(table["index"]) == set(right)
    assert table["propagations"].between(1, 60).all()
    for _, rows in table.groupby(["attack", "index"]):
        assert rows["propagations"].is_monotonic_increasing
        assert (np.diff(rows["distance"]) < 0).all()


def test_the_curves():
    _, curves = anytime_of({"net": RECORD})
    last = curves.groupby("attack")["ratio"].last()
    assert last.to_dict() == {"a": 2.0, "b": 1.5}, "of two images the larger ratio"
    a = curves[curves["attack"] == "a"].set_index("propagations")["ratio"]
    assert a.index.min() == 4, "before, image 1 is not broken"
    assert a.loc[4] == 2.0


def test_the_figure_of_a_results_folder(tmp_path):
    root = make_results(tmp_path, illustrated=False)
    assert anytime(runs_in(root)) is None
    RECORD.to_csv(root / "made08" / "hkr_cnn" / "default" / "0" / "anytime.csv", index=False)
    drawn = anytime(runs_in(root))
    assert drawn is not None
    figure, table = drawn
    assert set(table["experiment"]) == {"hkr_cnn"}
    assert len(figure.axes[0].get_lines()) == 2
