"""What is judged: images and labels that can be, or an error that says what is wrong with them."""

import torch
from torch import Tensor


def check_batch(images: Tensor, labels: Tensor | None = None) -> None:
    """Refuses what no classifier can be judged on.

    Args:
        images: [N, ...], N >= 1; pixels are finite.
        labels: integers [N], or None.

    Raises:
        TypeError: no tensors, labels that are no integers.
        ValueError: no images, pixels that are NaN or infinite, another number of labels.
    """
    if not isinstance(images, Tensor):
        raise TypeError(f"Images are a tensor [N, C, H, W], such as torch.as_tensor(images), not {_kind(images)}.")
    if isinstance(labels, Tensor) and labels.ndim == 2 and images.ndim and len(labels) == len(images):
        cure = "labels.squeeze(1)" if labels.shape[1] == 1 else "labels.argmax(1), if they are one-hot"
        raise ValueError(f"Labels are the numbers of classes [N]; got labels {list(labels.shape)}. Give {cure}.")
    if labels is not None:
        if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.is_complex():
            raise TypeError(
                f"Labels are a tensor of integers [N], such as torch.as_tensor(labels).long(), not {_kind(labels)}."
            )
        if images.ndim == 0 or labels.ndim != 1 or len(images) != len(labels) or not len(images):
            raise ValueError(
                f"As many labels as images, at least one: got images {list(images.shape)} and labels "
                f"{list(labels.shape)}."
            )
    if images.ndim == 0 or not images.numel():
        raise ValueError(f"There is nothing to judge in images of shape {list(images.shape)}: give at least one.")
    if images.dtype == torch.uint8 and int(images.max()) == 1:
        raise ValueError(
            "The pixels are 0 and 1 in uint8, whose range is 0..255: such images are almost black. Multiply them by "
            "255, or give floats in [0, 1]."
        )
    if images.is_floating_point() and not images.isfinite().all():
        bad = (~images.isfinite()).flatten(1).any(1) if images.ndim > 1 else ~images.isfinite()
        raise ValueError(
            f"{int(bad.sum())} of {len(images)} images have pixels that are NaN or infinite, the first is image "
            f"{int(bad.nonzero()[0, 0])}: pixels are finite, in [0, 1]."
        )


def check_labels(labels: Tensor, classes: int) -> None:
    """
    Args:
        labels: [N], N >= 1.
        classes: number of logits, K.

    Raises:
        ValueError: fewer than two logits, labels that are not those of the logits.
    """
    if classes < 2:
        raise ValueError(
            f"A classifier gives logits [N, K] with K >= 2; this one gives K = {classes}. For one logit f, wrap the "
            "model: lipbench.antipodal(model)."
        )
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise ValueError(
            f"Labels are 0..{classes - 1} for {classes} logits; got {int(labels.min())}..{int(labels.max())}."
        )


def _kind(value: object) -> str:
    return str(value.dtype) if isinstance(value, Tensor) else f"a {type(value).__name__}"
