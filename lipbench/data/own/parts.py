"""Which part an image belongs to, and data sets whose parts lie one after another in one tensor.

Parts that are contiguous are slices: no image is copied to make a split.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from lipbench.data.dataset import Dataset, Split, held_out

PARTS = ("train", "validation", "test")


def complete(labels: Tensor, parts: Tensor, validation_fraction: float, test_fraction: float, seed: int) -> Tensor:
    """`parts` with a validation and a test set: what is missing is cut from train, stratified, by the seed.

    Args:
        labels: [N] int64.
        parts: [N], positions in `PARTS`.
        validation_fraction: of what is left in train once there is a test set.
        test_fraction: of train.

    Raises `ValueError` for a fraction outside (0, 1), where it is used, and where train has too few images.
    """
    parts = parts.clone()
    for part, fraction in ((2, test_fraction), (1, validation_fraction)):
        if not (parts == part).any():
            train = (parts == 0).nonzero().flatten()
            if int(labels[train].bincount().max()) < 2 and 0 < fraction < 1:
                raise ValueError(
                    f"No image is left for the part {PARTS[part]}: each class has a single one in train by now. Parts "
                    f"without images of their own are cut from train ({len(labels)} images, {len(labels.unique())} "
                    "classes): give three images or more of a class, smaller fractions, or a part of your own."
                )
            # A seed of its own for each cut: the same one would draw alike.
            parts[train[held_out(labels[train], fraction, seed + part)]] = part
    return parts


def order_of(parts: Tensor) -> Tensor:
    """Positions [N] that bring train to the front, then validation, then test, each in its order."""
    return torch.argsort(parts, stable=True)


def counts_of(parts: Tensor) -> list[int]:
    """Images of each part, in the order of `PARTS`."""
    return [int(count) for count in torch.bincount(parts, minlength=len(PARTS))]


def in_parts(name: str, classes: Sequence[str], images: Tensor, labels: Tensor, parts: Tensor) -> Dataset:
    """The data set of images [N, C, H, W] that are already in the order `order_of(parts)`.

    Args:
        labels: [N] in the old order, as `parts`.

    Raises `ValueError` for an empty part, by its name.
    """
    counts = counts_of(parts)
    if empty := [part for part, count in zip(PARTS, counts, strict=True) if not count]:
        raise ValueError(f"Data set {name!r} has no image for {', '.join(empty)}.")
    labels = labels[order_of(parts)]
    train, validation, test = (Split(*pair) for pair in zip(images.split(counts), labels.split(counts), strict=True))
    return Dataset(name, tuple(classes), train, validation, test)
