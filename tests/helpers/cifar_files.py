"""Small drawn sets in CIFAR's official layout."""

import hashlib
import io
import pickle
import struct
import tarfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from lipbench.data.cifar.reader import COLLECTIONS, Collection, Form

PIXELS = 3 * 32 * 32
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def python2_pickle(value: object) -> bytes:
    """As Python 2 and its numpy wrote it, protocol 2: bytes are str there."""
    return b"\x80\x02" + _python2(value) + b"."


def _python2(value: object) -> bytes:
    match value:
        case dict():
            return b"}(" + b"".join(_python2(k) + _python2(v) for k, v in value.items()) + b"u"
        case list():
            return b"](" + b"".join(map(_python2, value)) + b"e"
        case int():
            return b"J" + struct.pack("<i", value)
        case bytes():
            return b"T" + struct.pack("<i", len(value)) + value
        case np.ndarray():
            empty = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR"
            kind = b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNN" + 2 * b"J\xff\xff\xff\xff" + b"K\x00tb"
            shape = b"(" + b"".join(map(_python2, value.shape)) + b"t"
            return empty + b"(K\x01" + shape + kind + b"\x89" + _python2(value.tobytes()) + b"tb"
    raise TypeError(value)


def python3_pickle(value: Mapping[bytes, object]) -> bytes:
    """As somebody may have written it again: str instead of bytes, numpy's own way."""

    def text(item: object) -> object:
        if isinstance(item, list):
            return [text(entry) for entry in item]
        return item.decode() if isinstance(item, bytes) else item

    return pickle.dumps({key.decode(): text(item) for key, item in value.items()}, protocol=4)


def batch_of(count: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels [count, 3072] and labels, each class equally often."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, PIXELS), np.uint8), rng.permutation(np.arange(count) % classes).astype(np.uint8)


def contents(collection: Collection, form: Form, dump=python2_pickle) -> dict[str, bytes]:
    """File -> content of one form. CIFAR-100: the superclass is the class modulo 20."""
    fine = collection.task.classes == 100
    files = {}
    sizes = dict.fromkeys(form.train, collection.train // len(form.train))
    sizes |= dict.fromkeys(form.test, collection.test // len(form.test))
    for seed, (file, count) in enumerate(sizes.items()):
        pixels, labels = batch_of(count, collection.task.classes, seed)
        columns = [labels % 20, labels] if fine else [labels]
        if form.label_bytes:
            files[file] = np.column_stack([*columns, pixels]).tobytes()
        else:
            keys = [b"coarse_labels", b"fine_labels"] if fine else [b"labels"]
            lists = {key: column.tolist() for key, column in zip(keys, columns, strict=True)}
            files[file] = dump({b"batch_label": file.encode(), b"data": pixels, **lists})
    names = {"fine_label_names": [f"fine_{i}" for i in range(100)], "coarse_label_names": [f"c{i}" for i in range(20)]}
    names = names if fine else {"label_names": list(CLASSES)}
    if form.meta:
        files[form.meta] = dump({key.encode(): [name.encode() for name in value] for key, value in names.items()})
    else:
        tables = {"label_names": "batches.meta.txt"}
        files |= {tables.get(key, f"{key}.txt"): ("\n".join(v) + "\n\n").encode() for key, v in names.items()}
    return files


def write_folder(base: Path, form: Form, files: Mapping[str, bytes]) -> Path:
    folder = base / form.folder
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def write_archive(base: Path, form: Form, files: Mapping[str, bytes]) -> Path:
    base.mkdir(parents=True, exist_ok=True)
    with tarfile.open(base / form.archive, "w:gz") as tar:
        write_members(tar, {f"{form.folder}/{name}": content for name, content in files.items()})
    return base / form.archive


def write_members(tar: tarfile.TarFile, members: Mapping[str, bytes]) -> None:
    for name, content in members.items():
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))


def small(name: str, train: int, test: int) -> Collection:
    """A published set that has so many images, and the sums of the files of `contents`."""
    collection = replace(COLLECTIONS[name], train=train, test=test)
    forms = []
    for form in collection.forms:
        sums = {file: md5(content) for file, content in contents(collection, form).items()} if form.md5 else {}
        forms.append(replace(form, md5=sums))
    return replace(collection, forms=tuple(forms))
