"""`python -m lipbench run experiment=mnist08/hkr_mlp seed=0`: train, bake, attack, certify; one folder of results.

`suite=mnist08` stands for all experiments of that folder, `suite=a,b` for those of both. Everything else is
Hydra's grammar. `torchrun --nproc-per-node 4 -m lipbench run ...` trains on four GPUs.
"""

import signal
import sys
from dataclasses import replace
from functools import cache

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from lipbench.commands.kinds import checked
from lipbench.commands.options import PATHS, check_overrides, check_results, judging, quoted, report_lines
from lipbench.commands.suites import CONF, PLACES, CommandError, expand_suites
from lipbench.commands.sweeps import OUTCOMES, command_of
from lipbench.commands.variants import NETWORK, called, folder_of, numbers_like_default
from lipbench.escapes import say
from lipbench.runs.experiment import Experiment
from lipbench.runs.outcome import FAILED, FINISHED, INTERRUPTED, Outcome, attempt, exit_code, summary_lines
from lipbench.runs.trained import Trained
from lipbench.training import processes


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
        **judging(plain),
    )


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def task(cfg: DictConfig) -> Outcome:
    """One job of a run or sweep."""
    hydra_config = HydraConfig.get()
    name, overrides = str(hydra_config.runtime.choices["experiment"]), list(hydra_config.overrides.task)

    prepared: list[Experiment] = []

    def prepare() -> None:
        prepared.append(experiment_of(cfg, name, overrides))
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
            summary = experiment.run()
            say(report_lines(called(folder), experiment.folder, summary))

    try:
        folder = folder_of(cfg.results, name, overrides, cfg.seed)
        outcome = attempt(called(folder), folder, command_of(overrides), work, prepare=prepare)
    except CommandError as error:
        print(f"\n{name}: {error}\n", file=sys.stderr)
        outcome = Outcome(name, str(cfg.results), FAILED, str(error))
    finally:
        processes.stop()
    OUTCOMES.append(outcome)
    # In a sweep the other jobs go on, and the command says at its end which failed.
    if outcome.code != FINISHED and hydra_config.mode != RunMode.MULTIRUN:
        raise SystemExit(outcome.code)
    return outcome


def main() -> None:
    """The command `lipbench run`. Its exit codes are those of `lipbench.runs.outcome`. SIGTERM, which a batch system
    sends, is Ctrl-C: workers end with it, and locks are given back.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        sys.argv[1:] = [quoted(argument, PATHS, sweeps=True) for argument in expand_suites(sys.argv[1:])]
        check_overrides(sys.argv[1:], "config")
        check_results(sys.argv[1:])
        if processes.launched() and {"-m", "--multirun"} & set(sys.argv[1:]):
            raise CommandError(
                "Under torchrun a command trains one network: start a torchrun for each, or a sweep without it, "
                "in which every network has one process."
            )
        OUTCOMES.clear()
        try:
            task()
        finally:
            if OUTCOMES and {"-m", "--multirun"} & set(sys.argv[1:]):
                say(summary_lines(OUTCOMES), sys.stderr)
        raise SystemExit(exit_code(OUTCOMES))
    except CommandError as error:
        raise SystemExit(str(error)) from None
    except KeyboardInterrupt:
        say("\nInterrupted. The same command goes on where this one stopped.", sys.stderr)
        raise SystemExit(INTERRUPTED) from None
