"""Killed, or without room on the disk, before any of its file operations, a run ends after a restart as if nothing had
been.
"""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from lipbench import losses
from lipbench.certificate import certify
from lipbench.data import Dataset, Split
from lipbench.evaluation import loop
from lipbench.files import read_json
from lipbench.results import MANIFEST, RUN_COLUMNS, read_summary, table_paths, verify
from lipbench.results.flags import Flag
from lipbench.runs import experiment
from lipbench.runs.claim import OtherNetwork
from lipbench.runs.codes import FAILED, FINISHED
from lipbench.runs.errors import ERROR
from lipbench.runs.experiment import Experiment
from lipbench.runs.lock import LOCK
from lipbench.runs.outcome import attempt
from lipbench.runs.trained import Trained
from lipbench.training import adam, fit


class Watch:
    """Sees every operation that is about to change a folder, by an audit hook of the interpreter, and may fail it."""

    CHANGES = ("os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.utime")

    def __init__(self) -> None:
        self.folder, self.before = "", lambda event: None
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple) -> None:
        if self.folder and (event == "open" or event in self.CHANGES):
            mine = any(isinstance(a, str | os.PathLike) and str(a).startswith(self.folder) for a in arguments)
            if mine and (event != "open" or arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
                self.before(event)


WATCH = Watch()


@contextmanager
def watched(folder: Path, before: Callable[[str], None]) -> Iterator[None]:
    """Calls `before` before each operation that changes the folder."""

    def once(event: str) -> None:
        WATCH.folder = ""  # what it does itself is not watched
        try:
            before(event)
        finally:
            WATCH.folder = str(folder)

    WATCH.folder, WATCH.before = str(folder), once
    try:
        yield
    finally:
        WATCH.folder = ""


def flip(strength: float, model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """An attack that needs no search."""
    return x + strength * (1 - 2 * x)


def data() -> Dataset:
    images = torch.cat((torch.zeros(6, 1, 2, 2), torch.full((6, 1, 2, 2), 255))).to(torch.uint8)
    split = Split(images, torch.arange(12) // 6)
    return Dataset("made", ("0", "1"), split, split, split)


def job(folder: Path) -> Experiment:
    activation = {"_target_": "lipbench.layers.MaxMin"}
    network = {
        "dataset": {"_target_": "made"},
        "model": {"_target_": "lipbench.models.mlp", "widths": [], "activation": activation},
        "constraint": {"_target_": "torch.nn.Identity", "_partial_": True},
        "training": {"epochs": 2},
        "seed": 0,
    }
    return Experiment(
        folder=folder,
        network=network,
        load_dataset=data,
        attacks={"near": partial(flip, 0.9), "far": partial(flip, 1.0)},
        certificates={"certificate": certify},
        options={"near": {}, "far": {}, "certificate": {}},
        images=8,
        batch_size=8,
        epsilons=[0.5],
        device=torch.device("cpu"),
        source=Trained(
            loss=losses.cross_entropy,
            optimizer=partial(adam, lr=0.1),
            training=partial(fit, epochs=2, batch_size=4),
        ),
        progress=False,
    )


def other(folder: Path, force: bool = False) -> Experiment:
    first = job(folder)
    return replace(first, network={**first.network, "seed": 1}, force=force)


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Without what takes long and writes nothing."""
    monkeypatch.setattr("lipbench.files.os.fsync", lambda _: None)
    monkeypatch.setattr(experiment, "health", lambda *_: [])
    monkeypatch.setattr(loop, "_masked_gradients", lambda *_: [])
    monkeypatch.setattr(experiment, "transport_law", lambda *_: {})
    monkeypatch.setattr(loop, "returned_flags", lambda model, name, *_: [Flag(name, "note", "seen", name)])
    monkeypatch.setattr(experiment, "illustrate", lambda *_: {"images": np.zeros(1)})
    monkeypatch.setattr(experiment, "nearest_images", lambda *_: {})
    monkeypatch.setattr("lipbench.runs.trained.environment", lambda device: {})


@pytest.fixture(scope="module")
def dead() -> int:
    """A process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def content(folder: Path) -> dict[str, object]:
    """Every file by its name; without the seconds that something took, and the place."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() or LOCK in name:
            continue
        if name in ("costs.csv", "history.csv"):
            found[name] = [line.split(",")[0] for line in path.read_text().splitlines()]
        elif name == "summary.json":
            held = read_json(path)
            found[name] = {key: held[key] for key in held if "seconds" not in key and key not in RUN_COLUMNS}
        elif name == MANIFEST:
            found[name] = list(verify(folder)["files"])
        else:
            found[name] = path.read_bytes()
    return found


def sane(folder: Path) -> None:
    """What is there is whole: whatever belongs to a table, and a summary only of all of them."""
    for path in folder.glob("[!.]*.json"):
        json.loads(path.read_text())
    tables = {path.stem for path in table_paths(folder)}
    for name in tables & {"near", "far"}:
        assert name in {flag["method"] for flag in read_json(folder / "flags.json")}
        with np.load(folder / "gallery.npz") as held:
            assert name in held
        assert name in (folder / "costs.csv").read_text()
    if read_summary(folder) is not None:
        assert tables == {"near", "far", "certificate"}
        assert (folder / "illustrations.npz").exists()


def states(folder: Path, run: Callable[[], object], dead: int) -> list[Path]:
    """What SIGKILL would leave of a folder before each operation of a run: copies, every state once. The owner of the
    lock is dead in them.
    """
    found: dict[str, Path] = {}

    def copy(event: str) -> None:
        if folder.exists():
            files = [(str(path.relative_to(folder)), path.stat().st_size) for path in sorted(folder.rglob("*"))]
            state = re.sub("[0-9a-f]{12}", "", str(files))  # the names of temporary files
            if state not in found:
                found[state] = folder.parent / "states" / f"{len(found)}" / folder.name
                shutil.copytree(folder, found[state])

    with watched(folder, copy):
        run()
    for there in found.values():
        for lock in there.glob(f"*{LOCK}*"):  # its process is this one, which lives on
            if lock.stat().st_size:
                lock.write_text(json.dumps({**json.loads(lock.read_text()), "pid": dead}))
    return list(found.values())


@pytest.fixture
def made(tmp_path) -> Path:
    """The folder of an undisturbed run."""
    job(tmp_path / "made").run()
    return tmp_path / "made"


def test_killed_before_any_file_operation(tmp_path, dead, made):
    whole, found = content(made), states(tmp_path / "run", job(tmp_path / "run").run, dead)
    assert len(found) > 50
    assert content(tmp_path / "run") == whole
    for number, folder in enumerate(found):
        sane(folder)
        if number % 3 == 0:  # neighbours differ by one file
            job(folder).run()
            assert content(folder) == whole, f"killed in {folder}"


def test_killed_while_it_is_extended(tmp_path, dead, made):
    whole, run = content(made), tmp_path / "run"
    replace(job(run), images=4).run()
    found = states(run, job(run).run, dead)
    assert len(found) > 20
    assert content(run) == whole
    for folder in found:
        sane(folder)
        job(folder).run()
        assert content(folder) == whole, f"killed in {folder}"


def test_a_full_disk(tmp_path, made):
    """At every ninth operation: the errors of most of them are the same."""
    count, at, failures = 0, 1, 0

    def full(event: str) -> None:
        nonlocal count
        count += 1
        if count == at and event not in ("os.remove", "os.rmdir"):  # these need no space
            raise OSError(errno.ENOSPC, "No space left on device")

    while count >= at - 9:
        count, folder = 0, tmp_path / f"{at}"
        with watched(folder, full):
            outcome = attempt("made/a", folder, "again", job(folder).run)
        if outcome.code == FAILED:
            failures += 1
            assert "free space" in outcome.why
            sane(folder)
            if folder.exists() and not (folder / MANIFEST).exists():  # the run has begun and is not finished
                assert read_json(folder / ERROR)["command"] == "again"
            assert attempt("made/a", folder, "again", job(folder).run).code == FINISHED
        assert content(folder) == content(made), f"no space at operation {at}"
        at += 9
    assert failures > 6


def test_a_folder_that_cannot_be_written(tmp_path, capsys):
    def refuse(event: str) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    folder = tmp_path / "a"
    with watched(folder, refuse):
        outcome = attempt("made/a", folder, "again", job(folder).run)
    assert outcome.code == FAILED
    assert "give another results=" in outcome.why
    assert "Read-only file system" in capsys.readouterr().err
    assert not folder.exists()
    summary = job(folder).run()
    with watched(folder, refuse):
        assert job(folder).run() == summary, "a finished one is read, not written"


def test_killed_while_it_replaces_another_network(tmp_path, dead):
    """No part of the old network is taken for one of the new."""
    folder, begun = tmp_path / "run", 0
    job(folder).run()
    for one in states(folder, other(folder, force=True).run, dead):
        config = one / "config.yaml"
        if config.exists() and "seed: 0" in config.read_text():
            with pytest.raises(
                OtherNetwork, match=r"of another network\.[\s\S]*seed: 0 -> 1[\s\S]*give another results="
            ):
                other(one).run()
        elif begun < 3:
            begun += 1
            other(one).run()
            assert content(one) == content(folder), one
    assert begun == 3


def test_a_lost_table_is_made_again_with_all_that_belongs_to_it(tmp_path, made):
    whole = content(made)
    for name in ("flags.json", "bounds/far.parquet", "gallery.npz"):
        (made / name).unlink()
    job(made).run()
    assert content(made) == whole


def test_what_kills_left_over_is_removed(tmp_path):
    (tmp_path / "bounds").mkdir()
    for name in (".summary.json.0123.tmp", "bounds/.far.parquet.0123.tmp"):
        (tmp_path / name).write_text("half")
    job(tmp_path).run()
    assert not list(tmp_path.rglob(".*"))
