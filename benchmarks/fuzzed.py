"""The loaders that benchmarks/fuzzing.py tries, each with valid files of it."""

import gzip
import io
import lzma
import sys
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import nn

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from helpers import cifar_files, runs_on_disk
from helpers.tables import in_the_old_layout

import lipbench
from lipbench.data import DataError, arrays, folder
from lipbench.data.celeba.reader import ATTRIBUTES, DRAWN, pictures, read_attribute, read_partition
from lipbench.data.cifar.jpeg_edition import CLASSES, _decoded
from lipbench.data.cifar.reader import CIFAR10_JPEG, read_form
from lipbench.data.idx import read_idx
from lipbench.data.own.pictures import BadPicture, Preparation, read_picture
from lipbench.files import ResultsError, read_arrays, read_config, read_json
from lipbench.interop.onnx_graph import load_onnx
from lipbench.interop.onnx_operators import OnnxError
from lipbench.interop.weights import WeightsError, load_weights
from lipbench.report import find_runs, leaderboard
from lipbench.report.cards import cards
from lipbench.results import read_bounds, read_histories, write_manifest
from lipbench.training import CheckpointError
from lipbench.training.checkpoint import load_checkpoint, save_checkpoint


@dataclass(frozen=True)
class Loader:
    """What is fuzzed.

    Attributes:
        make: writes valid files into a folder; returns those that are mutated.
        load: reads them from there.
        errors: what it may raise.
        text: whether numbers and words are mutated besides bytes.
    """

    make: Callable[[Path], list[Path]]
    load: Callable[[Path], Any]
    errors: tuple[type[Exception], ...]
    text: bool = False


def written(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


IDX = b"\x00\x00\x08\x03" + b"".join(n.to_bytes(4, "big") for n in (4, 3, 2)) + bytes(range(24))
PIXELS = np.random.default_rng(0).integers(0, 256, (12, 8, 8), np.uint8)
LABELS = np.arange(12) % 2
SET = replace(CIFAR10_JPEG, train=50, test=10)
PICKLED, BINARY = SET.forms
OPTIONS: dict[str, Any] = {"progress": False}


def _read_idx(place: Path) -> None:
    content = (place / "a").read_bytes()
    # The sum of what is there, so that it is not all that is tested.
    read_idx(place / "a", (4, 3, 2), cifar_files.md5(content))


def _cifar_folder(form: Any, *names: str) -> Callable[[Path], list[Path]]:
    def make(place: Path) -> list[Path]:
        cifar_files.write_folder(place, form, cifar_files.contents(SET, form))
        return [place / form.folder / name for name in names]

    return make


def _cifar_archive(place: Path, form: Any, mode: str) -> list[Path]:
    path = place / "archive"
    with tarfile.open(path, mode) as tar:
        files = cifar_files.contents(SET, form)
        cifar_files.write_members(tar, {f"{form.folder}/{name}": content for name, content in files.items()})
    return [path]


def _unpacked_archive(place: Path) -> list[Path]:
    # Not compressed: a change then meets the headers of tar and of the pickles, not the check sum of gzip alone.
    return _cifar_archive(place, PICKLED, "w")


def _encoded(kind: str, size: tuple[int, int] = (32, 32)) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(stream, kind, **({"exif": Image.Exif()} if kind == "JPEG" else {}))
    return stream.getvalue()


def _jpeg_edition(place: Path) -> list[Path]:
    with tarfile.open(place / "a.tar", "w") as tar:
        names = [f"{part}/{one}/{i}.jpg" for part in ("train", "test") for i, one in enumerate(CLASSES)]
        cifar_files.write_members(tar, dict.fromkeys(names, _encoded("JPEG")))
    return [place / "a.tar"]


def _lists(place: Path) -> list[Path]:
    names = [f"{i:06}.jpg" for i in range(1, 9)]
    rows = [f"{name} {' '.join('1' if (i + j) % 2 else '-1' for j in range(40))}" for i, name in enumerate(names)]
    text = "\n".join(["8", " ".join(ATTRIBUTES), *rows]) + "\n"
    parts = "".join(f"{name} {i % 3}\n" for i, name in enumerate(names))
    return [
        written(place / "list_attr_celeba.txt", text.encode()),
        written(place / "list_eval_partition.txt", parts.encode()),
    ]


def _read_lists(place: Path) -> None:
    names, _ = read_attribute(place / "list_attr_celeba.txt", "Smiling", DRAWN)
    read_partition(place / "list_eval_partition.txt", names, DRAWN)


def _zip_of_images(place: Path) -> list[Path]:
    path = place / "img_align_celeba.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(3):
            archive.writestr(f"img_align_celeba/{i}.jpg", _encoded("JPEG", (16, 16)))
    return [path]


def _read_zip(place: Path) -> None:
    found = pictures(place, ["0.jpg", "1.jpg", "2.jpg"], DRAWN)
    for i in range(3):
        Preparation((8, 8))(read_picture(found, i))


def _images(kind: str) -> Callable[[Path], list[Path]]:
    def make(place: Path) -> list[Path]:
        paths = [place / f"images/{one}/{i}.{kind.lower()}" for one in ("cat", "dog") for i in range(6)]
        return [written(path, _encoded(kind, (9, 12))) for path in paths][:1]

    return make


def _npz(place: Path) -> list[Path]:
    np.savez(place / "a.npz", x_train=PIXELS, y_train=LABELS)
    np.savez_compressed(place / "b.npz", x_train=PIXELS, y_train=LABELS)
    return [place / "a.npz", place / "b.npz"]


def _read_npz(place: Path) -> None:
    for name in ("a", "b"):
        arrays(place / f"{name}.npz", cache=place, **OPTIONS)


def _cache(place: Path) -> list[Path]:
    np.savez(place / "a.npz", x_train=PIXELS, y_train=LABELS)
    arrays(place / "a.npz", cache=place, **OPTIONS)
    return list((place / "cache").iterdir())


RECIPE = {
    "model": {
        "_target_": "lipbench.models.mlp",
        "widths": [8],
        "activation": {"_target_": "lipbench.layers.MaxMin", "_partial_": True},
    },
    "constraint": {"_target_": "torch.nn.Identity", "_partial_": True},
    "shape": [1, 4, 4],
    "classes": 2,
}


def _network(place: Path) -> list[Path]:
    lipbench.runs.network.save(lipbench.runs.network.build(RECIPE, baked=True), RECIPE, place)
    return [place / "model.safetensors"]


def _recipe(place: Path) -> list[Path]:
    _network(place)
    return [place / "model.json"]


def _linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 2))


