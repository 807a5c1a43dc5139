"""The cache of decoded images: whole or not there, mapped and not in memory; and what decoding does and refuses."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lipbench.data import DataError
from lipbench.data.own import cache as cache_module
from lipbench.data.own.cache import Writer, cached, decoded
from lipbench.data.own.pictures import BadPicture, FilePictures, Preparation


def encoded(array: np.ndarray, form: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, form, **options)
    return buffer.getvalue()


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def pictures(tmp_path: Path) -> FilePictures:
    """Seventy images of one grey each: image n has the value 3 n."""
    folder = tmp_path / "images"
    folder.mkdir()
    names = [f"{n}.png" for n in range(70)]
    for n, name in enumerate(names):
        (folder / name).write_bytes(encoded(np.full((6, 8, 3), 3 * n, np.uint8)))
    return FilePictures(folder, names)


def files(root: Path) -> list[str]:
    return sorted(os.listdir(root / "cache")) if (root / "cache").exists() else []


# --- the cache --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 3])
def test_images_are_in_their_order_and_a_second_run_decodes_nothing(
    pictures: FilePictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    images = decoded(pictures, Preparation((4, 5)), "toy", tmp_path, workers)
    assert images.shape == (70, 3, 4, 5)
    assert torch.equal(images[:, 0, 0, 0], 3 * torch.arange(70, dtype=torch.uint8))
    assert (images == images[:, :1, :1, :1]).all()
    assert len(files(tmp_path)) == 1
    monkeypatch.setattr(Preparation, "_pixels", lambda *_: pytest.fail("decoded again"))
    again = decoded(pictures, Preparation((4, 5)), "toy", tmp_path, workers)
    assert torch.equal(again, images)
    with pytest.raises(pytest.fail.Exception, match="decoded again"):
        decoded(pictures, Preparation((5, 5)), "toy", tmp_path, workers)


def test_a_changed_image_another_order_and_another_setting_are_other_caches(
    pictures: FilePictures, tmp_path: Path
) -> None:
    first = decoded(pictures, Preparation((4, 4)), "toy", tmp_path)
    (pictures.folder / "0.png").write_bytes(encoded(np.full((6, 8, 3), 200, np.uint8)))
    os.utime(pictures.folder / "0.png", ns=(0, 0))
    assert int(decoded(pictures, Preparation((4, 4)), "toy", tmp_path)[0, 0, 0, 0]) == 200
    turned = FilePictures(pictures.folder, pictures.names[::-1])
    assert torch.equal(decoded(turned, Preparation((4, 4)), "toy", tmp_path)[:-1], first.flip(0)[:-1])
    decoded(pictures, Preparation((4, 4), crop=2), "toy", tmp_path)
    decoded(pictures, Preparation((4, 4), channels=1), "toy", tmp_path)
    assert len(files(tmp_path)) == 5


def test_the_tensor_is_the_file_and_writing_to_it_is_private(pictures: FilePictures, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images = decoded(pictures, Preparation((4, 4)), "toy", tmp_path)
    (name,) = files(tmp_path)
    path = tmp_path / "cache" / name
    assert name.startswith("toy-4x4-")
    assert any(str(path) in line for line in Path("/proc/self/maps").read_text().splitlines())
    before = path.read_bytes()
    images[:] = 7
    assert path.read_bytes() == before
    assert int(decoded(pictures, Preparation((4, 4)), "toy", tmp_path)[69, 0, 0, 0]) == 207


@pytest.mark.parametrize("stop", [KeyboardInterrupt, MemoryError])
def test_a_stop_in_the_middle_leaves_nothing(
    pictures: FilePictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: type[BaseException]
) -> None:
    pixels, count = Preparation._pixels, 0

    def stopping(self: Preparation, content: bytes) -> np.ndarray:
        nonlocal count
        count += 1
        if count == 50:
            raise stop
        return pixels(self, content)

    monkeypatch.setattr(Preparation, "_pixels", stopping)
    with pytest.raises(stop):
        decoded(pictures, Preparation((4, 4)), "toy", tmp_path, 2)
    assert files(tmp_path) == []
    monkeypatch.undo()
    assert len(decoded(pictures, Preparation((4, 4)), "toy", tmp_path)) == 70


def test_a_kill_leaves_a_file_that_nobody_takes_for_the_cache(pictures: FilePictures, tmp_path: Path) -> None:
    whole = decoded(pictures, Preparation((4, 4)), "toy", tmp_path)
    (name,) = files(tmp_path)
    path = tmp_path / "cache" / name
    path.rename(path.with_name(f".{name}.12345.tmp"))
    assert torch.equal(decoded(pictures, Preparation((4, 4)), "toy", tmp_path), whole)
    assert name in files(tmp_path)


# Another process that is inside its `fill` at the same time, and ends after this one.
RIVAL = """
import sys, time
from pathlib import Path
import numpy as np
from lipbench.data.own.cache import cached
root = Path(sys.argv[1])
def fill(write):
    (root / "rival").touch()
    while not (root / "done").exists():
        time.sleep(0.01)
    write(0, np.full((5, 1, 2, 2), 70, np.uint8))
