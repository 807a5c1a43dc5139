"""Your own arrays: a .npz file, streamed into the cache and never held in memory."""

from __future__ import annotations

import errno
import math
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lipbench.data.contents import START, what_it_is
from lipbench.data.dataset import Dataset, name_of
from lipbench.data.idx import DataError
from lipbench.data.own.cache import Writer, cached
from lipbench.data.own.parts import PARTS, complete, counts_of, in_parts, order_of
from lipbench.progress import Progress

# Names of the arrays of a part, (images, labels), as numpy users and MedMNIST write them.
MEMBERS = {
    "train": (("x_train", "y_train"), ("train_images", "train_labels")),
    "validation": (("x_validation", "y_validation"), ("x_val", "y_val"), ("val_images", "val_labels")),
    "test": (("x_test", "y_test"), ("test_images", "test_labels")),
}
# By the kind of a dtype: what makes pixels of it.
CURES = {
    "f": "Multiply by 255 and round: numpy.rint(255 * x).astype(numpy.uint8) for x in 0..1.",
    "b": "Multiply by 255: 255 * x.astype(numpy.uint8).",
    "u": "Bits beyond eight would be lost: scale the pixels, numpy.rint(x * (255 / {largest})).astype(numpy.uint8) if "
    "they use the whole range.",
    "i": "If the pixels are 0..255: x.astype(numpy.uint8).",
}
NUMBERED = "numpy.unique(y, return_inverse=True)[1]"
# Bytes read at once; images and classes of the largest set.
CHUNK, LARGEST, CLASSES = 16 * 2**20, 10_000_000, 100_000


