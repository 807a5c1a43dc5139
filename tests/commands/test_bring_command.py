"""Bring your own model, the command: the same tables, figures and flags as of a run."""

import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.external import CODE, network, write_models
from hydra import compose, initialize_config_dir
from safetensors.torch import save_file
from torch import nn

import lipbench
from lipbench.commands.main import main
from lipbench.commands.suites import CONF
from lipbench.evaluation.evaluate import CERTIFICATES
from lipbench.files import read_json
from lipbench.report import find_runs, leaderboard, write_leaderboard
from lipbench.results import read_summary

DOC = Path(__file__).parents[2] / "docs" / "your_model.md"
QUICK = ["images=12", "progress=false", "device=cpu", "attack=[deepfool,fgm]"]


@pytest.fixture
def file(tmp_path) -> Path:
    return write_models(tmp_path)


def run(*arguments: str, code: int = 0) -> None:
    """The command, in this process."""
    assert main(["evaluate", *arguments]) == code


def test_the_command_gives_what_a_run_gives(file, tmp_path, capsys):
    weights = tmp_path / "weights=a,b.safetensors"  # as folders of runs are named
    save_file(network().state_dict(), weights)
    results = tmp_path / "results"
    command = [f"model={file}:build", f"checkpoint={weights}", f"results={results}", *QUICK]
    run(*command)
    folder = results / "digits" / "net" / "default" / "0"
    printed = capsys.readouterr().out
    assert "Each of the 4 layers has a bound" in printed
    assert str(folder) in printed
    assert "note: low_accuracy" in printed
    assert {"config.yaml", "environment.json", "costs.csv", "summary.json", "layers.csv", "gallery.npz"} <= {
        path.name for path in folder.iterdir()
    }
    assert str(tmp_path) not in (folder / "config.yaml").read_text()
    summary = read_summary(folder)
    assert summary is not None
    assert summary["attacked_images"] == 12
    assert summary["median_certificate"] is not None
    assert [flag["name"] for flag in summary["flags"]] == ["low_accuracy"]
    table = lipbench.read(results)
    assert set(table["method"]) == {*CERTIFICATES, "deepfool", "fgm"}
    runs = find_runs(results)
    board = leaderboard(runs)
    assert board["experiment"].tolist() == ["net"]
    text = write_leaderboard(board, runs)
    assert "## Flags" in text
    assert "* digits/net/default/0: note: low_accuracy" in (results / "leaderboard.md").read_text()
    # What is there is kept; another checkpoint is another network.
    stamp = (folder / "bounds" / "deepfool.parquet").stat().st_mtime_ns
    run(*command)
    assert (folder / "bounds" / "deepfool.parquet").stat().st_mtime_ns == stamp
    save_file(network().state_dict(), weights)
    capsys.readouterr()
    run(*command, code=1)
    said = capsys.readouterr().err
    assert "holds results of another network" in said
    assert "model.checkpoint" in said
    assert "give another name= or results=" in said
    run(*command, "name=other")
    assert leaderboard(find_runs(results))["experiment"].tolist() == ["net", "other"]
    run(*command, "force=true")


def test_a_model_that_was_refused_leaves_its_name_free(file, tmp_path, capsys):
    results = tmp_path / "results"
    (tmp_path / "net.py").write_text(CODE.replace("sibling.WIDTH, 10", "sibling.WIDTH, 3"))
    run(f"model={file}:build", f"results={results}", *QUICK, code=1)
    assert "expected logits [2, 10]" in capsys.readouterr().err
    assert not list(results.rglob("config.yaml"))
    (tmp_path / "net.py").write_text(CODE)
    run(f"model={file}:build", f"results={results}", *QUICK)


@pytest.mark.parametrize("option", ["images=0", "batch_size=-1", "name=.."])
def test_options_that_are_no_numbers_of_images_or_names(option, file, tmp_path, capsys):
    run(f"model={file}:build", f"results={tmp_path / 'results'}", *QUICK, option, code=1)
    assert option in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


MEANS = """
import torch
from torch import nn
from lipbench.data import digits

def build():
    train = digits().train
    means = torch.stack([train.images[train.labels == k].float().mean(0).flatten() for k in range(10)])
    linear = nn.Linear(64, 10)
    linear.weight.data, linear.bias.data = means, -means.square().sum(1) / 2
    return nn.Sequential(nn.Flatten(), linear)
"""


def test_a_network_that_wants_pixels_up_to_255_is_told_however_few_images_are_attacked(tmp_path):
    (tmp_path / "net.py").write_text(MEANS)  # the nearest mean of the pixels 0..255
    run(f"model={tmp_path / 'net.py'}:build", f"results={tmp_path}", *QUICK, "images=2", "attack=[]")
    flags = read_json(tmp_path / "digits" / "net" / "default" / "0" / "summary.json")["flags"]
    (message,) = [flag["message"] for flag in flags if flag["name"] == "input_range"]
    assert message.startswith("on the first 359 images")
    assert "times 255" in message


