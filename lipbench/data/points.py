"""Points of the plane in two classes, as images of two pixels: what a network does with them can be drawn."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from lipbench.data.dataset import Dataset, Split

Points = NDArray[np.float64]
# Points of each class in the train, validation and test split, and the seeds of each.
SIZES, SEEDS = (1000, 200, 250), (0, 1, 2)


def two_moons(noise: float = 0.02, name: str = "two_moons") -> Dataset:
    """Two interleaved half circles. Images [1, 1, 2] hold (x, y), in 256 steps of the unit square; 1,000 train, 200
    validation and 250 test points of each class, always the same.

    Args:
        noise: standard deviation of the points around the shape, in units of the square's side.
        name: of the data set.
    """

    def shape(t: Points, label: int) -> Points:
        angle = np.pi * t
        upper = np.stack([0.38 + 0.26 * np.cos(angle), 0.42 + 0.26 * np.sin(angle)], 1)
        return upper if label == 0 else 1 - upper

    return _dataset(name, shape, noise)


def two_circles(noise: float = 0.02, name: str = "two_circles") -> Dataset:
    """A circle (label 1) inside another (label 0). Otherwise as `two_moons`."""

    def shape(t: Points, label: int) -> Points:
        angle, radius = 2 * np.pi * t, 0.18 if label else 0.38
        return 0.5 + radius * np.stack([np.cos(angle), np.sin(angle)], 1)

    return _dataset(name, shape, noise)


def two_spirals(noise: float = 0.012, name: str = "two_spirals") -> Dataset:
    """Two spirals, one turned by half a turn. Otherwise as `two_moons`."""

    def shape(t: Points, label: int) -> Points:
        # The square root spreads the points evenly along the arm.
        turn, radius = 1.25 * np.sqrt(t), 0.06 + 0.34 * np.sqrt(t)
        angle = 2 * np.pi * turn + np.pi * label
        return 0.5 + radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)

    return _dataset(name, shape, noise)


def _dataset(name: str, shape: Callable[[Points, int], Points], noise: float) -> Dataset:
    def split(size: int, seed: int) -> Split:
        generator = np.random.default_rng(seed)
        points = np.concatenate([shape(generator.random(size), label) for label in (0, 1)])
        points += noise * generator.standard_normal(points.shape)
        pixels = np.rint(255 * points.clip(0, 1)).astype(np.uint8)
        # In random order, as of any data set: attacks take the first test images.
        order = torch.from_numpy(generator.permutation(2 * size))
        labels = torch.arange(2).repeat_interleave(size)
        return Split(torch.from_numpy(pixels).view(-1, 1, 1, 2)[order], labels[order])

    return Dataset(name, ("0", "1"), *(split(size, seed) for size, seed in zip(SIZES, SEEDS, strict=True)))
