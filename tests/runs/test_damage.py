"""Damaged files of finished runs: every reader finds them. benchmarks/damage.py tries ten thousand."""

import hashlib
import importlib.util
import json
import os
import shutil
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import nn

import lipbench
from lipbench.commands.main import main
from lipbench.commands.suites import CONF
from lipbench.data import Dataset, Split
from lipbench.files import ResultsError, read_json, write_json
from lipbench.interop.load import load_model
from lipbench.report import find_runs
from lipbench.results import MANIFEST, Damaged, LawViolation, read_manifest, read_table, verify, write_manifest
from lipbench.runs.claim import Claim
from lipbench.runs.codes import FAILED, FINISHED
from lipbench.runs.errors import ERROR
from lipbench.runs.identity import described
from lipbench.runs.outcome import attempt
from lipbench.runs.state import state_of


def _script():
    path = Path(__file__).parents[2] / "benchmarks" / "damage.py"
    spec = importlib.util.spec_from_file_location("damage", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["damage"] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


damage = _script()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("results")
    return damage.Run(root, 0, damage.Run(root, 1))


@pytest.fixture
def restored(run):
    yield run
    run.restore()


def test_every_reader_finds_every_damage(run, tmp_path):
    generator, counts = np.random.default_rng(0), Counter()
    for name, kind in damage.trials(run, 160, generator):
        with damage.damaged(run, name, kind, generator) as differs:
            if differs:
                counts[kind] += 1
                outcomes = damage.check(run, name, tmp_path / "out")
                assert "accepted" not in outcomes.values(), (name, kind, outcomes)
                found = outcomes["verify"] == "found"
                assert found or (name == MANIFEST and outcomes["verify"] == "harmless"), (name, kind)
    assert set(counts) == set(damage.KINDS)
    assert counts.total() > 130
    assert not (tmp_path / "out").exists()
    assert verify(run.folder) is not None


def test_a_run_makes_again_what_it_can_and_refuses_the_rest_by_name(run):
    generator, outcomes = np.random.default_rng(1), {}
    kinds = [kind for kind in damage.KINDS if kind != "swapped"]  # which may be the same file
    for number, name in enumerate(sorted(run.truth)):
        with damage.damaged(run, name, kinds[number % len(kinds)], generator):
            outcomes[name] = damage.check_run(run)
    trained = {"model.safetensors", "history.csv", "network.json", "environment.json"}
    outcomes.pop(MANIFEST, None)  # refused where it is damaged, made again where it is missing
    assert {name for name, outcome in outcomes.items() if outcome == "found"} == trained
    assert {outcome for name, outcome in outcomes.items() if name not in trained} == {"made again"}
    with (
        damage.damaged(run, "history.csv", "cut", generator),
        pytest.raises(Damaged, match=r"history\.csv.*force=true"),
    ):
        run.job.run()


@pytest.mark.parametrize("name", ["bounds/deepfool.parquet", "flags.json", "layers.csv"])
def test_a_file_that_the_run_did_not_write_is_found(restored, name):
    source = restored.folder / ("bounds/fgm.parquet" if name.startswith("bounds") else "costs.csv")
    (restored.folder / name).write_bytes(source.read_bytes())
    with pytest.raises(Damaged, match=name):
        restored.job.run()
    assert (restored.folder / name).exists()
    assert state_of(restored.folder).kind == "damaged"


def test_a_table_of_another_network_enters_no_unfinished_run(restored):
    (restored.folder / MANIFEST).unlink()
    for kind in ("parquet", "json"):
        (restored.folder / f"bounds/deepfool.{kind}").write_bytes(restored.other.truth[f"bounds/fgm.{kind}"])
    with pytest.raises(ResultsError, match=r"deepfool\.parquet is no table of this network"):
        restored.job.run()


@pytest.mark.parametrize("name", ["config.yaml", "data.json"])
def test_who_owns_a_folder_is_not_guessed(restored, name):
    (restored.folder / name).unlink()
    (restored.folder / MANIFEST).unlink()
    before = restored.files()
    with pytest.raises(ResultsError, match=f"{name} is missing"):
        restored.job.run()
    assert restored.files() == before


def test_names_of_a_manifest_stay_in_the_folder(restored):
    held = read_manifest(restored.folder)
    for name in ("../other.csv", "/etc/passwd", "bounds/../../x", "a/b.csv", ""):
        content = {**held, "files": {**held["files"], name: {"bytes": 0, "sha256": ""}}}
        seal = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        write_json(restored.folder / MANIFEST, {**content, "sha256": seal})
        with pytest.raises(Damaged, match=MANIFEST):
            verify(restored.folder)


def test_a_refused_command_touches_nothing(restored):
    before = {path: path.stat().st_mtime_ns for path in restored.folder.rglob("*")}

    def missing() -> Dataset:
        raise FileNotFoundError("no images")

    wrong = [
        replace(restored.job, load_dataset=missing),
        replace(restored.job, network={**restored.job.network, "seed": 7}),
        replace(restored.job, options={**restored.job.options, "fgm": {"steps": 3}}),
    ]
    for job in wrong:
        assert attempt("a", restored.folder, "again", job.run).code == FAILED
        fresh = replace(job, folder=restored.root / "fresh", load_dataset=missing)
        assert attempt("a", fresh.folder, "again", fresh.run).code == FAILED
    assert {path: path.stat().st_mtime_ns for path in restored.folder.rglob("*")} == before
    assert not (restored.root / "fresh").exists()


def pixels(dataset: Dataset, part: str, index: int) -> Dataset:
    """The data set with one pixel of one image changed."""
    split = getattr(dataset, part)
    images = split.images.clone()
    images[index, 0, -1, -1] ^= 1
    return replace(dataset, **{part: Split(images, split.labels)})


@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_the_identity_of_a_data_set_covers_every_image(part, monkeypatch):
    monkeypatch.setattr("lipbench.runs.identity.BLOCK", 1000)  # several blocks
    dataset = lipbench.data.digits(keep=(0, 8))
    truth = described(dataset)
    assert described(dataset) == truth
    for index in (0, 16, 17, len(getattr(dataset, part)) - 1):
        found = described(pixels(dataset, part, index))
        assert [key for key in truth if found[key] != truth[key]] == [part], index


def test_other_images_are_no_finished_run(restored):
    changed = pixels(restored.job.load_dataset(), "test", 30)
    with pytest.raises(ResultsError, match="other images"):
        replace(restored.job, load_dataset=lambda: changed).run()


class Hidden(nn.Module):
    """A network with a buffer that its state_dict leaves out."""

    def __init__(self, scale: float):
        super().__init__()
        self.linear = nn.Linear(4, 2)
        self.register_buffer("scale", torch.tensor(scale), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x.flatten(1)) * self.scale


def test_the_identity_of_a_model_covers_buffers_that_are_not_saved(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "hidden_models.py").write_text(
        "from test_damage import Hidden\ndef one():\n    return Hidden(1.0)\ndef two():\n    return Hidden(2.0)\n"
    )
    one, two = (load_model(f"hidden_models:{name}", shape=(1, 2, 2), classes=2).identity for name in ("one", "two"))
    assert one["weights"] != two["weights"]


def too_large(model, x, y):
    return torch.full((len(x),), 3.0, dtype=torch.float64)


def unlawful(model, images, labels):
    table = pd.DataFrame({"score": [1.0]})
    raise LawViolation("THE LAW OF MY MEASURE IS VIOLATED.", table, table)


def wrong_auroc(model, images, labels):
    return pd.DataFrame({"epsilon": [0.1], "attacked_auroc": [0.5], "certified_auroc": [0.6]})


def broken(name: str, root: Path):
    """A run whose law fails in a method, or in a measure."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        chosen = [f"experiment={damage.NAME}", f"results={root}", *damage.OPTIONS, "training.epochs=8"]
        job = damage.experiment_of(compose("config", overrides=chosen), damage.NAME, [])
    if name == "method":
        return replace(job, certificates={"certificate": too_large})
    measure = unlawful if name == "raising measure" else wrong_auroc
    return replace(job, measures={"one_class": measure})


@pytest.mark.parametrize("law", ["method", "raising measure", "table of a measure"])
def test_a_broken_law_is_said_by_every_command(law, tmp_path, monkeypatch, capsys):
    job = broken(law, tmp_path)
    for _ in range(2):
        assert attempt("a", job.folder, "again", job.run).code == FAILED
        assert "VIOLATED" in capsys.readouterr().err
        assert verify(job.folder) is not None, "the run is finished"
        assert state_of(job.folder).kind == "violated"
        assert not (job.folder / ERROR).exists()
    (found,) = find_runs(tmp_path).finished
    assert "VIOLATED" in found.violation
    assert main(["status", f"results={tmp_path}"]) == 1
    assert "1 violated" in capsys.readouterr().out
    assert main(["report", f"results={tmp_path}", "figures=false"]) == 1
    assert "VIOLATED" in capsys.readouterr().err
    # A summary that says that all is well is damaged; where the manifest agrees with it, the tables still tell.
    summary = read_json(job.folder / "summary.json")
    write_json(job.folder / "summary.json", {**summary, "violations": 0, "transport_law": True})
    if summary["violations"]:
        assert state_of(job.folder).kind == "damaged"
    write_manifest(job.folder, read_manifest(job.folder)["identity"])
    assert attempt("a", job.folder, "again", job.run).code == FAILED
    os.utime(job.folder / "bounds/fgm.parquet")
    assert state_of(job.folder).kind == "violated"


def test_a_check_is_quick(run):
    verify(run.folder)
    before = json.loads((run.folder / MANIFEST).read_text())
    assert before["files"]["bounds/fgm.parquet"]["rows"] == len(read_table(run.folder / "bounds/fgm.parquet"))
    assert attempt("a", run.folder, "again", run.job.run).code == FINISHED
    assert json.loads((run.folder / MANIFEST).read_text()) == before, "a finished run is not written again"


@pytest.fixture
def copy(run, tmp_path) -> Path:
    """A folder of the run that a test may change."""
    return shutil.copytree(run.folder, tmp_path.joinpath(*run.folder.parts[-4:]))


def test_a_run_without_its_manifest_is_checked_table_by_table(copy: Path) -> None:
    """What was stopped has no manifest yet: a table that was changed since is made again, other weights are refused."""
    table = next(copy.glob("bounds/*.parquet"))
    before = table.read_bytes()
    (copy / MANIFEST).unlink()
    table.write_bytes(before[:-9] + bytes([before[-9] ^ 1]) + before[-8:])
    assert Claim.of(copy, ()).broken == {f"bounds/{table.name}": "has another content than the run wrote"}
    assert f"bounds/{table.name}" in Claim.of(copy, ()).remade
    table.write_bytes(before)
    assert Claim.of(copy, ()).broken == {}


def test_a_manifest_that_cannot_be_read_is_refused(copy: Path) -> None:
    (copy / MANIFEST).write_text("{")
    with pytest.raises(Damaged, match="delete it"):
        Claim.of(copy, ())


@pytest.mark.parametrize(
    "content", [{"files": None, "identity": ""}, {"files": {"a": 3}, "identity": ""}, {"files": {}}]
)
def test_a_sealed_manifest_of_another_content_is_refused(copy: Path, content: dict) -> None:
    sealed = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    (copy / MANIFEST).write_text(json.dumps({**content, "sha256": sealed}))
    with pytest.raises(Damaged, match=MANIFEST):
        read_manifest(copy)


def test_a_copy_is_no_run_of_another_seed(copy: Path) -> None:
    shutil.copytree(copy, copy.with_name("7"))
    with pytest.raises(ResultsError, match="copy of the run of seed"):
        lipbench.read(copy.with_name("7"))
    assert "copy of the run of seed" in find_runs(copy.parents[3]).problems[0].why


def test_a_run_whose_tables_are_gone_is_damaged(copy: Path) -> None:
    shutil.rmtree(copy / "bounds")
    with pytest.raises(Damaged, match="is missing"):
        lipbench.read(copy)
