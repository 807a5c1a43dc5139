"""`python -m lipbench evaluate model=path/to/file.py:build checkpoint=weights.safetensors dataset=mnist08`: somebody
else's model, certified and attacked; one folder of results, as of a run.

Imported, this module stands back: `lipbench.evaluate` is the function of the Python interface.
"""

import shlex
import sys
from pathlib import Path

import hydra
import pandas as pd
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from tabulate import tabulate

from lipbench.commands.kinds import checked
from lipbench.commands.options import PATHS, check_overrides, judging, quoted, report_lines
from lipbench.commands.suites import CONF, PLACES, CommandError
from lipbench.escapes import say
from lipbench.interop.load import FORMS, ModelError, default_name, load_model
from lipbench.results import LawViolation
from lipbench.results.layout import run_folder_of
from lipbench.runs.brought import External
from lipbench.runs.experiment import Experiment
from lipbench.runs.outcome import FAILED, FINISHED, INTERRUPTED, attempt

NAMES = (*PATHS, "model.source", "checkpoint", "name")
# What is said in its own words, of somebody else's module too.
ERRORS = (LawViolation, ImportError, OSError, ValueError, TypeError, RuntimeError)


def brought_of(cfg: DictConfig) -> Experiment:
    """The judgement that a configuration asks for.

    Args:
        cfg: as composed from `conf/evaluate.yaml`.

    Raises:
        ModelError: no model is named, or it cannot be loaded.
    """
    plain = checked(OmegaConf.to_container(cfg, resolve=True))  # type: ignore[arg-type]
    source = plain["model"]["source"]
    if source is None:
        raise ModelError(f"Which model? model= is one of: {FORMS}.")
    dataset = instantiate({**plain["dataset"], "_partial_": True}, _convert_="all")()
    inputs = {key: plain[key] for key in ("input_layout", "input_mean", "input_std")}
    brought = load_model(source, plain["checkpoint"], shape=dataset.shape, classes=len(dataset.classes), **inputs)
    name = str(plain["name"] or default_name(source))
    if "/" in name or name in (".", ".."):
        raise ModelError(f"name={name} is one folder's name: without a slash, and not {'.'!r} or {'..'!r}.")
    for place in PLACES:
        plain["dataset"].pop(place, None)
    return Experiment(
        folder=run_folder_of(Path(plain["results"]), f"{dataset.name}/{name}", "default", 0),
        network={"dataset": plain["dataset"], "model": brought.identity},
        load_dataset=lambda: dataset,
        source=External(brought.network),
        **judging(plain),
    )


def layers_text(table: pd.DataFrame) -> str:
    """The table of layers for a terminal; a line where every layer has a bound."""
    if (table["why"] == "").all():
        return f"Each of the {len(table)} layers has a bound."
    shown = table.assign(layer=table["layer"].replace("", "(the model)"), bound=table["bound"].map("{:.4g}".format))
    shown = shown.rename(columns={"why": "why it has none", "remedy": "what would make it certifiable"})
    return tabulate(shown, headers="keys", showindex=False, maxcolwidths=[24, 16, None, 40, 40], disable_numparse=True)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="evaluate")
def task(cfg: DictConfig) -> None:
    """The judgement of one model."""
    if cfg.threads is not None:
        torch.set_num_threads(int(cfg.threads))
    try:
        brought = brought_of(cfg)
    except ERRORS as error:
        say(f"\n{error}\n", sys.stderr)
        raise SystemExit(FAILED) from error
    name = "/".join(brought.folder.parts[-4:-2])

    def work() -> None:
        summary = brought.run()
        say(layers_text(pd.read_csv(brought.folder / "layers.csv", keep_default_na=False)))
        say(report_lines(name, brought.folder, summary))
        say(f"Tables and figures: python -m lipbench report results={cfg.results}")

    command = shlex.join(["python", "-m", "lipbench", "evaluate", *HydraConfig.get().overrides.task])
    outcome = attempt(
        name,
        brought.folder,
        command,
        work,
        ERRORS,
        prepare=lambda: brought.source.check(brought.load_dataset()),
    )
    if outcome.code != FINISHED:
        raise SystemExit(outcome.code)


def main() -> None:
    """The command `python -m lipbench evaluate`."""
    # `model` alone is a group of conf/ to Hydra.
    arguments = [f"model.source={a.removeprefix('model=')}" if a.startswith("model=") else a for a in sys.argv[1:]]
    sys.argv[1:] = [quoted(argument, NAMES) for argument in arguments]
    try:
        check_overrides(sys.argv[1:], "evaluate")
        task()
    except CommandError as error:
        raise SystemExit(str(error)) from None
    except KeyboardInterrupt:
        say("\nInterrupted. The same command goes on where this one stopped.", sys.stderr)
        raise SystemExit(INTERRUPTED) from None
