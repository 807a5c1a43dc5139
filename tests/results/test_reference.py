"""The committed results: their size, and the networks that can be loaded by name."""

import shutil
import subprocess

import pytest

import lipbench
from lipbench.commands.main import main
from lipbench.files import ResultsError
from lipbench.modules import weights_hash
from lipbench.results import read_manifest
from lipbench.results.layout import REFERENCE, named_run

WEIGHTS = sorted(REFERENCE.glob("*/*/*/*/model.safetensors"))


@pytest.mark.skipif(not (REFERENCE.parents[1] / ".git").exists(), reason="no checkout")
def test_committed_files_keep_to_the_budget():
    listed = subprocess.run(["git", "ls-files", "-z", "."], cwd=REFERENCE, capture_output=True, text=True, check=True)
    sizes = {name: (REFERENCE / name).stat().st_size for name in listed.stdout.split("\0") if name}
    assert len(sizes) > 1000
    assert sum(sizes.values()) < 30e6
    weights = {name: size for name, size in sizes.items() if name.endswith(".safetensors")}
    assert all(size < 1e6 for size in weights.values()), weights
    assert all(name.endswith("/default/0/model.safetensors") for name in weights), weights


@pytest.mark.parametrize("path", WEIGHTS, ids=lambda path: "/".join(path.parts[-5:-3]))
def test_a_committed_network_is_loaded_by_its_name(path):
    model = lipbench.load("/".join(path.parts[-5:-3]))
    assert "model.safetensors" in read_manifest(path.parent)["files"]
    assert weights_hash(model.state_dict()) == weights_hash(lipbench.load(path.parent).state_dict())


@pytest.mark.skipif(not WEIGHTS, reason="the committed results are not there")
@pytest.mark.parametrize("name", ["mnist08/hkr_mpl", "hkr_mlp"])
def test_a_name_that_no_run_has_is_answered_with_the_nearest(name):
    with pytest.raises(ResultsError, match=r"There is no folder .* Did you mean \w+/hkr_mlp"):
        lipbench.load(name)


@pytest.mark.skipif(not WEIGHTS, reason="the committed results are not there")
def test_a_folder_with_one_run_names_it_for_every_command(tmp_path, capsys):
    run = tmp_path / "digits08" / "hkr_mlp" / "loss.margin=2" / "3"
    shutil.copytree(REFERENCE / "digits08/hkr_mlp/default/0", run)
    (run / "summary.json").unlink()
    assert {named_run(folder) for folder in (run, run.parent, run.parents[1], tmp_path)} == {run}
    shutil.copytree(run, tmp_path / "digits08" / "plain_mlp" / "loss.margin=2" / "4")
    asked = {"export": [], "import": ["verdicts=none.csv", "method=other"], "reproduce": []}
    for command, options in asked.items():
        assert main([command, f"run={tmp_path}", *options]) > 0
        said = capsys.readouterr().err
        assert "holds 2 runs. Name one of them:" in said
        assert f"\n  {run}\n" in said
        assert main([command, f"run={run.parents[1]}", *options]) > 0
        assert f"{run} is damaged: summary.json is missing" in capsys.readouterr().err, "the run below is found"


@pytest.mark.skipif(not WEIGHTS, reason="the committed results are not there")
def test_no_command_writes_into_a_committed_run_that_is_given_by_name(tmp_path, capsys):
    before = sorted(REFERENCE.glob("digits08/hkr_mlp/default/0/**/*"))
    assert main(["export", "run=digits08/hkr_mlp", "formats=[]"]) > 0
    assert "Give a folder: out=" in capsys.readouterr().err
    assert main(["import", "run=digits08/hkr_mlp", "verdicts=none.csv", "method=other"]) > 0
    assert "run=digits08/hkr_mlp is no folder" in capsys.readouterr().err
    assert sorted(REFERENCE.glob("digits08/hkr_mlp/default/0/**/*")) == before


def test_a_run_is_found_without_a_walk_through_the_tree_below_it(tmp_path, monkeypatch):
    run = tmp_path / "digits08/hkr_mlp/default/0"
    run.mkdir(parents=True)
    (run / "model.json").write_text("{}")
    monkeypatch.setattr("lipbench.results.layout.run_folders", lambda root: pytest.fail(f"{root} is walked"))
    assert {named_run(folder) for folder in (run, run.parent, run.parents[1])} == {run}
