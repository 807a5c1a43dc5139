"""Checkpoints: everything that the next epoch depends on, written whole or not at all."""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lipbench.files import atomic


class CheckpointError(RuntimeError):
    """A checkpoint cannot be read, or belongs to another network."""


def save_checkpoint(
    path: Path, model: nn.Module, optimizer: Optimizer, rates: LambdaLR, history: list[dict[str, Any]]
) -> None:
    """Writes weights, optimiser state, schedule and history so far."""
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": rates.last_epoch,
        "history": history,
    }
    with atomic(path) as temporary:
        torch.save(state, temporary)


def load_checkpoint(path: Path, model: nn.Module, optimizer: Optimizer, rates: LambdaLR) -> list[dict[str, Any]]:
    """Restores what `save_checkpoint` wrote and returns the history.

    Raises:
        CheckpointError: the file is damaged or of another network; it says which file to delete.
    """
    device = next(model.parameters()).device
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        rates.last_epoch = state["step"]
        history: list[dict[str, Any]] = state["history"]
    except Exception as error:
        raise CheckpointError(
            f"The checkpoint {path} cannot be resumed ({type(error).__name__}: {error}). "
            f"Delete it to train from the start."
        ) from error
    return history
