"""A network on disk: `model.safetensors` holds the baked weights, `model.json` the recipe that rebuilds the modules
around them.
"""

import inspect
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as serialize
from torch import nn

from lipbench.files import ResultsError, atomic, read_json, write_json
from lipbench.layers import bake
from lipbench.modules import bounded_memory
from lipbench.results import named_run, verify
from lipbench.runs.trust import check_targets

WEIGHTS = "model.safetensors"
# How names of models of others end, which `load` does not read: also "file.py:function".
MODELS = (".onnx", ".pt", ".ts", ".py", ".safetensors")


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
    weights = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
    with atomic(folder / WEIGHTS) as temporary:
        temporary.write_bytes(serialize(weights))  # safetensors' own files can be read by their owner alone


def load(folder: str | Path, trust: Sequence[str] = ()) -> nn.Module:
    """The trained network of a run: baked, on the CPU, in evaluation mode, ready to classify images in [0, 1].

    The recipe may name building blocks of lipbench and torch alone (see `lipbench.runs.trust.check_targets`), so that a
    folder from elsewhere can be loaded.

    Args:
        folder: of the run, `<results>/<dataset>/<experiment>/<variant>/<seed>`, or one above it: then its `default/0`,
            or the only run in it. A name such as "mnist08/hkr_mlp" is looked up in the committed results.
        trust: packages of your own that the recipe may name as well, such as ("mypackage",): their code is run.

    Raises:
        ResultsError: the folder holds no trained network, or a damaged one; it is a file, see `lipbench.load_model`.
        Damaged: the network of a finished run was changed after the run.
        UntrustedError: the recipe names something else; nothing was built then.
    """
    if not Path(folder).is_dir() and (Path(folder).is_file() or Path(folder).suffix.startswith(MODELS)):
        raise ResultsError(
            f"{folder} is no folder of a run. lipbench.load_model({str(folder)!r}, shape=(C, H, W)).network is the "
            "network of an ONNX, TorchScript or torch.export file, or of a function, file.py:function."
        )
    folder = named_run(folder)
    path = folder / "model.json"
    if not (path.exists() and (folder / WEIGHTS).exists()):
        raise ResultsError(
            f"{folder} holds no trained network (model.json and model.safetensors): it is the run of an external "
            "model, or one whose weights were removed. Run the experiment again."
        )
    verify(folder, ("model.json", WEIGHTS))
    recipe = read_json(path)
    check_targets(recipe, str(path), trust)
    return rebuild(recipe, folder)


def rebuild(recipe: Mapping[str, Any], folder: Path) -> nn.Module:
    """The network of a recipe that is trusted, with the weights of a run's folder; otherwise as `load`.

    Raises:
        ResultsError: the recipe builds no network, or one that needs other weights or far more memory than these.
    """
    weights = folder / WEIGHTS
    try:
        tensors = load_file(weights)
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise ResultsError(f"{weights} is damaged ({error}). Delete it and run the experiment again.") from error
    try:
        with bounded_memory(tensors):
            model = build(recipe, baked=True)
        model.load_state_dict(tensors)
    except ImportError:
        raise  # of a library that a recipe of its peers needs
    except Exception as error:  # options that do not fit each other fail anywhere in a builder
        reason = " ".join(str(error).split())[:500]
        raise ResultsError(
            f"{weights} does not fit its recipe, {folder / 'model.json'} ({reason}). Delete it and run the experiment "
            "again."
        ) from error
    return model.eval()