def _weights(place: Path) -> list[Path]:
    torch.save(_linear().state_dict(), place / "a.pt")
    torch.save(_linear().state_dict(), place / "b.pt", _use_new_zipfile_serialization=False)
    return [place / "a.pt", place / "b.pt"]


def _read_weights(place: Path) -> None:
    for name in ("a.pt", "b.pt"):
        load_weights(_linear(), place / name)


def _training(model: nn.Module) -> tuple[Any, Any]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)


def _checkpoint(place: Path) -> list[Path]:
    model = _linear()
    save_checkpoint(place / "checkpoint.pt", model, *_training(model), [{"epoch": 1, "loss": 0.5}])
    return [place / "checkpoint.pt"]


def _read_checkpoint(place: Path) -> None:
    model = _linear()
    load_checkpoint(place / "checkpoint.pt", model, *_training(model))


def _onnx(place: Path) -> list[Path]:
    from onnx import TensorProto, helper, numpy_helper

    weight = np.random.default_rng(0).normal(size=(16, 2)).astype(np.float32)
    nodes = [
        helper.make_node(
            "ConstantOfShape", ["two"], ["zero"], value=helper.make_tensor("v", TensorProto.FLOAT, [1], [0])
        ),
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["z"]),
        helper.make_node("Relu", ["z"], ["r"]),
        helper.make_node("Add", ["r", "zero"], ["y"]),
    ]
    constants = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.array([2]), "two")]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    return [written(place / "a.onnx", model.SerializeToString())]


def _run(place: Path) -> Path:
    run = runs_on_disk.make(place, "net")
    history = {"epoch": [1, 2], "seconds": [0.5, 0.5], "steps": [3, 3], "certified_accuracy": [0.1, 0.2]}
    pd.DataFrame(history).to_csv(run / "history.csv", index=False, encoding="utf-8")
    np.savez_compressed(run / "illustrations.npz", images=PIXELS, classes=np.array(["a", "b"]))
    write_manifest(run)
    return run


def _of_run(*patterns: str) -> Callable[[Path], list[Path]]:
    def make(place: Path) -> list[Path]:
        run = _run(place)
        return [path for pattern in patterns for path in sorted(run.glob(pattern))]

    return make


