"""Folders of images: read as documented, or refused with the reason."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.pictures import values
from hydra import compose, initialize_config_dir
from PIL import Image

from lipbench.certificate import certify
from lipbench.commands.run import experiment_of
from lipbench.commands.suites import CONF
from lipbench.data import DataError, Dataset, folder
from lipbench.evaluation.bounds import certify_images
from lipbench.files import ResultsError
from lipbench.images import images_at_once
from lipbench.runs.experiment import Experiment

# The module, whose name is that of its function too.
own_images = sys.modules["lipbench.data.own.folder"]
CLASSES = {"cat": 60, "dog": 120, "eel": 200}


def paint(path: Path, value: int, size: tuple[int, int] = (12, 9), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = value if mode in ("L", "I;16") else (value,) * len(Image.new(mode, (1, 1)).getbands())
    Image.new(mode, size, colour).save(path)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Three classes of twenty images of different sizes; an image's grey says its class and number."""
    root = tmp_path / "images"
    for name, grey in CLASSES.items():
        for n in range(20):
            paint(root / name / ("deep" if n % 2 else "") / f"{n:02d}.png", grey + n, (10 + n, 9 + n % 3))
    return root


@pytest.fixture
def read(images: Path, tmp_path: Path) -> Callable[..., Dataset]:
    def reading(**options: object) -> Dataset:
        return folder(**{"root": images, "size": 6, "cache": tmp_path, "progress": False, **options})

    return reading


def test_classes_are_the_subfolders_and_the_cuts_are_stratified(read: Callable[..., Dataset]) -> None:
    dataset = read(name="animals")
    assert (dataset.name, dataset.classes, dataset.shape) == ("animals", ("cat", "dog", "eel"), (3, 6, 6))
    expected = [(grey + n, label) for label, grey in enumerate(CLASSES.values()) for n in range(20)]
    assert sorted(values(dataset)) == expected
    counts = [torch.bincount(p.labels).tolist() for p in (dataset.test, dataset.validation)]
    assert counts == [[4, 4, 4], [2, 1, 2]]


def test_the_cut_is_of_its_seed_and_fractions(read: Callable[..., Dataset]) -> None:
    assert values(read()) == values(read())
    assert values(read(seed=1)) != values(read())
    assert len(read(test_fraction=0.5).test) == 30
    with pytest.raises(ValueError, match="between 0 and 1"):
        read(test_fraction=0)


@pytest.mark.parametrize("name", ["validation", "val"])
def test_parts_that_have_a_folder_are_kept(images: Path, read: Callable[..., Dataset], name: str) -> None:
    parted = images.with_name("parted")
    parted.mkdir()
    images.rename(parted / "train")
    for part, shift in ((name, 30), ("test", 35)):
        for label, grey in CLASSES.items():
            paint(parted / part / label / "x.png", grey + shift)
    dataset = read(root=parted)
    assert [len(p) for p in (dataset.train, dataset.validation, dataset.test)] == [60, 3, 3]
    assert dataset.validation.images[:, 0, 0, 0].tolist() == [grey + 30 for grey in CLASSES.values()]
    assert dataset.test.images[:, 0, 0, 0].tolist() == [grey + 35 for grey in CLASSES.values()]
    # A missing one is cut from train; the test set stays what it is.
    shutil.rmtree(parted / name)
    again = read(root=parted)
    assert len(again.test) == 3
    assert len(again.validation) == 6


def test_jpeg_and_grey_images_too(tmp_path: Path, read: Callable[..., Dataset]) -> None:
    root = tmp_path / "grey"
    for n in range(10):
        paint(root / "a" / f"{n}.jpg", 100, mode="L")
        paint(root / "b" / f"{n}.JPEG", 200, mode="L")
    assert read(root=root).shape == (1, 6, 6)
    assert read(root=root, channels=3).shape == (3, 6, 6)
    assert values(read(root=root))[-1] == (200, 1)


