"""Which files of a folder are images, of which class and part. Every other file is refused, or listed."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from lipbench.data.contents import START, what_it_is
from lipbench.data.idx import DataError
from lipbench.data.own.parts import PARTS
from lipbench.data.own.pictures import DANGLING

# Endings of PNG and JPEG files, in lower case.
ENDINGS = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".apng")
# Endings of images that Pillow does not know.
UNKNOWN_TO_PILLOW = {".heic", ".heif", ".jxl", ".svg", ".exr", ".dcm", ".dng", ".cr2", ".nef", ".arw"}
# Names of the parts' folders, in lower case.
NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "val", "valid", "validating"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
RENAME = f"The parts of a data set are called {', '.join(PARTS)}, one folder each."
# Files that a message names.
NAMED = 5


@dataclass
class Listing:
    """Image files, their classes and positions in `PARTS`, in the order of their paths; and what else there is.

    Attributes:
        names: paths relative to the root.
        passed_over: names of the files that are no images, and of hidden ones.
    """

    names: list[str] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    parts: list[int] = field(default_factory=list)
    passed_over: list[str] = field(default_factory=list)


def listed(root: Path) -> Listing:
    """The images of `root/<class>/…`, or of `root/<part>/<class>/…` where a subfolder is called train.

    Each file is an image that is read, or a reason to refuse the folder, or named in a warning as passed over.

    Raises:
        FileNotFoundError: no images, or none in a part that has a folder.
        DataError: images in another format or at another place, classes without images, parts by other names, links
            that lead to a missing file or to a folder that is read already.
        ValueError: fewer than two classes, or a class that train lacks.
    """
    places = _parts_of(root)
    found = Listing()
    for path in _images(root, found.passed_over):
        *folders, _ = path.relative_to(root).parts
        part = NAMES[folders.pop(0).lower()] if folders and places else "train"
        if not folders:
            raise DataError(f"{path} lies in no subfolder: images lie in <class>/, the name of their class.")
        if inner := [one for one in folders[1:] if one.lower() in NAMES]:
            raise DataError(f"{path} has the part {inner[0]} below the class {folders[0]}: parts come first. {RENAME}")
        found.names.append(str(path.relative_to(root)))
        found.classes.append(folders[0])
        found.parts.append(PARTS.index(part))
    _check_classes(root, places, found)
    if found.passed_over:
        warnings.warn(
            f"{root}: {len(found.names)} images are read. {len(found.passed_over)} files or folders are passed over, "
            f"which are hidden or no images: {_some(found.passed_over)}.",
            stacklevel=3,
        )
    return found


def _parts_of(root: Path) -> dict[str, Path]:
    """The folders of the parts; none where the subfolders of `root` are classes."""
    folders = [path for path in sorted(root.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    parted: dict[str, Path] = {}
    for path in folders:
        part = NAMES.get(path.name.lower())
        if part in parted:
            raise DataError(f"{root} has {parted[part].name} and {path.name}, which are both {part}: keep one of them.")
        if part:
            parted[part] = path
    if parted and "train" not in parted:
        found = ", ".join(path.name for path in parted.values())
        raise FileNotFoundError(f"{root} has a folder {found} but no folder train. {RENAME}")
    # A test folder by another name would be left out, and a test set cut from train.
    if parted and (strays := [path.name for path in folders if path not in parted.values()]):
        raise DataError(
            f"{root} has a folder {parted['train'].name}, and also {', '.join(strays)}. {RENAME} Rename or remove the "
            "others."
        )
    return parted


def _check_classes(root: Path, places: Mapping[str, Path], found: Listing) -> None:
    if not found.names:
        raise FileNotFoundError(f"{root} has no images ({', '.join(ENDINGS)}): one subfolder per class is expected.")
    for part, place in (places or {"train": root}).items():
        mine = {one for one, number in zip(found.classes, found.parts, strict=True) if PARTS[number] == part}
        folders = {path.name for path in place.iterdir() if path.is_dir() and not path.name.startswith(".")}
        if not mine:
            raise FileNotFoundError(f"{place} has no images: fill this folder, or remove it.")
        if empty := sorted(folders - mine):
            raise DataError(
                f"{place} has subfolders without images ({', '.join(ENDINGS)}): {', '.join(empty)}. Each subfolder is "
                "a class: fill them or remove them."
            )
    classes = sorted(set(found.classes))
    _refuse_parts(root, classes)
    if len(classes) < 2:
        raise ValueError(
            f"{root} has one class, {classes[0]!r}: a classifier needs two or more subfolders with images in them."
        )
    trained = {one for one, part in zip(found.classes, found.parts, strict=True) if part == 0}
    if strange := sorted(set(classes) - trained):
        raise ValueError(f"{places['train']} has no image of {', '.join(strange)}, which another part has.")


def _refuse_parts(root: Path, classes: Sequence[str]) -> None:
    """Parts by other names (`seg_train`, `TestSet`) would become classes."""
    parts: dict[str, str] = {}
    for one in classes:
        words = re.findall(r"[A-Z]?[a-z]+|[A-Z]+", one)
        named = {NAMES[key] for word in words if (key := word.lower().removesuffix("set")) in NAMES}
        parts |= dict.fromkeys(named, one)
    if len(set(parts.values())) > 1 and "train" in parts:
        raise DataError(
            f"{root}: {', '.join(sorted(set(parts.values())))} would be classes, but read as parts. {RENAME} If they "
            "are classes, rename them."
        )


def _images(root: Path, passed_over: list[str]) -> Iterator[Path]:
    """Image files in order; the names of the other files go to `passed_over`."""
    Image.init()
    others = {ending for ending, form in Image.registered_extensions().items() if form in Image.OPEN}
    others |= UNKNOWN_TO_PILLOW
    for path in _files(root, {}, passed_over):
        ending = path.suffix.lower()
        if ending in ENDINGS:
            yield path
        elif ending in others:
            raise DataError(f"{path} is neither PNG nor JPEG: convert such images, or remove them.")
        else:
            with path.open("rb") as file:
                kind = what_it_is(file.read(START)) or ""
            if "image" in kind:
                raise DataError(f"{path} {kind}, but its name does not end in one of {', '.join(ENDINGS)}: rename it.")
            passed_over.append(str(path.relative_to(root)))


def _files(folder: Path, seen: dict[tuple[int, int], Path], hidden: list[str], below: str = "") -> Iterator[Path]:
    """Every file below a folder: those in it, then those of its subfolders, by their names. Links are followed.

    Args:
        seen: the folders that have been walked, by device and inode.
        hidden: takes the names, relative to the root, of what begins with a dot.
        below: the path from the root to this folder.
    """
    stat = folder.stat()
    if (first := seen.setdefault((stat.st_dev, stat.st_ino), folder)) is not folder:
        raise DataError(f"{folder} and {first} are one folder, whose images would be read twice: remove the link.")
    folders = []
    for name in sorted(os.listdir(folder)):
        path = folder / name
        if name.startswith("."):
            hidden.append(below + name)
        elif os.path.isdir(path):
            folders.append(path)
        elif os.path.isfile(path):
            yield path
        else:
            raise DataError(f"{path} {DANGLING if path.is_symlink() else 'is no file that can be read: remove it'}.")
    for path in folders:
        yield from _files(path, seen, hidden, f"{below}{path.name}/")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
