"""Weights of an external network: files of safetensors or torch, with the wrappings that they usually come in."""

import pickle
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present

from lipbench.interop.kinds import SAFETENSORS, SAVED, ModelError, kind_of, not_what_was_expected

# Under which keys training scripts put the weights, and what wrappers (DataParallel, torch.compile, a trainer's
# attribute) put before every name.
NESTED = ("state_dict", "model_state_dict", "model_state", "model", "net", "weights")
PREFIXES = ("module.", "_orig_mod.", "model.")
EXPECTED = "a file of weights (safetensors, or torch.save of a state_dict())"


class WeightsError(ModelError):
    """A file of weights that cannot be read or does not fit the network, with what differs."""


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Loads a file of weights into a network, on its device. The network's own `load_state_dict` decides whether they
    fit; of tensors that share their memory the file may hold one alone, as safetensors stores them.

    Args:
        path: safetensors, or a file of `torch.save` (read with `weights_only=True`: no code in it is run). The
            weights may lie under one of `NESTED`, each name behind one of `PREFIXES`.

    Raises:
        WeightsError: the file cannot be read, or the network refuses its names or shapes.
    """
    path = Path(path).expanduser()
    weights = _unnested(_read(path), path)
    try:
        own = model.state_dict(keep_vars=True)
        weights = _with_shared(_without_prefix(weights, own), own)
        model.load_state_dict(weights)
    except Exception as error:  # of torch, of the network's own code, of metadata that are none
        missing, unexpected = [k for k in own if k not in weights], [k for k in weights if k not in own]
        found = [f"missing: {_some(missing)}"] if missing else []
        found += [f"not in the network: {_some(unexpected)}"] if unexpected else []
        lines = [line.strip() for line in str(error).splitlines()]
        found += [_some([line for line in lines if line.startswith("size mismatch")])]
        said = "; ".join(filter(None, found)) or _some(lines[1:] or lines) or type(error).__name__
        raise WeightsError(
            f"{path.name} does not fit the network. {said[:1000]}. Give the checkpoint of this function's network."
        ) from error


def _read(path: Path) -> Any:
    if not path.exists():
        raise WeightsError(f"There is no file {path}.")
    kind = kind_of(path)
    if kind not in (SAFETENSORS, SAVED):
        raise WeightsError(not_what_was_expected(path, EXPECTED, kind))
    try:
        if kind is SAFETENSORS:
            return load_file(path)
        with path.open("rb") as file:  # of a path, torch believes the ending
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises anything
        objects = re.search(r"(?:GLOBAL|class) ([\w.]+)", str(error))
        if isinstance(error, pickle.UnpicklingError) and objects is not None:
            raise WeightsError(
                f"{path.name} holds more than weights: objects of {objects[1]}, whose code would run when the file is "
                "read. Save the weights alone where it was made: torch.save(model.state_dict(), path), or safetensors."
            ) from error
        line = next(iter(str(error).splitlines()), type(error).__name__)[:200]
        raise WeightsError(
            f"{path.name} cannot be read as {EXPECTED}: it is damaged ({line}). Copy it again."
        ) from error


def _unnested(content: Any, path: Path) -> dict[str, Any]:
    """The state_dict in what a training script saved.

    Raises:
        WeightsError: there is none, or more than one.
    """
    if _is_state_dict(content):
        return _copied(content)
    keys = [key for key in NESTED if key in content] if isinstance(content, Mapping) else []
    inner = {key: content[key] for key in keys}
    inner |= {f"{key}']['{k}": v[k] for key, v in inner.items() if isinstance(v, Mapping) for k in NESTED if k in v}
    found = {key: value for key, value in inner.items() if _is_state_dict(value)}
    if len(found) == 1:
        return _copied(*found.values())
    load = f"torch.load({path.name!r})"
    if found:
        raise WeightsError(
            f"{path.name} holds weights under each of {', '.join(found)}. Save those that you mean: "
            f"torch.save({load}['{next(iter(found))}'], path)."
        )
    for place, value in (("", content), *((f"['{key}']", value) for key, value in inner.items())):
        where = f"{path.name}{place}"
        if isinstance(value, list | tuple) and value and all(map(_is_state_dict, value)):
            raise WeightsError(
                f"{where} is a list of {len(value)} state_dicts. Save the one of this network: "
                f"torch.save({load}{place}[0], path)."
            )
        if isinstance(value, Mapping) and {"state", "param_groups"} <= set(value):
            raise WeightsError(f"{where} is the state of an optimizer. Save the network's: model.state_dict().")
    raise WeightsError(
        f"{path.name} holds {_described(content)}: expected a state_dict(), or one under {', '.join(NESTED)}. Save it: "
        "torch.save(model.state_dict(), path)."
    )


def _is_state_dict(content: Any) -> bool:
    """Tensors by name; what a module's `get_extra_state` gave may be of any type."""
    return (
        isinstance(content, Mapping)
        and bool(content)
        and all(
            isinstance(key, str) and (isinstance(value, Tensor) or key.split(".")[-1] == "_extra_state")
            for key, value in content.items()
        )
    )


def _copied(weights: Mapping[str, Any]) -> dict[str, Any]:
    """A copy, with the versions of the modules by which `load_state_dict` knows older files."""
    copied = OrderedDict(weights)
    metadata = getattr(weights, "_metadata", None)
    if isinstance(metadata, Mapping):
        copied._metadata = OrderedDict(metadata)  # type: ignore[attr-defined]
    return copied


def _without_prefix(weights: dict[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The names as the network has them: wrappers' prefixes off, where every name has one and no own name has."""
    for prefix in PREFIXES * 2:  # DataParallel of a compiled model
        if all(k.startswith(prefix) for k in weights) and not any(k.startswith(prefix) for k in own):
            consume_prefix_in_state_dict_if_present(weights, prefix)
    return weights


def _with_shared(weights: dict[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """The weights, with those that the file lacks because the network holds them in the memory of others."""
    plain = {k: v.detach() for k, v in own.items() if type(v) in (Tensor, nn.Parameter)}
    for name in [k for k in plain if k not in weights]:
        memory = plain[name].untyped_storage()
        for other, tensor in plain.items():
            full = tensor.untyped_storage().nbytes() == tensor.nbytes and tensor.dtype == plain[name].dtype
            same = full and memory.nbytes() and tensor.untyped_storage().data_ptr() == memory.data_ptr()
            if same and other in weights and weights[other].shape == tensor.shape:
                filled = torch.empty_like(tensor, memory_format=torch.preserve_format).copy_(weights[other])
                view = plain[name]
                weights[name] = filled.as_strided(view.shape, view.stride(), view.storage_offset())
    return weights


def _described(content: Any) -> str:
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    if all(isinstance(value, Mapping) for value in content.values()) and content:
        return f"dictionaries under {_some(list(map(str, content)))}"
    return f"the keys {_some(list(map(str, content)))}"


def _some(names: Sequence[str], limit: int = 5) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