def test_flags_of_an_attack_stay_with_its_table(file, tmp_path):
    results = tmp_path / "results"
    outside = "{far: {_target_: tests.commands.test_bring_command.outside, _partial_: true}}"
    command = [f"model={file}:build", f"results={results}", *QUICK[:3]]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[2]))
        for _ in range(2):
            run(*command, "attack=[]", f"+attack={outside}")
            summary = read_json(results / "digits" / "net" / "default" / "0" / "summary.json")
            names = {flag["name"]: flag["method"] for flag in summary["flags"]}
            assert names.items() >= {"outside_box": "far", "never_succeeded": "far"}.items()


def outside(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """An attack that leaves the box."""
    return x + 2


def test_a_model_without_certificate_is_explained(file, tmp_path, capsys):
    run(f"model={file}:Net2", f"results={tmp_path}", *QUICK, code=1)
    assert "Net2" in capsys.readouterr().err
    file.write_text(CODE + "\n\ndef normed():\n    return Net(nn.Flatten(), nn.LayerNorm(64), nn.Linear(64, 10))\n")
    run(f"model={file}:normed", f"results={tmp_path}", *QUICK)
    printed = capsys.readouterr().out
    assert "what would make it certifiable" in printed
    table = pd.read_csv(tmp_path / "digits/net/default/0/layers.csv", keep_default_na=False, dtype={"layer": str})
    assert table["layer"].tolist() == ["0", "1", "2"]
    assert np.isinf(table["bound"]).tolist() == [False, True, False]
    assert "statistic of the image" in table["why"][1]
    assert "LayerCentering" in table["remedy"][1]
    assert {"never_certified"} <= {
        flag["name"] for flag in read_json(tmp_path / "digits/net/default/0/summary.json")["flags"]
    }


def test_a_noisy_model_is_judged_and_flagged(file, tmp_path):
    file.write_text(
        CODE + "\n\nclass Noisy(nn.Module):\n    def forward(self, x):\n"
        "        return x.flatten(1)[:, :10] + 0.1 * torch.randn(len(x), 10)\n"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", lipbench.HealthWarning)
        run(f"model={file}:Noisy", f"results={tmp_path}", *QUICK)
    flags = read_json(tmp_path / "digits/net/default/0/summary.json")["flags"]
    assert "randomised" in {flag["name"] for flag in flags}


def test_the_command_without_a_model_or_with_a_wrong_word(capsys):
    run(code=1)
    assert "Which model?" in capsys.readouterr().err
    ended = subprocess.run(
        [sys.executable, "-m", "lipbench", "evaluate", "model=a.py:b", "datset=digits"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert "Did you mean dataset?" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_it_judges_by_the_methods_of_a_run():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        a, b = compose("config"), compose("evaluate")
    shared = ("attack", "certificate", "images", "epsilons", "batch_size", "results", "device")
    assert {key: a[key] for key in shared} == {key: b[key] for key in shared}


def test_the_documented_example_runs(tmp_path, monkeypatch, capsys):
    text = DOC.read_text()
    first, *notebook = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (shell,) = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    assert first.startswith("# my_model.py\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("my_model.py").write_text(first)
    train, command, report = shell.strip().splitlines()
    assert train == "python my_model.py"
    subprocess.run([sys.executable, *train.split()[1:]], check=True)
    assert command.startswith("lipbench evaluate ")
    run(*command.split()[2:], *QUICK)
    assert main(report.split()[1:]) == 0
    folder = tmp_path / "results/runs/digits/my_model/default/0"
    assert read_json(folder / "summary.json")["accuracy"] > 0.85
    assert (tmp_path / "results/runs/figures/accuracy_digits.png").exists()
    assert "Each of the 5 layers has a bound" in capsys.readouterr().out
    assert len(notebook[0].strip().splitlines()) <= 8
    scope: dict = {}
    built = lipbench.load_model("my_model.py:build").network
    torch.export.save(torch.export.export(built, (torch.rand(2, 1, 8, 8),)), "net.pt2")
    Path("net.pt2").rename("net.onnx")  # the content of a file decides what it is
    for cell in notebook:
        exec(cell.replace("[:100]", "[:10]"), scope)
    assert (scope["radii"] > 0).float().mean() > 0.85
    rows = pd.read_csv(folder / "layers.csv", keep_default_na=False)
    documented = re.findall(r"^\| (\w*) ?\| (\w+) \| (inf|[\d.]+) \|", text, re.MULTILINE)
    assert [(layer, kind) for layer, kind, _ in documented] == list(zip(rows["layer"], rows["type"], strict=True))
    assert [float(bound) for *_, bound in documented] == pytest.approx(rows["bound"].tolist(), rel=0.1)
    sys.modules.pop("my_model", None)
