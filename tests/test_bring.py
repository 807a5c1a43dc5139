"""Bring your own model: every form that it comes in, in the same tables, figures and flags."""

import re
import runpy
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir
from safetensors.torch import save_file
from torch import nn

import lipbench
from lipbench.bring import ModelError, check_classifier, default_name, load_model
from lipbench.commandline import CONF
from lipbench.models import WeightsError, load_weights
from lipbench.pages import find_runs, leaderboard, write_leaderboard
from lipbench.results import read_json, read_summary

DOC = Path(__file__).parent.parent / "docs" / "your_model.md"
QUICK = ["images=12", "progress=false", "device=cpu", "attack=[deepfool,fgm]"]

CODE = """
import torch
from torch import nn
import beside

class Net(nn.Sequential):
    pass

def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, beside.WIDTH), nn.ReLU(), nn.Linear(beside.WIDTH, 10))

def fitting(shape, classes, width=8):
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[1] * shape[2], width), nn.ReLU(), nn.Linear(width, classes))

def one_logit():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 1))

def needs(path):
    return build()

def fails():
    raise KeyError("no such layer")

ready = build()
number = 3
"""


@pytest.fixture
def file(tmp_path) -> Path:
    (tmp_path / "beside.py").write_text("WIDTH = 12\n")
    path = tmp_path / "net.py"
    path.write_text(CODE)
    return path


@pytest.fixture(scope="module")
def digits() -> lipbench.data.Dataset:
    return lipbench.data.digits()


def network() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10)).eval()


def run(*arguments: str, code: int = 0) -> None:
    """The command, in this process."""
    before = sys.argv
    sys.argv = ["lipbench.evaluate", *arguments]
    try:
        with warnings.catch_warnings():
            # runpy's, where a test imported the module before.
            warnings.filterwarnings("ignore", message=".*found in sys.modules.*", category=RuntimeWarning)
            if code:
                with pytest.raises(SystemExit) as ended:
                    runpy.run_module("lipbench.evaluate", run_name="__main__")
                assert ended.value.code not in (0, None)
            else:
                runpy.run_module("lipbench.evaluate", run_name="__main__")
    finally:
        sys.argv = before


