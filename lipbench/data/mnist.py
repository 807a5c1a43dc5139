"""MNIST from the four official files, in torchvision's layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from lipbench.data.dataset import Dataset, Split, hold_out, restrict
from lipbench.data.idx import read_idx
from lipbench.data.root import data_root, how_to_fetch

# Part of the data set's definition: changing one changes every result on it.
VALIDATION_FRACTION, VALIDATION_SEED = 0.1, 0


@dataclass(frozen=True)
class File:
    """A file as it must be: its name, its shape, and the md5 sums of its content and of the official .gz."""

    name: str
    shape: tuple[int, ...]
    md5: str
    archive_md5: str


FILES = {
    "train images": File(
        "train-images-idx3-ubyte",
        (60_000, 28, 28),
        "6bbc9ace898e44ae57da46a324031adb",
        "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    ),
    "train labels": File(
        "train-labels-idx1-ubyte",
        (60_000,),
        "a25bea736e30d166cdddb491f175f624",
        "d53e105ee54ea40749a09fcbcd1e9432",
    ),
    "test images": File(
        "t10k-images-idx3-ubyte",
        (10_000, 28, 28),
        "2646ac647ad5339dbf082846283269ea",
        "9fb629c4189551a2d022fa330f9573f3",
    ),
    "test labels": File(
        "t10k-labels-idx1-ubyte",
        (10_000,),
        "27ae3e4e09519cfbb04c329615203637",
        "ec29112dd5afa0611ce80d1b7f02629c",
    ),
}


def mnist(keep: Sequence[int] | None = None, name: str | None = None, root: str | Path | None = None) -> Dataset:
    """70,000 handwritten digits [1, 28, 28]: 54,000 train, 6,000 validation, and the official 10,000 test.

    Validation is a stratified tenth of the official train set, always the same one, and cut off before
    classes are chosen. Label i is the digit `keep[i]`; `name` defaults to "mnist" and the digits kept.

    The files are read from `<root>/MNIST/raw`, plain or gzipped, where `root` defaults to the environment's
    LIPBENCH_DATA and then to the user's cache. Their content is always verified.

    Raises `FileNotFoundError`, with the command that fetches them, when files are missing; `DataError` when a
    file is broken; `ValueError` for impossible `keep`.

    Source: LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document recognition", 1998.
    """
    folder = raw_folder(root)
    if missing := [file.name for file in FILES.values() if find(folder, file.name) is None]:
        raise FileNotFoundError(_how_to_fetch(folder, missing, root))
    train, validation = hold_out(_read(folder, "train"), VALIDATION_FRACTION, VALIDATION_SEED)
    classes = tuple(str(digit) for digit in range(10))
    return restrict(Dataset("mnist", classes, train, validation, _read(folder, "test")), keep, name)


def raw_folder(root: str | Path | None = None) -> Path:
    """The folder of the four files under `root` (see `data_root`)."""
    return data_root(root) / "MNIST" / "raw"


def find(folder: Path, name: str) -> Path | None:
    """The file `name` in `folder`, plain or .gz, else None. Its last hyphen but one may be a dot, and it may lie in a
    folder of its own name: so unpackers and other sites write it.
    """
    names = (name, name.replace("-idx", ".idx"))
    paths = (folder / inner / f"{one}{end}" for inner in ("", *names) for one in names for end in ("", ".gz"))
    return next((path for path in paths if path.is_file()), None)


def _read(folder: Path, part: str) -> Split:
    def array(content: str) -> NDArray[np.uint8]:
        file = FILES[f"{part} {content}"]
        return read_idx(find(folder, file.name) or folder / file.name, file.shape, file.md5)

    images, labels = array("images"), array("labels")
    return Split(torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels.astype(np.int64)))


def _how_to_fetch(folder: Path, missing: Sequence[str], root: str | Path | None) -> str:
    present = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return (
        f"MNIST is not complete in {folder}. Missing, plain or as .gz: {', '.join(missing)}. "
        f"The folder holds {', '.join(present) or 'nothing'}. "
        f"{how_to_fetch('mnist', root, 'MNIST/raw')}"
    )
