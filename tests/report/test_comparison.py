"""One body, every construction: the sweep in the experiment, the choice on validation, the figure."""

import re
from dataclasses import replace

import pandas as pd
import pytest
from helpers.experiments import experiment
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from lipbench.commands.run import experiment_of
from lipbench.commands.suites import CONF, CommandError, expand_suites
from lipbench.figures import RECIPES, best_variants, construction_comparison, drawings
from lipbench.report import find_runs, leaderboard

DATASETS = (
    "digits",
    "digits08",
    "mnist",
    "mnist08",
    "cifar10_jpeg",
    "cifar10",
    "celeba_drawn_eyeglasses",
    "celeba_mustache",
)


def row(construction: str, variant: str, validation: float, certified: float, seed: int = 0) -> dict:
    return {
        "construction": construction,
        "variant": variant,
        "seed": seed,
        "validation": validation,
        "accuracy": 99.0,
        "certified": certified,
        "tightness": 1.1,
        "ms": 10.0,
    }


def test_the_validation_set_chooses_not_the_test_set():
    runs = pd.DataFrame(
        [
            row("aoc", "loss.margin=1", validation=80, certified=99),
            row("aoc", "loss.margin=2", validation=90, certified=70),
            row("aoc", "loss.margin=2", validation=70, certified=60, seed=1),
            row("aol", "loss.margin=1", validation=50, certified=68),
        ]
    )
    chosen = best_variants(runs)
    # The mean over seeds decides: margin 2 has 80 on average, as margin 1 has.
    assert list(chosen["construction"]) == ["aoc", "aol"]
    runs.loc[2, "validation"] = 75
    chosen = best_variants(runs)
    assert list(chosen["construction"]) == ["aol", "aoc"], "sorted by the certified accuracy of the chosen ones"
    aoc = chosen.set_index("construction").loc["aoc"]
    assert aoc["variant"] == "loss.margin=2"
    assert aoc["certified"] == 65
    assert aoc["seeds"] == 2


def test_the_figure_shows_every_construction():
    table = best_variants(pd.DataFrame([row("aoc", "a", 1, 90), row("Identity", "b", 0, 0), row("mine", "c", 1, 50)]))
    figure = construction_comparison(table, 2.0)
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert labels == ["AOC / BCOP", "mine", "classical"]
    assert {axis.get_xlabel().split("\n")[0] for axis in figure.axes} == {
        "test images (%)",
        "distance / certificate",
        "ms per training step",
    }


@pytest.mark.parametrize("dataset", DATASETS)
def test_every_construction_of_the_sweep_exists(dataset):
    name = f"{dataset}/layers_cnn"
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", overrides=[f"experiment={name}"], return_hydra_config=True)
    swept = OmegaConf.to_container(cfg.hydra.sweeper.params)
    names = swept.pop("constraint").split(",")
    assert set(names) == {path.stem for path in (CONF / "constraint").glob("*.yaml")}, "every construction, once"
    assert len(names) == len(set(names))
    assert len(next(iter(swept.values())).split(",")) >= 3, "margins to choose from"
    assert f"{cfg.training.epsilon:g}" in {f"{eps:g}" for eps in cfg.epsilons}


def test_a_suite_can_be_one_experiment():
    assert expand_suites(["suite=mnist08/layers_cnn"]) == ["--multirun", "experiment=mnist08/layers_cnn"]
    with pytest.raises(CommandError, match="Unknown suite"):
        expand_suites(["suite=mnist08/layers_cnm"])


def test_the_report_compares_what_was_swept(tmp_path):
    for constraint in ("aoc", "aol"):
        options = ["training.minutes=null", "attack=[fgm,carlini_wagner]"]
        job = experiment("digits08/layers_cnn", tmp_path, f"constraint={constraint}", *options)
        object.__setattr__(job, "folder", tmp_path / "digits08/layers_cnn" / f"constraint={constraint}" / "0")
        job.run()
    (recipe,) = [recipe for recipe in RECIPES if recipe.name == "constructions"]
    (drawing,) = drawings(find_runs(tmp_path), [recipe])
    assert drawing.name == "constructions_digits08_layers_cnn"
    assert set(drawing.table["construction"]) == {"aoc", "aol"}
    assert set(drawing.table["epsilon"]) == {0.5}
    assert (drawing.table["ms"] > 0).all()
    first = drawing.table.iloc[0]
    assert f"{first['construction']} certifies most, {first['certified']:.1f} %" in drawing.alt
    alone = find_runs(tmp_path)
    assert list(drawings(replace(alone, finished=alone.finished[:1]), [recipe])) == [], "nothing to compare"


def test_a_run_without_attacks_certifies_alone_and_stands_in_the_leaderboard(tmp_path):
    chosen = ["experiment=digits08/hkr_mlp", f"results={tmp_path}", "training.epochs=8", "device=cpu", "attack=[]"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        job = experiment_of(compose("config", overrides=chosen), "digits08/hkr_mlp", [])
    summary = job.run()
    assert summary["attacked_images"] == 0
    assert summary["median_distance"] is None
    assert summary["certified_accuracy"]["0.5"] > 0
    experiment("digits08/kr_mlp", tmp_path).run()
    columns = [c for c in leaderboard(find_runs(tmp_path)) if re.fullmatch(r"(rob|cert) @ \S+", c)]
    radii = [0.25, 0.5, 1, 1.58, 2, 3]
    assert columns == [f"{name} @ {eps:g}" for name in ("cert", "rob") for eps in radii]
