"""CIFAR-10 and CIFAR-100 from the official files, pickled or binary, in torchvision's layout."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from lipbench.data.archives import LIMIT, md5_of, read_members
from lipbench.data.cifar.pickles import read_pickle
from lipbench.data.contents import START, what_it_is
from lipbench.data.dataset import Dataset, Split, hold_out, restrict
from lipbench.data.idx import DataError
from lipbench.data.root import data_root, fetch_command, how_to_fetch

# Part of the data set's definition: changing one changes every result on it.
VALIDATION_FRACTION, VALIDATION_SEED = 0.1, 0

SHAPE = (3, 32, 32)
PIXELS = 3 * 32 * 32
Batch = tuple[NDArray[np.uint8], NDArray[np.int64]]


@dataclass(frozen=True)
class Form:
    """A form in which a set is published: a folder of batches, or the archive that holds this folder.

    A binary batch has `label_bytes` bytes of labels and then 3,072 of pixels per image; 0: the batches are pickles,
    and `meta` is the one with the names of the classes. The md5 sums are the official ones, as far as they are known:
    those of pickles and of archives of binary batches.
    """

    folder: str
    archive: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    label_bytes: int = 0
    meta: str = ""
    md5: Mapping[str, str] = field(default_factory=dict)
    archive_md5: str | None = None


@dataclass(frozen=True)
class Task:
    """What is asked about the images: the key of labels and names in pickles; the byte and the file in binary forms."""

    classes: int
    labels_key: str
    names_key: str
    byte: int
    names_file: str


@dataclass(frozen=True)
class Collection:
    """A published set: how it is called, where it lies under the data root, its forms and numbers of images."""

    name: str
    title: str
    task: Task
    forms: tuple[Form, ...]
    folder: str = ""
    train: int = 50_000
    test: int = 10_000


OBJECTS = Task(10, "labels", "label_names", 0, "batches.meta.txt")
FINE = Task(100, "fine_labels", "fine_label_names", 1, "fine_label_names.txt")
COARSE = Task(20, "coarse_labels", "coarse_label_names", 0, "coarse_label_names.txt")

BATCHES = tuple(f"data_batch_{i}" for i in range(1, 6))
CIFAR10 = Collection(
    "cifar10",
    "CIFAR-10",
    OBJECTS,
    (
        Form(
            "cifar-10-batches-py",
            "cifar-10-python.tar.gz",
            BATCHES,
            ("test_batch",),
            meta="batches.meta",
            md5={
                "data_batch_1": "c99cafc152244af753f735de768cd75f",
                "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
                "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
                "data_batch_4": "634d18415352ddfa80567beed471001a",
                "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
                "test_batch": "40351d587109b95175f43aff81a1287e",
                "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
            },
            archive_md5="c58f30108f718f92721af3b95e74349a",
        ),
        Form(
            "cifar-10-batches-bin",
            "cifar-10-binary.tar.gz",
            tuple(f"{name}.bin" for name in BATCHES),
            ("test_batch.bin",),
            label_bytes=1,
            archive_md5="c32a1d4ab5d03f1284b67883e8d87530",
        ),
    ),
)
CIFAR100 = Collection(
    "cifar100",
    "CIFAR-100",
    FINE,
    (
        Form(
            "cifar-100-python",
            "cifar-100-python.tar.gz",
            ("train",),
            ("test",),
            meta="meta",
            md5={
                "train": "16019d7e3df5f24257cddd939b257f8d",
                "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
                "meta": "7973b15100ade9c7d40fb424638fde48",
            },
            archive_md5="eb9058c3a382ffc7106e4002c42a8d85",
        ),
        Form(
            "cifar-100-binary",
            "cifar-100-binary.tar.gz",
            ("train.bin",),
            ("test.bin",),
            label_bytes=2,
            archive_md5="03b5dce01913d631647c71ecec9e9cb8",
        ),
    ),
)
# The official sums are not those of another edition.
CIFAR10_JPEG = replace(
    CIFAR10,
    name="cifar10_jpeg",
    title="CIFAR-10 (JPEG edition)",
    folder="cifar10_jpeg",
    forms=tuple(replace(form, md5={}, archive_md5=None) for form in CIFAR10.forms),
)
COLLECTIONS = {collection.name: collection for collection in (CIFAR10, CIFAR10_JPEG, CIFAR100)}


def cifar10(keep: Sequence[int] | None = None, name: str | None = None, root: str | Path | None = None) -> Dataset:
    """60,000 colour images [3, 32, 32]: 45,000 train, 5,000 validation, and the official 10,000 test.

    Validation is a stratified tenth of the official train set, always the same one, and cut off before classes are
    chosen. Label i is the class `keep[i]`; `name` defaults to "cifar10" and the classes kept.

    Read from the first complete one of cifar-10-batches-py/, cifar-10-python.tar.gz, cifar-10-batches-bin/ and
    cifar-10-binary.tar.gz in `root`, which defaults to the environment's LIPBENCH_DATA and then to the user's cache.
    Pickles are read without running anything (`read_pickle`). md5 sums are checked for pickled batches and for the
    archive of binary ones; of binary batches in a folder, sizes, labels and the number of images per class.

    Raises:
        FileNotFoundError: no form is complete, with the command that fetches one.
        DataError: a file is broken.
        ValueError: impossible `keep`.

    Source: Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
    """
    return _dataset(COLLECTIONS["cifar10"], keep, name, root)


def cifar10_jpeg(keep: Sequence[int] | None = None, name: str | None = None, root: str | Path | None = None) -> Dataset:
    """CIFAR-10 re-encoded as JPEG, in another order: the same images and classes, but not the same pixels.

    As `cifar10`, from the same forms in `<root>/cifar10_jpeg`, without md5 sums: pixels depend on the decoder of JPEG.
    Results on it are no results on CIFAR-10.
    """
    return _dataset(COLLECTIONS["cifar10_jpeg"], keep, name, root)


def cifar100(
    keep: Sequence[int] | None = None, name: str | None = None, root: str | Path | None = None, *, coarse: bool = False
) -> Dataset:
    """60,000 colour images [3, 32, 32] of 100 classes, or of the 20 superclasses of these with `coarse`.

    As `cifar10`, from cifar-100-python/, cifar-100-python.tar.gz, cifar-100-binary/ or cifar-100-binary.tar.gz. `name`
    defaults to "cifar100" (with `coarse`, "cifar100_coarse") and the classes kept.
    """
    collection = COLLECTIONS["cifar100"]
    if coarse:
        collection = replace(collection, task=COARSE)
        name = name or ("cifar100_coarse" if keep is None else None)
    return _dataset(collection, keep, name, root)


def find_form(collection: Collection, root: str | Path | None = None) -> tuple[Form, Path] | None:
    """The first complete form of a set under the data root, with its folder or archive; None where there is none."""
    base = data_root(root) / collection.folder
    for form in collection.forms:
        folder, archive = base / form.folder, base / form.archive
        if all((folder / file).is_file() for file in _files(form, collection.task)):
            return form, folder
        # Some browsers unpack .gz by themselves.
        for packed in (archive, archive.with_suffix("")):
            if packed.is_file():
                return form, packed
    return None


def read_form(collection: Collection, form: Form, path: Path) -> tuple[Split, Split, tuple[str, ...]]:
    """(train, test, names of the classes) as published, from the form's folder or archive, all of it checked.

    Raises:
        DataError: a file is broken; the message says which, how, and what to do.
        OSError: a file cannot be read.
    """
    try:
        return _read(collection, form, path)
    except DataError as error:
        remedy = fetch_command(collection.name)
        raise DataError(f"{error}. Delete the file and get it again, for example: {remedy}") from error


def _dataset(collection: Collection, keep: Sequence[int] | None, name: str | None, root: str | Path | None) -> Dataset:
    if (found := find_form(collection, root)) is None:
        raise FileNotFoundError(_how_to_get(collection, root))
    official, test, classes = read_form(collection, *found)
    train, validation = hold_out(official, VALIDATION_FRACTION, VALIDATION_SEED)
    return restrict(Dataset(collection.name, classes, train, validation, test), keep, name)


def _files(form: Form, task: Task) -> tuple[str, ...]:
    return (*form.train, *form.test, form.meta or task.names_file)


def _read(collection: Collection, form: Form, path: Path) -> tuple[Split, Split, tuple[str, ...]]:
    task, wanted = collection.task, _files(form, collection.task)
    sizes = dict.fromkeys(form.train, collection.train // len(form.train))
    sizes |= dict.fromkeys(form.test, collection.test // len(form.test))
    batches: dict[str, Batch] = {}
    classes: tuple[str, ...] = ()
    for file, content in _contents(form, path, wanted):
        where = str(path / file) if path.is_dir() else f"{path}: {form.folder}/{file}"
        if kind := what_it_is(content[:START]):
            raise DataError(f"{where} {kind}. A file of {collection.title} is expected")
        # Before anything in it is looked at: a file of another sum is no known file.
        if (digest := hashlib.md5(content, usedforsecurity=False).hexdigest()) != form.md5.get(file, digest):
            raise DataError(
                f"{where} has the md5 sum {digest} instead of the official {form.md5[file]}: its {len(content):,} "
                "bytes are truncated or changed"
            )
        if file not in sizes:
            classes = _names(content, form, task, where)
        elif form.label_bytes:
            batches[file] = _binary_batch(content, form, task, sizes[file], where)
        else:
            batches[file] = _pickled_batch(read_pickle(content, where), task, sizes[file], where)
    seen = {*batches, *(wanted[-1:] if classes else ())}
    if missing := [f"{form.folder}/{file}" for file in wanted if file not in seen]:
        raise DataError(f"{path} does not hold {', '.join(missing)}")
    return _split(form.train, batches, classes, path), _split(form.test, batches, classes, path), classes


def _contents(form: Form, path: Path, wanted: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    if path.is_dir():
        for file in wanted:
            if (size := (path / file).stat().st_size) > LIMIT:
                raise DataError(f"{path / file} has {size:,} bytes, far more than a file of this set")
            yield file, (path / file).read_bytes()
        return
    for member, content in read_members(path):
        folder, _, file = member.rpartition("/")
        if folder == form.folder and file in wanted:
            yield file, content
    # Pickles have their own sums, which hold however they are packed; binary batches have only this one.
    if form.archive_md5 and not form.md5 and (digest := md5_of(path)) != form.archive_md5:
        raise DataError(f"{path} has the md5 sum {digest} instead of the official {form.archive_md5}")


def _pickled_batch(batch: Mapping[str, object], task: Task, count: int, where: str) -> Batch:
    images, labels = batch.get("data"), batch.get(task.labels_key)
    if not isinstance(images, np.ndarray) or images.shape != (count, PIXELS):
        found = f"an array of shape {images.shape}" if isinstance(images, np.ndarray) else f"{type(images).__name__}"
        raise DataError(f"{where} has under 'data' {found} instead of an array of shape {(count, PIXELS)}")
    if not isinstance(labels, list) or len(labels) != count or not all(type(label) is int for label in labels):
        found = f"a list of {len(labels)}" if isinstance(labels, list) else f"{type(labels).__name__}"
        raise DataError(f"{where} has under '{task.labels_key}' {found} instead of a list of {count} whole numbers")
    if wrong := [label for label in labels if not 0 <= label < task.classes]:
        raise DataError(f"{where} has the label {wrong[0]}; labels are 0 to {task.classes - 1}")
    return images, np.array(labels, np.int64)


def _binary_batch(content: bytes, form: Form, task: Task, count: int, where: str) -> Batch:
    record = form.label_bytes + PIXELS
    if len(content) != count * record:
        problem = "is truncated" if len(content) < count * record else "is no batch of this set"
        raise DataError(f"{where} {problem}: it has {len(content)} bytes instead of {count} images of {record}")
    table = np.frombuffer(content, np.uint8).reshape(count, record)
    labels = table[:, task.byte].astype(np.int64)
    if (largest := int(labels.max())) >= task.classes:
        raise DataError(f"{where} has the label {largest}; labels are 0 to {task.classes - 1}")
    return table[:, form.label_bytes :], labels


def _names(content: bytes, form: Form, task: Task, where: str) -> tuple[str, ...]:
    found = read_pickle(content, where).get(task.names_key) if form.meta else content.split(b"\n")
    names = tuple(
        name.decode("latin1").strip() if isinstance(name, bytes) else str(name)
        for name in (found if isinstance(found, list) else [])
        if name
    )
    if len(names) != task.classes or len(set(names)) < len(names):
        raise DataError(f"{where} has {len(set(names))} different names of classes instead of {task.classes}")
    return names


def _split(files: Sequence[str], batches: Mapping[str, Batch], classes: Sequence[str], path: Path) -> Split:
    images = torch.from_numpy(np.concatenate([batches[file][0] for file in files]))
    labels = torch.from_numpy(np.concatenate([batches[file][1] for file in files]))
    counts = torch.bincount(labels, minlength=len(classes))
    if (counts != counts.sum() // len(classes)).any():
        worst = int((counts - counts.float().mean()).abs().argmax())
        raise DataError(
            f"{path}: {', '.join(files)} have {int(counts[worst])} images of class {classes[worst]}; "
            f"all {len(classes)} classes have {int(counts.sum()) // len(classes)}"
        )
    return Split(images.reshape(-1, *SHAPE), labels)


def _how_to_get(collection: Collection, root: str | Path | None) -> str:
    base = data_root(root) / collection.folder
    forms = ", ".join(f"{form.folder}/, {form.archive}" for form in collection.forms)
    parts = [f"{collection.title} is not in {base}: it may lie there as one of {forms}."]
    if present := sorted(path.name for path in base.glob("*") if "cifar" in path.name.lower()):
        parts.append(f"That folder holds {', '.join(present)}.")
    for form in collection.forms:
        missing = [file for file in _files(form, collection.task) if not (base / form.folder / file).is_file()]
        if (base / form.folder).is_dir():
            parts.append(f"{base / form.folder} is not complete: {', '.join(missing)} missing.")
    return " ".join([*parts, how_to_fetch(collection.name, root, collection.folder)])
