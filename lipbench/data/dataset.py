"""What a data set is, and the two ways to cut one: by images and by classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lipbench.randomness import same_random_numbers


# eq=False: comparing two tensors has no truth value, so the generated __eq__ could only raise.
@dataclass(frozen=True, eq=False)
class Split:
    """Images [N, C, H, W] uint8 in 0..255 with their labels [N] int64, counted from 0; N >= 1.

    Raises `TypeError` or `ValueError`, saying what was found, when the tensors are anything else.
    """

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.dtype != torch.uint8:
            raise TypeError(f"The images of a split are uint8 (0..255), not {images.dtype}.")
        if labels.dtype != torch.int64:
            raise TypeError(f"The labels of a split are int64, not {labels.dtype}.")
        if images.ndim != 4:
            raise ValueError(f"The images of a split are [N, C, H, W], not of shape {tuple(images.shape)}.")
        if labels.ndim != 1 or len(labels) != len(images):
            raise ValueError(f"{len(images)} images need labels of shape ({len(images)},), not {tuple(labels.shape)}.")
        if images.numel() == 0:
            raise ValueError(f"A split needs at least one image; its shape is {tuple(images.shape)}.")
        if labels.min() < 0:
            raise ValueError(f"Labels are counted from 0, but the smallest is {int(labels.min())}.")

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, chosen: slice | Tensor) -> Split:
        """The chosen images with their labels, such as `dataset.test[:100]`."""
        return Split(self.images[chosen], self.labels[chosen])

    def __repr__(self) -> str:
        return f"Split({len(self)} images {_size(self.images)}, {len(self.labels.unique())} classes)"


@dataclass(frozen=True, eq=False)
class Dataset:
    """Three splits of images of one shape; label k means `classes[k]`, and there are at least two classes.

    `test` is the one that only the evaluation looks at; settings are tuned on `validation`.
    Raises `ValueError` when the splits contradict the classes or each other, or the name is no folder's name.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    validation: Split
    test: Split

    def __post_init__(self) -> None:
        name_of(self.name)
        if len(self.classes) < 2:
            raise ValueError(f"Data set {self.name!r} needs at least two classes, not {self.classes}.")
        if len(set(self.classes)) < len(self.classes):
            raise ValueError(f"Data set {self.name!r} names a class twice: {self.classes}.")
        for title, split in (("train", self.train), ("validation", self.validation), ("test", self.test)):
            largest = int(split.labels.max())
            if largest >= len(self.classes):
                raise ValueError(
                    f"Data set {self.name!r} has {len(self.classes)} classes, "
                    f"but its {title} split holds the label {largest}."
                )
            if split.images.shape[1:] != self.train.images.shape[1:]:
                raise ValueError(
                    f"Data set {self.name!r} mixes images of shape {tuple(split.images.shape[1:])} ({title}) "
                    f"and {self.shape} (train)."
                )

    def __repr__(self) -> str:
        counts = ", ".join(f"{name}={len(getattr(self, name))}" for name in ("train", "validation", "test"))
        return f"Dataset({self.name!r}, {len(self.classes)} classes, {counts}, images {_size(self.train.images)})"

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width


def name_of(name: str | None, default: str = "") -> str:
    """The name of a data set: the one that was given, else the default.

    Raises:
        ValueError: a name that cannot be that of a folder, in which the results lie.
    """
    name = default if name is None else str(name)
    if name in ("", ".", "..") or {"/", "\\", "\0"} & set(name):
        raise ValueError(f"dataset.name={name!r} is no name of a data set: give one that can be the name of a folder.")
    return name


def hold_out(split: Split, fraction: float, seed: int) -> tuple[Split, Split]:
    """Cut `split` into (train, validation), with about `fraction` of the images of each class in validation.

    The cut depends on the labels and on `seed` only, and the global random state is neither read nor changed.
    Both parts keep the order of `split`. A class of two images or more is in both parts, one of a single
    image in train. Raises `ValueError` unless 0 < fraction < 1, or when validation would be empty.
    """
    held = held_out(split.labels, fraction, seed)
    return split[~held], split[held]


def held_out(labels: Tensor, fraction: float, seed: int) -> Tensor:
    """Which images `hold_out` puts in validation: booleans [N] for labels [N]. Raises as it does."""
    if not 0 < fraction < 1:
        raise ValueError(f"The fraction to hold out lies strictly between 0 and 1; it is {fraction}.")
    generator = torch.Generator().manual_seed(seed)
    held = torch.zeros(len(labels), dtype=torch.bool)
    seen = 0
    for label in labels.unique().tolist():
        members = (labels == label).nonzero().flatten()
        # Rounded along the classes, not in each: the errors cancel, and a tenth of 60,000 is 6,000.
        share = round(fraction * (seen + len(members))) - round(fraction * seen)
        seen += len(members)
        count = min(max(share, 1), len(members) - 1)
        held[members[torch.randperm(len(members), generator=generator)[:count]]] = True
    if not held.any():
        raise ValueError("Nothing to hold out: every class has a single image.")
    return held


