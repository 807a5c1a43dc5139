"""Optimality is the area of AttackBench, against the truth where lower bounds prove it."""

import numpy as np
import pandas as pd
import pytest
from helpers.runs_on_disk import make

from lipbench.report.cards import cards
from lipbench.report.find import find_runs
from lipbench.report.methods import method_cells, method_numbers
from lipbench.results import bounds_table
from lipbench.results.attacked import attacked_images
from lipbench.results.flags import Flag
from lipbench.results.optimality import ENVELOPE, TRUTH

LABELS, PREDICTIONS = np.zeros(5, dtype=int), np.array([0, 0, 0, 0, 1])
NEAR, FAR = [1.0, 2.0, 3.0, 4.0, 0.0], [1.5, 2.0, np.inf, 9.0, 0.0]


def attacked(lower: list[float], **attacks: list[float]):
    methods = [("certificate", "lower", lower), *((name, "upper", values) for name, values in attacks.items())]
    rows = [bounds_table(range(5), LABELS, PREDICTIONS, name, side, np.array(d)) for name, side, d in methods]
    return attacked_images(pd.concat(rows))


def area(distances: list[float], end: float) -> float:
    """Under accuracy against epsilon, by many small steps."""
    epsilons = np.linspace(0, end, 200_001)[:-1]
    return float(
        np.mean([np.mean(np.array(distances)[:, None] > e[None], axis=0).mean() for e in np.split(epsilons, 100)]) * end
    )


def test_the_formula():
    found = attacked([0.0] * 5, near=NEAR, far=FAR).optimality
    expected = (0.8 * 4 - area(FAR, 4.0)) / (0.8 * 4 - area(NEAR, 4.0))
    assert found.loc["near", "optimality"] == 1.0
    assert found.loc["far", "optimality"] == pytest.approx(expected, abs=1e-4)
    assert found["unbroken"].to_dict() == {"near": 0, "far": 1}
    assert found["images"].tolist() == [4, 4]


def test_the_reference_is_the_nearest_of_all_and_the_truth_where_it_is_proved():
    one, two = [1.0, 3.0, 3.0, 4.0, 0.0], [2.0, 2.0, 3.0, 4.0, 0.0]
    found = attacked([0.5] * 5, one=one, two=two).optimality
    assert (found["optimality"] < 1).all()
    assert set(found["reference"]) == {ENVELOPE}
    assert set(attacked(NEAR, near=NEAR).optimality["reference"]) == {TRUTH}
    assert set(attacked(NEAR, near=[1.01, *NEAR[1:]]).optimality["reference"]) == {ENVELOPE}
    assert set(attacked([0.0, *FAR[1:]], far=FAR).optimality["reference"]) == {ENVELOPE}, "an image is unbroken"


def test_nothing_broken_has_no_optimality():
    found = attacked([0.0] * 5, far=[np.inf] * 4 + [0.0]).optimality
    assert np.isnan(found.loc["far", "optimality"])
    assert found.loc["far", "unbroken"] == 4


def test_the_table_of_methods():
    costs = pd.DataFrame({"seconds": [9.0, 2.0], "passes": [100.0, 7.0]}, index=["training", "far"])
    flag = Flag("outside_box", "warning", "3 of 5 images that it returned have pixels outside.", "far")
    numbers = method_numbers(attacked([0.0] * 5, near=NEAR, far=FAR), costs, [flag])
    heads, *rows = method_cells([numbers, numbers])
    assert [row[0] for row in rows] == ["training", "far", "near"]
    cells = {row[0]: dict(zip(heads, row, strict=True)) for row in rows}
    assert cells["far"]["outside the box"] == "3"
    assert cells["near"]["optimality (%)"] == "100.0"
    assert cells["near"]["seconds in all"] == cells["training"]["unbroken"] == "-"
    assert cells["training"]["seconds in all"] == "9.0"
    assert cells["far"]["passes per image"] == "7"
    assert cells["training"]["passes per image"] == "-", "they are in all"


def test_a_card_shows_it(tmp_path):
    make(tmp_path, "net")
    (card,) = cards(find_runs(tmp_path))
    cells = {row[0]: row[1] for row in card.methods}
    assert cells["alma"] == "100.0"
    assert 0 < float(cells["fgm"]) < 100
    assert ENVELOPE in card.reference
