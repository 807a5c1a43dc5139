"""Bring your own model: from a Python file, a torch.export, TorchScript or ONNX file, with a checkpoint of any common
form; then judged in a folder like the networks that are trained here.
"""

import hashlib
import importlib
import importlib.util
import inspect
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lipbench.attacks.engine.exact import first_line
from lipbench.bounds import as_pixels
from lipbench.certificate import layer_table
from lipbench.data import Dataset
from lipbench.environment import environment
from lipbench.layers import BakingError, Construction, bake_closely
from lipbench.models import OnnxError, load_onnx, load_weights
from lipbench.results import file_hash, write_json, write_text
from lipbench.run_folder import RunFolder
from lipbench.state import evaluation_mode, same_random_numbers, tensors, weights_hash

EXPORTED, SCRIPTED, ONNX = (".pt2",), (".pt", ".pth", ".ts", ".torchscript"), (".onnx",)
FORMS = (
    "path/to/file.py:function, package.module:function, a torch.export file (.pt2), a TorchScript file (.pt, .ts) or "
    "an ONNX file (.onnx)"
)


class ModelError(ValueError):
    """A model that cannot be loaded, or is no classifier of the images, with what would help."""


@dataclass(frozen=True)
class BroughtModel:
    """A model from outside.

    Attributes:
        network: as it classifies, in evaluation mode.
        identity: what it came from and what it holds, without paths.
    """

    network: nn.Module
    identity: dict[str, Any]


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


def load_model(
    source: str, checkpoint: str | Path | None = None, *, shape: tuple[int, ...] = (), classes: int = 0
) -> BroughtModel:
    """A model from a reference to it.

    Code is run: name only files that you trust. The generators of random numbers start at seed 0 for it, so that the
    same command gives the same network, and go on afterwards as if nothing had happened.

    Args:
        source: see `FORMS`. The function is called without arguments, or with those of `shape` and `classes` that it
            has; a class is a function too, and an `nn.Module` is taken as it is.
        checkpoint: weights for the model of a function, see `lipbench.models.load_weights`.
        shape: of one image, (C, H, W).
        classes: number of classes.

    Raises:
        ModelError: the source cannot be read, or gives no model.
        WeightsError: the checkpoint cannot be read, or does not fit.
    """
    path, function = _split(source)
    loaders: dict[tuple[str, ...], Callable[[Path], nn.Module]] = {
        EXPORTED: _exported,
        SCRIPTED: _scripted,
        ONNX: _converted,
    }
    with same_random_numbers():
        torch.manual_seed(0)
        if function:
            model, file = _built(path, function, {"shape": shape, "classes": classes})
        else:
            file = Path(path)
            load = next((load for suffixes, load in loaders.items() if file.suffix in suffixes), None)
            if load is None:
                raise ModelError(f"model={source} names no model. It is one of: {FORMS}.")
            if not file.exists():
                raise ModelError(f"There is no file {file}.")
            if checkpoint is not None:
                raise ModelError(f"{file.name} holds its own weights: leave out checkpoint={checkpoint}.")
            model = load(file)
    if checkpoint is not None:
        load_weights(model, checkpoint)
    evaluation_mode(model)
    # No path enters the identity: the same model elsewhere is the same model.
    name = file.name if file and not _is_module(path) else path
    identity = {
        "source": f"{name}:{function}" if function else name,
        "sha256": _code_hash(file) if file else None,
        "checkpoint": file_hash(Path(checkpoint)) if checkpoint is not None else None,
        "weights": weights_hash({**model.state_dict(), **tensors(model)}),
    }
    return BroughtModel(model, identity)


def default_name(source: str) -> str:
    """What the results of a model are called: the name of its file, or of the last part of its module."""
    path, _ = _split(source)
    return path.rpartition(".")[2] if _is_module(path) else Path(path).stem


@torch.no_grad()
def check_classifier(model: nn.Module, dataset: Dataset) -> None:
    """
    Raises:
        ModelError: the model refuses the images of a data set, or gives no logits [N, classes] for them.
    """
    x = as_pixels(dataset.test.images[:2])
    reference = next((t for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()), x)
    where = f"images [N, {', '.join(map(str, dataset.shape))}] of {dataset.name}"
    try:
        logits = model(x.to(reference))
    except Exception as error:  # whatever somebody else's module raises
        raise ModelError(f"The model refuses {where}: {type(error).__name__}: {first_line(error)}") from error
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


def _baked(model: nn.Module, dataset: Dataset) -> nn.Module:
    """
    Raises:
        ModelError: what is certified and attacked would not be the model as it was brought.
    """
    if not any(parametrize.is_parametrized(m) or isinstance(m, Construction) for m in model.modules()):
        return model  # and noise of its own is no change that baking makes
    x = as_pixels(dataset.test.images[:100])
    x = x.to(next((t for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()), x))
    try:
        baked, _ = bake_closely(model, lambda network: network(x.clone()))
    except BakingError as error:
        raise ModelError(f"{error} Bring the network that you deploy, lipbench.bake(model).") from error
    return baked


