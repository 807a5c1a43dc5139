"""Your own images: a folder with one subfolder per class."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image

from lipbench.data.cache import decoded, remembered
from lipbench.data.celeba import sides
from lipbench.data.dataset import Dataset
from lipbench.data.idx import DataError
from lipbench.data.parts import PARTS, complete, in_parts, order_of
from lipbench.data.pictures import MODES, BadPicture, FilePictures, Preparation, channels_of

SUFFIXES = (".png", ".jpg", ".jpeg")
# Images that are not read: to leave them out without a word would lose them, or a whole class.
OTHER_SUFFIXES = (".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".heic", ".jp2", ".ppm", ".pgm")
# Other names that people give to the validation set.
ALIASES = {"val": "validation", "valid": "validation"}


@dataclass(frozen=True)
class _Listing:
    """Image files, their classes and parts, in the order of their paths."""

    names: list[str]
    classes: list[str]
    parts: list[int]


def folder(
    root: str | Path | None = None,
    size: int | Sequence[int] = 64,
    channels: int | None = None,
    crop: int | None = None,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.2,
    seed: int = 0,
    name: str = "folder",
    cache: str | Path | None = None,
    *,
    workers: int | None = None,
    progress: bool = True,
) -> Dataset:
    """PNG and JPEG images of any size, one subfolder of `root` per class: `root/<class>/…`, at any depth below.

    Where `root` has a folder `train`, classes lie below the parts: `root/train/<class>/…`, `root/validation/<class>/…`
    (or `val`), `root/test/<class>/…`. A part that is missing is cut from train, stratified, by the seed. Classes are in
    the order of their names. The images are resized once, into a cache (see `lipbench.data.cache`).

    Args:
        root: the folder.
        size: of the images as the network sees them, one side or (H, W); proportions are kept, the rest is cut off.
        channels: 1 or 3, to which all images are converted. None: those of the images, which must all be alike.
        crop: side of a centre square that is cut out of every image first, in its pixels.
        validation_fraction: where there is no folder of that part, of what is left in train without the test set.
        test_fraction: where there is no folder of that part, of train.
        seed: of the cuts.
        name: of the data set.
        cache: folder of all data files, in which the cache lies (see `data_root`).
        workers: threads that decode; None: one per core.

    Raises `FileNotFoundError` for a folder that is not there or has no images, `DataError` for images that cannot be
    used and classes without any, by name; `ValueError` for fewer than two classes, a class that train lacks, impossible
    options.
    """
    if root is None:
        raise ValueError("Which folder? dataset.root=<folder with one subfolder per class>.")
    place = Path(root).expanduser()
    if not place.is_dir():
        raise FileNotFoundError(f"There is no folder {place}. dataset.root= is a folder with one subfolder per class.")
    listing = _listing(place)
    classes = sorted(set(listing.classes))
    label_of = {one: label for label, one in enumerate(classes)}
    labels = torch.tensor([label_of[one] for one in listing.classes])
    parts = complete(labels, torch.tensor(listing.parts), validation_fraction, test_fraction, seed)
    pictures = FilePictures(place, [listing.names[i] for i in order_of(parts).tolist()])
    preparation = Preparation(sides(size), channels, crop)
    if channels is None:
        # Asked of the headers of all images once, not at every start.
        found = remembered(f"{name}-channels", pictures.identity(), lambda: _channels(pictures), cache)
        preparation = replace(preparation, channels=found if found in MODES else _channels(pictures))
    images = decoded(pictures, preparation, name, cache, workers, progress)
    return in_parts(name, classes, images, labels, parts)


def _listing(root: Path) -> _Listing:
    known = {**ALIASES, **{part: part for part in PARTS}}
    parted = {known[path.name]: path for path in sorted(root.iterdir()) if path.is_dir() and path.name in known}
    if "train" not in parted:
        if parted:
            found = ", ".join(path.name for path in parted.values())
            raise FileNotFoundError(f"{root} has a folder {found} but no folder train.")
        parted = {"train": root}
    else:
        _refuse_strays(root, set(parted.values()))
    names, classes, parts = [], [], []
    for part, place in parted.items():
        for path in _images(place):
            inside = path.relative_to(place).parts
            if len(inside) < 2:
                raise DataError(f"{path} lies in no subfolder: images lie in <class>/, the name of their class.")
            names.append(str(path.relative_to(root)))
            classes.append(inside[0])
            parts.append(PARTS.index(part))
    _check_classes(root, classes, parts)
    _refuse_empty(parted["train"], classes)
    return _Listing(names, classes, parts)


def _refuse_strays(root: Path, used: Collection[Path]) -> None:
    """A test folder by another name would be left out without a word, and a test set cut from train."""
    strays = [
        path.name
        for path in sorted(root.iterdir())
        if path not in used
        and not path.name.startswith(".")
        and (path.is_dir() or path.name.lower().endswith((*SUFFIXES, *OTHER_SUFFIXES)))
    ]
    if strays:
        raise DataError(
            f"{root} has a folder train, and beside it {', '.join(strays)}: the parts are {', '.join(PARTS)}, one "
            "folder each. Rename or remove the others."
        )


def _check_classes(root: Path, classes: Sequence[str], parts: Sequence[int]) -> None:
    if not classes:
        raise FileNotFoundError(f"{root} has no images ({', '.join(SUFFIXES)}): one subfolder per class is expected.")
    if len(set(classes)) < 2:
        raise ValueError(
            f"{root} has one class, {classes[0]!r}: a classifier needs two or more subfolders with images in them."
        )
    trained = {one for one, part in zip(classes, parts, strict=True) if part == 0}
    if strange := sorted(set(classes) - trained):
        raise ValueError(f"{root}/train has no image of {', '.join(strange)}, which another part has.")


def _refuse_empty(place: Path, classes: Sequence[str]) -> None:
    with os.scandir(place) as entries:
        folders = {entry.name for entry in entries if entry.is_dir() and not entry.name.startswith(".")}
    if empty := sorted(folders - set(classes)):
        raise DataError(
            f"{place} has subfolders without images ({', '.join(SUFFIXES)}): {', '.join(empty)}. Each subfolder is a "
            "class: fill them or remove them."
        )


def _images(place: Path) -> Iterator[Path]:
    """Image files in order, hidden ones left out. Raises `DataError` for one in another format."""
    for where, folders, files in os.walk(place, followlinks=True):
        folders[:] = sorted(one for one in folders if not one.startswith("."))
        for file in sorted(files):
            if file.lower().endswith(SUFFIXES) and not file.startswith("."):
                yield Path(where) / file
            elif file.lower().endswith(OTHER_SUFFIXES) and not file.startswith("."):
                raise DataError(f"{Path(where) / file} is neither PNG nor JPEG: convert such images, or remove them.")


def _channels(pictures: FilePictures) -> int:
    """Of all images, from their headers. Raises `DataError` where they differ, with one image of each kind."""
    kinds: dict[int, str] = {}
    for name in pictures.names:
        try:
            with Image.open(pictures.folder / name, formats=("PNG", "JPEG")) as image:
                kinds.setdefault(channels_of(image), name)
        except BadPicture as error:
            raise DataError(f"{pictures.folder / name} {error}.") from None
        except Exception:  # a damaged image fails anywhere in Pillow
            continue  # decoding says what is wrong with it, together with the others
        if len(kinds) > 1:
            raise DataError(
                f"The images have unequal channels: {kinds[1]} has 1 (grey), {kinds[3]} has 3 (colour). "
                "Choose dataset.channels=3 (or 1) to convert them."
            )
    return next(iter(kinds), 3)