print(int(cached("toy", {}, (5, 1, 2, 2), fill, root).sum()))
"""


def test_two_processes_that_build_one_cache_at_once_both_have_it(tmp_path: Path) -> None:
    rival = subprocess.Popen([sys.executable, "-c", RIVAL, tmp_path], stdout=subprocess.PIPE, text=True)

    def fill(write: Writer) -> None:
        while not (tmp_path / "rival").exists():
            assert rival.poll() is None
            time.sleep(0.01)
        write(0, np.full((5, 1, 2, 2), 70, np.uint8))

    mine = cached("toy", {}, (5, 1, 2, 2), fill, tmp_path)
    first = (tmp_path / "cache" / files(tmp_path)[-1]).stat().st_ino
    (tmp_path / "done").touch()
    output, _ = rival.communicate(timeout=60)
    assert output.split() == [str(5 * 4 * 70)]
    (name,) = files(tmp_path)
    assert (tmp_path / "cache" / name).stat().st_ino != first, "the last one stands"
    assert (mine == 70).all()
    assert torch.equal(cached("toy", {}, (5, 1, 2, 2), lambda _: pytest.fail("built again"), tmp_path), mine)


def test_a_truncated_cache_is_said_to_be_damaged(pictures: FilePictures, tmp_path: Path) -> None:
    decoded(pictures, Preparation((4, 4)), "toy", tmp_path)
    path = tmp_path / "cache" / files(tmp_path)[0]
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(DataError, match=r"is damaged .*Delete it: it is made again"):
        decoded(pictures, Preparation((4, 4)), "toy", tmp_path)


def test_a_full_disk_is_said_before_it_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 10**6})
    monkeypatch.setattr(cache_module.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OSError, match=r"takes 1\.20 GB, and .* has 0\.00 GB free.*LIPBENCH_DATA"):
        cached("toy", {}, (100_000, 3, 40, 100), lambda _: None, tmp_path)
    assert files(tmp_path) == []


def test_a_place_where_no_cache_can_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(OSError, match=r"cannot be written in .*cache\. Set LIPBENCH_DATA \(or data_root=\)"):
        cached("toy", {}, (5, 1, 2, 2), lambda _: None, tmp_path)


def test_every_bad_image_is_named_up_to_five(pictures: FilePictures, tmp_path: Path) -> None:
    (pictures.folder / "3.png").write_bytes(b"<!DOCTYPE html><html>")
    (pictures.folder / "40.png").write_bytes(encoded(noise(20, 20, 3))[:300])
    with pytest.raises(
        DataError, match=r"2 of 70 images cannot be used: 3\.png is a web page .*; 40\.png cannot be decoded \(.*trunc"
    ):
        decoded(pictures, Preparation((4, 4)), "toy", tmp_path, 1)
    for n in range(60):
        (pictures.folder / f"{n}.png").write_bytes(b"text")
    with pytest.raises(DataError, match=r"at least 20 of 70 .*0\.png is of an unknown format; .*4\.png .*and 15 more"):
        decoded(pictures, Preparation((4, 4)), "toy", tmp_path, 1)
    assert files(tmp_path) == []


# --- decoding ---------------------------------------------------------------------------------------------


def test_an_image_of_the_size_asked_for_is_kept_bit_for_bit() -> None:
    image = noise(9, 7, 3)
    assert np.array_equal(Preparation((9, 7))(encoded(image)), image.transpose(2, 0, 1))
    assert np.array_equal(Preparation((9, 7), channels=1)(encoded(image[..., 0])), image[None, ..., 0])


def test_proportions_are_kept_around_the_centre() -> None:
    image = np.zeros((10, 30, 3), np.uint8)
    image[:, 8:22] = 255  # the filter looks a little over the edge of the cut
    assert (Preparation((5, 5))(encoded(image)) == 255).all()
    assert (Preparation((20, 20))(encoded(image)) == 255).all()
    image[4:6, 14:16] = 0
    assert (Preparation((4, 4), crop=2)(encoded(image)) == 0).all()


def test_photographs_are_turned_upright() -> None:
    image = Image.fromarray(np.repeat(np.repeat(np.array([[0, 255]], np.uint8), 16, 0), 8, 1))
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    image.save(buffer, "JPEG", exif=exif)
    pixels = Preparation((16, 16), channels=1)(buffer.getvalue())
    assert pixels[0, :4].max() < 20
    assert pixels[0, -4:].min() > 235


def test_a_large_jpeg_is_its_average_and_not_a_sample_of_it() -> None:
    checked = np.indices((640, 640)).sum(0) % 2 * 255
    pixels = Preparation((16, 16), channels=1)(encoded(checked.astype(np.uint8), "JPEG", quality=100))
    assert abs(pixels.astype(int) - 127).max() <= 3


@pytest.mark.parametrize(
    ("content", "preparation", "message"),
    [
        (encoded(noise(8, 8, 4)), Preparation((4, 4), channels=3), "transparent pixels: lay it on a background"),
        (encoded(noise(8, 8).astype(np.uint16)), Preparation((4, 4), channels=None), "more than 8 bits"),
        (encoded(noise(8, 9, 3)), Preparation((4, 4), crop=9), "is 9x8 pixels: a crop of 9 does not fit"),
        (encoded(noise(8, 9, 3)), Preparation((4, 4), expected=(218, 178)), "is 9x8 pixels, not 178x218"),
        (encoded(noise(8, 9, 3), "BMP"), Preparation((4, 4)), "is a BMP image; images are PNG or JPEG"),
        (b"", Preparation((4, 4)), "is empty; images are PNG or JPEG"),
    ],
)
def test_what_cannot_be_used_is_said(content: bytes, preparation: Preparation, message: str) -> None:
    with pytest.raises(BadPicture, match=message):
        preparation(content)


def test_impossible_settings_are_refused() -> None:
    for options in ({"size": (0, 4)}, {"size": (4, 4), "channels": 2}, {"size": (4, 4), "crop": 0}):
        with pytest.raises(ValueError, match="An image has a size of at least 1x1"):
            Preparation(**options)