def _split(source: str) -> tuple[str, str]:
    """Path or module, and function ("" where there is none); a colon after a drive's letter is none."""
    path, colon, function = source.rpartition(":")
    if colon and function.isidentifier() and path:
        return path, function
    return source, ""


def _is_module(path: str) -> bool:
    return not path.endswith(".py") and "/" not in path and "\\" not in path


def _built(path: str, function: str, known: dict[str, Any]) -> tuple[nn.Module, Path | None]:
    """The model that a function of a file or module gives, and the file of its code where there is one."""
    source = f"{path}:{function}"
    with _explained(source):
        module, file = _imported(path)
    if not hasattr(module, function):
        names = [name for name, value in vars(module).items() if callable(value) and not name.startswith("_")]
        raise ModelError(f"{path} has no {function}. It has: {', '.join(names) or 'no function'}.")
    made = getattr(module, function)
    if not isinstance(made, nn.Module):
        if not callable(made):
            raise ModelError(f"{source} is a {type(made).__name__}, not a function that gives a model.")
        parameters = inspect.signature(made).parameters
        needed = [
            p.name
            for p in parameters.values()
            if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        ]
        if unknown := [name for name in needed if name not in known]:
            raise ModelError(
                f"{source} needs {', '.join(unknown)}: give a function without arguments, or of shape and classes."
            )
        with _explained(source):
            made = made(**{name: value for name, value in known.items() if name in parameters})
    if not isinstance(made, nn.Module):
        raise ModelError(f"{source} gives a {type(made).__name__}, not an nn.Module.")
    return made, file


def _imported(path: str) -> tuple[ModuleType, Path | None]:
    if _is_module(path):
        sys.path.insert(0, str(Path.cwd()))
        try:
            module = importlib.import_module(path)
        finally:
            sys.path.remove(str(Path.cwd()))
        return module, Path(module.__file__) if module.__file__ else None
    file = Path(path)
    if not file.exists():
        raise ModelError(f"There is no file {file}.")
    spec = importlib.util.spec_from_file_location(f"_brought_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise ModelError(f"{file} is no Python file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses in it look themselves up
    sys.path.insert(0, str(file.resolve().parent))  # what lies beside it can be imported, as by `python file.py`
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(file.resolve().parent))
    return module, file


@contextmanager
def _explained(source: str) -> Iterator[None]:
    """Errors of somebody else's code: what was raised, and where in their file."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(frame.filename).name}, line {frame.lineno}"
        raise ModelError(f"{source} fails ({place}): {type(error).__name__}: {first_line(error)}") from error


def _exported(path: Path) -> nn.Module:
    with _explained(path.name):
        program = torch.export.load(path)
        module = program.module()
    (name, *others) = program.graph_signature.user_inputs
    if others:
        raise ModelError(f"{path.name} takes {1 + len(others)} inputs: a classifier takes images alone.")
    shape = next(node.meta["val"].shape for node in program.graph.nodes if node.name == name)
    if isinstance(shape[0], int):
        return _InBatches(module, shape[0], shape[0])
    least = program.range_constraints[shape[0].node.expr].lower
    return module if least <= 1 else _InBatches(module, int(least), None)


def _scripted(path: Path) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # TorchScript files are there, whatever their future is
        try:
            module: nn.Module = torch.jit.load(path, map_location="cpu")
        except RuntimeError as error:
            raise ModelError(
                f"{path.name} is no TorchScript file ({first_line(error)}). A file of weights is given as checkpoint=, "
                "with model=file.py:function; a pickled module is not loaded: save its state_dict()."
            ) from error
    return module


def _converted(path: Path) -> nn.Module:
    try:
        module, batch = load_onnx(path)
    except (OnnxError, ImportError) as error:
        raise ModelError(str(error)) from error
    return module if batch is None else _InBatches(module, batch, batch)


class _InBatches(nn.Module):
    """A module exported for batches of some sizes only: batches are cut and filled up to these."""

    def __init__(self, module: nn.Module, smallest: int, largest: int | None):
        super().__init__()
        self.module, self.smallest, self.largest = module, smallest, largest

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self._batch(part) for part in x.split(self.largest or len(x))])

    def _batch(self, x: Tensor) -> Tensor:
        filled = torch.cat((x, x[-1:].expand(max(0, self.smallest - len(x)), *x.shape[1:])))
        logits: Tensor = self.module(filled)[: len(x)]
        return logits


def _code_hash(file: Path) -> str:
    """SHA-256 of a model's file; where that is Python, with the modules beside it that are imported by now."""
    if file.suffix != ".py":
        return file_hash(file)
    folder, digest = file.resolve().parent, hashlib.sha256(file_hash(file).encode())
    beside = {}
    for module in list(sys.modules.values()):
        found = getattr(module, "__file__", None)
        if found and Path(found).resolve().is_relative_to(folder) and Path(found).resolve() != file.resolve():
            beside[Path(found).resolve().relative_to(folder).as_posix()] = Path(found)
    for name, path in sorted(beside.items()):
        # Not the libraries of an environment inside the folder, nor lipbench in a checkout of its own.
        if "site-packages" not in name and not name.startswith("lipbench/") and path.exists():
            digest.update(f"{name} {file_hash(path)}".encode())
    return digest.hexdigest()[:16]
