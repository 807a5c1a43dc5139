"""`python -m lipbench.run experiment=mnist08/hkr_mlp seed=0`: train, bake, attack, certify; one folder of results.

`suite=mnist08` stands for all experiments of that folder, `suite=a,b` for those of both. Everything else is
Hydra's grammar.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from lipbench.attacks.peers import MissingExtra
from lipbench.commandline import CONF, CommandError, check_overrides, expand_suites
from lipbench.experiment import Experiment, run_folder_of, variant_of
from lipbench.results import LawViolation, ResultsError
from lipbench.training import CheckpointError, TrainingDiverged

NETWORK = ("dataset", "model", "constraint", "loss", "optimizer", "training", "seed")
EXPECTED = (
    ResultsError,
    CheckpointError,
    TrainingDiverged,
    LawViolation,
    FileNotFoundError,
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
    data_root = plain["dataset"].pop("root", None)
    dataset = {**plain["dataset"], **({"root": data_root} if data_root is not None else {})}
    network = {key: plain[key] for key in NETWORK}
    variant = variant_of(overrides, [key for key in NETWORK if key != "seed"])
    attacks = plain.get("attack") or {}
    certificates = plain.get("certificate") or {}
    return Experiment(
        folder=run_folder_of(Path(plain["results"]), name, variant, plain["seed"]),
        network=network,
        # A partial, called outside of Hydra: an error of its own then reads as it was written.
        load_dataset=instantiate({**dataset, "_partial_": True}, _convert_="all"),
        loss=instantiate(plain["loss"], _convert_="all"),
        optimizer=instantiate(plain["optimizer"], _convert_="all"),
        training=instantiate(plain["training"], _convert_="all"),
        attacks={key: _method(value) for key, value in attacks.items()},
        certificates={key: _method(value) for key, value in certificates.items()},
        options={**attacks, **certificates},
        images=plain["images"],
        batch_size=plain["batch_size"],
        epsilons=plain["epsilons"],
        device=_device(plain["device"]),
        force=plain["force"],
        progress=plain["progress"],
        tensorboard=plain["tensorboard"],
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
        summary = experiment.run()
    except EXPECTED as error:
        print(f"\n{name}: {error}\n", file=sys.stderr)
        # In a sweep the other jobs go on and Hydra reports at the end; alone, the message above is all there is to say.
        if hydra_config.mode == RunMode.MULTIRUN:
            raise
        raise SystemExit(1) from error
    print(_line(name, experiment.folder, summary), flush=True)


def main() -> None:
    """The command `python -m lipbench.run`."""
    try:
        sys.argv[1:] = expand_suites(sys.argv[1:])
        check_overrides(sys.argv[1:], "config")
        task()
    except CommandError as error:
        raise SystemExit(str(error)) from None
    except KeyboardInterrupt:
        print("\nInterrupted. The same command goes on where this one stopped.", file=sys.stderr)
        raise SystemExit(130) from None


def _method(options: Mapping[str, Any]) -> Any:
    """An attack or a certificate. Of a library that is missing, Hydra says where it looked; the cause, what to do."""
    try:
        return instantiate(options, _convert_="all")
    except InstantiationException as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, MissingExtra):
            cause = cause.__cause__
        raise cause or error from None


def _line(name: str, folder: Path, summary: Mapping[str, Any]) -> str:
    distance = summary["median_distance"]
    return (
        f"{name:24s} accuracy {100 * summary['accuracy']:6.2f} %   "
        f"median certificate {summary['median_certificate'] or 0:.3f}   "
        f"median distance {distance if distance is not None else float('nan'):.3f}   "
        f"violations {summary['violations']}   -> {folder}"
    )


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


if __name__ == "__main__":
    main()
