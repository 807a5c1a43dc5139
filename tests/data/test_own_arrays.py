"""Files of arrays: read as documented, or refused with the reason."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.pictures import values

from lipbench.data import DataError, arrays


def pixels(count: int, *shape: int) -> np.ndarray:
    """Image n has the value n throughout."""
    return np.broadcast_to(np.arange(count, dtype=np.uint8).reshape(-1, *[1] * len(shape)), (count, *shape)).copy()


LABELS = np.arange(50) % 2


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize(
    ("shape", "expected"), [((5, 4), (1, 5, 4)), ((3, 5, 4), (3, 5, 4)), ((5, 4, 3), (3, 5, 4)), ((5, 4, 1), (1, 5, 4))]
)
def test_arrays_of_every_layout_are_cut_in_three(
    tmp_path: Path, save: Callable[..., None], shape: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    save(tmp_path / "a.npz", x_train=pixels(50, *shape), y_train=LABELS)
    dataset = arrays(tmp_path / "a.npz", cache=tmp_path, progress=False)
    assert dataset.shape == expected
    assert sorted(values(dataset)) == [(n, n % 2) for n in range(50)]
    assert [len(p) for p in (dataset.train, dataset.validation, dataset.test)] == [36, 4, 10]
    assert all((p.images == p.images[:, :1, :1, :1]).all() for p in (dataset.train, dataset.validation, dataset.test))


def test_channels_last_are_moved_and_not_reshaped(tmp_path: Path) -> None:
    x = np.random.default_rng(0).integers(0, 256, (50, 5, 4, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", x_train=x, y_train=LABELS, x_test=x[:7], y_test=LABELS[:7])
    dataset = arrays(tmp_path / "a.npz", cache=tmp_path, progress=False)
    assert torch.equal(dataset.test.images, torch.from_numpy(x[:7].transpose(0, 3, 1, 2).copy()))


def test_arrays_are_copied_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["lipbench.data.own.arrays"], "CHUNK", 3 * 20 + 1)
    np.savez(tmp_path / "a.npz", x_train=pixels(50, 5, 4), y_train=LABELS)
    dataset = arrays(tmp_path / "a.npz", cache=tmp_path, progress=False)
    assert sorted(values(dataset)) == [(n, n % 2) for n in range(50)]


def test_the_names_of_medmnist_and_of_classes(tmp_path: Path) -> None:
    x, y = pixels(50, 5, 4), LABELS[:, None].astype(np.uint8)
    images = dict.fromkeys(("train_images", "val_images", "test_images"), x)
    np.savez(tmp_path / "a.npz", **images, **dict.fromkeys(("train_labels", "val_labels", "test_labels"), y))
    dataset = arrays(tmp_path / "a.npz", classes=["no", "yes"], name="mine", cache=tmp_path, progress=False)
    assert (dataset.name, dataset.classes) == ("mine", ("no", "yes"))
    assert [len(p) for p in (dataset.train, dataset.validation, dataset.test)] == [50, 50, 50]
    assert len(list((tmp_path / "cache").iterdir())) == 1


X = pixels(50, 5, 4)
XY = (("x", X), ("y", LABELS))
BAD_ARRAYS = {
    "no train": ({"images": X, "labels": LABELS}, r"has no x_train and y_train; it has images, labels\."),
    "no labels": ({"x_train": X}, "has x_train but no y_train"),
    "floats": ({"x_train": X / 255, "y_train": LABELS}, r"x_train holds float64: images are uint8.*Multiply by 255"),
    "shape": ({"x_train": X[0], "y_train": LABELS[:5]}, r"x_train has the shape \(5, 4\): images are \[N, H, W\]"),
    "unclear": ({"x_train": pixels(50, 3, 3, 3), "y_train": LABELS}, "must be clear which axis the channels are"),
    "shapes": (
        {"x_train": X, "y_train": LABELS, "x_test": X[:, :4], "y_test": LABELS},
        "mixes images of different shapes",
    ),
    "too few labels": ({"x_train": X, "y_train": LABELS[:9]}, r"the labels of x_train are integers of shape \(50,\)"),
    "float labels": ({"x_train": X, "y_train": LABELS / 1.0}, "y_train holds float64"),
    "negative": ({"x_train": X, "y_train": LABELS - 1}, "y_train holds the label -1"),
    "one class": ({"x_train": X, "y_train": 0 * LABELS}, "has images of 1 class: a classifier needs two"),
    "one class to learn": (
        {"x_train": X, "y_train": 0 * LABELS, "x_test": X, "y_test": LABELS},
        "has images of class 1.* in another part, but none in train",
    ),
    "other names": ({"x_train": X, "y_train": LABELS, "X_test": X, "Y_test": LABELS}, "also has X_test, Y_test"),
    "two names": (
        {"x_train": X, "y_train": LABELS, **{f"{a}_{b}": c for b in ("val", "validation") for a, c in XY}},
        "has x_val.* and x_val.*: keep one of them",
    ),
    "objects": ({"x_train": X.astype(object), "y_train": LABELS}, "x_train holds Python objects, which are not loaded"),
    "Fortran": ({"x_train": np.asfortranarray(X), "y_train": LABELS}, "is in Fortran order"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_arrays_that_are_no_images_are_refused_with_the_reason(tmp_path: Path, case: str) -> None:
    content, message = BAD_ARRAYS[case]
    np.savez(tmp_path / "a.npz", **content)
    with pytest.raises(ValueError, match=message):
        arrays(tmp_path / "a.npz", cache=tmp_path, progress=False)
    assert not list(tmp_path.glob("cache/*"))


def test_a_file_that_is_no_npz_or_damaged_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Which file\? dataset\.path="):
        arrays()
    path = tmp_path / "a.npz"
    with pytest.raises(FileNotFoundError, match="There is no file"):
        arrays(path)
    np.save(tmp_path / "b.npy", X)
    with pytest.raises(DataError, match=r"is no \.npz file"):
        arrays(tmp_path / "b.npy")
    np.savez(path, x_train=X, y_train=LABELS)
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        content[archive.getinfo("x_train.npy").header_offset + 400] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"is damaged \(Bad CRC"):
        arrays(path, cache=tmp_path, progress=False)
    assert not list(tmp_path.glob("cache/*"))


def test_too_few_names_of_classes(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x_train=X, y_train=LABELS)
    with pytest.raises(ValueError, match=r"has the label 1, but dataset\.classes names 1 classes"):
        arrays(tmp_path / "a.npz", classes=["only"], cache=tmp_path, progress=False)


# --- a run on one's own images ------------------------------------------------------------------------------
