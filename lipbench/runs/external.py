"""The network of a run that judges an external model."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn
from torch.nn.utils import parametrize

from lipbench.certificate import layer_table
from lipbench.data import Dataset
from lipbench.files import write_json, write_text
from lipbench.gate import logits_of
from lipbench.images import model_images
from lipbench.interop.kinds import ModelError
from lipbench.interop.load import check_classifier
from lipbench.layers import BakingError, Construction, bake_as_it_is
from lipbench.modules import duplicate
from lipbench.runs.environment import environment
from lipbench.runs.experiment import Experiment


@dataclass(frozen=True)
class External:
    """Gives a network that was loaded (`lipbench.interop`), and writes `layers.csv`: what bounds each layer, or why it
    has no bound and what would give it one.
    """

    model: nn.Module

    trained: ClassVar[Collection[str]] = ()

    def check(self, dataset: Dataset) -> None:
        """
        Raises:
            ModelError: the model is no classifier of these images.
        """
        check_classifier(self.model, dataset)

    def network(self, run: Experiment, dataset: Dataset) -> nn.Module:
        """The baked network, on the device."""
        model = _baked(self.model, dataset).to(run.device)
        table = layer_table(model, dataset.shape)
        write_text(run.folder / "layers.csv", table.to_csv(index=False, lineterminator="\n"))
        write_json(run.folder / "environment.json", environment(run.device))
        return model

    def skipped(self) -> None:
        """Nothing."""

    def assist(self, run: Experiment) -> None:
        """Nothing: there is no training."""

    def facts(self, run: Experiment) -> dict[str, Any]:
        """Where the model was loaded from."""
        return {"source": run.network["model"]["source"]}


def _baked(model: nn.Module, dataset: Dataset) -> nn.Module:
    """
    Raises:
        ModelError: what is certified and attacked would not be the model as it was loaded.
    """
    if not any(parametrize.is_parametrized(m) or isinstance(m, Construction) for m in model.modules()):
        return model  # and noise of its own is no change that baking makes
    x = model_images(model, dataset.test.images[:100])
    try:
        return bake_as_it_is(model, duplicate(model), lambda network: logits_of(network, x))
    except BakingError as error:
        raise ModelError(str(error)) from error
