"""`lipbench data cifar10`: what gets there, what is kept, and what is said when it cannot be had."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import cifar_files as files
from PIL import Image

from lipbench.commands.main import main
from lipbench.data import DataError, cifar10, cifar10_jpeg, cifar100
from lipbench.data.cifar.jpeg_edition import ARCHIVE, make_cifar10_jpeg
from lipbench.data.cifar.reader import COLLECTIONS
from lipbench.data.download import CIFAR_MIRRORS, fetch_cifar

Serve = Callable[[Path], tuple[str, list[str]]]
DEAD = "http://127.0.0.1:9/"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the archives of small sets, whose sums take the place of the official ones."""
    folder = tmp_path / "server"
    for name, train, test in (("cifar10", 200, 50), ("cifar100", 400, 100)):
        known = files.small(name, train, test)
        pickles, binary = known.forms
        archive = files.write_archive(folder, pickles, files.contents(known, pickles))
        pickles = replace(pickles, archive_md5=files.md5(archive.read_bytes()))
        monkeypatch.setitem(COLLECTIONS, name, replace(known, forms=(pickles, binary)))
    return folder


# --- fetching ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "read"), [("cifar10", cifar10), ("cifar100", cifar100)])
def test_the_archive_comes_where_it_is_looked_for_and_only_once(
    name: str, read: Callable, server: Path, tmp_path: Path, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    address, asked = serve(server)
    root, archive = tmp_path / "new" / "root", COLLECTIONS[name].forms[0].archive
    assert main(["data", name, "--root", str(root), "--mirror", address]) == 0
    assert len(read(root=root).test) == COLLECTIONS[name].test
    assert [path.name for path in root.iterdir()] == [archive]
    assert f"{root / archive}: fetched" in capsys.readouterr().out
    assert main(["data", name, "--root", str(root), "--mirror", address]) == 0
    assert asked == [f"/{archive}"]
    assert "already there and valid, kept" in capsys.readouterr().out


def test_a_broken_form_is_put_aside_a_valid_one_kept(
    server: Path, tmp_path: Path, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    address, asked = serve(server)
    known = COLLECTIONS["cifar10"]
    pickles, binary = known.forms
    root = tmp_path / "root"
    folder = files.write_folder(root, pickles, files.contents(known, pickles) | {"test_batch": b"half a"})
    (root / pickles.archive).write_bytes(b"<html>Too many requests</html>")
    (root / f"{pickles.folder}.broken").mkdir()  # that of an earlier time stays
    with pytest.raises(DataError, match=r"test_batch has the md5 sum .* truncated or changed"):
        cifar10(root=root)
    fetch_cifar("cifar10", root, [DEAD, address], progressbar=False)
    output = capsys.readouterr().out
    assert f"{folder}: broken, renamed to {pickles.folder}.broken2" in output
    assert "is a web page (HTML)" in output
    assert (root / f"{pickles.archive}.broken").read_bytes().startswith(b"<html>")
    assert asked == [f"/{pickles.archive}"]
    assert len(cifar10(root=root).test) == 50

    files.write_folder(tmp_path / "binary", binary, files.contents(known, binary))
    fetch_cifar("cifar10", tmp_path / "binary", [DEAD], progressbar=False)
    assert f"{tmp_path / 'binary' / binary.folder}: already there" in capsys.readouterr().out


def test_when_all_mirrors_fail_there_is_one_paragraph_and_no_file(
    server: Path, tmp_path: Path, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    archive = COLLECTIONS["cifar10"].forms[0].archive
    (server / archive).write_bytes(b"<html>a login page</html>")
    wrong, _ = serve(server)
    root = tmp_path / "root"
    assert main(["data", "cifar10", "--root", str(root), "--mirror", DEAD, "--mirror", wrong]) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith(f"{archive} could not be fetched from any mirror: {DEAD}{archive} (")
    assert f"{wrong}{archive} (" in message
    assert "copy the file by hand" in message
    assert list(root.iterdir()) == []


def test_there_are_several_mirrors_by_default() -> None:
    for mirrors in CIFAR_MIRRORS.values():
        assert len(set(mirrors)) >= 3
        assert all(mirror.startswith("https://") and mirror.endswith("/") for mirror in mirrors)


# --- the layout made from JPEG files ----------------------------------------------------------------------


def jpeg(colour: tuple[int, int, int], size: tuple[int, int] = (32, 32), mode: str = "RGB") -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, colour).convert(mode).save(out, "JPEG")
    return out.getvalue()


def drawn(per_class: int, test_per_class: int) -> dict[str, bytes]:
    """One colour per class, and its brightness grows with the number of the image."""
    return {
        f"{split}/{name}/{i:04d}.jpg": jpeg((20 * label + 10, 100, 5 * i))
        for split, count in (("test", test_per_class), ("train", per_class))
        for label, name in enumerate(files.CLASSES)
        for i in range(count)
    }


@pytest.fixture
def jpegs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, bytes]], Path]:
    """A function that writes the archive: -> the data root. The set has 200 and 50 images here."""
    monkeypatch.setitem(COLLECTIONS, "cifar10_jpeg", replace(COLLECTIONS["cifar10_jpeg"], train=200, test=50))

    def write(members: dict[str, bytes]) -> Path:
        with tarfile.open(tmp_path / ARCHIVE, "w:xz") as tar:
            files.write_members(tar, members)
        return tmp_path

    return write


