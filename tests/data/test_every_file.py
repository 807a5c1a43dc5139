"""Folders of images: every file is read, refused by name, or listed; every part is found; every folder is read once."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.pictures import fill, image, number, put
from PIL import Image

from lipbench.data import DataError, Dataset, folder
from lipbench.data.own.listing import ENDINGS, NAMES, UNKNOWN_TO_PILLOW

Image.init()
PILLOW = sorted(ending for ending, form in Image.registered_extensions().items() if form in Image.OPEN)
OTHERS = sorted({*PILLOW, *UNKNOWN_TO_PILLOW} - set(ENDINGS))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    fill(tmp_path / "trees")
    return tmp_path / "trees"


def read(root: Path, **options: object) -> Dataset:
    return folder(**{"root": root, "size": 4, "cache": root.parent / "held", "progress": False, **options})


def greys(dataset: Dataset, part: str) -> list[int]:
    return getattr(dataset, part).images[:, 0, 0, 0].tolist()


# --- every file -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [str.lower, str.upper])
def test_every_ending_of_png_and_jpeg_is_read(root: Path, change: Callable[[str], str]) -> None:
    for place, ending in enumerate(ENDINGS):
        put(root / "oak" / f"more{place}{change(ending)}", image(60 + place, "PNG" if "png" in ending else "JPEG"))
    assert {ending for ending in PILLOW if Image.registered_extensions()[ending] in ("PNG", "JPEG")} == set(ENDINGS)
    assert number(read(root)) == 8 + len(ENDINGS)


def test_every_other_ending_of_images_is_refused_by_name(root: Path) -> None:
    assert {".webp", ".gif", ".bmp", ".tif", ".avif", ".jp2", ".qoi", ".heic"} <= set(OTHERS)
    for ending in OTHERS:
        path = put(root / "yew" / f"odd{ending.upper()}", b"anything")
        with pytest.raises(DataError, match=rf"yew.odd\{ending.upper()} is neither PNG nor JPEG: convert"):
            read(root)
        path.unlink()
    assert number(read(root)) == 8


@pytest.mark.parametrize("name", ["scan", "scan.dat", "scan.png~", "scan.jpg.1", "scan.txt", "scan.png_large"])
@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_an_image_by_its_content_is_not_passed_over_whatever_its_name(root: Path, name: str, form: str) -> None:
    put(root / "oak" / name, image(50, form))
    with pytest.raises(DataError, match=rf"oak.{name} is an? \w+ image, but its name .*: rename it"):
        read(root)


def test_what_is_no_image_is_named_in_a_warning(root: Path) -> None:
    for name in ("notes.txt", "oak/Thumbs.db", "oak/._0.png", ".DS_Store", "yew/labels", ".hidden/0.png"):
        put(root / name, b"no image")
    with pytest.warns(UserWarning, match="8 images are read. 6 files or folders are passed over") as caught:
        assert number(read(root)) == 8
    (warning,) = caught
    assert str(warning.message).endswith(": .DS_Store, .hidden, notes.txt, oak/._0.png, oak/Thumbs.db and 1 more.")
    assert warning.filename == __file__
    for path in (root / "notes.txt", root / "yew" / "labels"):
        path.unlink()
    with pytest.warns(UserWarning, match="4 files or folders"):
        read(root)


def test_nothing_is_said_where_every_file_is_an_image(root: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(root)


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_images_of_every_class_are_counted_truly(tmp_path: Path, count: int) -> None:
    fill(tmp_path / "few", count)
    with pytest.raises(ValueError, match=rf"{2 * count} images, 2 classes\): give three images or more of a class"):
        read(tmp_path / "few")
    fill(tmp_path / "few", 3)
    assert number(read(tmp_path / "few")) == 6


# --- every part -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [str.lower, str.title, str.upper])
def test_parts_are_known_by_each_of_their_names_in_any_case(tmp_path: Path, change: Callable[[str], str]) -> None:
    by_part = {part: [name for name, one in NAMES.items() if one == part] for part in NAMES.values()}
    assert len(NAMES) >= 8
    longest = max(map(len, by_part.values()))
    for turn in range(longest):
        root = tmp_path / f"{turn}"
        for first, (part, names) in zip((10, 30, 50), by_part.items(), strict=True):
            fill(root / change(names[turn % len(names)]), 3, first + (part == "test"))
        dataset = read(root)
        assert dataset.classes == ("oak", "yew")
        assert sorted(greys(dataset, "train")) == [10, 11, 12, 110, 111, 112]
        assert sorted(greys(dataset, "validation")) == [30, 31, 32, 130, 131, 132]
        assert sorted(greys(dataset, "test")) == [51, 52, 53, 151, 152, 153]


def two(first: str, second: str) -> Callable[[Path], None]:
    def build(root: Path) -> None:
        fill(root / first)
        fill(root / second)

    return build


def below_classes(root: Path) -> None:
    for one in ("oak", "yew"):
        for part in ("Train", "test"):
            put(root / one / part / "0.png", image(60))


def nothing_to_test(root: Path) -> None:
    fill(root / "train")
    (root / "test").mkdir()


def notes_to_test(root: Path) -> None:
    fill(root / "train")
    put(root / "test" / "oak" / "notes.txt", b"images follow")


def empty_class_of_test(root: Path) -> None:
    two("train", "test")(root)
    (root / "test" / "elm").mkdir()


def image_outside_of_parts(root: Path) -> None:
    fill(root / "train")
    put(root / "0.png", image(60))


FLATTENED = {
    "seg_train, seg_test": (two("seg_train", "seg_test"), "seg_test, seg_train would be classes, but read as parts"),
    "TrainSet, TestSet": (two("TrainSet", "TestSet"), "TestSet, TrainSet would be classes"),
    "training data, val-images": (two("training data", "val-images"), "training data, val-images would be classes"),
    "one level too deep": (two("train/train", "train/test"), "test, train would be classes"),
    "Training, holdout": (two("Training", "holdout"), "has a folder Training, and also holdout"),
    "val, validation": (two("val", "validation"), "val and validation, which are both validation: keep one"),
    "Testing alone": (two("Testing", "val"), "a folder Testing, val but no folder train"),
    "parts below classes": (below_classes, "the part Train below the class oak: parts come first"),
    "an empty part": (nothing_to_test, "test has no images: fill this folder, or remove it"),
    "a part without images": (notes_to_test, "test has no images: fill this folder"),
    "an empty class of a part": (empty_class_of_test, r"test has subfolders without images .*: elm"),
    "an image outside of the parts": (image_outside_of_parts, "lies in no subfolder"),
}


@pytest.mark.parametrize("case", FLATTENED)
def test_no_part_becomes_a_class_and_none_is_replaced_by_a_cut(tmp_path: Path, case: str) -> None:
    build, message = FLATTENED[case]
    build(tmp_path / "odd")
    with pytest.raises((DataError, FileNotFoundError), match=message):
        read(tmp_path / "odd")


def test_classes_that_only_sound_like_parts_are_classes(tmp_path: Path) -> None:
    for pair in (("strain", "contest"), ("steam_train", "bus"), ("test_tube", "flask"), ("trainer", "attestation")):
        root = tmp_path / pair[0]
        for label, name in enumerate(pair):
            for n in range(3):
                put(root / name / f"{n}.png", image(20 + 100 * label + n))
        assert read(root).classes == tuple(sorted(pair))


# --- every folder once ------------------------------------------------------------------------------------

LINKS = {
    "to the root": ("oak/all", ".", "oak/all and .* are one folder, whose images would be read twice"),
    "to its own folder": ("oak/same", "oak", "oak/same and .*oak are one folder"),
    "to another class": ("elm", "yew", "yew and .*elm are one folder"),
    "to a part of another class": ("oak/more", "yew", "yew and .*oak/more are one folder"),
    "to no file": ("oak/9.png", "annex/gone.png", "oak/9.png is a link whose file is missing: remove the link"),
    "to no folder": ("oak/more", "annex/gone", "oak/more is a link whose file is missing"),
    "to itself": ("oak/loop", "oak/loop", "oak/loop is a link whose file is missing"),
}


@pytest.mark.parametrize("case", LINKS)
def test_a_link_never_adds_images_nor_ends_in_another_error(root: Path, case: str) -> None:
    link, target, message = LINKS[case]
    os.symlink(root / target, root / link)
    with pytest.raises(DataError, match=message):
        read(root)
    (root / link).unlink()
    assert number(read(root)) == 8


def test_one_folder_is_not_in_train_and_test(root: Path) -> None:
    parted = root.with_name("parted")
    parted.mkdir()
    for part in ("train", "test"):
        os.symlink(root, parted / part)
    with pytest.raises(DataError, match=r"parted/train and .*parted/test are one folder"):
        read(parted)


def test_a_link_to_a_folder_elsewhere_is_followed(root: Path) -> None:
    linked = root.with_name("linked")
    linked.mkdir()
    for one in ("oak", "yew"):
        os.symlink(root / one, linked / one)
    assert number(read(linked)) == 8


def test_what_is_neither_file_nor_folder_is_refused_and_not_waited_for(root: Path) -> None:
    os.mkfifo(root / "oak" / "9.png")
    with pytest.raises(DataError, match=r"oak/9\.png is no file that can be read: remove it"):
        read(root)


def test_a_folder_that_cannot_be_listed_is_no_empty_one(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listdir = os.listdir

    def forbidden(path: Path) -> list[str]:
        if Path(path).name == "deep":
            raise PermissionError(13, "Permission denied", str(path))
        return listdir(path)

    put(root / "oak" / "deep" / "9.png", image(60))
    monkeypatch.setattr(os, "listdir", forbidden)
    with pytest.raises(PermissionError, match="deep"):
        read(root)