def test_importing_the_command_leaves_the_function():
    code = (
        "import lipbench.evaluate; import lipbench; from lipbench import evaluate; "
        "assert callable(lipbench.evaluate) and lipbench.evaluate is evaluate; "
        "assert evaluate.__module__ == 'lipbench.evaluation'"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_functions_classes_and_modules(file, monkeypatch):
    built = load_model(f"{file}:build")
    assert not built.network.training
    assert built.identity["source"] == "net.py:build", "no path"
    assert load_model(f"{file}:build").identity == built.identity, "random weights are the same each time"
    assert len(load_model(f"{file}:fitting", shape=(1, 8, 8), classes=4).network[3].weight) == 4
    assert load_model(f"{file}:ready").network[1].out_features == 12
    assert isinstance(load_model(f"{file}:Net").network, nn.Sequential)
    monkeypatch.chdir(file.parent)
    imported = load_model("net:build")
    assert imported.identity["source"] == "net:build"
    assert imported.identity["sha256"] == built.identity["sha256"]
    assert default_name("a/b/net.py:build") == "net"
    assert default_name("package.net:build") == "net"
    assert default_name("a/model.pt2") == "model"
    assert str(file.parent) not in sys.path
    sys.modules.pop("net")
    sys.modules.pop("beside")


def test_loading_draws_no_random_numbers(file):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    load_model(f"{file}:build")
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize(
    ("source", "word"),
    [
        ("{}:bild", "It has: Net, build, fitting"),
        ("{}:needs", "needs path"),
        ("{}:fails", r"fails \(net.py, line \d+\): KeyError"),
        ("{}:number", "is a int"),
        ("nowhere.py:build", "no file nowhere.py"),
        ("nowhere_at_all:build", "No module named"),
        ("{}", "names no model"),
        ("nowhere.pt2", "no file"),
    ],
)
def test_errors_are_for_people(file, source, word):
    with pytest.raises(ModelError, match=word):
        load_model(source.format(file))


def exported(path: Path, batch: object) -> Path:
    program = torch.export.export(network(), (torch.rand(3, 1, 8, 8),), dynamic_shapes=({0: batch},) if batch else None)
    torch.export.save(program, path)
    return path


def test_exported_files_of_any_batch(tmp_path):
    model, x = network(), torch.rand(7, 1, 8, 8)
    for batch in (None, torch.export.Dim("batch", min=1), torch.export.Dim("batch", min=2)):
        path = exported(tmp_path / "model.pt2", batch)
        loaded = load_model(str(path))
        loaded.network.load_state_dict(
            {k: model.state_dict()[k.removeprefix("module.")] for k in loaded.network.state_dict()}
        )
        for count in (1, 2, 7):
            assert torch.allclose(loaded.network(x[:count]), model(x[:count]), atol=1e-5)
        y = model(x).argmax(1)
        table = lipbench.evaluate(loaded.network, x, y, ["deepfool"], progress=False)
        expected = lipbench.evaluate(model, x, y, ["deepfool"], progress=False)
        mine = [t.loc[(t["method"] == "deepfool") & (t["norm"] == "l2"), "distance"] for t in (table, expected)]
        assert np.allclose(*mine, rtol=1e-3)


def test_scripted_files(tmp_path):
    model = network()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(model).save(str(tmp_path / "model.pt"))
    loaded = load_model(str(tmp_path / "model.pt"))
    x = torch.rand(3, 1, 8, 8)
    assert torch.equal(loaded.network(x), model(x))
    table = lipbench.certificate.layer_table(loaded.network, (1, 8, 8))
    assert "traced graph" in table["why"][0]
    assert "model=file.py:function" in table["remedy"][0]
    with pytest.raises(ModelError, match="its own weights"):
        load_model(str(tmp_path / "model.pt"), "weights.pt")
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    with pytest.raises(ModelError, match="checkpoint="):
        load_model(str(tmp_path / "weights.pt"))


WRAPPED = {
    "plain": lambda w: w,
    "parallel": lambda w: {f"module.{k}": v for k, v in w.items()},
    "compiled": lambda w: {f"_orig_mod.{k}": v for k, v in w.items()},
    "both": lambda w: {f"module._orig_mod.{k}": v for k, v in w.items()},
    "nested": lambda w: {"epoch": 3, "state_dict": w},
    "trainer": lambda w: {"optimizer": {"lr": 1.0}, "state_dict": {f"model.{k}": v for k, v in w.items()}},
}


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_checkpoints_in_their_usual_wrappings(wrap, tmp_path):
    model, other = network(), network()
    torch.save(wrap(model.state_dict()), tmp_path / "weights.pt")
    load_weights(other, tmp_path / "weights.pt")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_safetensors(tmp_path):
    model, other = network(), network()
    save_file({f"module.{k}": v for k, v in model.state_dict().items()}, tmp_path / "weights.safetensors")
    load_weights(other, tmp_path / "weights.safetensors")
    assert torch.equal(model[1].weight, other[1].weight)


def test_a_network_whose_own_names_have_the_prefix_keeps_it(tmp_path):
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.module = network()

    model, other = Wrapped(), Wrapped()
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    load_weights(other, tmp_path / "weights.pt")
    assert torch.equal(model.module[1].weight, other.module[1].weight)


def test_checkpoints_that_do_not_fit_say_where(tmp_path):
    weights = network().state_dict()
    path = tmp_path / "weights.pt"
    renamed = {k.replace("1.", "2."): v for k, v in weights.items()}
    for content, words in (
        (renamed, (r"missing: 1\.weight, 1\.bias", r"not in the network: 2\.weight")),
        ({**weights, "1.weight": torch.zeros(3, 3)}, (r"1\.weight", r"\[3, 3\]")),
        ({"epoch": 3}, ("the keys epoch",)),
        ([1, 2], ("list",)),
        (network(), ("state_dict",)),
    ):
        torch.save(content, path)
        for word in words:
            with pytest.raises(WeightsError, match=word):
                load_weights(network(), path)
    for name in ("weights.pt", "weights.safetensors"):
        (tmp_path / name).write_bytes(b"broken")
        with pytest.raises(WeightsError, match="cannot be read"):
            load_weights(network(), tmp_path / name)
    with pytest.raises(WeightsError, match="no file"):
        load_weights(network(), tmp_path / "nowhere.pt")


def test_what_is_no_classifier_of_the_images(digits):
    with pytest.raises(ModelError, match=r"10 classes: expected logits \[2, 10\]"):
        check_classifier(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), digits)
    with pytest.raises(ModelError, match=r"refuses images \[N, 1, 8, 8\] of digits"):
        check_classifier(nn.Linear(5, 10), digits)
    with pytest.raises(ModelError, match="tuple"):
        check_classifier(nn.Sequential(nn.Flatten(), nn.LSTM(64, 10)), digits)
    two = lipbench.data.digits(keep=(0, 8))
    with pytest.raises(ModelError, match=r"lipbench\.antipodal"):
        check_classifier(nn.Sequential(nn.Flatten(), nn.Linear(64, 1)), two)


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
    assert set(table["method"]) == {"certificate", "deepfool", "fgm"}
    runs = find_runs(results)
    board = leaderboard(runs)
    assert board["experiment"].tolist() == ["net"]
    text = write_leaderboard(board, runs)
    assert "## Flags" in text
    assert "* digits/net/default/0: note: low_accuracy" in (results / "leaderboard.md").read_text()
    # What is there is kept; another checkpoint is another network.
    stamp = (folder / "bounds" / "deepfool.csv").stat().st_mtime_ns
    run(*command)
    assert (folder / "bounds" / "deepfool.csv").stat().st_mtime_ns == stamp
    save_file(network().state_dict(), weights)
    capsys.readouterr()
    run(*command, code=1)
    assert "model.checkpoint" in capsys.readouterr().err
    run(*command, "name=other")
    assert leaderboard(find_runs(results))["experiment"].tolist() == ["net", "other"]
    run(*command, "force=true")


