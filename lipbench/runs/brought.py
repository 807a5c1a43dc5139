"""The run of an external model."""

from dataclasses import dataclass
from typing import Any

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
from lipbench.runs.folder import RunFolder


@dataclass(frozen=True, kw_only=True)
class Brought(RunFolder):
    """The judgement of somebody else's network. Besides the files of a run it writes `layers.csv`: what bounds each
    layer, or why it has no bound and what would give it one.
    """

    model: nn.Module

    def _check(self, dataset: Dataset) -> None:
        check_classifier(self.model, dataset)

    def _network(self, dataset: Dataset) -> nn.Module:
        model = _baked(self.model, dataset).to(self.device)
        table = layer_table(model, dataset.shape)
        write_text(self.folder / "layers.csv", table.to_csv(index=False, lineterminator="\n"))
        write_json(self.folder / "environment.json", environment(self.device))
        return model

    def _facts(self) -> dict[str, Any]:
        return {"source": self.network["model"]["source"]}


def _baked(model: nn.Module, dataset: Dataset) -> nn.Module:
    """
    Raises:
        ModelError: what is certified and attacked would not be the model as it was brought.
    """
    if not any(parametrize.is_parametrized(m) or isinstance(m, Construction) for m in model.modules()):
        return model  # and noise of its own is no change that baking makes
    x = model_images(model, dataset.test.images[:100])
    try:
        return bake_as_it_is(model, duplicate(model), lambda network: logits_of(network, x))
    except BakingError as error:
        raise ModelError(str(error)) from error
