"""One class against all others, of which the training shows nothing: outlier detection as a task of two classes."""

from __future__ import annotations

from pathlib import Path

import torch

from lipbench.data.dataset import Dataset, Split, keep_classes
from lipbench.data.digits import digits
from lipbench.data.mnist import mnist

# Part of the data set's definition: changing it changes every result on it.
NOISE_SEED = 0


def one_class(dataset: Dataset, inlier: int, name: str | None = None) -> Dataset:
    """Inliers (label 1) are the images of one class of `dataset`, outliers (label 0) those of all others.

    The training split holds no outlier: its images of label 0 are uniform noise, as many as there are inliers, always
    the same. They are where `lipbench.training.level_set_negatives` begins. Validation and test split hold both.

    Args:
        inlier: a class of `dataset`, counted from 0.
        name: default that of `dataset` and "_oneclass", for every inlier: the inlier is an option, as any other.

    Raises `ValueError` for a class that does not exist.
    """
    if not 0 <= inlier < len(dataset.classes):
        raise ValueError(f"inlier={inlier}: data set {dataset.name!r} has the classes 0..{len(dataset.classes) - 1}.")
    images = keep_classes(dataset.train, [inlier]).images
    generator = torch.Generator().manual_seed(NOISE_SEED)
    noise = torch.randint(0, 256, images.shape, generator=generator, dtype=torch.uint8)
    labels = torch.arange(2).repeat_interleave(len(images))
    return Dataset(
        name or f"{dataset.name}_oneclass",
        ("other", dataset.classes[inlier]),
        Split(torch.cat([noise, images]), labels),
        *(Split(split.images, (split.labels == inlier).long()) for split in (dataset.validation, dataset.test)),
    )


def mnist_one_class(inlier: int = 0, name: str | None = None, root: str | Path | None = None) -> Dataset:
    """One digit of MNIST against the nine others (see `one_class`, `lipbench.data.mnist`)."""
    return one_class(mnist(root=root), inlier, name)


def digits_one_class(inlier: int = 0, name: str | None = None) -> Dataset:
    """One of scikit-learn's digits against the nine others (see `one_class`, `lipbench.data.digits`)."""
    return one_class(digits(), inlier, name)
