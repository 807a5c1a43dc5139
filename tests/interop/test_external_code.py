"""Python files of models run as Python runs them, results are called as the model is, and options are paths as in a
shell.
"""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import nn

from lipbench.commands.options import quoted
from lipbench.commands.suites import CONF
from lipbench.interop.load import ModelError, default_name, load_model

NET = "from torch import nn\ndef build():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


IMPORTS = {
    "a sibling": ("from .parts import width", {"net": "lib/net.py", "parts": "lib/parts.py"}),
    "a sibling in a package": (
        "from .parts import width",
        {"net": "lib/net.py", "parts": "lib/parts.py", "init": "lib/__init__.py"},
    ),
    "the package above": (
        "from ..parts import width",
        {
            "net": "lib/deep/net.py",
            "parts": "lib/parts.py",
            "init": "lib/__init__.py",
            "second": "lib/deep/__init__.py",
        },
    ),
    "the package by its name": (
        "from lib.parts import width",
        {"net": "lib/net.py", "parts": "lib/parts.py", "init": "lib/__init__.py"},
    ),
    "a sibling by its name": ("from parts import width", {"net": "lib/net.py", "parts": "lib/parts.py"}),
    "inside of the function": ("    from parts import width", {"net": "lib/net.py", "parts": "lib/parts.py"}),
    "a name that is taken": (
        "from .parts import width",
        {"net": "torch/net.py", "parts": "torch/parts.py", "init": "torch/__init__.py"},
    ),
    "a dotted name": ("from .parts import width", {"net": "lib/v1.2.py", "parts": "lib/parts.py"}),
}


@pytest.mark.parametrize("case", IMPORTS.values(), ids=IMPORTS)
def test_files_import_as_they_do_in_python(case, tmp_path):
    line, files = case
    build = "def build():\n{}    return nn.Sequential(nn.Linear(width, 2))\n"
    inside = line.startswith(" ")
    code = "from torch import nn\n" + ("" if inside else f"{line}\n") + build.format(f"{line}\n" if inside else "")
    contents = {files["net"]: code, files["parts"]: "width = 5\n"}
    write(tmp_path, {**contents, **{files[key]: "" for key in ("init", "second") if key in files}})
    before = set(sys.modules)
    first = load_model(f"{tmp_path / files['net']}:build")
    assert first.network[0].in_features == 5
    assert str(tmp_path) not in "".join(sys.path)
    assert sys.modules["torch"].__file__ == torch.__file__
    # In another process, another width in the other file is another model.
    for name in set(sys.modules) - before:
        del sys.modules[name]
    (tmp_path / files["parts"]).write_text("width = 5  # metres\n")
    second = load_model(f"{tmp_path / files['net']}:build")
    assert second.identity["weights"] == first.identity["weights"]
    assert second.identity["sha256"] != first.identity["sha256"]
    for name in set(sys.modules) - before:
        del sys.modules[name]


PARSER = "import argparse, sys\nfrom torch import nn\nparser = argparse.ArgumentParser()\n"


def test_a_file_that_reads_the_command_line_reads_an_empty_one(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["evaluate", "model=net.py:build"])
    at_import = "parser.add_argument('--width', type=int, default=3)\nwidth = parser.parse_args().width\n"
    in_call = "    parser.add_argument('--width', type=int, default=3)\n    width = parser.parse_args().width\n"
    build = "def build():\n{}    assert len(sys.argv) == 1\n    return nn.Sequential(nn.Linear(width, 2))\n"
    for code in (at_import + build.format(""), build.format(in_call)):
        write(tmp_path, {"net.py": PARSER + code})
        assert load_model(f"{tmp_path / 'net.py'}:build").network[0].in_features == 3
        assert sys.argv == ["evaluate", "model=net.py:build"]


@pytest.mark.parametrize(
    ("code", "line"),
    [
        ("parser.add_argument('data')\nparser.parse_args()\n", 5),
        ("sys.exit('training is done')\n", 4),
        ("def build():\n    raise SystemExit(2)\n", 5),
        ("def build():\n    return nn.Linear(2, 'two')\n", 5),
        ("import json\njson.loads('{')\n", 5),
    ],
)
def test_errors_name_the_line_of_the_file(code, line, tmp_path, monkeypatch):
    write(tmp_path, {"net.py": PARSER + code})
    arguments = sys.argv
    with pytest.raises(ModelError, match=rf"net\.py:build fails \(net\.py, line {line}\)") as raised:
        load_model(f"{tmp_path / 'net.py'}:build")
    assert ("__main__" in str(raised.value)) == ("SystemExit" in str(raised.value))
    assert sys.argv is arguments
    assert str(tmp_path) not in sys.path


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("net_a.onnx", "net_a"),
        ("./net_a.onnx", "net_a"),
        ("v1.2.pt", "v1.2"),
        ("v1.2.pt2", "v1.2"),
        ("a/b/v1.2.ts", "v1.2"),
        ("net.torchscript", "net"),
        ("net.py:build", "net"),
        ("net.v2.py:build", "net.v2"),
        ("~/net.py:build", "net"),
        ("package.net:build", "net"),
        ("net:build", "net"),
    ],
)
def test_results_are_called_as_the_model(source, name):
    assert default_name(source) == name


def test_files_where_one_stands_have_names_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        for name in ("v1.2.pt", "v1.3.ts", "v1.4.torchscript", "v1.5.pth"):
            torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()).save(name)
            assert load_model(name).identity["source"] == name


def test_options_are_taken_as_they_are_written(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    keys = ("model.source", "checkpoint", "results", "data_root", "name")
    written = {
        "model.source": "~/net=1.py:build",
        "checkpoint": "~/a b,c.pt",
        "results": "~/r",
        "data_root": "~",
        "name": "007",
    }
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("evaluate", overrides=[quoted(f"{key}={value}", keys) for key, value in written.items()])
    for key, value in written.items():
        assert OmegaConf.select(config, key) == os.path.expanduser(value)


def test_the_command(tmp_path):
    """From the home folder, with a number as name and a normalisation."""
    write(tmp_path, {"net.py": NET})
    options = [
        "images=2",
        "attack=[fgm]",
        "certificate=[certificate]",
        "progress=false",
        "device=cpu",
        "dataset=digits",
    ]
    inputs = ["input_mean=[0.5]", "input_std=0.25", "results=~/r"]
    ran = subprocess.run(
        [sys.executable, "-m", "lipbench", "evaluate", "model=~/net.py:build", "name=007", *options, *inputs],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path)},
    )
    assert ran.returncode == 0, ran.stderr
    folder = tmp_path / "r/digits/007/default/0"
    assert (folder / "summary.json").exists()
    assert "mean:" in (folder / "config.yaml").read_text()
    assert "Normalize" in (folder / "layers.csv").read_text()
