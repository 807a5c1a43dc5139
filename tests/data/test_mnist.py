"""MNIST: files are trusted only when right, and fetching gets them there."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import stat
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lipbench.commands.main import main
from lipbench.data import DataError, Split, mnist
from lipbench.data.download import fetch_mnist
from lipbench.data.idx import read_idx
from lipbench.data.mnist import FILES, find, raw_folder

PARTS = ("train", "validation", "test")


def fingerprints(split: Split) -> list[bytes]:
    """One string per image, label excluded."""
    return [image.numpy().tobytes() for image in split.images]


# --- idx files --------------------------------------------------------------------------------------------


def idx(array: np.ndarray) -> bytes:
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


ARRAY = np.arange(24).reshape(4, 3, 2)
GOOD = idx(ARRAY)


@pytest.mark.parametrize("name", ["images", "images.gz"])
@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_idx_reads_plain_and_gzip_whatever_the_name(
    tmp_path: Path, name: str, compress: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / name
    path.write_bytes(compress(GOOD))
    array = read_idx(path, (4, 3, 2), md5(GOOD))
    np.testing.assert_array_equal(array, ARRAY)
    assert array.dtype == np.uint8
    array[0] = 7  # writable, as torch wants it


@pytest.mark.parametrize(
    ("content", "shape", "message"),
    [
        (b"", (4, 3, 2), "is empty"),
        (GOOD[:10], (4, 3, 2), "truncated: 10 bytes"),
        (GOOD[:-1], (4, 3, 2), "truncated: its header promises 24 bytes of data, it has 23"),
        (gzip.compress(GOOD, mtime=0)[:-9], (4, 3, 2), "truncated gzip"),
        (gzip.compress(GOOD, mtime=0)[:5], (4, 3, 2), "truncated gzip"),
        (gzip.compress(GOOD, mtime=0)[:-8] + b"\x00" * 8, (4, 3, 2), "corrupt gzip"),
        (gzip.compress(GOOD, mtime=0)[:10] + b"\xff" * 30, (4, 3, 2), "corrupt gzip"),
        (gzip.compress(GOOD[:-1], mtime=0), (4, 3, 2), "truncated: its header"),
        (b"<html>not here</html>", (4, 3, 2), "is a web page"),
        (b"\x00\x00\x0d\x03" + GOOD[4:], (4, 3, 2), "magic number 0x00000d03"),
        (b"\x00\x00\x08\x00", (), "magic number 0x00000800"),
        (GOOD + b"\x00\x00", (4, 3, 2), "2 trailing bytes"),
        (idx(ARRAY[:3]), (4, 3, 2), r"shape \(3, 3, 2\) instead of \(4, 3, 2\)"),
        (idx(ARRAY.reshape(4, 6)), (4, 3, 2), r"shape \(4, 6\) instead of \(4, 3, 2\)"),
        (idx(ARRAY[::-1]), (4, 3, 2), f"md5 sum {md5(idx(ARRAY[::-1]))} instead of {md5(GOOD)}"),
    ],
)
def test_idx_says_what_is_wrong_where_and_what_to_do(
    tmp_path: Path, content: bytes, shape: tuple[int, ...], message: str
) -> None:
    path = tmp_path / "images.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_idx(path, shape, md5(GOOD))
    assert str(caught.value).startswith(str(path))
    assert "fetch it again" in str(caught.value)


# --- mnist, on a small fake -------------------------------------------------------------------------------


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the four archives of a small MNIST, which the table of expected files describes."""
    folder = tmp_path / "server"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for part, count in (("train", 200), ("test", 50)):
        arrays = {
            "images": rng.integers(0, 256, (count, 5, 4)),
            "labels": rng.permutation(np.arange(count) % 10),
        }
        for kind, array in arrays.items():
            key, content = f"{part} {kind}", idx(array)
            archive = gzip.compress(content, mtime=0)
            file = replace(FILES[key], shape=array.shape, md5=md5(content), archive_md5=md5(archive))
            monkeypatch.setitem(FILES, key, file)
            (folder / f"{file.name}.gz").write_bytes(archive)
    return folder


@pytest.fixture
def root(fake: Path, tmp_path: Path) -> Path:
    """A data root that holds that small MNIST."""
    shutil.copytree(fake, raw_folder(tmp_path / "root"))
    return tmp_path / "root"


def unpack(folder: Path, name: str) -> Path:
    """Replace an archive by its plain content."""
    archive = folder / f"{name}.gz"
    (folder / name).write_bytes(gzip.decompress(archive.read_bytes()))
    archive.unlink()
    return folder / name


