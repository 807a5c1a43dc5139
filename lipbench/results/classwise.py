"""Accuracy class by class, for classes of unequal size: with 4 % positives, always answering "no" is 96 % accurate."""

import numpy as np

# Where the largest class has at least this many images per image of the smallest, what is shown counts classes alike.
IMBALANCED = 2.0


def class_accuracies(labels: np.ndarray, predictions: np.ndarray, classes: int) -> dict[str, float]:
    """
    Args:
        labels, predictions: integers [N].
        classes: number of classes K.

    Returns:
        balanced_accuracy: the mean over the classes of their recalls (the share of a class's images that are given its
            label); and for two classes sensitivity, the recall of class 1, and specificity, that of class 0. Classes
            without an image are left out of the mean; their own recall is NaN.
    """
    counts = np.bincount(labels, minlength=classes)
    correct = np.bincount(labels[labels == predictions], minlength=classes)
    recalls = np.divide(correct, counts, out=np.full(len(counts), np.nan), where=counts > 0)
    found = {"balanced_accuracy": float(np.nanmean(recalls))}
    if classes == 2:
        found |= {"sensitivity": float(recalls[1]), "specificity": float(recalls[0])}
    return found


def imbalance(labels: np.ndarray) -> float:
    """Images of the largest class per image of the smallest; of those that have any."""
    counts = np.bincount(labels)
    counts = counts[counts > 0]
    return float(counts.max() / counts.min())
