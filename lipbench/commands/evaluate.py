"""`lipbench evaluate model=path/to/file.py:build checkpoint=weights.safetensors dataset=mnist08`: an external model,
certified and attacked; one folder of results, as of a run.
"""

import shlex
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from tabulate import tabulate

from lipbench.commands.kinds import checked
from lipbench.commands.lines import run_lines, stamp
from lipbench.commands.options import PATHS, configured, judging
from lipbench.commands.suites import PLACES
from lipbench.escapes import say
from lipbench.files import read_json
from lipbench.interop.load import FORMS, ModelError, default_name, load_model
from lipbench.report.methods import explained, method_cells, method_numbers
from lipbench.results import LawViolation, read_bounds
from lipbench.results.attacked import attacked_images
from lipbench.results.facts import facts_of
from lipbench.results.flags import Flag
from lipbench.results.layout import run_folder_of
from lipbench.runs.artifacts import read_costs
from lipbench.runs.ending import run_end
from lipbench.runs.experiment import Experiment
from lipbench.runs.external import External
from lipbench.runs.outcome import attempt

NAMES = (*PATHS, "model.source", "checkpoint", "name")
# Errors that are said without a traceback, also those of the model's own code.
ERRORS = (LawViolation, ImportError, OSError, ValueError, TypeError, RuntimeError)


def external_of(cfg: DictConfig) -> Experiment:
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
    external = load_model(source, plain["checkpoint"], shape=dataset.shape, classes=len(dataset.classes), **inputs)
    name = str(plain["name"] or default_name(source))
    if "/" in name or name in (".", ".."):
        raise ModelError(f"name={name} is one folder's name: without a slash, and not {'.'!r} or {'..'!r}.")
    for place in PLACES:
        plain["dataset"].pop(place, None)
    return Experiment(
        folder=run_folder_of(Path(plain["results"]), f"{dataset.name}/{name}", "default", 0),
        network={"dataset": plain["dataset"], "model": external.identity},
        load_dataset=lambda: dataset,
        source=External(external.network),
        about=_facts(dataset.name, name, source, plain),
        **judging(plain),
    )


def _facts(dataset: str, name: str, source: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a run, which hold wherever the model's file lies."""
    words = [f"model={Path(source).name}", f"dataset={dataset}", f"name={name}", f"images={options['images']}"]
    words += [f"checkpoint={Path(options['checkpoint']).name}"] if options["checkpoint"] else []
    return facts_of(name, ["lipbench", "evaluate", *words], [])


def layers_text(table: pd.DataFrame) -> str:
    """The table of layers for a terminal; a line where every layer has a bound."""
    if (table["why"] == "").all():
        return f"Each of the {len(table)} layers has a bound."
    shown = table.assign(layer=table["layer"].replace("", "(the model)"), bound=table["bound"].map("{:.4g}".format))
    shown = shown.rename(columns={"why": "why it has none", "remedy": "what would make it certifiable"})
    return tabulate(shown, headers="keys", showindex=False, maxcolwidths=[24, 16, None, 40, 40], disable_numparse=True)


def methods_text(folder: Path) -> str:
    """Optimality and costs of each method of a run, for a terminal."""
    attacked = attacked_images(read_bounds(folder))
    costs = read_costs(folder).set_index("method")
    flags = [Flag(**flag) for flag in read_json(folder / "summary.json")["flags"]]
    headings, *rows = method_cells([method_numbers(attacked, costs, flags)])
    text = tabulate(rows, headings, disable_numparse=True, colalign=("left", *["right"] * (len(headings) - 1)))
    return "\n".join([text, explained([attacked])]).rstrip()


def main(arguments: Sequence[str]) -> int:
    """The command `lipbench evaluate`. Its exit codes are those of `lipbench.runs.outcome`."""
    # `model` alone is a group of conf/ to Hydra.
    words = [f"model.source={a.removeprefix('model=')}" if a.startswith("model=") else a for a in arguments]
    cfg = configured(words, "evaluate", NAMES)
    if cfg.threads is not None:
        torch.set_num_threads(int(cfg.threads))
    told = run_end(cfg.on_run_end)
    external = external_of(cfg)
    name = "/".join(external.folder.parts[-4:-2])

    def work() -> None:
        before, began = stamp(external.folder), time.monotonic()
        summary = external.run()
        say(layers_text(pd.read_csv(external.folder / "layers.csv", keep_default_na=False)))
        seconds = None if before == stamp(external.folder) else time.monotonic() - began
        say(methods_text(external.folder))
        say(run_lines(name, external.folder, summary, seconds))
        if seconds is not None:
            told(external.folder, summary)
        say(f"Tables and figures: lipbench report results={cfg.results}")

    command = shlex.join(["lipbench", "evaluate", *arguments])
    prepare = partial(external.source.check, external.load_dataset())
    return attempt(name, external.folder, command, work, ERRORS, prepare=prepare).code