def test_mnist_cuts_validation_from_train_and_leaves_test_alone(root: Path, fake: Path) -> None:
    dataset = mnist(root=str(root))
    assert (dataset.name, dataset.classes, dataset.shape) == ("mnist", tuple("0123456789"), (1, 5, 4))
    assert torch.bincount(dataset.validation.labels).tolist() == [2] * 10
    raw = {key: gzip.decompress((fake / f"{file.name}.gz").read_bytes()) for key, file in FILES.items()}
    assert dataset.test.images.numpy().tobytes() == raw["test images"][16:]
    assert bytes(dataset.test.labels.tolist()) == raw["test labels"][8:]
    images = [raw["train images"][start : start + 20] for start in range(16, 16 + 200 * 20, 20)]
    pairs = sorted(zip(images, raw["train labels"][8:], strict=True))
    parts = (dataset.train, dataset.validation)
    found = [pair for part in parts for pair in zip(fingerprints(part), part.labels.tolist(), strict=True)]
    assert sorted(found) == pairs


def test_mnist08_is_a_subset_of_mnist_in_every_part(root: Path) -> None:
    full, binary = mnist(root=root), mnist(keep=(0, 8), root=root)
    assert (binary.name, binary.classes) == ("mnist08", ("0", "8"))
    for part in PARTS:
        whole, kept = getattr(full, part), getattr(binary, part)
        labels = dict(zip(fingerprints(whole), whole.labels.tolist(), strict=True))
        assert [labels[image] for image in fingerprints(kept)] == [8 * label for label in kept.labels.tolist()]
        assert len(kept) == sum(label in (0, 8) for label in labels.values())


def test_mnist_is_the_same_plain_zipped_and_under_any_seed(root: Path) -> None:
    before = mnist(root=root)
    for file in FILES.values():
        unpack(raw_folder(root), file.name)
    torch.manual_seed(5)
    after = mnist(root=root)
    for part in PARTS:
        assert torch.equal(getattr(before, part).images, getattr(after, part).images)
        assert torch.equal(getattr(before, part).labels, getattr(after, part).labels)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("inner", ["", "dashed", "dotted"])
@pytest.mark.parametrize("dotted", [True, False])
def test_mnist_is_found_under_the_names_that_unpackers_give(root: Path, zipped: bool, inner: str, dotted: bool) -> None:
    before = mnist(root=root)
    for file in FILES.values():
        path = raw_folder(root) / f"{file.name}.gz" if zipped else unpack(raw_folder(root), file.name)
        names = {"dotted": file.name.replace("-idx", ".idx"), "dashed": file.name, "": ""}
        target = raw_folder(root) / names[inner] / (path.name.replace("-idx", ".idx") if dotted else path.name)
        content = path.read_bytes()
        path.unlink()
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(content)
    assert torch.equal(mnist(root=root).test.images, before.test.images)
    target.write_bytes(b"")
    with pytest.raises(DataError, match="is empty"):
        mnist(root=root)


def test_what_lies_there_under_another_name_is_named(root: Path) -> None:
    folder = raw_folder(root)
    (folder / "t10k-labels-idx1-ubyte.gz").rename(folder / "t10k_labels")
    with pytest.raises(FileNotFoundError, match=r"The folder holds t10k-images.*\.gz, t10k_labels, train-images"):
        mnist(root=root)


