"""What stands before an external network: a normalisation, another order of the pixels, batches of a fixed size."""

import math
import re
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lipbench.interop.kinds import ModelError
from lipbench.layers import Normalize

# Shape of one input as a file states it; None where it leaves a size open.
Declared = tuple[int | None, ...]
LAYOUTS = (
    "input_layout is the order of the axes that the network wants, such as CHW, HWC (channels last) or CWH (transposed "
    "images), with _flat behind it for inputs [N, D]"
)


class Arranged(nn.Module):
    """Images [N, C, H, W] with their axes in another order and their pixels in another shape.

    Args:
        order: a permutation of "CHW".
        size: of one input, as many numbers as an image has.
    """

    def __init__(self, order: str, size: Sequence[int]):
        super().__init__()
        self.order, self.size = order, tuple(size)

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, *(1 + "CHW".index(axis) for axis in self.order)).reshape(x.shape[0], *self.size)

    def extra_repr(self) -> str:
        return f"{self.order}, {list(self.size)}"


class InBatches(nn.Module):
    """A module exported for batches of some sizes only: batches are cut and filled up to these."""

    def __init__(self, module: nn.Module, smallest: int, largest: int | None):
        super().__init__()
        self.module, self.smallest, self.largest = module, smallest, largest

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self._batch(part) for part in x.split(self.largest or len(x))])

    def _batch(self, x: Tensor) -> Tensor:
        filled = torch.cat((x, x[-1:].expand(max(0, self.smallest - len(x)), *x.shape[1:])))
        logits: Tensor = self.module(filled)[: len(x)]
        return logits


def check_precision(name: str, dtype: torch.dtype) -> None:
    """
    Raises:
        ModelError: distances in [0, 1] cannot be measured with inputs of this type.
    """
    kind = str(dtype).removeprefix("torch.")
    if not dtype.is_floating_point:
        raise ModelError(
            f"{name} takes {kind} images. Expected float32 images in [0, 1]: between whole numbers there is no "
            "distance. Export the part of the network behind the conversion of the pixels."
        )
    if dtype not in (torch.float32, torch.float64):
        raise ModelError(f"{name} takes {kind} images, too coarse for distances: export it in float32.")


def arrangement(name: str, declared: Declared | None, shape: tuple[int, ...], layout: str | None) -> Arranged | None:
    """How images become the inputs of a network; None where they are.

    Args:
        name: of the network's file.
        declared: what the file states of one input; None: nothing.
        shape: of one image, (C, H, W).
        layout: see `LAYOUTS`; None: images, or what can be meant by `declared` alone.

    Raises:
        ModelError: images of this shape cannot become such inputs, or in more than one way.
    """
    if layout is not None and not re.fullmatch("(CHW|CWH|HCW|HWC|WCH|WHC)(_flat)?", layout):
        raise ModelError(f"input_layout={layout}: {LAYOUTS}.")
    if len(shape) != 3:
        return None
    sizes = dict(zip("CHW", shape, strict=True))
    given = layout.removesuffix("_flat") if layout else None
    if declared is None:
        size: Sequence[int] = [sizes[axis] for axis in given or "CHW"]
        declared = (math.prod(size),) if layout and layout.endswith("_flat") else tuple(size)
    for order in (given,) if given else ("CHW", "HWC"):
        size = [sizes[axis] for axis in order]
        if len(declared) == 3 and all(d in (None, n) for d, n in zip(declared, size, strict=True)):
            return None if order == "CHW" else Arranged(order, size)
    wanted = f"{name} takes inputs [N, {', '.join('?' if n is None else str(n) for n in declared)}]"
    known = [n for n in declared if n is not None]
    if len(known) != len(declared) or math.prod(known) != math.prod(shape):
        raise ModelError(f"{wanted}, which images {list(shape)} cannot become. Choose another dataset=. {LAYOUTS}.")
    if given is None and shape[0] > 1:
        raise ModelError(
            f"{wanted}: images {list(shape)} can become these in several ways. Say in which one the network was "
            f"trained. {LAYOUTS}."
        )
    return Arranged(given or "CHW", known)


def normalisation(
    mean: float | Sequence[float] | None, std: float | Sequence[float] | None, shape: tuple[int, ...]
) -> Normalize | None:
    """`(image - mean) / std`, in the pixels of [0, 1]; None where neither is given.

    Args:
        mean, std: a number, or one per channel.
        shape: of one image, (C, H, W); () if it is not known.

    Raises:
        ModelError: no such numbers.
    """
    if mean is None and std is None:
        return None
    values = {"input_mean": 0.0 if mean is None else mean, "input_std": 1.0 if std is None else std}
    lists: list[list[float]] = []
    for option, value in values.items():
        numbers = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
        fits = len(numbers) in (1, shape[0]) if shape else bool(numbers)
        if not fits or not all(type(n) in (int, float) and math.isfinite(n) for n in numbers):
            channels = f"one for each of the {shape[0]} channels" if shape else "one per channel"
            raise ModelError(f"{option}={value}: expected a number, or {channels}.")
        lists.append([float(n) for n in numbers])
    if max(lists[0]) > 1:
        raise ModelError(f"input_mean={mean}: pixels lie in [0, 1]. Divide input_mean and input_std by 255.")
    if min(lists[1]) <= 0:
        raise ModelError(f"input_std={std}: expected positive numbers.")
    return Normalize(*lists)
