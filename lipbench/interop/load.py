"""Bring your own model: from a Python file, a torch.export, TorchScript or ONNX file, with a checkpoint of any common
form; then judged in a folder like the networks that are trained here.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lipbench.data import Dataset
from lipbench.files import file_hash
from lipbench.gate import first_line
from lipbench.images import model_images
from lipbench.interop.adapters import Declared, InBatches, arrangement, check_precision, normalisation
from lipbench.interop.code import built, code_hash, explained, is_module
from lipbench.interop.kinds import EXPORTED, ONNX, SCRIPTED, Kind, ModelError, kind_of, not_what_was_expected
from lipbench.interop.onnx_graph import load_onnx
from lipbench.interop.weights import load_weights
from lipbench.modules import evaluation_mode, tensors, weights_hash
from lipbench.randomness import same_random_numbers

FORMS = (
    "path/to/file.py:function, package.module:function, a torch.export file (.pt2), a TorchScript file (.pt, .ts) or "
    "an ONNX file (.onnx)"
)


@dataclass(frozen=True)
class BroughtModel:
    """A model from outside.

    Attributes:
        network: as it classifies, in evaluation mode.
        identity: what it came from and what it holds, without paths.
    """

    network: nn.Module
    identity: dict[str, Any]


def load_model(
    source: str,
    checkpoint: str | Path | None = None,
    *,
    shape: tuple[int, ...] = (),
    classes: int = 0,
    input_layout: str | None = None,
    input_mean: float | Sequence[float] | None = None,
    input_std: float | Sequence[float] | None = None,
) -> BroughtModel:
    """A model from a reference to it.

    Code is run: name only files that you trust. The generators of random numbers start at seed 0 for it, so that the
    same command gives the same network, and go on afterwards as if nothing had happened.

    Args:
        source: see `FORMS`. The function is called without arguments, or with those of `shape` and `classes` that it
            has; a class is a function too, and an `nn.Module` is taken as it is.
        checkpoint: weights for the model of a function, see `lipbench.interop.weights.load_weights`.
        shape: of one image, (C, H, W); (): the network is given as it is in its file.
        classes: number of classes.
        input_layout: order of the axes that the network wants, such as "HWC" or "CHW_flat"; None: what its file says.
        input_mean, input_std: numbers in the units of pixels in [0, 1], one or one per channel; the network is given
            `(image - mean) / std`. None: 0 and 1.

    Raises:
        ModelError: the source cannot be read, or gives no model of such images.
        WeightsError: the checkpoint cannot be read, or does not fit.
    """
    path, function = _split(source)
    declared = None
    with same_random_numbers():
        torch.manual_seed(0)
        if function:
            model, file = built(path, function, {"shape": shape, "classes": classes})
            if checkpoint is not None:
                load_weights(model, checkpoint)
        else:
            model, declared = _loaded(source, checkpoint, shape)
            file = Path(source).expanduser()
    label = file.name if file and not (function and is_module(path)) else path
    before = [normalisation(input_mean, input_std, shape), arrangement(label, declared, shape, input_layout)]
    if any(before):
        # float64 only where all weights are: a network of several precisions is for the caller to judge.
        kinds = {t.dtype for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()}
        stages = [stage.to(torch.float64 if kinds == {torch.float64} else torch.float32) for stage in before if stage]
        model = nn.Sequential(*stages, model)
    evaluation_mode(model)
    # No path enters the identity: the same model elsewhere is the same model.
    identity: dict[str, Any] = {
        "source": f"{label}:{function}" if function else label,
        "sha256": code_hash(file) if file else None,
        "checkpoint": file_hash(Path(checkpoint).expanduser()) if checkpoint is not None else None,
        "weights": weights_hash({**model.state_dict(), **tensors(model)}),
    }
    inputs = {"layout": input_layout, "mean": input_mean, "std": input_std}
    if given := {key: value for key, value in inputs.items() if value is not None}:
        identity["input"] = given
    return BroughtModel(model, identity)


def default_name(source: str) -> str:
    """What the results of a model are called: the name of its file, or of the last part of its module."""
    path, function = _split(source)
    return path.rpartition(".")[2] if function and is_module(path) else Path(path).stem


@torch.no_grad()
def check_classifier(model: nn.Module, dataset: Dataset) -> None:
    """
    Raises:
        ModelError: the model refuses the images of a data set, or gives no logits [N, classes] for them.
    """
    where = f"images [N, {', '.join(map(str, dataset.shape))}] of {dataset.name}"
    try:
        logits = model(model_images(model, dataset.test.images[:2]))
    except Exception as error:  # of the user's code, in any way
        said = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {first_line(error)}"
        raise ModelError(f"The model refuses {where}. {said}") from error
    classes = len(dataset.classes)
    if not isinstance(logits, Tensor):
        kind = type(logits).__name__
        raise ModelError(f"The model gives a {kind} for {where}: wrap it in a module that gives the logits alone.")
    if logits.dtype not in (torch.float32, torch.float64):
        raise ModelError(f"The model computes in {logits.dtype}, too coarse for distances: bring model.float().")
    if tuple(logits.shape) == (2, 1) and classes == 2:
        raise ModelError(
            "The model gives one logit: return lipbench.antipodal(model), whose two logits are (-f/2, f/2)."
        )
    if tuple(logits.shape) != (2, classes):
        raise ModelError(
            f"The model gives {list(logits.shape)} for 2 {where}, which has {classes} classes: expected logits "
            f"[2, {classes}]."
        )


def _loaded(source: str, checkpoint: object, shape: tuple[int, ...]) -> tuple[nn.Module, Declared | None]:
    """The model of a file that holds graph and weights, and what the file states of one input."""
    file = Path(source).expanduser()
    if not file.exists():
        raise ModelError(f"There is no file {file}. model= is one of: {FORMS}.")
    kind = kind_of(file)
    if kind not in LOADERS:
        raise ModelError(not_what_was_expected(file, "a model", kind))
    if checkpoint is not None:
        raise ModelError(f"{file.name} holds its own weights: leave out checkpoint={checkpoint}.")
    return LOADERS[kind](file, shape)


def _split(source: str) -> tuple[str, str]:
    """Path or module, and function ("" where there is none); a colon after a drive's letter is none."""
    path, colon, function = source.rpartition(":")
    if colon and function.isidentifier() and path:
        return path, function
    return source, ""