def keep_classes(split: Split, keep: Sequence[int]) -> Split:
    """The images with a label in `keep`, in their order; the class `keep[i]` gets the label i.

    Raises `ValueError` when a class is named twice or has no image in `split`.
    """
    wanted = list(keep)
    if len(set(wanted)) < len(wanted):
        raise ValueError(f"A class is named twice in keep={wanted}.")
    present = split.labels.unique().tolist()
    if absent := [label for label in wanted if label not in present]:
        raise ValueError(f"No image has a label in {absent}; the labels to choose from are {present}.")
    # matches[n, i]: image n belongs to the i-th wanted class. At most one is true per image.
    matches = split.labels[:, None] == torch.tensor(wanted, dtype=torch.int64)
    kept = matches.any(dim=1)
    return Split(split.images[kept], matches[kept].int().argmax(dim=1))


def restrict(dataset: Dataset, keep: Sequence[int] | None, name: str | None = None) -> Dataset:
    """`dataset` with only the classes `keep` (all, for None), called `name`.

    The default name is the old one followed by the classes kept: "digits" with (0, 8) is "digits08".
    Raises `ValueError` for a class that does not exist or fewer than two classes.
    """
    if keep is None:
        return dataset if name is None else replace(dataset, name=name)
    train, validation, test = (keep_classes(split, keep) for split in (dataset.train, dataset.validation, dataset.test))
    classes = tuple(dataset.classes[label] for label in keep)
    return Dataset(name or dataset.name + "".join(classes), classes, train, validation, test)


def tensors_of(images: Any, labels: Any = None) -> tuple[Tensor, Tensor | None]:
    """The tensors of the data that `lipbench.evaluate` and `lipbench.certify` take.

    Args:
        images: a tensor or a numpy array [N, C, H, W]; or, without `labels`, a `Split`, a `Dataset` (its test split)
            or a `DataLoader` of batches (images, labels), which is read once and in its order.
        labels: [N], a tensor or a numpy array.

    Returns:
        images and labels as tensors, labels None where none were given. Anything else is returned as it came.

    Raises:
        TypeError: a loader of other batches, an array that no tensor holds.
        ValueError: labels for data that have their own, images [N, H, W, C], a loader without batches.
    """
    if not isinstance(images, Dataset | Split | DataLoader):
        return _tensor(images, "Images"), _tensor(labels, "Labels")
    if labels is not None:
        raise ValueError(f"A {type(images).__name__} has its own labels: leave `labels` out.")
    if isinstance(images, DataLoader):
        return _concatenated(images)
    split = images.test if isinstance(images, Dataset) else images
    return split.images, split.labels


def _concatenated(loader: DataLoader) -> tuple[Tensor, Tensor]:
    with same_random_numbers():  # a loader draws one, even in its order
        batches = list(loader)
    if not batches:
        raise ValueError("The DataLoader has no batches: give one with at least one image.")
    for batch in batches:
        if not isinstance(batch, tuple | list) or [isinstance(part, Tensor) for part in batch] != [True, True]:
            raise TypeError(
                "A batch of the DataLoader is not a pair (images, labels) of tensors. Give the tensors instead: "
                "torch.cat all images, and torch.cat all labels."
            )
    images, labels = zip(*batches, strict=True)
    return torch.cat(images), torch.cat(labels)


def _tensor(given: Any, name: str) -> Any:
    if not isinstance(given, np.ndarray):
        return given
    # The colours of an image are 1, 3 or 4 numbers, and no image is so narrow.
    if given.ndim == 4 and given.shape[3] in (1, 3, 4) and given.shape[1] not in (1, 3, 4):
        raise ValueError(
            f"Images are [N, C, H, W]; the array {list(given.shape)} looks like [N, H, W, C]. "
            "Give images.transpose(0, 3, 1, 2)."
        )
    try:
        return torch.from_numpy(np.array(given, order="C"))  # a copy: arrays can be read-only or reversed
    except TypeError as error:
        raise TypeError(
            f"An array of {given.dtype} cannot be {name}: give uint8, float32, float64 or int64."
        ) from error


def _size(images: Tensor) -> str:
    return "x".join(map(str, images.shape[1:]))
