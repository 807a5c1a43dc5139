"""Files that are not what their names say: every loader of data says what the file is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.entry_points import ENTRIES, PIXELS, classifier, images, labels
from helpers.loaders import LOADERS, saved

from lipbench.data import DataError
from lipbench.data.contents import START, what_it_is
from lipbench.data.own.pictures import BadPicture

STAND_INS = {
    "is empty": b"",
    "is a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
    "is a git-annex pointer": b"/annex/objects/MD5E-s9--00.png\n",
    r"is a web page \(HTML\)": b"\n<!DOCTYPE html><html><title>Sign in</title></html>",
}


@pytest.mark.parametrize("words", STAND_INS)
@pytest.mark.parametrize("name", [name for name in LOADERS if name != "cache of images"])
def test_every_loader_says_what_stands_in_the_place_of_a_file(tmp_path: Path, name: str, words: str) -> None:
    loader = LOADERS[name]
    for path in loader.make(tmp_path):
        valid = path.read_bytes()
        path.write_bytes(STAND_INS[words])
        with pytest.raises((DataError, BadPicture), match=words):
            loader.load(tmp_path)
        path.write_bytes(valid)
    loader.load(tmp_path)


def test_formats_are_told_by_their_first_bytes_alone() -> None:
    told = {
        b"GIF89a": "is a GIF image",
        b"RIFF\x00\x00\x00\x00WEBPVP8 ": "is a WebP image",
        b"\x00\x00\x00\x20ftypavif": "is an AVIF image",
        b"\x93NUMPY\x01\x00": "is a single array (.npy)",
        b"MATLAB 5.0 MAT-file": "is a MATLAB file",
        b"PK\x03\x04": "is a zip archive",
        bytes(257) + b"ustar": "is a tar archive",
        b"\x00\x00\x08\x03" + bytes(START): None,
        b"some text": None,
    }
    assert {start: what_it_is(start) for start in told} == told


# --- labels -----------------------------------------------------------------------------------------------

X = np.random.default_rng(0).integers(0, 256, (60, 5, 4), np.uint8)
Y = np.arange(60) % 3
LABELS = {
    "from one": (Y + 1, r"labels up to 3, but no image of 1 classes below it, such as 0\. .*numpy\.unique"),
    "with gaps": (np.array([0, 5, 9])[Y], "labels up to 9, but no image of 7 classes below it, such as 1"),
    "far apart": (1000 * Y, "labels up to 2000, but no image of 1998 classes"),
    "-1 and 1": (2 * (Y % 2) - 1, "the label -1: labels are counted from 0, such as numpy.unique"),
    "one-hot": (np.eye(3, dtype=int)[Y], r"y_train holds int64 \(60, 3\).*Of one-hot labels: y\.argmax\(1\)"),
    "one-hot floats": (np.eye(3)[Y], r"y_train holds float64 \(60, 3\).*y\.argmax\(1\)"),
    "in a row": (Y[None], r"\(1, 60\).*Use y\.flatten\(\)"),
    "floats": (Y / 1, r"float64 \(60,\).*y\.astype\(int\)"),
    "booleans": (Y > 0, r"bool \(60,\).*y\.astype\(int\)"),
    "names": (np.array(["oak", "yew", "elm"])[Y], r"<U3 \(60,\).*Of names: numpy\.unique.*dataset\.classes"),
    "too few": (Y[:50], r"the labels of x_train are integers of shape \(60,\)\.$"),
}


@pytest.mark.parametrize("case", LABELS)
def test_labels_that_are_no_numbers_of_classes_are_refused_with_the_cure(tmp_path: Path, case: str) -> None:
    y, message = LABELS[case]
    with pytest.raises(DataError, match=message):
        saved(tmp_path, x_train=X, y_train=y)()
    with pytest.raises((DataError, ValueError)):
        saved(tmp_path, x_train=X, y_train=Y, x_test=X, y_test=y)()


def test_classes_without_images_are_those_that_were_named(tmp_path: Path) -> None:
    read = saved(tmp_path, x_train=X, y_train=np.array([0, 2, 3])[Y])
    with pytest.raises(DataError, match="no image of 1 classes"):
        read()
    assert read(classes=["ash", "elm", "oak", "yew"]).classes == ("ash", "elm", "oak", "yew")
    with pytest.raises(ValueError, match="names 3 classes"):
        read(classes=["ash", "elm", "oak"])


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int32, np.uint64])
@pytest.mark.parametrize("shape", [(60,), (60, 1)])
def test_labels_of_any_integers_in_a_row_or_a_column_are_read(tmp_path: Path, kind: type, shape: tuple) -> None:
    dataset = saved(tmp_path, x_train=X, y_train=Y.astype(kind).reshape(shape))()
    assert sorted(torch.cat([p.labels for p in (dataset.train, dataset.validation, dataset.test)]).tolist()) == sorted(
        Y.tolist()
    )


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize(
    ("change", "cure"),
    [
        (lambda y: y[:, None], r"got labels \[4, 1\]\. Give labels\.squeeze\(1\)"),
        (lambda y: torch.nn.functional.one_hot(y, 3), r"got labels \[4, 3\]\. Give labels\.argmax\(1\)"),
        (lambda y: torch.nn.functional.one_hot(y, 3).float(), r"labels\.argmax\(1\), if they are one-hot"),
    ],
)
def test_every_entry_says_how_columns_and_one_hot_labels_become_numbers(entry, change, cure) -> None:
    with pytest.raises(ValueError, match=cure):
        ENTRIES[entry](classifier(), images(), change(labels()))


# --- images -----------------------------------------------------------------------------------------------

ARRAYS = {
    "floats": (X / 255, "Multiply by 255 and round"),
    "half": ((X / 255).astype(np.float16), "Multiply by 255 and round"),
    "booleans": (X > 99, "Multiply by 255"),
    "16 bits": (X.astype(np.uint16) * 257, r"Bits beyond eight would be lost: .*x \* \(255 / 65535\)"),
    "integers": (X.astype(np.int64), r"If the pixels are 0\.\.255: x\.astype\(numpy\.uint8\)"),
    "flat": (X.reshape(60, -1), r"Flat images are reshaped: x\.reshape\(-1, H, W\)"),
    "alpha last": (np.stack([X] * 4, 3), "A fourth channel is transparency: lay the images on a background"),
    "alpha first": (np.stack([np.stack([X] * 5, 3)] * 4, 1)[..., 0], "A fourth channel is transparency"),
    "none": (X[:0], r"shape \(0, 5, 4\): expected 1 to"),
}


@pytest.mark.parametrize("case", ARRAYS)
@pytest.mark.parametrize("part", ["train", "test"])
def test_arrays_that_would_lose_something_are_refused_with_the_cure(tmp_path: Path, case: str, part: str) -> None:
    x, message = ARRAYS[case]
    content = {"x_train": X, "y_train": Y, f"x_{part}": x, f"y_{part}": Y[: len(x)]}
    with pytest.raises(DataError, match=message):
        saved(tmp_path, **content)()


@pytest.mark.parametrize("entry", PIXELS)
def test_images_of_0_and_1_in_bytes_are_refused_by_every_entry_in_the_range_of_pixels(entry) -> None:
    binary = (images() > 0.5).byte()
    with pytest.raises(ValueError, match=r"0 and 1 in uint8, whose range is 0\.\.255.* Multiply them by 255"):
        ENTRIES[entry](classifier(), binary, labels())
    if entry == "attack":  # its images are compared with those that it returns, which are floats
        with pytest.raises(ValueError, match=r"Give images\.float\(\) / 255"):
            ENTRIES[entry](classifier(), 255 * binary, labels())
    else:
        ENTRIES[entry](classifier(), 255 * binary, labels())
