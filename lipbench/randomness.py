"""Randomness keyed by (seed, image): the same numbers for an image in every order, batch and device."""

import math
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

# SplitMix64 (Steele et al., 2014) on int64, which wraps as uint64 does.
_GOLDEN = -0x61C8864680B583EB
_FIRST, _SECOND = -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15


def keys(x: Tensor, seed: int = 0) -> Tensor:
    """One key per image, made of its pixels in float32 and the seed: [N, C, H, W] -> int64 [N]."""
    bits = x.detach().flatten(1).float().contiguous().view(torch.int32).long()
    places = _mix(torch.arange(1, bits.shape[1] + 1, device=x.device) * _GOLDEN) | 1
    return _mix((bits * places).sum(1) + _mix(torch.tensor(seed, device=x.device) * _GOLDEN))


def split(key: Tensor, first: int, count: int) -> Tensor:
    """Keys of the samples first, ..., first + count - 1 of each image, int64 [N, count]."""
    return _mix(key[:, None] + _mix(torch.arange(first + 1, first + count + 1, device=key.device) * _GOLDEN))


def uniform(key: Tensor, shape: tuple[int, ...], draw: int = 0) -> Tensor:
    """Uniform numbers in [0, 1), float32 [N, *shape], the same for the same key and `draw`."""
    size = math.prod(shape)
    counter = torch.arange(1, size + 1, device=key.device) + draw * size
    bits = _mix(key[:, None] + counter * _GOLDEN)
    return ((bits >> 40) & 0xFFFFFF).float().mul_(2.0**-24).reshape(len(key), *shape)


def normal(key: Tensor, shape: tuple[int, ...], draw: int = 0) -> Tensor:
    """Standard normal numbers, float32 [N, *shape] (Box and Muller, 1958)."""
    first, second = uniform(key, (2, *shape), draw).unbind(1)
    return (-2 * (1 - first).log()).sqrt_() * (2 * math.pi * second).cos_()


def _mix(z: Tensor) -> Tensor:
    z = (z ^ _shift(z, 30)) * _FIRST
    z = (z ^ _shift(z, 27)) * _SECOND
    return z ^ _shift(z, 31)


def _shift(z: Tensor, places: int) -> Tensor:
    """The shift of unsigned numbers: torch's copies the sign."""
    return (z >> places) & ((1 << (64 - places)) - 1)


@contextmanager
def same_random_numbers() -> Iterator[None]:
    """After the block, the generators of python, numpy and torch (CPU and CUDA) go on after it as if it had
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