def test_the_layout_is_made_once_and_holds_the_images_in_another_order(
    jpegs: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    root = jpegs(drawn(20, 5))
    with pytest.raises(FileNotFoundError, match="make data DATA=cifar10_jpeg"):
        cifar10_jpeg(root=root)
    assert main(["data", "cifar10_jpeg", "--root", str(root)]) == 0
    dataset = cifar10_jpeg(root=root)
    assert (dataset.name, dataset.classes) == ("cifar10_jpeg", files.CLASSES)
    assert [path.name for path in (root / "cifar10_jpeg").iterdir()] == ["cifar-10-batches-bin"]
    # JPEG moves a colour by a few levels; classes are 20 apart and images 5.
    reds, blues = dataset.test.images[:, 0, 5, 5].float(), dataset.test.images[:, 2, 5, 5].float()
    assert (reds - 20 * dataset.test.labels - 10).abs().max() <= 3
    order = np.random.default_rng(0).permutation(50)
    assert dataset.test.labels.tolist() == (np.arange(50) // 5)[order].tolist()
    assert (blues - torch.from_numpy(5 * (np.arange(50) % 5)[order])).abs().max() <= 4
    (root / ARCHIVE).unlink()
    assert main(["data", "cifar10_jpeg", "--root", str(root)]) == 0
    output = capsys.readouterr().out
    assert output.count(": made") == 1
    assert output.count("valid, kept") == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train/cat/0003.jpg": b"no image"}, r"train/cat/0003\.jpg is of an unknown format"),
        ({"train/cat/0003.jpg": jpeg((1, 2, 3))[:-40]}, r"train/cat/0003\.jpg cannot be decoded \(.*[Tt]runcated"),
        ({"test/dog/0001.jpg": jpeg((1, 2, 3), (33, 32))}, r"test/dog/0001\.jpg is 33x32 pixels, not 32x32"),
        ({"test/cow/0001.jpg": jpeg((1, 2, 3))}, r"test/cow/0001\.jpg is not train/CLASS/FILE or test/CLASS/FILE"),
        ({"test/cat/9999.jpg": jpeg((1, 2, 3))}, r"holds \{'train': 200, 'test': 51\} images instead of"),
        ({"test/cat/0001.jpg": None, "test/dog/9.jpg": jpeg((1, 2, 3))}, r"have (4|6) images of class (cat|dog)"),
    ],
)
def test_a_broken_archive_of_jpeg_files_leaves_nothing_behind(
    change: dict[str, bytes | None], message: str, jpegs: Callable, capsys: pytest.CaptureFixture[str]
) -> None:
    members = {name: content for name, content in (drawn(20, 5) | change).items() if content is not None}
    root = jpegs(members)
    with pytest.raises(DataError, match=message):
        make_cifar10_jpeg(root)
    assert not list(root.glob("cifar10_jpeg/*"))
    assert main(["data", "cifar10_jpeg", "--root", str(root)]) == 1
    assert "Traceback" not in capsys.readouterr().err


def test_a_missing_or_truncated_archive_is_said(jpegs: Callable, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=rf"made from {tmp_path / ARCHIVE}, which is not there.*--archive FILE"):
        make_cifar10_jpeg(tmp_path)
    archive = jpegs(drawn(20, 5)) / ARCHIVE
    archive.write_bytes(archive.read_bytes()[:-200])
    with pytest.raises(DataError, match=rf"{archive} is a truncated.*\. Get the archive again"):
        make_cifar10_jpeg(tmp_path)
    grey = drawn(20, 5) | {"train/cat/0003.jpg": jpeg((9, 9, 9), mode="L")}
    other = jpegs(grey) / "elsewhere.tar.xz"
    (tmp_path / ARCHIVE).rename(other)
    assert make_cifar10_jpeg(tmp_path, other).is_dir()
