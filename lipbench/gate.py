"""The gate of users' own functions: models, attacks, certificates, measures.

What such a function raises or returns is either taken or answered by an error that names the function, says what it
did and what was expected.
"""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from lipbench.modules import exactly, tensors

# The precisions in which distances are measured. Others are too coarse.
FINE = (torch.float32, torch.float64)
EXPECTED = {
    "attack": "An attack is a function (model, x, y) -> images, floats in [0, 1] of the shape of x.",
    "certificate": "A certificate is a function (model, x, y) -> L2 radii, one number of 0 or more per image.",
    "measure": "A measure is a function (model, images, labels) -> pandas.DataFrame.",
}


@contextmanager
def named(kind: str, name: str) -> Iterator[None]:
    """Inside, a user's function is called.

    Args:
        kind: of `EXPECTED`.

    Raises:
        ValueError: the function raised something. A lack of memory, a library that is not installed and the errors that
            lipbench defines say enough themselves and are raised as they are.
    """
    try:
        yield
    except (Exception, SystemExit) as error:
        if is_memory(error) or isinstance(error, ImportError) or type(error).__module__.startswith("lipbench"):
            raise
        raise ValueError(f"The {kind} {name} fails ({_place(error)}): {told(error)}. {EXPECTED[kind]}") from error


def logits_of(model: nn.Module, x: Tensor) -> Tensor:
    """The logits [N, K] of copies of the images, which a first layer with inplace=True would overwrite.

    Raises:
        ValueError: the model refuses the images, or does not return a plain tensor of N rows in float32 or float64.
    """
    logits = _answer(model, x)
    if not isinstance(logits, Tensor):
        raise ValueError(
            f"A classifier gives a tensor of logits [N, K]; this one a {type(logits).__name__}. Wrap it in a module "
            "that returns the logits alone, as a tensor."
        )
    if not exactly(logits, Tensor, nn.Parameter) or not _is_dense(logits):
        raise ValueError(
            f"A classifier gives its logits [N, K] as a plain, dense tensor; this one {described(logits)}. Wrap it in "
            "a module that returns one, such as logits.to_dense() or logits.as_subclass(torch.Tensor)."
        )
    if not logits.is_floating_point():
        raise ValueError(
            f"The model returns {logits.dtype}; logits are floats. Give the scores before argmax or rounding, as real "
            "numbers."
        )
    if logits.dtype not in FINE:
        raise ValueError(f"The model computes in {logits.dtype}, too coarse for distances: judge model.float().")
    if logits.ndim != 2 or len(logits) != len(x):
        raise ValueError(
            f"A classifier gives logits [N, K] with K >= 2; this one gives {list(logits.shape)} for {len(x)} images. "
            "For one logit f, wrap the model: lipbench.antipodal(model)."
        )
    return logits


@torch.no_grad()
def accepted(model: nn.Module, x: Tensor) -> Tensor:
    """The images in the precision in which the model takes them: their own, else the other one of float32 and float64.
    The model itself is asked, with one image: its weights can have several types.

    Args:
        x: images [N, C, H, W] in float32 or float64.

    Raises:
        ValueError: the model takes neither.
    """
    try:
        _answer(model, x[:1])
        return x
    except ValueError as error:
        (other,) = {*FINE} - {x.dtype}
        try:
            _answer(model, x[:1].to(other))
        except ValueError:
            coarse = {str(t.dtype) for t in tensors(model).values() if t.is_floating_point() and t.dtype not in FINE}
            if coarse:
                raise ValueError(
                    f"The model has weights in {', '.join(sorted(coarse))}, too coarse for distances: judge "
                    "model.float()."
                ) from error
            raise error from error.__cause__
        return x.to(other)


def with_gradient(model: nn.Module, x: Tensor) -> Tensor:
    """The logits of copies of the images, with a graph where the model can be differentiated.

    Args:
        x: images that require gradients. Where the model fails on such images (it leaves torch), they are detached.
    """
    try:
        logits: Tensor = model(x.clone())
    except Exception as error:
        if is_memory(error) or not (x.requires_grad and torch.is_grad_enabled()):
            raise
        logits = model(x.detach().clone())
    return logits


