"""A finished run made again; and what threads and batch sizes change of results."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.tables import in_the_old_layout
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import lipbench
from lipbench import mkl
from lipbench.certificate import certify
from lipbench.commands.main import main
from lipbench.commands.reproduce import reproduce
from lipbench.commands.run import experiment_of
from lipbench.commands.suites import CONF
from lipbench.data import digits
from lipbench.files import ResultsError, read_config, read_json, write_json
from lipbench.results import (
    Damaged,
    bounds_table,
    equalities,
    read_table,
    table_paths,
    write_bounds,
    write_manifest,
)
from lipbench.runs.environment import environment
from lipbench.runs.experiment import Experiment
from lipbench.runs.trust import UntrustedError

QUICK = ["images=6", "training.epochs=1", "progress=false", "device=cpu", "attack=[deepfool,fgm]"]


def experiment(root: Path, *overrides: str) -> Experiment:
    chosen = ["experiment=digits08/hkr_mlp", f"results={root}", *QUICK, *overrides]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", overrides=chosen)
    return experiment_of(cfg, "digits08/hkr_mlp", [])


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    torch.set_num_threads(1)
    job = experiment(tmp_path_factory.mktemp("results"))
    job.run()
    return job.folder


def command(*arguments: str) -> int:
    return main(["reproduce", *arguments])


def test_the_command_makes_a_run_again_and_says_that_it_is_the_same(run, tmp_path, monkeypatch, capsys):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert command(f"run={run}", "progress=false", f"out={tmp_path}") == 0
    printed = capsys.readouterr().out
    tables = [f"bounds/{path.stem}" for path in table_paths(run)]
    assert f"{len(tables) + 1} of {len(tables) + 1} tables equal byte for byte" in printed
    assert all(name in printed for name in [*tables, "history.csv"])
    assert "commit:" not in printed.replace("commit: files", "")
    again = tmp_path / Path(*run.parts[-4:])
    assert (again / "model.safetensors").read_bytes() == (run / "model.safetensors").read_bytes()
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before, (
        "the run itself is read alone"
    )
    assert command(f"run={run}", "progress=false", f"out={tmp_path}") == 2
    assert "is there already" in capsys.readouterr().err


def test_what_differs_is_said_with_how_much(run, tmp_path, monkeypatch, capsys):
    changed = tmp_path / "changed" / Path(*run.parts[-4:])
    shutil.copytree(run, changed)
    table = read_table(changed / "bounds" / "certificate.parquet")
    row = table.index[(table["norm"] == "l2") & (table["distance"] > 0)][0]
    distance = table.loc[row, "distance"]
    table.loc[row, "distance"] *= 2
    write_bounds(changed, table, read_json(changed / "bounds" / "certificate.json"))
    held = read_json(changed / "environment.json")
    held["packages"]["torch"], held["commit"] = "1.0", "abc"
    write_json(changed / "environment.json", held)
    with pytest.raises(Damaged, match=r"certificate\.parquet"):
        reproduce(changed, tmp_path)
    write_manifest(changed)
    assert command(f"run={changed}", "progress=false") == 1
    printed = capsys.readouterr().out
    assert f"differs  bounds/certificate: distance in 1 of {len(table)} rows, by up to {distance:.2g}" in printed
    assert "(relative 0.5)" in printed
    assert "packages.torch: 1.0 -> " in printed
    assert "commit: abc -> " in printed
    assert not (tmp_path / "digits08").exists()


def test_what_cannot_be_made_again_is_refused(run, tmp_path, monkeypatch, capsys):
    def copy(name: str) -> Path:
        folder = tmp_path / name / Path(*run.parts[-4:])
        shutil.copytree(run, folder)
        return folder

    with pytest.raises(ResultsError, match="unfinished"):
        reproduce(tmp_path, tmp_path / "out")
    write_manifest(tmp_path)
    with pytest.raises(ResultsError, match="lacks dataset"):
        reproduce(tmp_path, tmp_path / "out")
    other = copy("images")
    write_json(other / "data.json", {**read_json(other / "data.json"), "name": "other"})
    write_manifest(other)
    with pytest.raises(ResultsError, match=r"(?s)made with other images.*name: other -> digits08"):
        reproduce(other, tmp_path / "out")
    hostile = copy("hostile")
    config = read_config(hostile / "config.yaml")
    (hostile / "config.yaml").write_text(
        OmegaConf.to_yaml({**config, "loss": {"_target_": "os.system", "command": "x"}})
    )
    write_manifest(hostile)
    with pytest.raises(UntrustedError, match=r"loss\._target_ is 'os\.system'"):
        reproduce(hostile, tmp_path / "out")
    (hostile / "config.yaml").write_text(OmegaConf.to_yaml(config))
    identity = read_json(hostile / "bounds" / "deepfool.json")
    for options in ({"_target_": "os.system"}, {**identity["options"], "x": {"_target_": "os.system"}}):
        write_json(hostile / "bounds" / "deepfool.json", {**identity, "options": options})
        write_manifest(hostile)
        with pytest.raises(UntrustedError, match=r"os\.system"):
            reproduce(hostile, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert command("progress=false") == 2
    assert "Which run?" in capsys.readouterr().err


def test_equalities(tmp_path):
    texts = (("a", 1.0, "loss,seconds\n1,2\n"), ("b", np.nextafter(1, 2), "loss,seconds\n1,3\n"))
    for name, distance, history in texts:
        folder = tmp_path / name
        for method, value in (("same", 1.0), ("old", 0.1), ("m", distance)):
            write_bounds(folder, bounds_table([0], [0], [0], method, "upper", [value]), {})
        (folder / "history.csv").write_text(history)
    write_bounds(tmp_path / "a", bounds_table([0], [0], [0], "only", "upper", [1.0]), {})
    in_the_old_layout(tmp_path / "b/bounds/old.parquet")
    found = {row.name: row for row in equalities(tmp_path / "a", tmp_path / "b")}
    assert {name for name, row in found.items() if row.equal} == {"history.csv", "bounds/same", "bounds/old"}
    assert found["bounds/only"].how == "missing in the second folder"
    assert "distance in 1 of 1 rows" in found["bounds/m"].how


def test_a_wrong_option_and_an_interruption_are_no_difference(monkeypatch, capsys):
    assert command("rn=results") == 2
    assert "run" in capsys.readouterr().err

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lipbench.commands.reproduce.configured", interrupted)
    assert command() == 130
    assert "Interrupted" in capsys.readouterr().err


@pytest.mark.parametrize("widths", [[], ["model.widths=[384,384]"]], ids=["small", "wide"])
def test_the_number_of_threads_does_not_change_a_dense_run(widths, tmp_path):
    """Of a network of convolutions docs/reproducing.md says what differs."""
    if widths and not mkl.strict():
        pytest.skip("the BLAS here sums in an order that depends on the threads")
    jobs = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        jobs.append(experiment(tmp_path / str(threads), *widths))
        jobs[-1].run()
    rows = equalities(*(job.folder for job in jobs))
    assert len(rows) > 3
    assert all(row.equal for row in rows if row.name != "history.csv"), rows
    first, second = ((job.folder / "model.safetensors").read_bytes() for job in jobs)
    assert first == second


def test_certificates_do_not_depend_on_the_batch(run):
    model, images = lipbench.load(run), digits(keep=[0, 8]).test.images
    x, y = images.float() / 255, torch.zeros(len(images), dtype=torch.long)
    y = model(x).argmax(1)
    whole = certify(model, x, y)
    assert whole.max() > 0.01
    for size in (1, 7, 32):
        parts = torch.cat([certify(model, a, b) for a, b in zip(x.split(size), y.split(size), strict=True)])
        assert np.abs((parts - whole).numpy()).max() <= 1e-6


def test_the_environment_can_be_rebuilt():
    found = environment(torch.device("cpu"))
    assert found["packages"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert {"numpy", "hydra-core", "omegaconf", "safetensors", "pillow"} <= {name.lower() for name in found["packages"]}
    assert found["torch_build"] == torch.__config__.show()
    assert found["threads"] == torch.get_num_threads()
    assert set(found["deterministic"]) >= {"algorithms", "cudnn_benchmark", "mkldnn"}
    assert found["dirty"] in (True, False, None)
    assert "HOME" not in found["variables"]