def test_headers_are_read_once_not_at_every_start(
    images: Path, read: Callable[..., Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    asked = own_images.channels_of
    monkeypatch.setattr(own_images, "channels_of", lambda image: opened.append(0) or asked(image))
    for expected in (60, 60):
        assert read().shape == (3, 6, 6)
        assert len(opened) == expected
    for path in images.rglob("*.png"):  # the same names, grey
        paint(path, 70, mode="L")
    assert read().shape == (1, 6, 6)
    (kept,) = (path for path in (images.parent / "cache").glob("*channels*") if path.read_text() == "1")
    for damaged in ("", "2", "[", '"1"'):
        kept.write_text(damaged)
        assert read().shape == (1, 6, 6)


def empty(root: Path) -> None:
    for path in root.rglob("*.png"):
        path.unlink()


def one_class(root: Path) -> None:
    for name in ("dog", "eel"):
        (root / name).rename(root.parent / name)


def loose_image(root: Path) -> None:
    paint(root / "loose.png", 3)


def no_train(root: Path) -> None:
    for name in CLASSES:
        (root / "test").mkdir(exist_ok=True)
        (root / name).rename(root / "test" / name)


def strange_class(root: Path) -> None:
    for name in CLASSES:
        (root / "train").mkdir(exist_ok=True)
        (root / name).rename(root / "train" / name)
    paint(root / "test" / "cat" / "x.png", 1)
    paint(root / "test" / "fox" / "x.png", 1)


def stray_part(root: Path) -> None:
    for name in CLASSES:
        (root / "train").mkdir(exist_ok=True)
        (root / name).rename(root / "train" / name)
    paint(root / "holdout" / "cat" / "x.png", 1)


def two_names(root: Path) -> None:
    stray_part(root)
    (root / "holdout").rename(root / "val")
    paint(root / "validation" / "cat" / "x.png", 1)


def unreadable(root: Path) -> None:
    (root / "cat" / "00.png").write_bytes(b"not an image")
    (root / "eel" / "02.png").write_bytes((root / "eel" / "04.png").read_bytes()[:50])


def unequal(root: Path) -> None:
    paint(root / "dog" / "00.png", 9, mode="L")


def empty_class(root: Path) -> None:
    (root / "fox").mkdir()
    (root / "fox" / "notes.txt").write_text("no images yet")


def other_format(root: Path) -> None:
    paint(root / "dog" / "deep" / "20.bmp", 9)


def transparent(root: Path) -> None:
    paint(root / "cat" / "00.png", 9, mode="RGBA")


def deep(root: Path) -> None:
    paint(root / "cat" / "00.png", 9, mode="I;16")


BROKEN = {
    empty: r"images has no images \(\.png, .*\): one subfolder per class is expected",
    one_class: r"has one class, 'cat': a classifier needs two or more subfolders",
    loose_image: r"loose\.png lies in no subfolder",
    no_train: r"has a folder test but no folder train",
    strange_class: r"train has no image of fox, which another part has",
    stray_part: r"images has a folder train, and also holdout\. The parts .* are called train, validation, test",
    two_names: r"images has val and validation, which are both validation: keep one",
    unreadable: r"2 of 60 images cannot be used: ",
    unequal: r"unequal channels: dog/00\.png has 1 \(grey\), .*\.png has 3 \(colour\)\. Choose dataset\.channels=3",
    empty_class: r"images has subfolders without images \(\.png, .*\): fox\. Each subfolder is a class",
    other_format: r"dog/deep/20\.bmp is neither PNG nor JPEG: convert such images, or remove them",
    transparent: r"cat/00\.png has transparent pixels: lay it on a background",
    deep: r"cat/00\.png has more than 8 bits per pixel",
}


@pytest.mark.parametrize("breaks", BROKEN, ids=lambda breaks: breaks.__name__)
def test_a_folder_that_is_no_data_set_is_refused_with_the_reason(
    images: Path, tmp_path: Path, read: Callable[..., Dataset], breaks: Callable[[Path], None]
) -> None:
    breaks(images)
    with pytest.raises((ValueError, FileNotFoundError), match=BROKEN[breaks]):
        read()
    assert not list(tmp_path.glob("cache/*.npy"))


def test_both_unreadable_images_are_named(images: Path, read: Callable[..., Dataset]) -> None:
    unreadable(images)
    with pytest.raises(DataError) as caught:
        read()
    assert "cat/00.png is of an unknown format" in str(caught.value)
    assert "eel/02.png cannot be decoded" in str(caught.value)


def test_unequal_channels_are_converted_where_that_is_asked_for(images: Path, read: Callable[..., Dataset]) -> None:
    unequal(images)
    assert read(channels=3).shape == (3, 6, 6)
    assert read(channels=1).shape == (1, 6, 6)


@pytest.mark.parametrize("channels", [1, 3])
def test_deep_images_are_refused_whatever_channels_are_asked_for(
    images: Path, read: Callable[..., Dataset], channels: int
) -> None:
    deep(images)
    with pytest.raises(DataError, match=BROKEN[deep]):
        read(channels=channels)


def test_no_folder_is_said(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"Which folder\? dataset\.root="):
        folder()
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        folder(tmp_path / "nowhere")


def own_run(root: Path, images: Path, *overrides: str) -> Experiment:
    chosen = ["experiment=digits08/hkr_mlp", "dataset=folder", f"dataset.root={images}", "dataset.size=6", *overrides]
    chosen += ["dataset.name=animals"]
    chosen += [f"data_root={root}", f"results={root}/results", "training.epochs=1", "attack=[fgm]", "images=6"]
    chosen += ["model.widths=[8]"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", overrides=[*chosen, "progress=false", "device=cpu"])
    return experiment_of(cfg, "digits08/hkr_mlp", [one for one in chosen if one.startswith("dataset")])


def test_a_run_keeps_no_path_and_refuses_other_images_under_the_same_name(images: Path, tmp_path: Path) -> None:
    job = own_run(tmp_path, images)
    summary = job.run()
    assert summary["violations"] == 0
    assert "dataset.size=6" in job.folder.parent.name
    assert str(tmp_path) not in "".join(path.read_text() for path in job.folder.glob("*.[jy]*"))
    moved = images.rename(images.with_name("moved"))
    again = own_run(tmp_path, moved)
    assert again.folder == job.folder
    assert again.run() == summary, "a folder that moved is the same data"
    paint(moved / "cat" / "30.png", 95)
    with pytest.raises(ResultsError, match=r"holds results of other images\.[\s\S]*train\.images: 43 -> 44"):
        own_run(tmp_path, moved).run()


def test_a_large_test_set_is_certified_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2)).eval()
    images, labels = torch.randint(0, 256, (50, 3, 2, 2), dtype=torch.uint8), torch.randint(0, 2, (50,))
    whole = certify_images(model, images, labels, certify).table
    seen = []

    def watching(model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        seen.append(len(x))
        return certify(model, x, y)

    monkeypatch.setattr("lipbench.evaluation.bounds.HELD", 12 * 16)
    assert certify_images(model, images, labels, watching).table.equals(whole)
    assert seen == [16, 16, 16, 2]


def test_images_at_once_bound_the_memory_and_leave_small_images_alone() -> None:
    shapes = ((1, 28, 28), (3, 32, 32), (3, 64, 64), (3, 5000, 5000))
    assert [images_at_once(shape) for shape in shapes] == [1000, 1000, 250, 1]