def checked_radii(name: str, returned: Any, count: int) -> Tensor:
    """What a certificate returned as radii [N] in float64: a tensor, an array or a list of N numbers.

    Raises:
        ValueError: something else; a negative number or NaN.
    """
    found = _tensor(returned)
    if found is None or found.shape != (count,) or found.dtype == torch.bool or found.is_complex():
        raise _unexpected("certificate", name, returned, count)
    found = found.double()  # before it is compared, which torch cannot do with every kind of integer
    bad = (~(found >= 0)).nonzero()[:, 0]
    if len(bad):
        raise ValueError(
            f"The certificate {name} returned radii that are negative or NaN for {len(bad)} of {count} images, the "
            f"first is image {int(bad[0])}: {float(found[bad[0]]):g}. {EXPECTED['certificate']}"
        )
    return found


def checked_images(name: str, returned: Any, x: Tensor) -> Tensor:
    """What an attack returned for the images x, on their device and in their precision: a tensor or an array.

    Raises:
        ValueError: something else, of another shape, or integers.
    """
    found = _tensor(returned)
    if found is None or found.shape != x.shape or not found.is_floating_point():
        raise _unexpected("attack", name, returned, len(x))
    return found.to(x)


def checked_table(name: str, returned: Any) -> pd.DataFrame:
    """What a measure returned.

    Raises:
        ValueError: no DataFrame.
    """
    if not isinstance(returned, pd.DataFrame):
        raise ValueError(f"The measure {name} returned {described(returned)}. {EXPECTED['measure']}")
    return returned


def is_memory(error: BaseException) -> bool:
    """Whether there was too little memory, of a GPU or of this machine: no fault of the model."""
    kinds = (torch.OutOfMemoryError, MemoryError)
    return isinstance(error, kinds) or "DefaultCPUAllocator" in str(error)


def first_line(error: BaseException) -> str:
    """What a message says that torch stretches over pages, in at most 200 characters: its first line, or its last where
    TorchScript shows the code first.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return lines[-1 if "TorchScript interpreter" in lines[0] else 0][:200]


def told(error: BaseException) -> str:
    """The type of an error and what it says."""
    return f"{type(error).__name__}: {first_line(error)}"


def described(value: Any) -> str:
    """What a value is, for messages: its type, and the shape and dtype where it has them."""
    kind = f"a {type(value).__name__}"
    if isinstance(value, Tensor) and not _is_dense(value):  # a nested one has no shape
        how = "nested" if value.is_nested else "quantized" if value.is_quantized else "meta" if value.is_meta else ""
        return f"{kind}, {how or value.layout}"
    if isinstance(value, Tensor | np.ndarray):
        return f"{kind} of shape {list(value.shape)} and dtype {value.dtype}"
    return f"{kind} of length {len(value)}" if isinstance(value, list | tuple) else kind


def _answer(model: nn.Module, x: Tensor) -> Any:
    try:
        return model(x.clone())
    except (Exception, SystemExit) as error:
        if is_memory(error):
            raise
        raise ValueError(
            f"The model refuses images of shape {list(x.shape[1:])} in {x.dtype} ({told(error)}): judge it on images "
            "of the shape and precision that it was made for."
        ) from error


def _unexpected(kind: str, name: str, returned: Any, count: int) -> ValueError:
    return ValueError(f"The {kind} {name} returned {described(returned)} for {count} images. {EXPECTED[kind]}")


def _tensor(value: Any) -> Tensor | None:
    """A tensor, an array or a list as a dense tensor without a graph; None where it is none of them."""
    try:
        if isinstance(value, list | tuple) and any(isinstance(v, Tensor) for v in value):
            value = torch.stack([*value])
        if isinstance(value, list | tuple | np.ndarray | pd.Series):
            value = torch.from_numpy(np.array(value))  # a copy: arrays can be read-only, or stored backwards
    except Exception:  # ragged lists, strings, objects: numpy and torch raise many kinds
        return None
    return value.detach() if isinstance(value, Tensor) and _is_dense(value) else None


def _is_dense(tensor: Tensor) -> bool:
    """Whether a tensor has a number at each place of its shape."""
    return not (tensor.is_nested or tensor.is_quantized or tensor.is_meta or tensor.layout != torch.strided)


def _place(error: BaseException) -> str:
    """Where it was raised: the last line that is not a library's."""
    frames = traceback.extract_tb(error.__traceback__)
    frame = next((frame for frame in reversed(frames) if "site-packages" not in frame.filename), frames[-1])
    return f"{Path(frame.filename).name}, line {frame.lineno}"
