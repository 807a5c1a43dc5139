"""The network of an experiment: trained, baked and stored in its folder."""

from collections.abc import Callable, Collection
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import torch
from torch import Tensor, nn

from lipbench.data import Dataset, Split
from lipbench.files import ResultsError, read_json, write_json, write_text
from lipbench.images import images_at_once, pixels
from lipbench.layers import BakingError, bake_closely
from lipbench.modules import weights_hash
from lipbench.precision import float32_products
from lipbench.runs.artifacts import add_cost, read_costs
from lipbench.runs.environment import environment
from lipbench.runs.experiment import Experiment
from lipbench.runs.network import build, rebuild, save
from lipbench.training import event_log, processes


@dataclass(frozen=True, kw_only=True)
class Trained:
    """Trains and bakes the network of an experiment, or reads it from the folder.

    Attributes:
        tensorboard: whether the training is logged to `<folder>/tensorboard/` as well.
    """

    loss: Callable[[Tensor, Tensor], Tensor]
    optimizer: Callable[[nn.Module], torch.optim.Optimizer]
    training: Callable[..., list[dict[str, Any]]]
    tensorboard: bool = False

    trained: ClassVar[Collection[str]] = ("model.safetensors", "history.csv", "network.json", "environment.json")

    def check(self, dataset: Dataset) -> None:
        """Nothing: the network is made for the data set."""

    def assist(self, run: Experiment) -> None:
        """What every process but the first does (see `lipbench.training.processes`): its share of the training, where
        the first one finds something to train. It writes nothing.
        """
        if processes.of_first(0.0):
            dataset = run.load_dataset()
            self._train(run, _recipe(run, dataset), dataset)

    def skipped(self) -> None:
        """Tells the other processes that there is nothing to train."""
        processes.of_first(0.0)

    def network(self, run: Experiment, dataset: Dataset) -> nn.Module:
        """The baked network: from the folder, or trained now."""
        trained = (run.folder / "model.safetensors").exists()
        # The other processes wait for this, so that they load the data after the first one has prepared it.
        processes.of_first(float(not trained))
        recipe = _recipe(run, dataset)
        if trained:
            _checkpoint(run).unlink(missing_ok=True)  # left by a kill just after the weights were written
            model = rebuild(recipe, run.folder).to(run.device)
            held = read_json(run.folder / "network.json").get("weights")
            if held is not None and held != weights_hash(model.state_dict()):
                raise ResultsError(
                    f"{run.folder / 'model.safetensors'} holds other weights than the training made. Only a new "
                    "training makes them: restore the file from a copy, or use force=true to make the run again."
                )
            write_json(run.folder / "model.json", recipe)
            _add_cost(run, dataset)
            return model
        with event_log(run.folder / "tensorboard") if self.tensorboard else nullcontext() as on_epoch:
            model, history = self._train(run, recipe, dataset, on_epoch)
        write_text(run.folder / "history.csv", pd.DataFrame(history).to_csv(index=False, lineterminator="\n"))
        change = _bake(model, dataset.validation)
        write_json(run.folder / "environment.json", environment(run.device))
        write_json(run.folder / "network.json", {"bake_change": change, "weights": weights_hash(model.state_dict())})
        _add_cost(run, dataset)
        save(model, recipe, run.folder)
        _checkpoint(run).unlink(missing_ok=True)
        return model

    def _train(
        self,
        run: Experiment,
        recipe: dict[str, Any],
        dataset: Dataset,
        on_epoch: Callable[[dict[str, Any]], None] | None = None,
    ) -> tuple[nn.Module, list[dict[str, Any]]]:
        """The trained network, unbaked, and its history."""
        seed = int(run.network["seed"])
        torch.manual_seed(seed)
        model = build(recipe)
        history = self.training(
            model,
            dataset,
            self.loss,
            self.optimizer,
            seed=seed,
            device=run.device,
            checkpoint=_checkpoint(run),
            progress=run.progress,
            on_epoch=on_epoch,
        )
        return model, history

    def facts(self, run: Experiment) -> dict[str, Any]:
        """What a comparison of constructions needs: which one it is, how it did on the validation set, its speed."""
        history = pd.read_csv(run.folder / "history.csv")
        return {
            "bake_change": read_json(run.folder / "network.json")["bake_change"],
            "construction": str(run.network["constraint"]["_target_"]).rpartition(".")[2],
            "validation_certified_accuracy": float(history["certified_accuracy"].iloc[-1]),
            "validation_epsilon": float(run.network["training"].get("epsilon", 0.5)),
            "step_seconds": float(history["seconds"].sum() / history["steps"].sum()),
        }


def _add_cost(run: Experiment, dataset: Dataset) -> None:
    """Writes what the training cost, by its history, unless `costs.csv` says it."""
    if "training" in set(read_costs(run.folder)["method"]):
        return
    history = pd.read_csv(run.folder / "history.csv")
    add_cost(run.folder, "training", history["seconds"].sum(), len(dataset.train.labels) * len(history))


def _recipe(run: Experiment, dataset: Dataset) -> dict[str, Any]:
    return {
        "model": run.network["model"],
        "constraint": run.network["constraint"],
        "shape": list(dataset.shape),
        "classes": len(dataset.classes),
    }


def _checkpoint(run: Experiment) -> Path:
    return run.folder / "checkpoint.pt"


@float32_products()
def _bake(model: nn.Module, validation: Split) -> float:
    """Bakes in place and returns the largest change of a logit over (at most 1000) validation images.

    Raises:
        ResultsError: the network in training was not the one that would be certified.
    """
    device = next(model.parameters()).device
    batches = validation.images[:1000].split(images_at_once(validation.images.shape[1:]))
    try:
        _, change = bake_closely(model, lambda network: torch.cat([network(pixels(b, device)) for b in batches]))
    except BakingError as error:
        raise ResultsError(f"{error} Lower optimizer.lr or let the schedule end at 0.") from error
    return change
