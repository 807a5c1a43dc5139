"""CelebA in its official layout, one attribute as a binary task; and faces drawn in the same layout."""

from __future__ import annotations

import difflib
import hashlib
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import torch
from torch import Tensor

from lipbench.data.contents import START, looks_like_html, what_it_is
from lipbench.data.dataset import Dataset
from lipbench.data.idx import DataError
from lipbench.data.own.cache import decoded
from lipbench.data.own.parts import counts_of, in_parts, order_of
from lipbench.data.own.pictures import FilePictures, Pictures, Preparation, ZipPictures
from lipbench.data.root import data_root

ATTRIBUTES = (
    *("5_o_Clock_Shadow", "Arched_Eyebrows", "Attractive", "Bags_Under_Eyes", "Bald", "Bangs", "Big_Lips", "Big_Nose"),
    *("Black_Hair", "Blond_Hair", "Blurry", "Brown_Hair", "Bushy_Eyebrows", "Chubby", "Double_Chin", "Eyeglasses"),
    *("Goatee", "Gray_Hair", "Heavy_Makeup", "High_Cheekbones", "Male", "Mouth_Slightly_Open", "Mustache"),
    *("Narrow_Eyes", "No_Beard", "Oval_Face", "Pale_Skin", "Pointy_Nose", "Receding_Hairline", "Rosy_Cheeks"),
    *("Sideburns", "Smiling", "Straight_Hair", "Wavy_Hair", "Wearing_Earrings", "Wearing_Hat", "Wearing_Lipstick"),
    *("Wearing_Necklace", "Wearing_Necktie", "Young"),
)
# Images of the official edition, and (H, W) of each aligned one.
COUNT, ALIGNED = 202_599, (218, 178)
IMAGES, ATTRIBUTE_FILE, PARTITION_FILE = "img_align_celeba", "list_attr_celeba.txt", "list_eval_partition.txt"
# Bytes of a list; the official ones have 27 million at most.
LARGEST = 2**27
MD5 = {
    f"{IMAGES}.zip": "00d2c5bc6d35e252742224ab0c1e8fcb",
    ATTRIBUTE_FILE: "75e246fa4810816ffd6ee81facbd244c",
    PARTITION_FILE: "d32c9cbf5e040fd4025c592c306e6668",
}


@dataclass(frozen=True)
class Edition:
    """One of the data sets in CelebA's layout.

    Attributes:
        folder: below the data root.
        remedy: what to do where a file is missing or broken.
        count: of its images; None: any.
        md5: file -> sum of its content, where that is fixed.
    """

    folder: str
    remedy: str
    count: int | None = None
    md5: Mapping[str, str] = field(default_factory=dict)


OFFICIAL = Edition("celeba", "`make data DATA=celeba` says how to get it and checks it file by file.", COUNT, MD5)
DRAWN = Edition("celeba_drawn", "Draw them (anew): make data DATA=celeba_drawn.")


def celeba(
    attribute: str,
    size: int | Sequence[int] = 64,
    crop: int | None = 148,
    name: str | None = None,
    root: str | Path | None = None,
    *,
    workers: int | None = None,
    progress: bool = True,
) -> Dataset:
    """202,599 aligned photographs of faces: class 1 has the attribute, class 0 has it not; the official partition.

    The files lie in `<root>/celeba/`: `img_align_celeba/` or `img_align_celeba.zip`, `list_attr_celeba.txt` and
    `list_eval_partition.txt`. The images are decoded once into a cache (see `lipbench.data.own.cache`) which all
    attributes share.

    Args:
        attribute: one of the 40 `ATTRIBUTES`, such as "Eyeglasses".
        size: of the images, one side or (H, W).
        crop: side of the square around the centre of the aligned 178x218 image that is kept, in its pixels: 148 holds
            the face from forehead to chin. None: as much of the image as the proportions of `size` allow.
        name: default "celeba_<attribute>", in lower case.
        root: of all data files (see `data_root`).
        workers: threads that decode; None: one per core.

    Raises `FileNotFoundError` for missing files, `DataError` for broken ones, both with what to do; `ValueError` for an
    unknown attribute or an impossible size.

    Source: Liu, Luo, Wang, Tang, "Deep learning face attributes in the wild", ICCV 2015. For non-commercial research;
    its owner forbids passing it on.
    """
    return _edition(OFFICIAL, attribute, size, crop, name, root, workers, progress)


