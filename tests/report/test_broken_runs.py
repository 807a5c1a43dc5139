"""One run that is broken, in whatever way, costs its own row of the report: never the page, and no other run."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.reports import run_report
from helpers.runs_on_disk import make

from lipbench.files import read_json, write_json
from lipbench.report import find_runs, leaderboard, write_page
from lipbench.report.cards import cards
from lipbench.report.find import CHECKS
from lipbench.results import MANIFEST, write_manifest

FACTS = {
    "kr": 0.5,
    "wasserstein": 0.6,
    "transport_law": True,
    "imbalance": 3.0,
    "source": "net.py:build",
    "construction": "aoc",
    "validation_epsilon": 1.0,
    "validation_certified_accuracy": 0.5,
    "step_seconds": 0.01,
    "flags": [{"name": "probabilities", "severity": "warning", "message": "m", "method": ""}],
}


def whole(root: Path, name: str) -> Path:
    """A run with every file that a run can have."""
    folder = make(root, name, **FACTS)
    (folder / "history.csv").write_text("epoch,lipschitz,gradient_norm\n1,1.0,0.5\n2,1.0,0.6\n")
    (folder / "violations.csv").write_text("index,norm,lower_method,lower,upper_method,upper\n")
    for table in ("plane", "explanations", "one_class", "layers"):
        (folder / f"{table}.csv").write_text("kind,x,y\na,1,2\n")
    for arrays in ("illustrations", "gallery"):
        (folder / f"{arrays}.npz").write_bytes(b"no archive")
    write_manifest(folder)
    write_json(folder / "error.json", {"type": "ValueError", "message": "m"})
    return folder


def _texts(value: Any) -> Any:
    """The same JSON with text in place of every number."""
    if isinstance(value, dict):
        return {key: _texts(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_texts(one) for one in value]
    return str(value) if isinstance(value, int | float) else value


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "inside").write_text("")


def _content(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


HOW: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "empty": _content(b""),
    "folder": _folder,
    "link to nothing": lambda path: (path.unlink(), path.symlink_to("nowhere")),
    "bytes": _content(bytes(range(256))),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "list": _content(b"[1, [2]]"),
    "null": _content(b"null"),
    "number": _content(b"1e999"),
    "text": _content(b'"text"'),
    "nested": _content(b'{"a": ' * 5000 + b"1" + b"}" * 5000),
    "other keys": _content(b'{"packages": 3, "images": [], "method,seconds,passes": 1}'),
}


@pytest.mark.parametrize("signed", [False, True])
def test_every_file_of_a_run_broken_in_every_way(tmp_path, signed):
    """Broken after the manifest was written, or before: then the report meets what it does not expect."""
    sound = whole(tmp_path, "sound")
    files = sorted(path.relative_to(sound) for path in sound.rglob("*") if path.is_file())
    held = read_json(sound / MANIFEST)["files"]
    assert len(files) > len(held) > 10
    broken = {}
    for number, file in enumerate(files):
        # Each file in every second way here, in the others there.
        ways = {how: damage for place, (how, damage) in enumerate(HOW.items()) if (place + number + signed) % 2 == 0}
        if file.suffix == ".json":
            ways["numbers as text"] = lambda path: path.write_text(json.dumps(_texts(json.loads(path.read_text()))))
        for how, damage in ways.items():
            name = f"{number}_{how}"
            folder = shutil.copytree(sound, tmp_path / "data" / name / "default" / "0")
            damage(folder / file)
            if signed and file.name != MANIFEST:
                write_manifest(folder)
            broken[name] = file
    table = run_report(f"results={tmp_path}", "figures=false").set_index("experiment")
    problems = {problem.where.split("/")[1] for problem in find_runs(tmp_path).problems}
    assert table.loc["sound", "accuracy"] == 100
    assert table.loc["sound", "violations"] == 0
    assert problems <= broken.keys()
    for name, file in broken.items():
        assert (name in table.index) != (name in problems), "a row or a reason"
        if file.name in ("summary.json", MANIFEST) or (not signed and file.as_posix() in held):
            assert name in problems
    page = (tmp_path / "report.html").read_text()
    assert all(f"data/{name}/default/0" in page for name in problems)
    told = {card.experiment: " ".join(card.cautions) for card in cards(find_runs(tmp_path))}
    for number, file in enumerate(files):
        if signed and file.name in ("config.yaml", "environment.json", "costs.csv"):
            names = [f"{number}_{how}" for how in ("missing", "empty", "folder", "bytes")]
            assert all(f"{file} of seed 0" in told[name] for name in names if name in broken)
        assert f"{file} of seed 0" not in told["sound"]


# No value of any entry: each is refused but where it is in the entry's own range.
WRONG = [None, True, "x", "1", -1, 0.5, 10**400, float("nan"), float("inf"), [], [1], {}, {"abc": 1.0}, {"0.5": "1"}]
WRONG += [{"0.5": 2}, {"nan": 1}, {"-1": 1}, {"1_0": 1}, {"0.50": 1}, [{}], [{"name": "a"}], ["flag"]]


def test_every_entry_of_a_summary_with_every_wrong_value(tmp_path):
    make(tmp_path, "sound")
    summary = read_json(make(tmp_path, "all", **FACTS) / "summary.json")
    names = [name for name in CHECKS if name in summary]
    # The others are computed from the tables (`lipbench.results.attacked`), never read.
    assert CHECKS.keys() - summary.keys() == {
        *("attacks", "lacks", "attacked_accuracy", "attacked_certified_accuracy", "attacked_certificate_accuracy")
    }
    refused = 0
    for name in names:
        for number, value in enumerate(WRONG):
            folder = shutil.copytree(tmp_path / "data/all", tmp_path / f"data/{name}{number}") / "default/0"
            (folder / "summary.json").write_text(json.dumps({**summary, name: value}))
            write_manifest(folder)
    runs = find_runs(tmp_path)
    write_page(leaderboard(runs), runs)
    reasons = {problem.where.split("/")[1]: problem.why for problem in runs.problems}
    for name in names:
        mine = [number for number in range(len(WRONG)) if f"{name}{number}" in reasons]
        refused += len(mine)
        assert len(mine) >= len(WRONG) - 6, name
        assert all(name in reasons[f"{name}{number}"] or WRONG[number] == 10**400 for number in mine)
    assert refused > 15 * len(names)


@pytest.mark.parametrize("name", ["0_backup", "0 (copy)", "seed", "\u00b2", ".0", "-1", "1.0", "0~", "9" * 30])
def test_a_folder_that_is_named_by_no_seed_is_left_out(tmp_path, name):
    folder = make(tmp_path, "hkr_cnn")
    shutil.copytree(folder, folder.with_name(name))
    runs = find_runs(tmp_path)
    table = leaderboard(runs)
    assert table["seeds"].tolist() == [1]
    (problem,) = runs.problems
    assert "whole number" in problem.why
    assert problem.where.endswith(name)
    assert write_page(table, runs).exists()