def _exported(path: Path, shape: tuple[int, ...]) -> tuple[nn.Module, Declared]:
    with explained(path.name):
        program = torch.export.load(path)
        module = program.module()
    inputs = program.graph_signature.user_inputs
    if len(inputs) != 1:
        raise ModelError(f"{path.name} takes {len(inputs)} inputs: a classifier takes images alone.")
    value = next(node.meta["val"] for node in program.graph.nodes if node.name == inputs[0])
    check_precision(path.name, value.dtype)
    batch, *sizes = value.shape
    declared = tuple(n if isinstance(n, int) else None for n in sizes)
    if isinstance(batch, int):
        return InBatches(module, batch, batch), declared
    least = program.range_constraints[batch.node.expr].lower
    return module if least <= 1 else InBatches(module, int(least), None), declared


def _scripted(path: Path, shape: tuple[int, ...]) -> tuple[nn.Module, None]:
    with warnings.catch_warnings(), explained(path.name):
        warnings.simplefilter("ignore", DeprecationWarning)  # TorchScript files exist, although it is deprecated
        module: nn.Module = torch.jit.load(path, map_location="cpu")
    return module, None


def _converted(path: Path, shape: tuple[int, ...]) -> tuple[nn.Module, Declared]:
    try:
        network, batch = load_onnx(path, shape)
    except ImportError as error:
        raise ModelError(str(error)) from error
    return network if batch is None else InBatches(network, batch, batch), network.size


LOADERS: dict[Kind, Callable[[Path, tuple[int, ...]], tuple[nn.Module, Declared | None]]] = {
    EXPORTED: _exported,
    SCRIPTED: _scripted,
    ONNX: _converted,
}
