"""`lipbench run experiment=mnist08/hkr_mlp seed=0`: train, bake, attack, certify; one folder of results.

`suite=mnist08` stands for all experiments of that folder, `suite=a,b` for those of both. Everything else is
Hydra's grammar. `torchrun --nproc-per-node 4 -m lipbench run ...` trains on four GPUs.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from lipbench.commands.help import groups_of
from lipbench.commands.kinds import checked
from lipbench.commands.lines import Pace, run_lines, stamp
from lipbench.commands.mistakes import CommandError
from lipbench.commands.options import MULTIRUN, PATHS, check_overrides, check_results, judging, quoted
from lipbench.commands.suites import CONF, PLACES, expand_suites
from lipbench.commands.sweeps import OUTCOMES, command_of, planned
from lipbench.commands.variants import NETWORK, called, folder_of, numbers_like_default, variant_of
from lipbench.escapes import say
from lipbench.results.facts import facts_of
from lipbench.runs.codes import FAILED, FINISHED, INTERRUPTED
from lipbench.runs.ending import Told, run_end
from lipbench.runs.experiment import Experiment
from lipbench.runs.outcome import Outcome, attempt, exit_code, summary_lines
from lipbench.runs.trained import Trained
from lipbench.training import processes

# Options that change no number of a run or are named apart.
MACHINE = {
    *("experiment", "seed", "results", "data_root", "device", "threads", "batch_size", "force", "progress"),
    *("tensorboard", "on_run_end", *(f"dataset.{place}" for place in PLACES)),
}
# Of the sweep whose runs this process makes one after the other.
PACE = Pace()


def experiment_of(cfg: DictConfig, name: str, overrides: list[str]) -> Experiment:
    """One experiment from its composed configuration.

    Args:
        cfg: as composed from `conf/`.
        name: "<dataset>/<experiment>", the choice of the group `experiment`.
        overrides: of the command line; those of the network make the variant.

    Raises:
        MissingExtra: an attack of another library that is not installed; before any training.
    """
    plain = checked(OmegaConf.to_container(cfg, resolve=True))  # type: ignore[arg-type]
    plain |= numbers_like_default({key: plain[key] for key in NETWORK}, name, overrides)
    network = {key: plain[key] for key in NETWORK}
    network["dataset"] = {key: value for key, value in plain["dataset"].items() if key not in PLACES}
    return Experiment(
        folder=folder_of(plain["results"], name, overrides, plain["seed"]),
        network=network,
        # A partial, called outside of Hydra: an error of its own then reads as it was written.
        load_dataset=cache(instantiate({**plain["dataset"], "_partial_": True}, _convert_="all")),
        source=Trained(
            **{part: instantiate(plain[part], _convert_="all") for part in ("loss", "optimizer", "training")},
            tensorboard=plain["tensorboard"],
        ),
        about=_facts(name, overrides, plain["seed"]),
        **judging(plain),
    )


def _facts(name: str, overrides: Sequence[str], seed: Any) -> dict[str, Any]:
    """The facts of a run, which hold wherever it is made again: without folders, device and seed."""
    parsed = [(o.lstrip("+~").partition("=")[0], o) for o in overrides]
    kept = sorted(o for key, o in parsed if key not in MACHINE and not key.startswith("hydra"))
    words = ["lipbench", "run", f"experiment={name}", f"seed={seed}", *kept]
    return facts_of(name.rpartition("/")[2], words, variant_of(name, overrides).overrides)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def task(cfg: DictConfig) -> Outcome:
    """One job of a run or sweep."""
    hydra_config = HydraConfig.get()
    name, overrides = str(hydra_config.runtime.choices["experiment"]), list(hydra_config.overrides.task)

    prepared: list[Experiment] = []
    told: list[Told] = []

    def prepare() -> None:
        prepared.append(experiment_of(cfg, name, overrides))
        told.append(run_end(cfg.on_run_end))
        if not processes.launched():  # else the first process reads the data before the others
            prepared[0].load_dataset()

    def work() -> None:
        if cfg.threads is not None:
            torch.set_num_threads(int(cfg.threads))
        (experiment,) = prepared
        if processes.launched():
            experiment = replace(experiment, device=processes.start(experiment.device))
        if processes.rank() > 0:
            experiment.source.assist(experiment)
        else:
            before, began = stamp(folder), time.monotonic()
            summary = experiment.run()
            seconds = None if before == stamp(folder) else time.monotonic() - began
            PACE.computed += [] if seconds is None else [seconds]
            say(run_lines(f"{PACE.head}{called(folder)}", folder, summary, seconds))
            if seconds is not None:  # a run that was kept has been told of
                told[0](folder, summary)

    try:
        folder = folder_of(cfg.results, name, overrides, cfg.seed)
        PACE.place += 1
        if PACE.folders and not stamp(folder):
            say(PACE.text(called(folder)), sys.stderr)
        outcome = attempt(called(folder), folder, command_of(overrides), work, prepare=prepare)
    except CommandError as error:
        print(f"\n{name}: {error}\n", file=sys.stderr)
        outcome = Outcome(name, str(cfg.results), FAILED, str(error))
    except KeyboardInterrupt:
        OUTCOMES.append(Outcome(called(folder), str(folder), INTERRUPTED, "interrupted"))
        raise
    finally:
        processes.stop()
    OUTCOMES.append(outcome)
    # In a sweep the other jobs go on, and the command says at its end which failed.
    if outcome.code != FINISHED and hydra_config.mode != RunMode.MULTIRUN:
        raise SystemExit(outcome.code)
    return outcome


def main(arguments: Sequence[str]) -> int:
    """The command `lipbench run`. Its exit codes are those of `lipbench.runs.outcome`."""
    words = [quoted(argument, PATHS, sweeps=True) for argument in expand_suites(arguments)]
    check_overrides(words, "config")
    check_results(words)
    if processes.launched() and MULTIRUN & set(words):
        raise CommandError(
            "Under torchrun a command trains one network: start a torchrun for each, or a sweep without it, "
            "in which every network has one process."
        )
    if not processes.launched() and not any(word.startswith(("experiment=", "suite=")) for word in arguments):
        default = dict(groups_of("config"))["experiment"]
        say(f"This runs {default}. Choose by experiment=DATASET/NAME or suite=DATASET: lipbench run --help.")
    # Hydra's parser refuses options of a run on both sides of --multirun.
    sys.argv = ["lipbench run", *sorted(words, key=MULTIRUN.__contains__)]
    PACE.begin(_in_turn(words))
    OUTCOMES.clear()
    try:
        task()
    finally:
        if OUTCOMES and MULTIRUN & set(words):
            say(summary_lines(OUTCOMES), sys.stderr)
    return exit_code(OUTCOMES)


def _in_turn(arguments: Sequence[str]) -> list[Path]:
    """The folders of the runs of a sweep that one process makes, one after the other; empty of any other command."""
    others = ("hydra/launcher", "hydra/sweeper", "hydra.sweeper")
    if not MULTIRUN & set(arguments) or any(word.startswith(others) for word in arguments):
        return []
    return [run.folder for run in planned(arguments)]
