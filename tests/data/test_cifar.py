"""CIFAR: four forms of the same images, and for every broken file a message that helps."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import pickle
import resource
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import cifar_files as files
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from lipbench.data import DataError, Dataset, cifar10, cifar10_jpeg, cifar100
from lipbench.data.archives import read_members
from lipbench.data.cifar.jpeg_edition import ARCHIVE, _pixels
from lipbench.data.cifar.pickles import read_pickle
from lipbench.data.cifar.reader import COLLECTIONS, Collection, Form, find_form
from lipbench.data.root import data_root

PARTS = ("train", "validation", "test")


@pytest.fixture(autouse=True)
def _small_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of images instead of 60,000, with the sums of these."""
    for name, train, test in (("cifar10", 200, 50), ("cifar10_jpeg", 200, 50), ("cifar100", 400, 100)):
        monkeypatch.setitem(COLLECTIONS, name, files.small(name, train, test))


def collection(name: str = "cifar10") -> tuple[Collection, Form, Form]:
    """(the set, its form of pickles, its binary form)."""
    found = COLLECTIONS[name]
    return found, found.forms[0], found.forms[1]


def same(one: Dataset, other: Dataset) -> bool:
    return all(
        torch.equal(getattr(getattr(one, part), kind), getattr(getattr(other, part), kind))
        for part in PARTS
        for kind in ("images", "labels")
    )


