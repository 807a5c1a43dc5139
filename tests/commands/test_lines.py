"""What `lipbench run` says of a sweep: the place, the time, what was kept; and the facts that each run keeps."""

import re
import shlex
from pathlib import Path

import pytest
from helpers.runs_on_disk import make

from lipbench.commands import lines
from lipbench.commands.lines import Pace, clock, run_lines
from lipbench.commands.main import main
from lipbench.commands.options import check_overrides
from lipbench.results import MANIFEST, read_manifest, write_manifest
from lipbench.results.facts import run_facts

TINY = ["training.epochs=2", "model.widths=[8]", "images=4", "attack=[fgsm]", "measure=[]", "device=cpu"]
FLAG = {"name": "low_accuracy", "severity": "note", "method": "", "message": "hardly better than a guess " * 9}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """The root of a sweep of two runs, and what the command said: at first, then when it was started again."""
    root = tmp_path_factory.mktemp("sweep")
    return root, ["run", "-m", "experiment=two_moons/plain_mlp", "seed=0,1", *TINY, f"results={root}", "progress=false"]


def test_a_sweep_says_its_place_its_time_and_what_was_kept(sweep, capsys):
    root, command = sweep
    assert main(command) == 0
    said = capsys.readouterr()
    assert re.findall(r"^\[(\d)/2\] two_moons/plain_mlp: test accuracy .* took \d\d:\d\d$", said.out, re.M) == [
        "1",
        "2",
    ]
    assert re.search(r"^\[1/2\] two_moons/plain_mlp: \d\d:\d\d elapsed$", said.err, re.M)
    assert re.search(r"^\[2/2\] two_moons/plain_mlp: \d\d:\d\d elapsed, about \d\d:\d\d left$", said.err, re.M)
    long = [line for line in (said.out + said.err).splitlines() if len(line) > 100]
    assert all(str(root) in line for line in long), "only a path can be longer"
    assert main(command) == 0
    said = capsys.readouterr()
    assert re.findall(r"^\[(\d)/2\] .*, kept$", said.out, re.M) == ["1", "2"]
    assert "elapsed" not in said.err, "nothing begins"


def test_a_run_keeps_its_facts(sweep):
    root, command = sweep
    if not list(root.rglob(MANIFEST)):
        main(command)
    for folder in (path.parent for path in root.rglob(MANIFEST)):
        facts = run_facts(folder)
        assert facts == read_manifest(folder)["run"]
        assert facts["overrides"] == ["model.widths=[8]", "training.epochs=2"]
        assert facts["label"] == "plain_mlp, model.widths=[8], training.epochs=2"
        assert facts["look"]["kind"] == "plain"
        assert {"name", "color", "marker"} <= facts["look"].keys()
        words = shlex.split(facts["command"])
        assert words[:2] == ["lipbench", "run"]
        assert f"seed={folder.name}" in words
        assert "images=4" in words
        assert str(root) not in facts["command"], "it holds on another machine"
        assert "device=cpu" not in words
        check_overrides(words[2:], "config")
        identity = read_manifest(folder)["identity"]
        stored = (folder / MANIFEST).read_bytes()
        write_manifest(folder, identity)  # as an older lipbench wrote it
        older = run_facts(folder)
        assert {key: older[key] for key in ("overrides", "label", "look")} == {
            key: facts[key] for key in ("overrides", "label", "look")
        }
        assert set(older["overrides"]) <= set(shlex.split(older["command"]))
        (folder / MANIFEST).write_bytes(stored)


def test_facts_of_older_runs(tmp_path):
    cut = make(tmp_path, "hkr_mlp/" + "a=1," * 25 + "-0123456789abcdef")
    facts = run_facts(cut)
    assert (facts["command"], facts["overrides"]) == ("", [])
    assert facts["look"]["kind"] == "hkr"
    assert run_facts(make(tmp_path, "hkr_mlp"))["command"] == "lipbench run experiment=data/hkr_mlp seed=0"


def test_the_time_that_is_left_is_that_of_the_runs_that_are_missing(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(lines.time, "monotonic", lambda: now[0])
    folders = [make(tmp_path, "a"), *(tmp_path / f"data/{name}/default/0" for name in "bcd")]
    pace = Pace()
    assert (pace.head, pace.folders) == ("", ())
    pace.begin(folders)
    pace.place, now[0] = 2, 103.0
    assert pace.text("data/b") == "[2/4] data/b: 00:03 elapsed", "one that was kept says nothing of the others"
    pace.place, pace.computed, now[0] = 3, [60.0], 163.0
    assert pace.text("data/c") == "[3/4] data/c: 01:03 elapsed, about 02:00 left"
    assert [clock(seconds) for seconds in (0.4, 59.6, 3599.6, 7384)] == ["00:00", "01:00", "1:00:00", "2:03:04"]


@pytest.mark.parametrize("seconds", [None, 3.0])
def test_the_lines_of_a_run_fit_the_terminal(seconds):
    summary = {"accuracy": 0.5, "median_certificate": None, "median_distance": None, "violations": 3, "flags": [FLAG]}
    text = run_lines("[10/12] celeba_drawn_eyeglasses/adversarial_cnn", Path("results/runs/a/b/c/0"), summary, seconds)
    assert max(map(len, text.splitlines())) <= 100
    assert "3 VIOLATIONS" in " ".join(text.split())
    assert ("kept" in text) == (seconds is None)
    assert ("low_accuracy" in text) == (seconds is not None)
    assert "1 flag" in text or "guess" in text
