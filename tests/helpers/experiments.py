"""Experiments, composed and made small."""

from pathlib import Path

from hydra import compose, initialize_config_dir

from lipbench.commands.run import experiment_of
from lipbench.commands.suites import CONF
from lipbench.runs.experiment import Experiment

SMOKE = ["images=6", "training.epochs=1", "progress=false", "device=cpu", "attack.carlini_wagner.steps=5"]


def experiment(name: str, root: Path, *overrides: str) -> Experiment:
    chosen = [f"experiment={name}", f"results={root}", *SMOKE, *overrides]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", overrides=chosen)
    return experiment_of(cfg, name, [])
