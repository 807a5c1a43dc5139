"""Weights of anybody's network: files of safetensors or torch, with the wrappings that they usually come in."""

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

# Under which keys training scripts put the weights, and what wrappers (DataParallel, torch.compile, a trainer's
# attribute) put before every name.
NESTED = ("state_dict", "model_state_dict", "model_state", "model", "net", "weights")
PREFIXES = ("module.", "_orig_mod.", "model.")


class WeightsError(ValueError):
    """A file of weights that cannot be read or does not fit the network, with what differs."""


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Loads a file of weights into a network, on its device.

    Args:
        path: `.safetensors`, or a file of `torch.save` (read with `weights_only=True`: no code in it is run). The
            weights may lie under one of `NESTED`, each name behind one of `PREFIXES`.

    Raises:
        WeightsError: the file cannot be read, or its names or shapes are not those of the network.
    """
    path, own = Path(path), model.state_dict()
    weights = _without_prefix(_read(path), own)
    missing, unexpected = [k for k in own if k not in weights], [k for k in weights if k not in own]
    if missing or unexpected:
        found = [f"missing: {_some(missing)}"] * bool(missing) + [f"not in the network: {_some(unexpected)}"] * bool(
            unexpected
        )
        raise WeightsError(
            f"{path.name} does not fit the network. {'; '.join(found)}. Is it the checkpoint of this very function?"
        )
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:]] or [str(error)]
        raise WeightsError(f"{path.name} does not fit the network: {_some(lines)}") from error


def _read(path: Path) -> dict[str, Tensor]:
    if not path.exists():
        raise WeightsError(f"There is no file {path}.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path.name} holds more than weights, which would run code to be read. Save the weights alone: "
            "torch.save(model.state_dict(), path), or safetensors."
        ) from error
    except Exception as error:  # a damaged file raises anything
        raise WeightsError(
            f"{path.name} cannot be read as a file of weights ({error}): expected .safetensors, or torch.save of a "
            "state_dict()."
        ) from error
    return _unnested(content, path)


def _unnested(content: Any, path: Path) -> dict[str, Tensor]:
    """The dictionary of tensors in what a training script saved."""
    candidates = [content, *(content[key] for key in NESTED if key in content)] if isinstance(content, Mapping) else []
    for candidate in candidates:
        if isinstance(candidate, Mapping) and candidate and all(isinstance(v, Tensor) for v in candidate.values()):
            return dict(candidate)
    keys = f"the keys {_some(list(map(str, content)))}" if isinstance(content, Mapping) else type(content).__name__
    raise WeightsError(f"{path.name} holds {keys}: expected a state_dict(), or one under {', '.join(NESTED)}.")


def _without_prefix(weights: dict[str, Tensor], own: Mapping[str, Any]) -> dict[str, Tensor]:
    """The names as the network has them: wrappers' prefixes off, where every name has one and no own name has."""
    for prefix in PREFIXES * 2:  # DataParallel of a compiled model
        if weights and all(k.startswith(prefix) for k in weights) and not any(k.startswith(prefix) for k in own):
            weights = {k.removeprefix(prefix): v for k, v in weights.items()}
    return weights


def _some(names: Sequence[str], limit: int = 5) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
