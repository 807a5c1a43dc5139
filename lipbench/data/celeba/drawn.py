"""Faces drawn from random parameters, written in exactly CelebA's layout. They are drawn: no photographs, no persons.

So everything that reads CelebA runs and is tested where CelebA cannot be had. Results on them say nothing of CelebA.
"""

from __future__ import annotations

import os
import shutil
from functools import partial
from pathlib import Path

import numpy as np

from lipbench.data.celeba.face import draw
from lipbench.data.celeba.reader import ATTRIBUTE_FILE, ATTRIBUTES, COUNT, DRAWN, IMAGES, PARTITION_FILE
from lipbench.data.idx import DataError
from lipbench.data.own.cache import CHUNK, in_threads
from lipbench.data.root import data_root
from lipbench.progress import Progress

NOTE = "README.txt"
# Shares of train and validation in CelebA; the rest is test.
TRAIN, VALIDATION = 162_770 / COUNT, 19_867 / COUNT

# Attribute -> its share among men and among women, near those of CelebA. Hair has one colour or none of these.
SHARES: dict[str, tuple[float, float]] = {
    "5_o_Clock_Shadow": (0.22, 0.0),
    "Bald": (0.053, 0.0),
    "Bangs": (0.08, 0.2),
    "Blurry": (0.05, 0.05),
    "Bushy_Eyebrows": (0.27, 0.05),
    "Eyeglasses": (0.12, 0.025),
    "Goatee": (0.15, 0.0),
    "Mouth_Slightly_Open": (0.4, 0.54),
    "Mustache": (0.1, 0.0),
    "Narrow_Eyes": (0.11, 0.12),
    "Pale_Skin": (0.03, 0.05),
    "Rosy_Cheeks": (0.005, 0.11),
    "Smiling": (0.4, 0.54),
    "Wearing_Earrings": (0.02, 0.32),
    "Wearing_Hat": (0.08, 0.025),
    "Wearing_Lipstick": (0.005, 0.8),
}
MEN = 0.42
HAIR_SHARES = {"Black_Hair": 0.27, "Brown_Hair": 0.26, "Blond_Hair": 0.17, "Gray_Hair": 0.06, "": 0.24}
DRAWN_ATTRIBUTES = tuple(
    name for name in ATTRIBUTES if name in SHARES or name in HAIR_SHARES or name in ("Male", "No_Beard")
)


def face(seed: int, index: int) -> tuple[dict[str, bool], np.random.Generator]:
    """The attributes of one face, and the generator that draws the rest: they depend on (seed, index) alone."""
    random = np.random.default_rng((seed, index))
    has = dict.fromkeys(ATTRIBUTES, False)
    has["Male"] = bool(random.random() < MEN)
    for name, (men, women) in SHARES.items():
        has[name] = bool(random.random() < (men if has["Male"] else women))
    colour = random.choice(list(HAIR_SHARES), p=list(HAIR_SHARES.values()))
    if colour and not has["Bald"]:
        has[str(colour)] = True
    if has["Bald"]:
        has["Bangs"] = has["Wearing_Hat"] = False
    has["No_Beard"] = not (has["5_o_Clock_Shadow"] or has["Goatee"] or has["Mustache"])
    return has, random


def write_faces(
    count: int = 20_000,
    seed: int = 0,
    root: str | Path | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> Path:
    """Draws `count` faces into `<root>/celeba_drawn/`, whole or not at all, and returns that folder.

    Images are 178x218 JPEG. The attribute file has the 40 official names, with frequencies near the official ones
    (Mustache 4 %, Eyeglasses 6.5 %); what is not drawn (see `DRAWN_ATTRIBUTES`) is -1 everywhere. The partition has
    the official proportions. A README.txt next to them says that they are drawn, and how.

    Args:
        count: at least 10.
        seed: a face depends on it and on its own number alone.
        root: of all data files (see `data_root`).
        workers: threads; None: one per core.

    Raises `DataError` where the folder holds other files, `ValueError` for too few faces, `OSError`.
    """
    if count < 10:
        raise ValueError(f"At least 10 faces, so that train, validation and test have some; not {count}.")
    folder = data_root(root) / DRAWN.folder
    note = _note(count, seed)
    if folder.exists():
        found = (folder / NOTE).read_text(encoding="utf-8") if (folder / NOTE).is_file() else ""
        if found == note:
            drawn = sum(1 for _ in (folder / IMAGES).iterdir()) if (folder / IMAGES).is_dir() else 0
            if drawn != count:
                raise DataError(f"{folder} holds {drawn} of its {count} faces: delete it, and draw them again.")
            return folder
        held = found.splitlines()[0] if found else "files that were not drawn here"
        raise DataError(f"{folder} holds something else: {held} Delete it, or draw below another root.")
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        (temporary / IMAGES).mkdir(parents=True)
        _draw_all(temporary / IMAGES, count, seed, workers, progress)
        _write_lists(temporary, count, seed)
        (temporary / NOTE).write_text(note, encoding="utf-8")
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def file_name(index: int) -> str:
    """000001.jpg for index 0."""
    return f"{index + 1:06d}.jpg"


def _draw_all(folder: Path, count: int, seed: int, workers: int | None, progress: bool) -> None:
    task = partial(_draw_chunk, folder, count, seed)
    with Progress("drawing faces", count, show=progress) as bar:
        for done in in_threads(task, range(0, count, CHUNK), workers):
            bar.update(done)


def _draw_chunk(folder: Path, count: int, seed: int, start: int) -> int:
    part = range(start, min(start + CHUNK, count))
    for index in part:
        draw(*face(seed, index)).save(folder / file_name(index), quality=92)
    return len(part)


def _write_lists(folder: Path, count: int, seed: int) -> None:
    with (folder / ATTRIBUTE_FILE).open("w", encoding="utf-8") as file:
        file.write(f"{count}\n{' '.join(ATTRIBUTES)}\n")
        for index in range(count):
            has, _ = face(seed, index)
            file.write(f"{file_name(index)} {' '.join(' 1' if has[name] else '-1' for name in ATTRIBUTES)}\n")
    # At least one image in each part.
    train = min(round(TRAIN * count), count - 2)
    validation = max(1, round(VALIDATION * count))
    with (folder / PARTITION_FILE).open("w", encoding="utf-8") as file:
        for index in range(count):
            file.write(f"{file_name(index)} {(index >= train) + (index >= train + validation)}\n")


def _note(count: int, seed: int) -> str:
    return (
        f"{count} drawn faces of the seed {seed}.\n"
        "They are no photographs and show no persons: lipbench drew them from random parameters, in the layout of\n"
        "CelebA, so that what reads CelebA can run and be tested without it. Results on them say nothing of CelebA.\n"
        f"Drawn attributes: {', '.join(DRAWN_ATTRIBUTES)}. The others are -1 throughout.\n"
    )