def celeba_drawn(
    attribute: str,
    size: int | Sequence[int] = 64,
    crop: int | None = 148,
    name: str | None = None,
    root: str | Path | None = None,
    *,
    workers: int | None = None,
    progress: bool = True,
) -> Dataset:
    """Drawn faces, no photographs, in CelebA's layout in `<root>/celeba_drawn/` (see `lipbench.data.celeba.drawn`).

    Results on them say nothing of CelebA: they show that its whole path runs. Arguments and errors as in `celeba`;
    `name` defaults to "celeba_drawn_<attribute>".
    """
    return _edition(DRAWN, attribute, size, crop, name, root, workers, progress)


def _edition(
    edition: Edition,
    attribute: str,
    size: int | Sequence[int],
    crop: int | None,
    name: str | None,
    root: str | Path | None,
    workers: int | None,
    progress: bool,
) -> Dataset:
    if attribute not in ATTRIBUTES:
        raise ValueError(_unknown(attribute))
    preparation = Preparation(sides(size), 3, crop, ALIGNED)
    folder = data_root(root) / edition.folder
    names, labels = read_attribute(folder / ATTRIBUTE_FILE, attribute, edition)
    if not labels.any() or labels.all():
        which = "every" if labels.any() else "no"
        raise DataError(f"By {folder / ATTRIBUTE_FILE}, {which} image has the attribute {attribute}: nothing to learn.")
    parts = read_partition(folder / PARTITION_FILE, names, edition)
    ordered = [names[i] for i in order_of(parts).tolist()]
    found, counts = pictures(folder, ordered, edition), counts_of(parts)
    images = decoded(found, preparation, edition.folder, root, workers, progress, counts)
    classes = (f"no {attribute}", attribute)
    return in_parts(name or f"{edition.folder}_{attribute.lower()}", classes, images, labels, parts)


def sides(size: int | Sequence[int]) -> tuple[int, int]:
    """(H, W) of a size that may be one side. Raises `ValueError`."""
    both = tuple(size) if isinstance(size, Sequence) else (size, size)
    if len(both) != 2 or not all(isinstance(side, int) and side > 0 for side in both):
        raise ValueError(f"size is one side or [height, width], in pixels; not {size}.")
    return both[0], both[1]


def read_attribute(path: Path, attribute: str, edition: Edition) -> tuple[list[str], Tensor]:
    """The names of the images, and [N] int64: 1 where they have the attribute, else 0. The whole file is checked.

    Raises `FileNotFoundError`, `DataError`.
    """
    names, labels = [], []
    with _text(path, edition) as file:
        first = file.readline().strip()
        title = tuple(file.readline().split())
        if not (first.isascii() and first.isdigit() and len(first) < 12) or title != ATTRIBUTES:
            raise DataError(f"{path} {_other_version(first, title)} {edition.remedy}")
        column = 1 + ATTRIBUTES.index(attribute)
        for number, line in enumerate(file, 3):
            row = line.split()
            if len(row) != 1 + len(ATTRIBUTES) or not {"1", "-1"}.issuperset(row[1:]):
                raise DataError(
                    f"{path}, line {number}, is not a name and {len(ATTRIBUTES)} times 1 or -1: {line[:60]!r}. "
                    f"{edition.remedy}"
                )
            names.append(row[0])
            labels.append(int(row[column] == "1"))
    if len(names) != int(first) or len(names) != (edition.count or len(names)):
        raise DataError(
            f"{path} lists {len(names):,} images; its first line says {int(first):,}"
            + (f", the official edition has {edition.count:,}" if edition.count else "")
            + f". {edition.remedy}"
        )
    verify(path, edition)
    return names, torch.tensor(labels, dtype=torch.int64)


