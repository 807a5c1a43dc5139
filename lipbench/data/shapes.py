"""Points inside and outside of a shape, whose distance to its outline is known exactly."""

import numpy as np
import torch

from lipbench.data.dataset import Dataset, Split
from lipbench.data.points import SEEDS
from lipbench.outlines import signed_distance

# Points of each class in the train, validation and test split.
SIZES = (5000, 200, 250)


def shapes(shape: str = "circle", name: str = "shapes") -> Dataset:
    """Points of the unit square inside (label 1) and outside (label 0) of a shape, as images [1, 1, 2] of (x, y) in
    256 steps; 5,000 train, 200 validation and 250 test points of each class, always the same, none in two splits.

    Each class is uniform over its part of the grid. `lipbench.outlines.signed_distance` gives the true distances, after
    Coiffier and Béthune, "1-Lipschitz Neural Distance Fields", 2024, arXiv 2407.09505.

    Args:
        shape: "circle", "square", "star" or "letter".
        name: of the data set.

    Raises:
        ValueError: another shape.
    """
    pixels = np.stack(np.meshgrid(np.arange(256), np.arange(256), indexing="ij"), -1).reshape(-1, 2)
    distance = signed_distance(shape, pixels / 255)
    orders = [
        np.random.default_rng(label).permutation(np.flatnonzero(side))
        for label, side in enumerate((distance < 0, distance > 0))
    ]
    splits, start = [], 0
    for size, seed in zip(SIZES, SEEDS, strict=True):
        chosen = np.concatenate([order[start : start + size] for order in orders])
        labels = torch.arange(2).repeat_interleave(size)
        # In random order, as of any data set: attacks take the first test images.
        mixed = torch.from_numpy(np.random.default_rng(seed).permutation(2 * size))
        images = torch.from_numpy(pixels[chosen].astype(np.uint8)).view(-1, 1, 1, 2)
        splits.append(Split(images[mixed], labels[mixed]))
        start += size
    return Dataset(name, ("outside", "inside"), *splits)
