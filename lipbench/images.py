"""What is judged: images and labels that can be, or an error that says what is wrong with them."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lipbench.gate import accepted
from lipbench.modules import tensors


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


# Values of 1000 images of 3x32x32: a network's activations are some tens of times as many.
VALUES = 1000 * 3 * 32 * 32


# Images, however small they are.
MOST = 1000


# Values of the images that lie on the device as floats at once, between the batches: 256 MiB.
HELD = 2**26


def images_at_once(shape: Sequence[int], values: int = VALUES, most: int = MOST) -> int:
    """The number of images of a shape (C, H, W) that have at most so many values together: 1 to `most`."""
    return max(1, min(most, values // max(1, math.prod(shape))))


def as_pixels(images: Tensor) -> Tensor:
    """uint8 or float images [N, C, H, W] -> the same images in [0, 1], without a graph: float32, or float64 where
    float32 does not hold the given numbers.

    Raises:
        TypeError: no tensor.
        ValueError: another type or shape, no images, or floats outside [0, 1].
    """
    check_batch(images)
    _check_range(images)
    # What was made in inference mode has no gradients, but its copy has.
    images = images.detach().clone() if images.is_inference() else images.detach()
    if images.dtype == torch.uint8:
        return images.float() / 255
    short = images.float()
    return images if images.dtype == torch.float64 and bool((short != images).any()) else short


def check_attacked(images: Tensor, labels: Tensor) -> None:
    """Refuses what no attack can start from. An attack takes pixels as the model does: floats in [0, 1].

    Raises:
        TypeError, ValueError: as `check_batch` and `as_pixels`; images of uint8, no labels.
    """
    if labels is None:
        raise TypeError("An attack needs the label of each image: attack(model, images, labels).")
    check_batch(images, labels)
    if images.dtype == torch.uint8:
        raise ValueError("An attack takes float images in [0, 1]; got torch.uint8. Give images.float() / 255.")
    _check_range(images)


def _check_range(images: Tensor) -> None:
    if images.ndim != 4:
        raise ValueError(f"Images are [N, C, H, W]; got {list(images.shape)}.")
    if images.dtype == torch.uint8:
        return
    if not images.is_floating_point():
        raise ValueError(f"Images are uint8 in 0..255 or float in [0, 1]; got {images.dtype}.")
    low, high = float(images.detach().min()), float(images.detach().max())
    if low < 0 or high > 1:
        raise ValueError(
            f"Float images are in [0, 1]; these span [{low:g}, {high:g}]. Divide pixels of 0..255 by 255, and put a "
            "normalisation inside the model: lipbench.layers.Normalize."
        )


def on_device(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    check_batch(images, labels)
    return model_images(model, images), to_device(model, labels.long())


def model_images(model: nn.Module, images: Tensor) -> Tensor:
    """Pixels on the device of the model, in a precision that it takes: rounded where that is float32 alone and
    the images have more digits.
    """
    return accepted(model, to_device(model, as_pixels(images)))


def to_device(model: nn.Module, tensor: Tensor) -> Tensor:
    return tensor.to(next(iter(tensors(model).values()), torch.zeros(())).device)


def pixels(images: Tensor, device: torch.device | str = "cpu") -> Tensor:
    """uint8 images -> float32 in [0, 1] on the device."""
    return images.to(device).float() / 255
