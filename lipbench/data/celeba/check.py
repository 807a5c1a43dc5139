"""How to get CelebA, and a check of every file of it that is there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from PIL import Image

from lipbench.data.celeba.reader import (
    ALIGNED,
    ATTRIBUTE_FILE,
    ATTRIBUTES,
    IMAGES,
    OFFICIAL,
    PARTITION_FILE,
    Edition,
    pictures,
    read_attribute,
    read_partition,
    verify,
)
from lipbench.data.idx import DataError
from lipbench.data.own.cache import CHUNK, in_threads
from lipbench.data.own.pictures import FilePictures, Pictures
from lipbench.data.root import data_root
from lipbench.progress import Progress

HOW = """CelebA must be fetched by hand: its owner gives it for non-commercial research, and forbids passing it on.

  1. Read the agreement: http://mmlab.ie.cuhk.edu.hk/projects/CelebA.html
  2. From the Google Drive that it links to, download by your browser
       Img/{images}.zip (1.4 GB), Anno/{attributes} (27 MB), Eval/{partition} (3 MB).
     Where Drive says that its quota is exceeded, try again a day later, or take the page's other drive.
  3. Put them into {folder}. Unpacking the zip is possible and not needed.
  4. Run this command again: it checks what is there.

No CelebA? DATA=celeba_drawn draws faces in the same layout.
"""


def check_celeba(root: str | Path | None = None, edition: Edition = OFFICIAL, progress: bool = True) -> None:
    """Prints a line for each file of CelebA in `<root>/celeba`, and how to get it where one is missing or broken.

    Every image is looked for, and its header read; a zip must have its official sum.

    Raises `DataError` where something is missing or broken.
    """
    folder = data_root(root) / edition.folder
    edition = replace(edition, remedy="See below.")
    names: list[str] = []
    good = [
        _line(folder / ATTRIBUTE_FILE, lambda: _attributes(folder, names, edition)),
        _line(folder / PARTITION_FILE, lambda: _partition(folder, names, edition)),
    ]
    place = folder / IMAGES if (folder / IMAGES).is_dir() else folder / f"{IMAGES}.zip"
    good.append(_line(place, lambda: _images(folder, place, names, edition, progress)))
    if not all(good):
        print("\n" + HOW.format(images=IMAGES, attributes=ATTRIBUTE_FILE, partition=PARTITION_FILE, folder=folder))
        raise DataError(f"CelebA is not complete in {folder}.")


def _line(path: Path, check: Callable[[], str]) -> bool:
    """Prints what a check finds; returns whether all is well."""
    try:
        print(f"{path}: {check()}")
    except FileNotFoundError as error:
        print(f"MISSING {error}")
        return False
    except DataError as error:
        print(f"BROKEN {error}")
        return False
    return True


def _attributes(folder: Path, names: list[str], edition: Edition) -> str:
    names += read_attribute(folder / ATTRIBUTE_FILE, ATTRIBUTES[0], edition)[0]
    return f"{len(names):,} images, {len(ATTRIBUTES)} attributes, in order"


def _partition(folder: Path, names: list[str], edition: Edition) -> str:
    if not names and (folder / PARTITION_FILE).exists():
        raise DataError(f"{folder / PARTITION_FILE} cannot be checked without {ATTRIBUTE_FILE}.")
    counts = read_partition(folder / PARTITION_FILE, names, edition).bincount(minlength=3).tolist()
    return "{:,} train, {:,} validation, {:,} test, in order".format(*counts)


def _images(folder: Path, place: Path, names: list[str], edition: Edition, progress: bool) -> str:
    found = pictures(folder, names, edition)
    if not names:
        raise DataError(f"{place} cannot be checked without {ATTRIBUTE_FILE}.")
    if not isinstance(found, FilePictures):
        verify(place, edition)
    bad = _wrong_headers(found, progress)
    if bad:
        some = ", ".join(bad[:3]) + (", …" if len(bad) > 3 else "")
        size = f"{ALIGNED[1]}x{ALIGNED[0]}"
        raise DataError(f"{place}: {len(bad):,} of {len(names):,} images are no JPEG of {size}: {some}")
    return f"{len(names):,} images, in order"


def _wrong_headers(found: Pictures, progress: bool) -> list[str]:
    """The images that are no JPEG of the aligned size, with their size."""
    count, wrong = len(found.names), []
    with Progress("checking images", count, show=progress) as bar:
        parts = [range(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)]
        for part, answers in zip(parts, in_threads(partial(_headers, found), parts), strict=True):
            wrong += [answer for answer in answers if answer]
            bar.update(len(part))
    return wrong


def _headers(found: Pictures, part: Sequence[int]) -> list[str]:
    """What is wrong with each image of a part; "" where nothing is."""
    answers = []
    for name, index in ((found.names[index], index) for index in part):
        try:
            with found.open(index) as file, Image.open(file, formats=("JPEG",)) as image:
                height, width = image.height, image.width
        except Exception:  # a damaged image fails anywhere in Pillow
            answers.append(f"{name} (no JPEG)")
        else:
            answers.append("" if (height, width) == ALIGNED else f"{name} ({width}x{height})")
    return answers