# --- what is read -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cifar10", "cifar10_jpeg", "cifar100"])
def test_all_four_forms_hold_the_same_data_set(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known, pickles, binary = collection(name)
    read = {"cifar10": cifar10, "cifar10_jpeg": cifar10_jpeg, "cifar100": cifar100}[name]
    for i, form in enumerate((pickles, binary)):
        content = files.contents(known, form)
        files.write_folder(tmp_path / f"{i}" / known.folder, form, content)
        archive = files.write_archive(tmp_path / f"{i + 2}" / known.folder, form, content)
    if binary.archive_md5:
        forms = (pickles, replace(binary, archive_md5=files.md5(archive.read_bytes())))
        monkeypatch.setitem(COLLECTIONS, name, replace(known, forms=forms))
    first, *others = [read(root=tmp_path / f"{i}") for i in range(4)]
    assert all(same(first, other) for other in others)
    assert {d.classes for d in others} == {first.classes}
    assert (first.name, first.shape, len(first.classes)) == (name, (3, 32, 32), known.task.classes)
    pixels, labels = files.batch_of(len(first.test), known.task.classes, len(pickles.train))
    assert np.array_equal(first.test.images.reshape(len(first.test), -1).numpy(), pixels)
    assert first.test.labels.tolist() == labels.tolist()


def test_validation_is_a_fixed_stratified_tenth_of_train(tmp_path: Path) -> None:
    known, pickles, _ = collection()
    files.write_folder(tmp_path, pickles, files.contents(known, pickles))
    whole, pair = cifar10(root=tmp_path), cifar10(root=tmp_path, keep=(3, 5))
    assert [len(getattr(whole, part)) for part in PARTS] == [180, 20, 50]
    assert torch.bincount(whole.validation.labels).tolist() == [2] * 10
    assert whole.classes == files.CLASSES
    assert (pair.name, pair.classes) == ("cifar10catdog", ("cat", "dog"))
    for part in PARTS:
        kept = torch.isin(getattr(whole, part).labels, torch.tensor([3, 5]))
        assert torch.equal(getattr(whole, part).images[kept], getattr(pair, part).images)
    torch.manual_seed(7)
    assert same(whole, cifar10(root=tmp_path))


def test_pickles_of_python_3_are_read_where_no_sum_forbids_it(tmp_path: Path) -> None:
    known, pickles, _ = collection("cifar10_jpeg")
    for folder, dump in (("2", files.python2_pickle), ("3", files.python3_pickle)):
        files.write_folder(tmp_path / folder / known.folder, pickles, files.contents(known, pickles, dump))
    assert same(cifar10_jpeg(root=tmp_path / "2"), cifar10_jpeg(root=tmp_path / "3"))
    pickles_of_cifar10 = collection()[1]
    files.write_folder(tmp_path / "3", pickles_of_cifar10, files.contents(known, pickles, files.python3_pickle))
    with pytest.raises(DataError, match=r"data_batch_1 has the md5 sum .* instead of the official"):
        cifar10(root=tmp_path / "3")


def test_superclasses_of_cifar100(tmp_path: Path) -> None:
    known, pickles, binary = collection("cifar100")
    for folder, form in (("py", pickles), ("bin", binary)):
        files.write_folder(tmp_path / folder, form, files.contents(known, form))
    fine = cifar100(root=tmp_path / "py")
    for folder in ("py", "bin"):
        coarse = cifar100(root=tmp_path / folder, coarse=True)
        assert (coarse.name, coarse.classes) == ("cifar100_coarse", tuple(f"c{i}" for i in range(20)))
        assert torch.equal(coarse.test.labels, fine.test.labels % 20)
        assert torch.equal(coarse.test.images, fine.test.images)


@pytest.mark.parametrize("name", ["cifar10", "cifar10_jpeg", "cifar100"])
def test_the_configuration_of_that_name_makes_it(name: str, tmp_path: Path) -> None:
    known, _, binary = collection(name)
    files.write_folder(tmp_path / known.folder, binary, files.contents(known, binary))
    folder = str(Path(__file__).parents[2] / "conf")
    with initialize_config_dir(folder, version_base=None):
        overrides = [f"dataset={name}", f"data_root={tmp_path}", "+dataset.keep=[3,5]"]
        dataset = instantiate(compose("config", overrides).dataset)
    assert dataset.name.startswith(name)
    assert len(dataset.classes) == 2


def test_a_complete_form_is_preferred_to_an_incomplete_one(tmp_path: Path) -> None:
    known, pickles, binary = collection()
    content = files.contents(known, pickles)
    folder = files.write_folder(tmp_path, pickles, content)
    files.write_folder(tmp_path, binary, files.contents(known, binary))
    assert find_form(known, tmp_path) == (pickles, folder)
    (folder / "data_batch_3").unlink()
    assert find_form(known, tmp_path) == (binary, tmp_path / binary.folder)
    archive = files.write_archive(tmp_path, pickles, content)
    assert find_form(known, tmp_path) == (pickles, archive)


# --- what is refused --------------------------------------------------------------------------------------


def test_missing_data_says_where_it_looked_and_what_to_do(tmp_path: Path) -> None:
    known, pickles, _ = collection()
    with pytest.raises(FileNotFoundError) as caught:
        cifar10(root=tmp_path)
    assert str(caught.value).startswith(
        f"CIFAR-10 is not in {tmp_path}: it may lie there as one of cifar-10-batches-py/, cifar-10-python.tar.gz, "
        f"cifar-10-batches-bin/, cifar-10-binary.tar.gz. To fetch it: LIPBENCH_DATA={tmp_path} make data DATA=cifar10 "
    )
    folder = files.write_folder(tmp_path, pickles, files.contents(known, pickles))
    (folder / "data_batch_3").unlink()
    with pytest.raises(FileNotFoundError, match=rf"{folder} is not complete: data_batch_3 missing"):
        cifar10(root=tmp_path)
    with pytest.raises(FileNotFoundError, match=rf"JPEG edition\) is not in {tmp_path}/cifar10_jpeg: .*make data"):
        cifar10_jpeg(root=tmp_path)


class Harm:
    """What pickle turns into a call of os.system."""

    def __init__(self, command: str):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def changed(**values: object) -> Callable[[bytes], bytes]:
    """A batch of another content."""
    pixels, labels = files.batch_of(40, 10, 0)
    batch = {b"batch_label": b"", b"data": pixels, b"labels": labels.tolist()}
    return lambda _: files.python2_pickle({**batch, **{key.encode(): value for key, value in values.items()}})


PIXELS_OF_39, LABELS = files.batch_of(39, 10, 0)[0], files.batch_of(40, 10, 0)[1].tolist()
HTML = b"\n<!DOCTYPE html><html><title>Quota exceeded</title></html>"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b[:-2000], "is no complete pickle of a data set"),
        (lambda b: b"", "is empty. A file of CIFAR-10 is expected"),
        (lambda b: HTML, r"is a web page \(HTML\).* A file of CIFAR-10 is expected"),
        (lambda b: pickle.dumps(Harm("false")), r"asks for \w+\.system, .* nothing of it was run"),
        (lambda b: b"cbuiltins\neval\n(S'1'\ntR.", r"asks for builtins\.eval"),
        (lambda b: b"cnumpy\nload\n(S'/dev/null'\ntR.", r"asks for numpy\.load"),
        (lambda b: pickle.dumps({"data": np.array([print])}), r"asks for builtins\.print"),
        (lambda b: pickle.dumps({"data": np.zeros(3)}, 4), r"an array of type float64 instead of uint8"),
        (lambda b: pickle.dumps([1, 2]), "holds a list instead of a dictionary"),
        (lambda b: pickle.dumps({}), r"has under 'data' NoneType instead of an array of shape \(40, 3072\)"),
        (changed(data=PIXELS_OF_39), r"has under 'data' an array of shape \(39, 3072\)"),
        (changed(labels=LABELS[:-1]), r"has under 'labels' a list of 39 instead of a list of 40 whole numbers"),
        (changed(labels=[b"cat"] * 40), r"has under 'labels' a list of 40 instead of a list of 40 whole numbers"),
        (changed(labels=[*LABELS[:-1], 10]), "has the label 10; labels are 0 to 9"),
        (changed(labels=[*LABELS[:-1], -1]), "has the label -1; labels are 0 to 9"),
    ],
)
def test_a_broken_batch_is_named_with_what_is_wrong_and_what_to_do(
    tmp_path: Path, change: Callable[[bytes], bytes], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    known, pickles, _ = collection()
    unknown = replace(known, forms=tuple(replace(form, md5={}) for form in known.forms))
    monkeypatch.setitem(COLLECTIONS, "cifar10", unknown)
    content = files.contents(known, pickles)
    broken = content | {"data_batch_1": change(content["data_batch_1"])}
    folder = files.write_folder(tmp_path / "folder", pickles, broken)
    archive = files.write_archive(tmp_path / "archive", pickles, broken)
    places = {folder.parent: f"{folder}/data_batch_1", archive.parent: f"{archive}: {pickles.folder}/data_batch_1"}
    for root, place in places.items():
        with pytest.raises(DataError, match=message) as caught:
            cifar10(root=root)
        assert str(caught.value).startswith(place)
        assert str(caught.value).endswith("get it again, for example: make data DATA=cifar10")


def test_nothing_is_unpickled_that_has_not_its_official_sum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known, pickles, _ = collection()
    content = files.contents(known, pickles)
    for change in (changed(batch_label=b"another"), lambda b: b[:-2000], lambda b: pickle.dumps(Harm("false"))):
        first = content | {"data_batch_1": change(content["data_batch_1"])}
        folder = files.write_folder(tmp_path / hashlib.md5(first["data_batch_1"]).hexdigest(), pickles, first)
        with monkeypatch.context() as patch:
            patch.setattr("lipbench.data.cifar.reader.read_pickle", lambda *_: pytest.fail("it was read"))
            with pytest.raises(
                DataError, match=r"has the md5 sum \w{32} instead of the official \w{32}: its [\d,]+ bytes"
            ):
                cifar10(root=folder.parent)


def test_a_damaged_pickle_takes_no_more_memory_than_its_length_allows() -> None:
    for content in (
        b"\x80\x02Nr\xff\xff\xff\x7f.",  # puts None into the memo at place 2**31 - 1
        b"\x80\x04\x8e\x00\x00\x00\x00\xff\x00\x00\x00.",  # announces a terabyte of bytes
        b"\x80\x04\x95\x00\x00\x00\x00\xff\x00\x00\x00.",  # and a frame of one
        b"\x80\x02\x82\x01.",
    ):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(DataError, match=r"it (is no complete pickle|holds a)"):
            read_pickle(content, "it")
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**18, "KiB"


def test_a_pickle_runs_nothing_and_changes_nothing(tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    with pytest.raises(DataError, match="could run any command"):
        read_pickle(pickle.dumps({"data": Harm(f"touch {proof}")}), "it")
    assert not proof.exists()
    for other in (getattr, eval, np.load, np.array(["a"]).dtype.__class__):
        with pytest.raises(DataError, match="could run any command"):
            read_pickle(pickle.dumps({"data": other}), "it")
    # BUILD sets attributes of what it finds on the stack, were it numpy's own class.
    for target in (b"cnumpy\nndarray\n", b"cnumpy.core.multiarray\n_reconstruct\n", b"cnumpy\ndtype\n"):
        for state in (b"}S'shape'\nI1\nsb.", b"(N}S'__init__'\nI1\nstb."):
            with pytest.raises(DataError, match="no complete pickle"):
                read_pickle(target + state, "it")
    pixels = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert np.array_equal(read_pickle(files.python2_pickle({b"data": pixels}), "it")["data"], pixels)
    columns = pickle.dumps({"data": np.asfortranarray(pixels)}, 4)
    assert np.array_equal(read_pickle(columns, "it")["data"], pixels)
    for wrong in (pixels.astype(np.float32), np.array([print], object)):
        with pytest.raises(DataError, match=r"instead of uint8|could run any command"):
            read_pickle(pickle.dumps({"data": wrong}), "it")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("data_batch_2.bin", lambda b: b[:-1], r"is truncated: it has 122919 bytes instead of 40 images of 3073"),
        ("test_batch.bin", lambda b: b + b[:3073], r"is no batch of this set: it has 156723 bytes instead of 50"),
        ("test_batch.bin", lambda b: HTML, r"is a web page \(HTML\)"),
        ("data_batch_1.bin", lambda b: b"\x0a" + b[1:], "has the label 10; labels are 0 to 9"),
        ("data_batch_1.bin", lambda b: bytes([(b[0] + 1) % 10]) + b[1:], r"have (19|21) images of class \w+; all 10 "),
        ("batches.meta.txt", lambda b: b[:20], "has 2 different names of classes instead of 10"),
        ("batches.meta.txt", lambda b: b.replace(b"dog", b"cat"), "has 9 different names of classes instead of 10"),
    ],
)
def test_a_broken_binary_batch_is_refused_without_a_sum(
    tmp_path: Path, name: str, change: Callable[[bytes], bytes], message: str
) -> None:
    known, _, binary = collection()
    content = files.contents(known, binary)
    files.write_folder(tmp_path, binary, content | {name: change(content[name])})
    with pytest.raises(DataError, match=message) as caught:
        cifar10(root=tmp_path)
    assert str(caught.value).startswith(str(tmp_path / binary.folder))
    assert str(caught.value).endswith("make data DATA=cifar10")


