"""A network on disk: `model.safetensors` holds the baked weights, `model.json` the recipe that rebuilds the modules
around them.
"""

import inspect
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from lipbench.layers import bake
from lipbench.results import ResultsError, atomic, read_json, write_json


def build(recipe: Mapping[str, Any], *, baked: bool = False) -> nn.Module:
    """An untrained network from its recipe: model and constraint (with `_target_`), shape, classes.

    Args:
        baked: as `lipbench.bake` leaves it. A builder with an option `baked` makes that itself (those of the peers do,
            so that their baked networks need no other library).
    """
    constraint = instantiate(recipe["constraint"], _convert_="all")
    builder = instantiate({**recipe["model"], "_partial_": True}, _convert_="all")
    if baked and "baked" in inspect.signature(builder).parameters:
        builder = partial(builder, baked=True)
    model: nn.Module = builder(shape=tuple(recipe["shape"]), classes=recipe["classes"], constraint=constraint)
    return bake(model) if baked else model


def save(model: nn.Module, recipe: Mapping[str, Any], folder: Path) -> None:
    """Writes a baked network. The weights come last: where they exist, the network is complete."""
    write_json(folder / "model.json", dict(recipe))
    with atomic(folder / "model.safetensors") as temporary:
        save_file({name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}, temporary)


def load(folder: str | Path) -> nn.Module:
    """The trained network of a run: baked, on the CPU, in evaluation mode, ready to classify images in [0, 1].

    The recipe names the functions that build the model, and they are called: load only folders that you trust.

    Raises:
        ResultsError: the folder holds no trained network, or a damaged one.
    """
    folder = Path(folder)
    recipe, weights = folder / "model.json", folder / "model.safetensors"
    if not (recipe.exists() and weights.exists()):
        raise ResultsError(
            f"{folder} holds no trained network (model.json and model.safetensors). A run's folder is "
            "<results>/<dataset>/<experiment>/<variant>/<seed>."
        )
    model = build(read_json(recipe), baked=True)
    try:
        model.load_state_dict(load_file(weights))
    except (SafetensorError, RuntimeError) as error:
        raise ResultsError(
            f"{weights} does not fit its recipe ({error}). Delete it and run the experiment again."
        ) from error
    return model.eval()
