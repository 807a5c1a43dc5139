"""Weights in their own precision while the rest of a training step runs in a shorter one."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from lipbench.state import float32_products


def own_precision(weight: Tensor) -> AbstractContextManager[object]:
    """Autocast and TF32 are off inside, on the device of `weight`.

    What makes a weight orthonormal or divides it by its norm loses its point with eight bits of mantissa (and has no
    kernels for them in part: Fourier transforms, decompositions); it is a small part of a step.
    """
    device = weight.device.type
    if device == "cuda":
        return float32_products()
    if device == "meta" or not torch.is_autocast_enabled(device):
        return nullcontext()
    return torch.autocast(device, enabled=False)