def test_an_archive_that_a_browser_unpacked_by_half_is_read(tmp_path: Path) -> None:
    known, pickles, _ = collection()
    archive = files.write_archive(tmp_path, pickles, files.contents(known, pickles))
    before = cifar10(root=tmp_path)
    archive.with_suffix("").write_bytes(gzip.decompress(archive.read_bytes()))
    archive.unlink()
    assert torch.equal(cifar10(root=tmp_path).test.images, before.test.images)
    archive.with_suffix("").rename(tmp_path / "cifar-10.tar")
    with pytest.raises(FileNotFoundError, match=r"That folder holds cifar-10\.tar\."):
        cifar10(root=tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: b[: len(b) // 2], "is a truncated archive"),
        (lambda b: b[:-8], "is a truncated archive"),
        (lambda b: b[:5], "is a truncated archive"),
        (lambda b: b[:100] + b"\xff" * 30 + b[130:], "corrupt tar archive"),
        (lambda b: b[: len(b) // 2] + bytes(500) + b[len(b) // 2 + 500 :], r"data_batch_\d has the md5 sum"),
        (lambda b: b[:-8] + bytes(8), "is a corrupt archive"),
        (lambda b: HTML, r"it is a web page \(HTML\): the server did not give the file"),
        (lambda b: b"PK\x03\x04" + b, "is no tar archive, plain, gzipped or xz: it is a zip archive"),
        (lambda b: b"", "is no tar archive"),
    ],
)
def test_a_broken_archive_is_named_with_what_is_wrong_and_what_to_do(
    tmp_path: Path, change: Callable[[bytes], bytes], message: str
) -> None:
    known, pickles, _ = collection()
    archive = files.write_archive(tmp_path, pickles, files.contents(known, pickles))
    archive.write_bytes(change(archive.read_bytes()))
    with pytest.raises(DataError, match=message) as caught:
        cifar10(root=tmp_path)
    assert str(caught.value).startswith(str(archive))
    assert str(caught.value).endswith("make data DATA=cifar10")


def test_an_archive_holds_files_of_bounded_size_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def archive(name: str, size: int = 0, **attributes: object) -> Path:
        path = tmp_path / "a.tar.gz"
        with tarfile.open(path, "w:gz") as tar:
            entry = tarfile.TarInfo(name)
            for key, value in attributes.items():
                setattr(entry, key, value)
            entry.size = size
            tar.addfile(entry, io.BytesIO(bytes(size)))
        return path

    monkeypatch.setattr("lipbench.data.archives.TOTAL", 2**23)
    assert list(read_members(archive("a/b"))) == [("a/b", b"")]
    cases = [
        ({"name": "a", "type": tarfile.SYMTYPE, "linkname": "/etc"}, "is a link"),
        ({"name": "a", "type": tarfile.LNKTYPE, "linkname": "b"}, "is a link"),
        ({"name": "a", "type": tarfile.CHRTYPE}, "a device"),
        ({"name": "a", "size": 2**22 + 1}, "has 4,194,305 bytes"),
    ]
    for options, message in cases:
        with pytest.raises(DataError, match=message):
            list(read_members(archive(**options), limit=2**22))
    monkeypatch.setattr("lipbench.data.archives.TOTAL", 2**20)
    with pytest.raises(DataError, match="all of them 1,048,576"):
        list(read_members(archive("a", 2**22), limit=2**22))


def test_an_archive_of_something_else_lists_what_it_lacks(tmp_path: Path) -> None:
    known, pickles, binary = collection()
    content = files.contents(known, pickles)
    del content["test_batch"], content["batches.meta"]
    archive = files.write_archive(tmp_path, pickles, content)
    lacks = rf"{archive} does not hold {pickles.folder}/test_batch, {pickles.folder}/batches.meta"
    with pytest.raises(DataError, match=lacks):
        cifar10(root=tmp_path)
    archive.unlink()
    files.write_archive(tmp_path, binary, files.contents(known, binary))
    with pytest.raises(DataError, match=rf"has the md5 sum \w+ instead of the official {binary.archive_md5}"):
        cifar10(root=tmp_path)


# --- the real JPEG edition --------------------------------------------------------------------------------


def test_the_real_jpeg_edition(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    if find_form(COLLECTIONS["cifar10_jpeg"], None) is None:
        pytest.skip(f"no CIFAR-10 JPEG edition in {data_root()} (make data DATA=cifar10_jpeg)")
    dataset = cifar10_jpeg()
    assert [len(getattr(dataset, part)) for part in PARTS] == [45_000, 5_000, 10_000]
    labels = torch.cat([getattr(dataset, part).labels for part in PARTS]).to(torch.uint8)
    assert hashlib.sha256(labels.numpy().tobytes()).hexdigest()[:16] == "5e95e01b2295d365"


def test_the_real_archive_of_jpeg_files() -> None:
    archive = data_root() / ARCHIVE
    if not archive.is_file():
        pytest.skip(f"no {archive}")
    for (member, content), _ in zip(read_members(archive), range(50), strict=False):
        split, name, _ = member.split("/")
        assert split in ("train", "test")
        assert name in files.CLASSES
        assert _pixels(content, member).shape == (3072,)
