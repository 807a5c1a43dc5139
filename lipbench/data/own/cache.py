"""Images decoded once into a memory-mapped file, which a split then holds without having it in memory.

A cache is a .npy file of uint8 [N, C, H, W] in `<data root>/cache/`, named by its settings. It is written under a
temporary name and renamed when it is whole; nothing else is ever taken for one, and it may be deleted at any time.
Processes that miss the same cache at once each write all of it, under names of their own: the last rename stands, and
a run that mapped another one keeps the same pixels. That costs time and room for a while; a lock would cost more where
its owner dies.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lipbench.data.dataset import name_of
from lipbench.data.idx import DataError
from lipbench.data.own.parts import PARTS
from lipbench.data.own.pictures import BadPicture, Pictures, Preparation, read_picture
from lipbench.data.root import data_root
from lipbench.files import atomic
from lipbench.progress import Progress

Item = TypeVar("Item")
Result = TypeVar("Result")

# Part of every key: raised when the same settings would give other pixels.
VERSION = 3
# A part whose largest pixel is no more is not one of 0..255: binary images, or pixels of four bits.
DARKEST = 16
# Images that a thread decodes before it takes the next ones.
CHUNK = 32
# Bad images after which no more are looked for, and those of them that a message names.
PATIENCE, NAMED = 20, 5


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Writer:
    """Writes images into a cache under construction. May be used from several threads.

    Attributes:
        largest: pixel of each image.
    """

    descriptor: int
    offset: int
    shape: tuple[int, ...]
    largest: NDArray[np.uint8]

    def __call__(self, start: int, images: NDArray[np.uint8]) -> None:
        """Puts images [n, C, H, W] at `start`. A full disk is an `OSError`; through a mapping it would be a crash."""
        self.largest[start : start + len(images)] = images.max(axis=(1, 2, 3), initial=0)
        content = images.tobytes()
        position = self.offset + start * int(np.prod(self.shape[1:]))
        while content:
            written = os.pwrite(self.descriptor, content, position)
            content, position = content[written:], position + written


def cached(
    name: str,
    settings: Any,
    shape: tuple[int, int, int, int],
    fill: Callable[[Writer], None],
    root: str | Path | None = None,
    counts: Sequence[int] = (),
) -> Tensor:
    """Images [N, C, H, W] uint8, mapped from the cache of these settings; `fill` writes it if it is not there.

    The tensor takes no anonymous memory: the system reads pages when they are used and drops them when it needs room.
    Writing to it changes a private copy.

    Args:
        name: beginning of the file's name.
        settings: all that the pixels depend on, as JSON-like values.
        shape: of the whole.
        fill: called with a `Writer`; no file is left if it raises.
        root: of all data files (see `data_root`).
        counts: images of each part, which lie one after another; none: it is not known yet.

    Raises `OSError` where there is no room or no permission, `DataError` for a damaged cache and for a part that is all
    black, `ValueError` for a name that cannot begin a file's.
    """
    name_of(name)
    key = hashlib.sha256(json.dumps([VERSION, settings, list(shape)], sort_keys=True).encode()).hexdigest()[:16]
    path = data_root(root) / "cache" / f"{name}-{shape[2]}x{shape[3]}-{key}.npy"
    if not path.exists():
        _write(path, shape, fill, counts or shape[:1])
    try:
        array = np.lib.format.open_memmap(path, mode="c")
    except OSError:
        raise
    except Exception as error:  # numpy's parser of headers raises more than ValueError
        raise DataError(f"{path} is damaged ({error}). Delete it: it is made again from the images.") from None
    if array.shape != shape or array.dtype != np.uint8 or not array.flags.c_contiguous:
        raise DataError(f"{path} is damaged: it holds {array.dtype} {array.shape}. Delete it: it is made again.")
    return torch.from_numpy(array)


def decoded(
    pictures: Pictures,
    preparation: Preparation,
    name: str,
    root: str | Path | None = None,
    workers: int | None = None,
    progress: bool = True,
    counts: Sequence[int] = (),
) -> Tensor:
    """The pictures as one mapped tensor [N, C, H, W] (see `cached`), decoded in parallel the first time.

    Threads do it: Pillow works outside of Python's lock, and threads send no pixels between them.

    Args:
        pictures: at least one, in the order of the splits.
        preparation: with its channels given.
        workers: threads; None: one per core.
        counts: images of each part (see `cached`).

    Raises `DataError`, which names the images that cannot be used, and what `cached` raises.
    """
    assert preparation.channels is not None
    shape = (len(pictures.names), preparation.channels, *preparation.size)

    def fill(write: Writer) -> None:
        bad: list[str] = []

        def chunk(start: int) -> int:
            if len(bad) >= PATIENCE:
                raise DataError(_bad_pictures(bad, shape[0]))
            part = range(start, min(start + CHUNK, shape[0]))
            images = np.zeros((len(part), *shape[1:]), np.uint8)
            for index in part:
                if len(bad) >= PATIENCE:
                    break
                try:
                    images[index - start] = preparation(read_picture(pictures, index))
                except BadPicture as error:
                    bad.append(f"{pictures.names[index]} {error}")
            write(start, images)
            return len(part)

        with Progress(f"{name}: decoding", shape[0], show=progress) as bar:
            for count in in_threads(chunk, range(0, shape[0], CHUNK), workers):
                bar.update(count)
        if bad:
            raise DataError(_bad_pictures(bad, shape[0]))

    settings = {"pictures": pictures.identity(), "preparation": asdict(preparation)}
    return cached(name, settings, shape, fill, root, counts)


def remembered(name: str, settings: Any, compute: Callable[[], int], root: str | Path | None = None) -> int:
    """A number that depends on these settings alone: from a small file in the cache, or computed now and kept there
    where that is possible.
    """
    key = hashlib.sha256(json.dumps([VERSION, settings], sort_keys=True).encode()).hexdigest()[:16]
    path = data_root(root) / "cache" / f"{name}-{key}.json"
    with suppress(OSError, ValueError):
        held = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(held, int):
            return held
    value = compute()
    with suppress(OSError), atomic(path) as temporary:
        temporary.write_text(json.dumps(value), encoding="utf-8")
    return value


def in_threads(
    function: Callable[[Item], Result], items: Iterable[Item], workers: int | None = None
) -> Iterator[Result]:
    """`map(function, items)` on threads, in order. What an item raises, and Ctrl-C, ends all of it."""
    pool = ThreadPoolExecutor(workers or cores(), "lipbench")
    try:
        yield from pool.map(function, items)
    finally:
        pool.shutdown(cancel_futures=True)


def _write(path: Path, shape: tuple[int, ...], fill: Callable[[Writer], None], counts: Sequence[int]) -> None:
    size = int(np.prod(shape))
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
    if not (path.parent.is_dir() and os.access(path.parent, os.W_OK)):
        raise OSError(
            f"The cache of decoded images cannot be written in {path.parent}. Set LIPBENCH_DATA (or data_root=) to a "
            "folder that can be written, and link the data set there if it lies in this one."
        )
    with atomic(path) as temporary:
        free = shutil.disk_usage(path.parent).free
        if free < size:
            raise OSError(
                f"The cache of these images takes {size / 1e9:.2f} GB, and {path.parent} has {free / 1e9:.2f} GB free. "
                "Make room, or set LIPBENCH_DATA (or data_root=) to a folder on another disk."
            )
        with temporary.open("wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            file.flush()
            writer = Writer(file.fileno(), file.tell(), shape, np.zeros(shape[0], np.uint8))
            fill(writer)
        _check_light(writer.largest, counts)


def _check_light(largest: NDArray[np.uint8], counts: Sequence[int]) -> None:
    """
    Args:
        largest: pixel of each image.
        counts: images of each part, or of all.

    Raises:
        DataError: a part is almost black, even if the others are not: they may be stored in other units.
    """
    for number, of_part in enumerate(np.split(largest, np.cumsum(counts)[:-1])):
        top = int(of_part.max(initial=0))
        if len(of_part) and top <= DARKEST:
            which = f" of {PARTS[number]}" if len(counts) > 1 else ""
            raise DataError(
                f"The largest pixel of all {len(of_part)} images{which} is {top} of 255: they would be (almost) black. "
                f"Pixels are 0..255: multiply these by {255 // max(top, 1)}."
            )


def _bad_pictures(bad: Sequence[str], count: int) -> str:
    more = "" if len(bad) <= NAMED else f"; and {len(bad) - NAMED} more"
    counted = f"at least {len(bad)}" if len(bad) >= PATIENCE else str(len(bad))
    return f"{counted} of {count} images cannot be used: {'; '.join(bad[:NAMED])}{more}. Fix or remove them."
