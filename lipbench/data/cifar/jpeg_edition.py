"""CIFAR-10's official layout from an archive of JPEG files."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lipbench.data.archives import read_members
from lipbench.data.cifar.reader import CIFAR10_JPEG, COLLECTIONS, PIXELS, SHAPE, read_form
from lipbench.data.idx import DataError
from lipbench.data.own.pictures import BadPicture, Preparation
from lipbench.data.root import data_root

ARCHIVE = "cifar10-jpeg.tar.xz"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
ORDER_SEED = 0  # of the images: part of the data set's definition
FORM = next(form for form in CIFAR10_JPEG.forms if form.label_bytes)


def make_cifar10_jpeg(root: str | Path | None = None, archive: str | Path | None = None) -> Path:
    """Write `<root>/cifar10_jpeg/cifar-10-batches-bin`, whole or not at all, from an archive of JPEG files.

    The archive (default: `<root>/cifar10-jpeg.tar.xz`) holds `train/<class>/<any>.jpg` and `test/<class>/<any>.jpg`,
    32x32. The images of a class follow each other there, so their order is drawn anew, always the same.

    Raises:
        FileNotFoundError: no archive.
        DataError: it is broken, or not what it must be.
        OSError: the folder cannot be written.
    """
    base = data_root(root)
    source = Path(archive) if archive else base / ARCHIVE
    if not source.is_file():
        raise FileNotFoundError(
            f"{CIFAR10_JPEG.title} is made from {source}, which is not there. Put the archive there, or name it: "
            "lipbench data cifar10_jpeg --archive FILE."
        )
    collection = COLLECTIONS["cifar10_jpeg"]
    try:
        records = _decoded(source, {"train": collection.train, "test": collection.test})
    except DataError as error:
        raise DataError(f"{error}. Get the archive again, or name another one by --archive FILE.") from error
    target = base / collection.folder / FORM.folder
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        for split, files in (("train", FORM.train), ("test", FORM.test)):
            for file, batch in zip(files, np.split(records[split], len(files)), strict=True):
                (temporary / file).write_bytes(batch.tobytes())
        (temporary / collection.task.names_file).write_text("\n".join(CLASSES) + "\n", encoding="utf-8")
        read_form(collection, FORM, temporary)
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _decoded(archive: Path, counts: dict[str, int]) -> dict[str, NDArray[np.uint8]]:
    """Per split, a row of label and pixels for each image."""
    records = {split: np.empty((count, 1 + PIXELS), np.uint8) for split, count in counts.items()}
    found = dict.fromkeys(counts, 0)
    for member, content in read_members(archive):
        where = f"{archive}: {member}"
        split, _, rest = member.partition("/")
        label = rest.partition("/")[0]
        if split not in counts or label not in CLASSES:
            raise DataError(f"{where} is not train/CLASS/FILE or test/CLASS/FILE with a class of {', '.join(CLASSES)}")
        if found[split] < counts[split]:
            row = records[split][found[split]]
            row[0], row[1:] = CLASSES.index(label), _pixels(content, where)
        found[split] += 1
    if found != counts:
        raise DataError(f"{archive} holds {found} images instead of {counts}")
    return {split: rows[np.random.default_rng(ORDER_SEED).permutation(len(rows))] for split, rows in records.items()}


def _pixels(content: bytes, where: str) -> NDArray[np.uint8]:
    try:
        return Preparation(SHAPE[1:], expected=SHAPE[1:])(content).reshape(-1)
    except BadPicture as error:
        raise DataError(f"{where} {error}") from error
