"""One experiment in its folder: trained, baked and stored there, then judged (see `lipbench.runs.folder`)."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from lipbench.data import Dataset, Split
from lipbench.files import ResultsError, read_json, write_json, write_text
from lipbench.images import images_at_once, pixels
from lipbench.layers import BakingError, bake_closely
from lipbench.precision import float32_products
from lipbench.runs.artifacts import add_cost, read_costs
from lipbench.runs.environment import environment
from lipbench.runs.folder import RunFolder
from lipbench.runs.network import build, rebuild, save
from lipbench.training import event_log, processes


@dataclass(frozen=True, kw_only=True)
class Experiment(RunFolder):
    """What one run does and where its results go: `run` trains, bakes, certifies and attacks whatever is not there yet.

    Besides what `RunFolder` raises, `run` raises ImportError where `tensorboard` is set, the network is not trained yet
    and TensorBoard is not installed.

    Attributes:
        tensorboard: whether the training is logged to `<folder>/tensorboard/` as well.
    """

    loss: Callable[[Tensor, Tensor], Tensor]
    optimizer: Callable[[nn.Module], torch.optim.Optimizer]
    training: Callable[..., list[dict[str, Any]]]
    tensorboard: bool = False

    TRAINED = ("model.safetensors", "history.csv", "network.json", "environment.json")

    def assist(self) -> None:
        """What every process but the first does (see `lipbench.training.processes`): its share of the training, where
        the first one finds something to train. It writes nothing.
        """
        if processes.of_first(0.0):
            dataset = self.load_dataset()
            self._train(self._recipe(dataset), dataset)

    def _finished(self, identity: str) -> dict[str, Any] | None:
        summary = super()._finished(identity)
        if summary is not None:
            processes.of_first(0.0)  # the other processes wait for what they have to train
        return summary

    def _network(self, dataset: Dataset) -> nn.Module:
        """The baked network: from the folder, or trained now."""
        trained = (self.folder / "model.safetensors").exists()
        # The other processes wait for this, so that they load the data after the first one has prepared it.
        processes.of_first(float(not trained))
        recipe = self._recipe(dataset)
        if trained:
            self._checkpoint.unlink(missing_ok=True)  # left by a kill just after the weights were written
            model = rebuild(recipe, self.folder).to(self.device)
            write_json(self.folder / "model.json", recipe)
            self._add_cost(dataset)
            return model
        with event_log(self.folder / "tensorboard") if self.tensorboard else nullcontext() as on_epoch:
            model, history = self._train(recipe, dataset, on_epoch)
        write_text(self.folder / "history.csv", pd.DataFrame(history).to_csv(index=False, lineterminator="\n"))
        change = _bake(model, dataset.validation)
        write_json(self.folder / "environment.json", environment(self.device))
        write_json(self.folder / "network.json", {"bake_change": change})
        self._add_cost(dataset)
        save(model, recipe, self.folder)
        self._checkpoint.unlink(missing_ok=True)
        return model

    def _add_cost(self, dataset: Dataset) -> None:
        """Writes what the training cost, by its history, unless `costs.csv` says it."""
        if "training" in set(read_costs(self.folder)["method"]):
            return
        history = pd.read_csv(self.folder / "history.csv")
        add_cost(self.folder, "training", history["seconds"].sum(), len(dataset.train.labels) * len(history))

    def _recipe(self, dataset: Dataset) -> dict[str, Any]:
        return {
            "model": self.network["model"],
            "constraint": self.network["constraint"],
            "shape": list(dataset.shape),
            "classes": len(dataset.classes),
        }

    @property
    def _checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    def _train(
        self,
        recipe: dict[str, Any],
        dataset: Dataset,
        on_epoch: Callable[[dict[str, Any]], None] | None = None,
    ) -> tuple[nn.Module, list[dict[str, Any]]]:
        """The trained network, unbaked, and its history."""
        seed = int(self.network["seed"])
        torch.manual_seed(seed)
        model = build(recipe)
        history = self.training(
            model,
            dataset,
            self.loss,
            self.optimizer,
            seed=seed,
            device=self.device,
            checkpoint=self._checkpoint,
            progress=self.progress,
            on_epoch=on_epoch,
        )
        return model, history

    def _facts(self) -> dict[str, Any]:
        """What a comparison of constructions needs: which one it is, how it did on the validation set, its speed."""
        history = pd.read_csv(self.folder / "history.csv")
        return {
            **read_json(self.folder / "network.json"),
            "construction": str(self.network["constraint"]["_target_"]).rpartition(".")[2],
            "validation_certified_accuracy": float(history["certified_accuracy"].iloc[-1]),
            "validation_epsilon": float(self.network["training"].get("epsilon", 0.5)),
            "step_seconds": float(history["seconds"].sum() / history["steps"].sum()),
        }


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