def _old_tables(place: Path) -> list[Path]:
    return [in_the_old_layout(path) for path in sorted(_run(place).glob("bounds/*.parquet"))]


def _report(place: Path) -> None:
    runs = find_runs(place)
    leaderboard(runs)
    cards(runs)


def _read_each(pattern: str, read: Callable[[Path], Any]) -> Callable[[Path], None]:
    def load(place: Path) -> None:
        for path in sorted((place / "data/net/default/0").glob(pattern)):
            read(path)

    return load


RUN = "data/net/default/0"
DATA = (DataError, FileNotFoundError)
LOADERS = {
    "IDX": Loader(lambda p: [written(p / "a", IDX)], _read_idx, DATA),
    "IDX, gzip": Loader(
        lambda p: [written(p / "a", gzip.compress(IDX))],
        lambda p: read_idx(p / "a", (4, 3, 2), cifar_files.md5(IDX)),
        DATA,
    ),
    "CIFAR, pickles": Loader(
        _cifar_folder(PICKLED, "data_batch_1", "batches.meta"),
        lambda p: read_form(SET, PICKLED, p / PICKLED.folder),
        DATA,
    ),
    "CIFAR, binary": Loader(
        _cifar_folder(BINARY, "data_batch_1.bin", "batches.meta.txt"),
        lambda p: read_form(SET, BINARY, p / BINARY.folder),
        DATA,
    ),
    "tar of pickles": Loader(_unpacked_archive, lambda p: read_form(SET, PICKLED, p / "archive"), DATA),
    "tar.gz": Loader(
        lambda p: _cifar_archive(p, PICKLED, "w:gz"), lambda p: read_form(SET, PICKLED, p / "archive"), DATA
    ),
    "tar.xz": Loader(
        lambda p: [written(p / "archive", lzma.compress(_unpacked_archive(p)[0].read_bytes(), preset=0))],
        lambda p: read_form(SET, PICKLED, p / "archive"),
        DATA,
    ),
    "tar of JPEG": Loader(_jpeg_edition, lambda p: _decoded(p / "a.tar", {"train": 10, "test": 10}), DATA),
    "CelebA, lists": Loader(_lists, _read_lists, DATA, text=True),
    "CelebA, zip": Loader(_zip_of_images, _read_zip, (*DATA, BadPicture)),
    "folder of PNG": Loader(
        _images("PNG"), lambda p: folder(p / "images", size=6, cache=p, workers=1, **OPTIONS), (*DATA, ValueError)
    ),
    "folder of JPEG": Loader(
        _images("JPEG"), lambda p: folder(p / "images", size=6, cache=p, workers=1, **OPTIONS), (*DATA, ValueError)
    ),
    "arrays (npz)": Loader(_npz, _read_npz, (*DATA, ValueError)),
    "cache of images": Loader(_cache, lambda p: arrays(p / "a.npz", cache=p, **OPTIONS), DATA),
    "safetensors": Loader(_network, lipbench.load, (ResultsError,)),
    "model.json": Loader(_recipe, lipbench.load, (ResultsError,), text=True),
    "weights (torch.save)": Loader(_weights, _read_weights, (WeightsError,)),
    "checkpoint": Loader(_checkpoint, _read_checkpoint, (CheckpointError,)),
    "ONNX": Loader(_onnx, lambda p: load_onnx(p / "a.onnx"), (OnnxError,)),
    "config.yaml": Loader(_of_run("config.yaml"), _read_each("config.yaml", read_config), (ResultsError,), text=True),
    "JSON of a run": Loader(_of_run("*.json"), _read_each("*.json", read_json), (ResultsError,), text=True),
    "bounds": Loader(_of_run("bounds/*.parquet"), lambda p: read_bounds(p / RUN), (ResultsError,)),
    "bounds (CSV)": Loader(_old_tables, lambda p: read_bounds(p / RUN), (ResultsError,), text=True),
    "history.csv": Loader(_of_run("history.csv"), read_histories, (ResultsError,), text=True),
    "illustrations.npz": Loader(_of_run("*.npz"), _read_each("*.npz", read_arrays), (ResultsError,)),
    "report of a run": Loader(_of_run("*.json", "*.yaml", "*.csv", "bounds/*"), _report, (ResultsError,), text=True),
}
