"""`python -m lipbench.run experiment=mnist08/hkr_mlp seed=0`: train, bake, attack, certify; one folder of results.

`suite=mnist08` stands for all experiments of that folder, `suite=a,b` for those of both. Everything else is
Hydra's grammar. `torchrun --nproc-per-node 4 -m lipbench.run ...` trains on four GPUs.
"""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from lipbench.commandline import CONF, PLACES, CommandError, check_overrides, expand_suites, judging, report_lines
from lipbench.experiment import Experiment, variant_of
from lipbench.results import LawViolation, ResultsError
from lipbench.run_folder import run_folder_of
from lipbench.training import CheckpointError, TrainingDiverged, processes

NETWORK = ("dataset", "model", "constraint", "loss", "optimizer", "training", "seed")
EXPECTED = (
    ResultsError,
    CheckpointError,
    TrainingDiverged,
    LawViolation,
    OSError,
    ImportError,
    ValueError,
)


def experiment_of(cfg: DictConfig, name: str, overrides: list[str]) -> Experiment:
    """One experiment from its composed configuration.

    Args:
        cfg: as composed from `conf/`.
        name: "<dataset>/<experiment>", the choice of the group `experiment`.
        overrides: of the command line; those of the network make the variant.

    Raises:
        MissingExtra: an attack of another library that is not installed; before any training.
    """
    plain: dict[str, Any] = OmegaConf.to_container(cfg, resolve=True)  # type: ignore[assignment]
    dataset = dict(plain["dataset"])
    for place in PLACES:
        plain["dataset"].pop(place, None)
    network = {key: plain[key] for key in NETWORK}
    places = tuple(f"dataset.{place}=" for place in PLACES)
    overrides = [override for override in overrides if not override.lstrip("+~").startswith(places)]
    variant = variant_of(overrides, [key for key in NETWORK if key != "seed"])
    return Experiment(
        folder=run_folder_of(Path(plain["results"]), name, variant, plain["seed"]),
        network=network,
        # A partial, called outside of Hydra: an error of its own then reads as it was written.
        load_dataset=instantiate({**dataset, "_partial_": True}, _convert_="all"),
        loss=instantiate(plain["loss"], _convert_="all"),
        optimizer=instantiate(plain["optimizer"], _convert_="all"),
        training=instantiate(plain["training"], _convert_="all"),
        tensorboard=plain["tensorboard"],
        **judging(plain),
    )


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def task(cfg: DictConfig) -> None:
    """One job of a run or sweep."""
    hydra_config = HydraConfig.get()
    if cfg.threads is not None:
        torch.set_num_threads(cfg.threads)
    name = str(hydra_config.runtime.choices["experiment"])
    try:
        experiment = experiment_of(cfg, name, list(hydra_config.overrides.task))
        if processes.launched():
            experiment = replace(experiment, device=processes.start(experiment.device))
        if processes.rank() > 0:
            experiment.assist()
            return
        summary = experiment.run()
    except EXPECTED as error:
        print(f"\n{name}: {error}\n", file=sys.stderr)
        # In a sweep the other jobs go on and Hydra reports at the end; alone, the message above is all there is to say.
        if hydra_config.mode == RunMode.MULTIRUN:
            raise
        raise SystemExit(1) from error
    finally:
        processes.stop()
    print(report_lines(name, experiment.folder, summary), flush=True)


def main() -> None:
    """The command `python -m lipbench.run`."""
    try:
        sys.argv[1:] = expand_suites(sys.argv[1:])
        check_overrides(sys.argv[1:], "config")
        if processes.launched() and {"-m", "--multirun"} & set(sys.argv[1:]):
            raise CommandError(
                "Under torchrun a command trains one network: start a torchrun for each, or a sweep without it, "
                "in which every network has one process."
            )
        task()
    except CommandError as error:
        raise SystemExit(str(error)) from None
    except KeyboardInterrupt:
        print("\nInterrupted. The same command goes on where this one stopped.", file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