def read_partition(path: Path, names: Sequence[str], edition: Edition) -> Tensor:
    """The part of each image: [N], 0 train, 1 validation, 2 test. Raises `FileNotFoundError`, `DataError`."""
    with _text(path, edition) as file:
        rows = [line.split() for line in file]
    for number, row in enumerate(rows, 1):
        if len(row) != 2 or row[1] not in ("0", "1", "2"):
            raise DataError(f"{path}, line {number}, is not a name and 0, 1 or 2. {edition.remedy}")
    if [row[0] for row in rows] != list(names):
        raise DataError(
            f"{path} ({len(rows):,} images) and {ATTRIBUTE_FILE} ({len(names):,}) list different images: they are of "
            f"different versions. {edition.remedy}"
        )
    verify(path, edition)
    return torch.tensor([int(row[1]) for row in rows])


def verify(path: Path, edition: Edition) -> None:
    """Raises `DataError` where the file's content is not the edition's."""
    expected = edition.md5.get(path.name)
    if expected is None:
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != expected:
        raise DataError(f"{path} is of another version: its md5 sum is {found} instead of {expected}. {edition.remedy}")


def pictures(folder: Path, names: Sequence[str], edition: Edition) -> Pictures:
    """The images of these names, from the folder or the zip. Raises `FileNotFoundError`, `DataError`."""
    unpacked, packed = folder / IMAGES, folder / f"{IMAGES}.zip"
    if unpacked.is_dir():
        with os.scandir(unpacked) as entries:
            present = {entry.name for entry in entries}
        _refuse_missing(unpacked, [name for name in names if name not in present], len(names), edition)
        return FilePictures(unpacked, names)
    if not packed.is_file():
        raise FileNotFoundError(f"There is neither {unpacked} nor {packed.name} next to it. {edition.remedy}")
    archive = open_zip(packed, edition)
    members = [f"{IMAGES}/{name}" for name in names]
    _refuse_missing(packed, [m for m in members if m not in archive.NameToInfo], len(names), edition)
    return ZipPictures(archive, members)


def open_zip(path: Path, edition: Edition) -> zipfile.ZipFile:
    """The archive of the images. Raises `DataError` for what the network left in its place."""
    try:
        return zipfile.ZipFile(path)
    except OSError:
        raise
    except Exception:  # zipfile's own, and what its parser of a damaged directory raises besides
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(START)
    if looks_like_html(start):
        problem = "is a web page (HTML): Google Drive sends one in place of the file once its download quota is used up"
    elif start.startswith(b"PK"):
        problem = f"is truncated after {size:,} bytes"
    else:
        problem = what_it_is(start) or "is no zip archive"
    raise DataError(f"{path} {problem}. Delete it and download it again. {edition.remedy}")


def _text(path: Path, edition: Edition) -> TextIO:
    try:
        file = path.open(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        raise FileNotFoundError(f"There is no {path}. {edition.remedy}") from None
    if (size := os.fstat(file.fileno()).st_size) > LARGEST:
        file.close()
        raise DataError(f"{path} has {size:,} bytes, far more than the list. {edition.remedy}")
    with path.open("rb") as beginning:
        kind = what_it_is(beginning.read(START))
    if kind:
        file.close()
        raise DataError(f"{path} {kind}. The list is a text file: delete this one. {edition.remedy}")
    return file


def _refuse_missing(place: Path, missing: Sequence[str], count: int, edition: Edition) -> None:
    if missing:
        some = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
        raise FileNotFoundError(f"{place} lacks {len(missing):,} of {count:,} images: {some} {edition.remedy}")


def _other_version(first: str, title: Sequence[str]) -> str:
    if "," in first:
        return (
            "is a table with commas, as other sites pass it on: the official list has the number of images in its "
            "first line, the names of the attributes in its second."
        )
    if missing := [name for name in ATTRIBUTES if name not in title]:
        return f"is of another version: its second line lacks {len(missing)} attributes, {', '.join(missing[:3])}."
    return "is of another version: the official list begins with the number of images and the 40 attributes in order."


def _unknown(attribute: str) -> str:
    lower = {name.lower(): name for name in ATTRIBUTES}
    near = [lower[found] for found in difflib.get_close_matches(str(attribute).lower(), lower, n=3, cutoff=0.5)]
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return f"CelebA has no attribute {attribute!r}.{hint} There are: {', '.join(ATTRIBUTES)}."
