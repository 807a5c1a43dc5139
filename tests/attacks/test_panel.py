"""The attack `lipbench` on networks with many local minima, and the panel that measures it."""

import importlib
import json
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.hyperplanes import Hyperplane, interior, judged

from lipbench import attacks


@pytest.fixture
def benchmark(monkeypatch):
    """Modules of benchmarks/ by name."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module


# Networks of the three kinds on which single starts fail. The attacks that it is compared with take three to ten times
# the passes together. With one start for each image, the means are 1.02 to 1.11.
# The aim is 1.10 everywhere. On one image of the provably trained network another attack finds a nearer minimum.
@pytest.mark.parametrize(
    ("name", "worst"), [("digits_saturating", 1.1), ("digits_deep_narrow", 1.1), ("digits_interval_trained", 1.3)]
)
def test_lipbench_is_nearest_where_there_are_many_minima(benchmark, name, worst):
    networks = benchmark("panel_networks")
    model, x, y = networks.own(name)
    x, y = networks.right_images(model, x, y, 30)
    others = (attacks.ddn, attacks.apgd, attacks.alma, attacks.tangent, attacks.carlini_wagner)
    best = torch.stack([judged(model, x, attack(model, x, y), y) for attack in (*others, attacks.lipbench)]).amin(0)
    ratio = judged(model, x, attacks.lipbench(model, x, y), y) / best
    assert ratio.mean() <= 1.01
    assert ratio.max() <= worst


def test_the_best_known_distances_only_get_smaller(benchmark, tmp_path):
    best = benchmark("panel").Best(tmp_path / "best.json")
    best.update("a", np.array([1.0, np.inf, 0.1234567]))
    best.update("a", np.array([2.0, 0.5, 0.2, 3.0]))
    assert best.of("a", 4).tolist() == [1.0, 0.5, 0.123457, 3.0], "rounded up"
    best.save()
    again = benchmark("panel").Best(tmp_path / "best.json")
    assert again.known == best.known == json.loads((tmp_path / "best.json").read_text())


def test_a_network_that_is_not_here_is_skipped_with_the_reason(benchmark, monkeypatch):
    networks = benchmark("panel_networks")
    monkeypatch.delenv("LIPBENCH_NETWORKS", raising=False)
    with pytest.raises(networks.Skipped, match=r"onnx is not in .*LIPBENCH_NETWORKS.* \(not set\)"):
        networks.public("mnist_tanh")


def test_a_ratio_counts_failures_as_far(benchmark):
    panel = benchmark("panel")
    measured = {"attack": "a", "distances": np.array([1.0, 1.02, np.inf, 2.0]), "passes": 3, "propagations": 5}
    line = panel.row({**measured, "seconds": 0.1}, np.ones(4))
    assert (line["found"], line["above 1.01"], line["above 1.05"]) == ("3/4", "75 %", "50 %")
    assert line["worst ratio"] == 2.0


def test_an_attack_that_fails_has_a_row_with_the_reason(benchmark, monkeypatch, tmp_path):
    panel = benchmark("panel")
    model, x = Hyperplane(), interior(4)
    data = (model, x, model(x).argmax(1))
    monkeypatch.setattr(panel, "own", lambda name: data)
    monkeypatch.setattr(panel, "right_images", lambda model, x, y, count: (x, y))

    def broken(model, x, y):
        raise RuntimeError("no kernel image")

    def not_even_an_error_of_its_own(model, x, y):
        raise ImportError("lipbench cannot import name x")

    methods = {"broken": broken, "missing": not_even_an_error_of_its_own, "lipbench": attacks.ddn}
    text, ours = panel.section("a", methods, panel.Best(tmp_path / "best.json"), Namespace(images=4, batch_size=4))
    lines = {line.split("|")[1].strip(): line for line in text.splitlines() if line.startswith("| ")}
    assert "no kernel image" in lines["broken"]
    assert "cannot import name x" in lines["missing"]
    assert "nan" not in lines["broken"].replace("name", "")
    assert "4/4" in lines["lipbench"]
    assert ours is not None
    assert ours["mean ratio"] == pytest.approx(1, abs=1e-4)