def test_code_beside_the_file_belongs_to_the_model(file, tmp_path, monkeypatch):
    first = load_model(f"{file}:build").identity
    assert load_model(f"{file}:build").identity == first
    # As in another process: the module is read again.
    monkeypatch.delitem(sys.modules, "beside")
    (tmp_path / "beside.py").write_text("WIDTH = 12  # and something that changes no weight\n")
    second = load_model(f"{file}:build").identity
    assert second["weights"] == first["weights"]
    assert second["sha256"] != first["sha256"]


def test_a_model_that_was_refused_leaves_its_name_free(file, tmp_path, capsys):
    results = tmp_path / "results"
    (tmp_path / "net.py").write_text(CODE.replace("beside.WIDTH, 10", "beside.WIDTH, 3"))
    run(f"model={file}:build", f"results={results}", *QUICK, code=1)
    assert "expected logits [2, 10]" in capsys.readouterr().err
    assert not list(results.rglob("config.yaml"))
    (tmp_path / "net.py").write_text(CODE)
    run(f"model={file}:build", f"results={results}", *QUICK)


@pytest.mark.parametrize("option", ["images=0", "batch_size=-1", "name=.."])
def test_options_that_are_no_numbers_of_images_or_names(option, file, tmp_path, capsys):
    run(f"model={file}:build", f"results={tmp_path / 'results'}", *QUICK, option, code=1)
    assert option in capsys.readouterr().err


def test_flags_of_an_attack_stay_with_its_table(file, tmp_path):
    results = tmp_path / "results"
    outside = "{far: {_target_: tests.test_bring.outside, _partial_: true}}"
    command = [f"model={file}:build", f"results={results}", *QUICK[:3]]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent.parent))
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
    file.write_text(CODE + "\n\ndef soft():\n    return Net(nn.Flatten(), nn.Linear(64, 10), nn.Softmax(1))\n")
    run(f"model={file}:soft", f"results={tmp_path}", *QUICK)
    printed = capsys.readouterr().out
    assert "what would make it certifiable" in printed
    table = pd.read_csv(tmp_path / "digits/net/default/0/layers.csv", keep_default_na=False)
    assert table["layer"].tolist() == ["", "0", "1", "2"]
    assert np.isinf(table["bound"]).tolist() == [True, False, False, True]
    assert "subclass of Sequential" in table["why"][0]
    assert "leave it out" in table["remedy"][3]
    assert {"probabilities", "never_certified"} <= {
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
        [sys.executable, "-m", "lipbench.evaluate", "model=a.py:b", "datset=digits"],
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
    assert command.startswith("python -m lipbench.evaluate ")
    run(*command.split()[3:], *QUICK)
    subprocess.run([sys.executable, *report.split()[1:]], check=True, capture_output=True)
    folder = tmp_path / "results/runs/digits/my_model/default/0"
    assert read_json(folder / "summary.json")["accuracy"] > 0.85
    assert (tmp_path / "results/runs/figures/accuracy_digits.png").exists()
    assert "what would make it certifiable" in capsys.readouterr().out
    assert len(notebook[0].strip().splitlines()) <= 8
    scope: dict = {}
    for cell in notebook:
        exec(cell.replace("[:100]", "[:10]"), scope)
    assert (scope["radii"] > 0).float().mean() > 0.85
    rows = pd.read_csv(folder / "layers.csv", keep_default_na=False)
    documented = re.findall(r"^\| (\w*) ?\| (\w+) \| (inf|[\d.]+) \|", text, re.MULTILINE)
    assert [(layer, kind) for layer, kind, _ in documented] == list(zip(rows["layer"], rows["type"], strict=True))
    assert [float(bound) for *_, bound in documented] == pytest.approx(rows["bound"].tolist(), rel=0.1)
    sys.modules.pop("my_model")