def test_mnist_looks_in_the_argument_then_the_variable_then_the_cache(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIPBENCH_DATA", str(root))
    assert len(mnist().test) == 50
    with pytest.raises(FileNotFoundError, match="elsewhere"):
        mnist(root=str(tmp_path / "elsewhere"))
    monkeypatch.setenv("LIPBENCH_DATA", "")
    monkeypatch.setattr("pooch.os_cache", lambda project: tmp_path / "cache" / project)
    assert raw_folder() == tmp_path / "cache" / "lipbench" / "MNIST" / "raw"


def test_missing_files_are_listed_with_the_command_that_fetches_them(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (raw_folder(root) / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(FileNotFoundError) as caught:
        mnist(root=root)
    message = str(caught.value)
    assert str(raw_folder(root)) in message
    assert "Missing, plain or as .gz: t10k-labels-idx1-ubyte." in message
    assert f"LIPBENCH_DATA={root} make data DATA=mnist" in message
    assert f"lipbench data mnist --root {root}" in message
    monkeypatch.setenv("LIPBENCH_DATA", str(root))
    with pytest.raises(FileNotFoundError, match=r"fetch it: make data DATA=mnist \(or: .* mnist\)"):
        mnist()


@pytest.mark.parametrize("key", list(FILES))
def test_one_other_byte_in_any_file_is_refused(root: Path, key: str) -> None:
    path = unpack(raw_folder(root), FILES[key].name)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"{path} has the .* {md5(bytes(content))} instead of {FILES[key].md5}"):
        mnist(root=root)


def test_the_real_mnist() -> None:
    folder = raw_folder()
    if missing := [file.name for file in FILES.values() if find(folder, file.name) is None]:
        pytest.skip(f"no MNIST: {', '.join(missing)} not found (lipbench data mnist)")
    dataset = mnist()
    assert [len(getattr(dataset, part)) for part in PARTS] == [54_000, 6_000, 10_000]
    assert dataset.shape == (1, 28, 28)
    assert dataset.test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    digest = hashlib.sha256(b"".join(fingerprints(dataset.validation)))
    assert digest.hexdigest()[:16] == "7751f9ec51753523"
    assert [len(getattr(mnist(keep=(0, 8)), part)) for part in PARTS] == [10_597, 1_177, 1_954]


# --- fetching ---------------------------------------------------------------------------------------------


Serve = Callable[[Path], tuple[str, list[str]]]


def test_fetching_puts_the_files_where_mnist_finds_them(
    fake: Path, tmp_path: Path, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    address, asked = serve(fake)
    root = tmp_path / "new" / "root"
    assert main(["data", "mnist", "--root", str(root), "--mirror", address]) == 0
    assert len(mnist(root=root).test) == 50
    names = sorted(path.name for path in raw_folder(root).iterdir())
    assert names == sorted(f"{file.name}.gz" for file in FILES.values())
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o644 for path in raw_folder(root).iterdir())
    assert capsys.readouterr().out.count("fetched") == 4

    assert main(["data", "mnist", "--root", str(root), "--mirror", address]) == 0
    assert len(asked) == 4
    assert capsys.readouterr().out.count("valid, kept") == 4


def test_fetching_replaces_the_broken_and_keeps_the_valid(
    fake: Path, root: Path, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = raw_folder(root)
    unpack(folder, "train-labels-idx1-ubyte")
    recompressed = folder / "t10k-labels-idx1-ubyte.gz"
    recompressed.write_bytes(gzip.compress(gzip.decompress(recompressed.read_bytes()), 1, mtime=1))
    truncated = folder / "t10k-images-idx3-ubyte.gz"
    truncated.write_bytes(truncated.read_bytes()[:-20])
    shadow = folder / "train-images-idx3-ubyte"
    shadow.write_bytes(b"a broken plain file in front of a valid archive")
    with pytest.raises(DataError, match="magic number"):
        mnist(root=root)

    address, asked = serve(fake)
    fetch_mnist(root, [address], progressbar=False)
    assert asked == ["/t10k-images-idx3-ubyte.gz"]
    assert len(mnist(root=root).test) == 50
    assert (folder / "train-images-idx3-ubyte.broken").read_bytes().startswith(b"a broken")
    output = capsys.readouterr().out
    assert output.count("valid, kept") == 3
    assert output.count("broken, renamed to") == 2


def test_the_next_mirror_helps_where_one_is_absent_dead_or_wrong(fake: Path, tmp_path: Path, serve: Serve) -> None:
    (tmp_path / "empty").mkdir()
    shutil.copytree(fake, tmp_path / "wrong")
    (tmp_path / "wrong" / "train-images-idx3-ubyte.gz").write_bytes(b"a login page")
    absent, asked_absent = serve(tmp_path / "empty")
    wrong, asked_wrong = serve(tmp_path / "wrong")
    good, asked_good = serve(fake)
    dead = "http://127.0.0.1:9/"
    fetch_mnist(tmp_path / "root", [dead, absent, wrong, good.rstrip("/")], progressbar=False)
    assert len(mnist(root=tmp_path / "root").test) == 50
    assert (len(asked_absent), len(asked_wrong)) == (4, 4)
    assert asked_good == ["/train-images-idx3-ubyte.gz"]


def test_when_all_mirrors_fail_there_is_one_paragraph_and_no_file(
    fake: Path, tmp_path: Path, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    (fake / "train-images-idx3-ubyte.gz").write_bytes(b"a login page")
    wrong, _ = serve(fake)
    dead = "http://127.0.0.1:9/"
    root = tmp_path / "root"
    assert main(["data", "mnist", "--root", str(root), "--mirror", dead, "--mirror", wrong]) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("train-images-idx3-ubyte.gz could not be fetched from any mirror")
    assert dead in message
    assert wrong in message
    assert "Traceback" not in message
    assert list(raw_folder(root).iterdir()) == []


def test_a_root_that_cannot_be_written_is_said_without_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main(["data", "mnist", "--root", str(tmp_path / "file"), "--mirror", "http://127.0.0.1:9/"]) == 1
    assert str(tmp_path / "file") in capsys.readouterr().err


def test_the_command_answers_digits_and_unknown_names(capsys: pytest.CaptureFixture[str]) -> None:
    command = [sys.executable, "-m", "lipbench", "data", "digits"]
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=dict(os.environ))
    assert "embedded" in run.stdout
    assert main(["data", "imagenet"]) == 1
    message = capsys.readouterr().err
    assert "data set 'imagenet'" in message
    assert "mnist" in message
    assert "digits" in message
