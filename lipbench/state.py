"""A model, and the generators of random numbers, as they were found."""

import copy
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn


@torch.no_grad()  # the parameters of a scripted module's copy would remember where they come from
def duplicate(model: nn.Module) -> nn.Module:
    """A deep copy, without the warnings of torch's own deprecated calls on the way to it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return copy.deepcopy(model)


def evaluation_mode(model: nn.Module) -> nn.Module:
    """`model.eval()`, also where there is none to call: a module of torch.export has no modes and raises."""
    try:
        return model.eval()
    except NotImplementedError:
        for module in model.modules():
            module.training = False
        return model


@contextmanager
def same_random_numbers() -> Iterator[None]:
    """Whatever the block draws, the generators of python, numpy and torch (CPU and CUDA) go on after it as if it had
    drawn nothing.
    """
    # The global generators are the ones that other people's code draws from.
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    try:
        with torch.random.fork_rng(list(devices)):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002
