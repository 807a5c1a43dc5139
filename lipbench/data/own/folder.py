"""Your own images: a folder with one subfolder per class."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image

from lipbench.data.celeba.reader import sides
from lipbench.data.dataset import Dataset, name_of
from lipbench.data.idx import DataError
from lipbench.data.own.cache import decoded, remembered
from lipbench.data.own.listing import listed
from lipbench.data.own.parts import complete, counts_of, in_parts, order_of
from lipbench.data.own.pictures import MODES, FilePictures, Preparation, channels_of


def folder(
    root: str | Path | None = None,
    size: int | Sequence[int] = 64,
    channels: int | None = None,
    crop: int | None = None,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.2,
    seed: int = 0,
    name: str | None = None,
    cache: str | Path | None = None,
    *,
    workers: int | None = None,
    progress: bool = True,
) -> Dataset:
    """PNG and JPEG images of any size, one subfolder of `root` per class: `root/<class>/…`, at any depth below.

    Where `root` has a folder `train`, classes lie below the parts: `root/train/<class>/…`, `root/validation/<class>/…`
    and `root/test/<class>/…`. `Training`, `val` and `TEST` are such names too (see `listing.NAMES`). A part that
    is missing is cut from train, stratified, by the seed. Classes are in the order of their names. The images
    are resized once, into a cache (see `cache`). Files that are no images, and hidden ones, are named in
    a warning.

    Args:
        root: the folder.
        size: of the images as the network sees them, one side or (H, W); proportions are kept, the rest is cut off.
        channels: 1 or 3, to which all images are converted. None: those of the images, which must all be alike.
        crop: side of a centre square that is cut out of every image first, in its pixels.
        validation_fraction: where there is no folder of that part, of what is left in train without the test set.
        test_fraction: where there is no folder of that part, of train.
        seed: of the cuts.
        name: of the data set; None: that of the folder.
        cache: folder of all data files, in which the cache lies (see `data_root`).
        workers: threads that decode; None: one per core.

    Raises `FileNotFoundError` for a folder that is not there or has no images, `DataError` for files that cannot be
    used and classes without images, by name; `ValueError` for fewer than two classes, a class that train lacks,
    impossible options.
    """
    if root is None:
        raise ValueError("Which folder? dataset.root=<folder with one subfolder per class>.")
    place = Path(root).expanduser()
    if not place.is_dir():
        raise FileNotFoundError(f"There is no folder {place}. dataset.root= is a folder with one subfolder per class.")
    name = name_of(name, Path(os.path.abspath(place)).name)
    listing = listed(place)
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
    images = decoded(pictures, preparation, name, cache, workers, progress, counts_of(parts))
    return in_parts(name, classes, images, labels, parts)


def _channels(pictures: FilePictures) -> int:
    """Of all images, from their headers. Raises `DataError` where they differ, with one image of each kind."""
    kinds: dict[int, str] = {}
    for name in pictures.names:
        try:
            with Image.open(pictures.folder / name, formats=("PNG", "JPEG")) as image:
                kinds.setdefault(channels_of(image), name)
        except Exception:  # a damaged image fails anywhere in Pillow
            continue  # decoding says what is wrong with it, together with the others
        if len(kinds) > 1:
            raise DataError(
                f"The images have unequal channels: {kinds[1]} has 1 (grey), {kinds[3]} has 3 (colour). "
                "Choose dataset.channels=3 (or 1) to convert them."
            )
    return next(iter(kinds), 3)
