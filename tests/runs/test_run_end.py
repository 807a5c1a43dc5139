"""A function of the user is told of each run: `on_run_end=my_log.py:log`."""

import json
import re
from pathlib import Path

import pytest
from helpers.external import write_models

from lipbench.commands.main import main
from lipbench.files import read_json
from lipbench.results import read_summary

DOC = Path(__file__).parents[2] / "docs" / "extending.md"
QUICK = ["images=4", "progress=false", "device=cpu", "attack=[fgm]", "certificate=[certificate]"]
LOG = "import json\nimport neighbour\n\ndef log(summary):\n    neighbour.note(json.dumps(summary))\n"
NEIGHBOUR = "def note(text):\n    with open('said.txt', 'a') as file:\n        file.write(text + '\\n')\n"


@pytest.fixture
def judge(tmp_path, monkeypatch):
    """`lipbench evaluate` of a model in the working folder, with a logger."""
    monkeypatch.chdir(tmp_path)
    model = write_models(tmp_path)
    (tmp_path / "neighbour.py").write_text(NEIGHBOUR)
    (tmp_path / "my_log.py").write_text(LOG)

    def command(log: str, *others: str) -> int:
        words = [f"model={model}:build", "dataset=digits", "name=own", "results=results", f"on_run_end={log}"]
        return main(["evaluate", *words, *QUICK, *others])

    return command


def test_the_function_gets_the_summary_of_each_run_that_was_made_once(judge, tmp_path):
    for _ in range(2):  # the second command keeps the run
        assert judge("my_log.py:log") == 0
    (line,) = (tmp_path / "said.txt").read_text().splitlines()
    folder = Path(json.loads(line).pop("folder"))
    assert json.loads(line) == {**read_json(folder / "summary.json"), "folder": str(folder)}
    assert read_summary(folder)["experiment"] == "own"


def test_a_function_that_fails_loses_no_result(judge, tmp_path, capsys):
    (tmp_path / "my_log.py").write_text("def log(summary):\n    raise SystemExit('no server')\n")
    assert judge("my_log.py:log") == 0
    assert read_summary(tmp_path / "results/digits/own/default/0")["attacked_images"] == 4
    said = capsys.readouterr().err
    assert "my_log.py:log fails (my_log.py, line 2): SystemExit: no server" in said


@pytest.mark.parametrize("log", ["no_file.py:log", "my_log.py:lag", "my_log.py", "my_log.py:json"])
def test_a_name_of_no_function_is_refused_before_anything_is_made(judge, tmp_path, capsys, log):
    assert judge(log) == 1
    assert not (tmp_path / "results").exists()
    assert log.partition(":")[0] in capsys.readouterr().err


def test_a_training_tells_its_end(judge, tmp_path):
    words = ["experiment=digits08/hkr_mlp", "training.epochs=1", "results=results", "on_run_end=my_log.py:log", *QUICK]
    assert main(["run", *words]) == 0
    told = json.loads((tmp_path / "said.txt").read_text())
    assert told["experiment"] == "hkr_mlp"
    assert told["training_seconds"] > 0
    # The logger makes no variant, and is no part of the command that makes the run again.
    assert Path(told["folder"]).parts[-2] == "training.epochs=1"
    assert "on_run_end" not in read_json(Path(told["folder"]) / "manifest.json")["run"]["command"]


@pytest.mark.filterwarnings("ignore")  # of MLflow's own dependencies
def test_the_example_for_mlflow(judge, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow = pytest.importorskip("mlflow")
    code = next(part for part in re.findall(r"```python\n(.*?)```", DOC.read_text(), re.S) if "import mlflow" in part)
    (tmp_path / "my_log.py").write_text(code)
    assert judge("my_log.py:log") == 0
    summary = read_summary(tmp_path / "results/digits/own/default/0")
    client = mlflow.MlflowClient("file:mlruns")
    (run,) = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
    assert run.data.metrics["accuracy"] == summary["accuracy"]
    assert run.data.metrics["certified_accuracy/1"] == summary["certified_accuracy"]["1"]
    assert run.data.tags["experiment"] == "own"