@dataclass(frozen=True)
class _Array:
    """The header of one member."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype

    def images(self) -> tuple[int, int, int]:
        """(C, H, W) of one image. Raises `DataError`."""
        if self.dtype != np.uint8:
            cure = CURES.get(self.dtype.kind, "").format(largest=2 ** (8 * self.dtype.itemsize) - 1)
            raise DataError(f"{self.name} holds {self.dtype}: images are uint8 in 0..255. {cure}")
        match self.shape[1:]:
            case (height, width):
                return 1, height, width
            case (1 | 3 as channels, height, width) if width not in (1, 3):
                return channels, height, width
            case (height, width, 1 | 3 as channels) if height not in (1, 3):
                return channels, height, width
        cure = ""
        if len(self.shape) == 2:
            cure = " Flat images are reshaped: x.reshape(-1, H, W)."
        elif len(self.shape) == 4 and 4 in (self.shape[1], self.shape[3]):
            cure = " A fourth channel is transparency: lay the images on a background."
        raise DataError(
            f"{self.name} has the shape {self.shape}: images are [N, H, W], [N, C, H, W] or [N, H, W, C] with 1 or 3 "
            f"channels, and it must be clear which axis the channels are.{cure}"
        )


def arrays(
    path: str | Path | None = None,
    classes: Sequence[str] | None = None,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.2,
    seed: int = 0,
    name: str | None = None,
    cache: str | Path | None = None,
    *,
    progress: bool = True,
) -> Dataset:
    """The arrays of a .npz file, compressed or not: `x_train`, `y_train`, and the same with `_validation` and `_test`.

    MedMNIST's names (`train_images`, `val_labels`, …) are understood too. Images are uint8 [N, H, W], [N, C, H, W] or
    [N, H, W, C]; labels are integers [N] or [N, 1] counted from 0, and each class has an image. A part that is missing
    is cut from train, stratified, by the seed. The images are copied into the cache
    (see `lipbench.data.own.cache`) a few at a time.

    Args:
        path: the file.
        classes: names of the classes, of those without images too; None: their numbers.
        name: of the data set; None: that of the file without its ending.
        validation_fraction: as in `folder`, and so are the other arguments.

    Raises `FileNotFoundError`, `DataError` for a file or an array that is not as above, `ValueError` for fewer than two
    classes or impossible options.
    """
    if path is None:
        raise ValueError("Which file? dataset.path=<file.npz>.")
    file = Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"There is no file {file}. dataset.path= is a .npz file.")
    name = name_of(name, file.name.removesuffix(".npz"))
    with _opened(file) as archive:
        found = _members(file, archive)
        headers = {part: _header(archive, images) for part, (images, _) in found.items()}
        shapes = {part: header.images() for part, header in headers.items()}
        if len(set(shapes.values())) > 1:
            raise DataError(f"{file} mixes images of different shapes: {shapes}.")
        labels, parts = _labels(archive, found, headers)
        _check_classes(file, labels, parts, classes)
        parts = complete(labels, parts, validation_fraction, test_fraction, seed)
        places = torch.empty_like(parts)
        places[order_of(parts)] = torch.arange(len(parts))
        shape = (len(labels), *shapes["train"])
        infos = [archive.getinfo(f"{images}.npy") for images, _ in found.values()]
        settings = [[f"{info.filename} {info.file_size} {info.CRC}" for info in infos], _runs(parts)]
        images = cached(
            name,
            settings,
            shape,
            lambda write: _copy(archive, list(headers.values()), shape, places.numpy(), write, progress),
            cache,
            counts_of(parts),
        )
    return in_parts(name, [str(one) for one in classes or range(int(labels.max()) + 1)], images, labels, parts)


@contextmanager
def _opened(file: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(file) as archive:
            yield archive
    except (zipfile.BadZipFile, zlib.error, EOFError, struct.error, NotImplementedError, OSError) as error:
        # A damaged directory sends its reader to places before the beginning of the file.
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        with file.open("rb") as stream:
            kind = what_it_is(stream.read(START))
        found = f"{kind}; it is no .npz file" if kind else "is no .npz file"
        raise DataError(f"{file} {found}, or is damaged ({error}). Write it with numpy.savez.") from None


def _members(file: Path, archive: zipfile.ZipFile) -> dict[str, tuple[str, str]]:
    present = {name.removesuffix(".npy") for name in archive.namelist()}
    found: dict[str, tuple[str, str]] = {}
    for part, choices in MEMBERS.items():
        for images, labels in choices:
            if images in present and labels in present:
                if part in found:
                    raise DataError(f"{file} has {found[part][0]} and {images}: keep one of them.")
                found[part] = (images, labels)
            elif images in present:
                raise DataError(f"{file} has {images} but no {labels}.")
    if "train" not in found:
        raise DataError(
            f"{file} has no x_train and y_train; it has {', '.join(sorted(present)) or 'nothing'}. The arrays are "
            "x_train, y_train, and where you have them x_validation, y_validation, x_test, y_test."
        )
    if others := sorted(present - {name for pair in found.values() for name in pair}):
        raise DataError(
            f"{file} also has {', '.join(others)}, which would be left out. The arrays are x_train, y_train, "
            "x_validation, y_validation, x_test, y_test: rename or remove the others."
        )
    return found


def _read_header(stream: IO[bytes], name: str) -> _Array:
    """
    Raises:
        DataError: no array of numbers in C order.
    """
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(stream)
    except (EOFError, zipfile.BadZipFile, zlib.error):
        raise
    except Exception as error:  # numpy's parser of headers raises more than ValueError
        raise DataError(f"{name} is no array ({error}).") from None
    if not shape or min(shape) < 1 or shape[0] > LARGEST:
        raise DataError(
            f"{name} has the shape {shape}: expected 1 to {LARGEST:,} images or labels. Leave out a part without them."
        )
    if dtype.hasobject:
        raise DataError(f"{name} holds Python objects, which are not loaded: save numbers.")
    if fortran and len(shape) > 1:
        raise DataError(f"{name} is in Fortran order: save numpy.ascontiguousarray of it.")
    return _Array(name, shape, dtype)


def _header(archive: zipfile.ZipFile, name: str) -> _Array:
    with _member(archive, name) as stream:
        header = _read_header(stream, name)
        found, promised = archive.getinfo(f"{name}.npy").file_size - stream.tell(), math.prod(header.shape)
    if found != promised * header.dtype.itemsize:
        raise DataError(f"{name} has {found:,} bytes, which is no array of {header.dtype} of shape {header.shape}.")
    return header


def _member(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    info = archive.getinfo(f"{name}.npy")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & 1:
        raise DataError(f"{name} is encrypted, or packed by a method that numpy does not use.")
    return archive.open(info)


def _labels(
    archive: zipfile.ZipFile, found: dict[str, tuple[str, str]], headers: dict[str, _Array]
) -> tuple[Tensor, Tensor]:
    labels, parts = [], []
    for part, (images, name) in found.items():
        header = _header(archive, name)
        count = headers[part].shape[0]
        if header.dtype.kind not in "iu" or header.shape not in ((count,), (count, 1)):
            raise DataError(
                f"{name} holds {header.dtype} {header.shape}: the labels of {images} are integers of shape ({count},)."
                f"{_cure(header, count)}"
            )
        with _member(archive, name) as stream:
            _read_header(stream, name)
            values = np.frombuffer(stream.read(), header.dtype)
        if values.min() < 0:
            raise DataError(f"{name} holds the label {values.min()}: labels are counted from 0, such as {NUMBERED}.")
        if values.max() >= CLASSES:
            raise DataError(
                f"{name} holds the label {values.max()}: labels are the numbers of classes, such as {NUMBERED}."
            )
        labels.append(torch.from_numpy(values.astype(np.int64)))
        parts.append(torch.full((count,), PARTS.index(part)))
    return torch.cat(labels), torch.cat(parts)


def _cure(header: _Array, count: int) -> str:
    """What makes labels of other arrays."""
    if len(header.shape) == 2 and header.shape[0] == count:
        return " Of one-hot labels: y.argmax(1)."
    if math.prod(header.shape) == count and len(header.shape) > 1:
        return " Use y.flatten()."
    if header.dtype.kind in "fb":
        return " If they are whole numbers: y.astype(int)."
    return f" Of names: {NUMBERED}, and dataset.classes for the names." if header.dtype.kind in "US" else ""


def _check_classes(file: Path, labels: Tensor, parts: Tensor, classes: Sequence[str] | None) -> None:
    present, trained = labels.unique().tolist(), set(labels[parts == PARTS.index("train")].tolist())
    if strange := sorted(set(present) - trained):
        raise ValueError(
            f"{file} has images of class {', '.join(map(str, strange))} in another part, but none in train."
        )
    if len(present) < 2:
        raise ValueError(f"{file} has images of {len(present)} class: a classifier needs two or more.")
    if classes is None and len(present) <= present[-1]:
        empty = sorted(set(range(present[-1])) - trained)
        raise DataError(
            f"{file} has labels up to {present[-1]}, but no image of {len(empty)} classes below it, such as "
            f"{empty[0]}. Labels are 0, 1, 2, … without gaps: write {NUMBERED} of all parts together, or name all "
            "classes (dataset.classes) if some are to be without images."
        )
    if classes is not None and len(classes) <= present[-1]:
        raise ValueError(f"{file} has the label {present[-1]}, but dataset.classes names {len(classes)} classes.")


def _copy(
    archive: zipfile.ZipFile,
    headers: Sequence[_Array],
    shape: tuple[int, ...],
    places: NDArray[np.int64],
    write: Writer,
    progress: bool,
) -> None:
    """Streams the images of all parts, one part after another, each image to its place."""
    image = int(np.prod(shape[1:]))
    count = max(1, CHUNK // image)
    done = 0
    with Progress("copying arrays", shape[0], show=progress) as bar:
        for header in headers:
            with _member(archive, header.name) as stream:
                _read_header(stream, header.name)
                for start in range(0, header.shape[0], count):
                    number = min(count, header.shape[0] - start)
                    content = stream.read(number * image)
                    if len(content) < number * image:
                        raise DataError(f"{header.name} ends after {done:,} images.")
                    chunk = np.frombuffer(content, np.uint8).reshape(number, *header.shape[1:])
                    if header.shape[1:] != shape[1:] and len(header.shape) == 4:
                        chunk = chunk.transpose(0, 3, 1, 2)
                    _put(chunk.reshape(number, *shape[1:]), places[done : done + number], write)
                    done += number
                    bar.update(number)


def _put(images: NDArray[np.uint8], places: NDArray[np.int64], write: Writer) -> None:
    """Writes images to their places. Those of one part are neighbours: there are few runs."""
    order = np.argsort(places)
    for rows in np.split(order, np.flatnonzero(np.diff(places[order]) != 1) + 1):
        write(int(places[rows[0]]), images[rows])


def _runs(parts: Tensor) -> str:
    """The parts as a string."""
    return "".join(map(str, parts.tolist()))
