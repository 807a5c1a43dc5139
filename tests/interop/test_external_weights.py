"""Weights of external networks: whatever their owner's `load_state_dict` takes is loaded; what is no file of weights is
told by name, with the next step.
"""

import copy
import gzip
import io
import json
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file, save_model
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from lipbench.interop.load import ModelError, load_model
from lipbench.interop.onnx_graph import load_onnx
from lipbench.interop.weights import WeightsError, load_weights

X = torch.rand(5, 6, generator=torch.Generator().manual_seed(1))


class Counted(nn.Linear):
    """A layer that saves more than tensors."""

    steps = 0

    def get_extra_state(self):
        return {"steps": self.steps, "name": "counted"}

    def set_extra_state(self, state):
        self.steps = state["steps"]


class Renamed(nn.Module):
    """A network whose own code reads the names of its first release."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(6, 6)

    def forward(self, x):
        return self.head(x)

    def _load_from_state_dict(self, state_dict, prefix, *rest):
        for name in ("weight", "bias"):
            if (old := f"{prefix}classifier.{name}") in state_dict:
                state_dict[f"{prefix}head.{name}"] = state_dict.pop(old)
        super()._load_from_state_dict(state_dict, prefix, *rest)


class Tied(nn.Module):
    def __init__(self, transposed=False):
        super().__init__()
        self.first, self.last = nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False)
        weight = self.first.weight
        self.last.weight = nn.Parameter(weight.data.T) if transposed else weight

    def forward(self, x):
        return self.last(self.first(x).relu())


def plain(model):
    return model.state_dict()


def old_norm(model):
    """As torch before 0.4.1 saved batch normalisation."""
    return {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}


def old_weight_norm(model):
    names = {"original0": "weight_g", "original1": "weight_v"}
    state = model.state_dict().items()
    return {k.replace("parametrizations.weight.", "").replace(k[-9:], names.get(k[-9:], k[-9:])): v for k, v in state}


def old_names(model):
    return {k.replace("head", "classifier"): v for k, v in model.state_dict().items()}


def weight_normed():
    return nn.Sequential(parametrizations.weight_norm(nn.Linear(6, 6)), nn.ReLU())


ACCEPTED = {
    "batch norm without its counter": (lambda: nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6)), old_norm),
    "weight_g and weight_v": (weight_normed, old_weight_norm),
    "names of an older release": (Renamed, old_names),
    "extra state": (lambda: nn.Sequential(Counted(6, 6)), plain),
    "tied tensors, both there": (Tied, plain),
    "behind a wrapper": (
        lambda: nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6)),
        lambda m: {f"module.{k}": v for k, v in old_norm(m).items()},
    ),
    "nested twice": (lambda: nn.Linear(6, 6), lambda m: {"model": {"state_dict": m.state_dict()}, "epoch": 2}),
}


@pytest.mark.parametrize("case", ACCEPTED.values(), ids=ACCEPTED)
def test_what_the_owner_loads_is_loaded(case, tmp_path):
    make, saved = case
    torch.manual_seed(0)
    model, other = make().eval(), make().eval()
    if isinstance(model[0] if isinstance(model, nn.Sequential) else model, Counted):
        model[0].steps = 7
    torch.save(saved(model), tmp_path / "weights.pt")
    assert not torch.equal(model(X), other(X))
    load_weights(other, tmp_path / "weights.pt")
    assert torch.equal(model(X), other(X))
    assert getattr(other[0] if isinstance(other, nn.Sequential) else other, "steps", 7) == 7


@pytest.mark.parametrize("transposed", [False, True])
def test_tensors_that_share_memory_are_stored_once(transposed, tmp_path):
    torch.manual_seed(0)
    model, other = Tied(transposed), Tied(transposed)
    if transposed:
        save_file({"first.weight": model.first.weight}, tmp_path / "weights.safetensors")
    else:
        save_model(model, str(tmp_path / "weights.safetensors"))
    load_weights(other, tmp_path / "weights.safetensors")
    assert torch.equal(model(X), other(X))
    # Layers that share nothing are not filled from each other.
    free = copy.deepcopy(other)
    free.last.weight = nn.Parameter(torch.rand(6, 6))
    with pytest.raises(WeightsError, match=r"missing: (first|last)\.weight"):
        load_weights(free, tmp_path / "weights.safetensors")


def test_what_the_owner_refuses_is_refused(tmp_path):
    model = weight_normed()
    parametrize.remove_parametrizations(model[0], "weight")
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    with pytest.raises(WeightsError, match=r"does not fit.*not in the network: 0\.weight"):
        load_weights(weight_normed(), tmp_path / "weights.pt")


def of(content):
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def zipped(*names):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in names:
            archive.writestr(name, b"content")
    return stream.getvalue()


def tarred():
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("weights.pt"))
    return stream.getvalue()


def npz():
    stream = io.BytesIO()
    np.savez(stream, a=np.zeros(3))
    return stream.getvalue()


STATE = nn.Linear(2, 2).state_dict()
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"
# Bytes of a file -> what it is, and what to do.
REFUSED = {
    "LFS pointer": (POINTER, "Git LFS pointer", "git lfs pull"),
    "web page": (b"\n<!DOCTYPE html><html><body>Sign in</body></html>", "web page", "Download"),
    "empty": (b"", "empty file", "again"),
    "only blanks": (b" \n\n", "empty file", "again"),
    "zeros": (bytes(4096), "file of zeros", "again"),
    "text": (b"Access denied", "text that begins with 'Access denied'", "again"),
    "text of another language": ("é è ü".encode() * 300, "text that begins", "again"),
    "JSON": (json.dumps({"lr": 0.1}).encode(), "JSON", "Name the file"),
    "zip": (zipped("a.txt", "b.txt"), "zip archive of 2 files", "Unpack"),
    "cut zip": (of(STATE)[:-400], "cut off", "again"),
    "gzip": (gzip.compress(b"abc"), "gzip", "Unpack"),
    "tar": (tarred(), "tar archive", "Unpack"),
    "npz": (npz(), "arrays of numpy", "save its state_dict"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(50), "HDF5", "ONNX"),
    "Keras": (zipped("config.json", "model.weights.h5"), "Keras", "ONNX"),
    "noise": (bytes([200, 1, 2, 255] * 50), "unknown kind", "again"),
    "plain pickle": (pickle.dumps({"a": 1}), "pickle that torch.save did not write", "torch.save"),
    "whole module": (of(nn.Linear(2, 2)), "objects of torch.nn.modules.linear.Linear", r"save\(model\.state_dict"),
    "list": (of([STATE, STATE]), "list of 2 state_dicts", r"\[0\]"),
    "nested list": (of({"state_dict": [STATE], "epoch": 1}), "list of 1 state_dicts", r"\['state_dict'\]\[0\]"),
    "optimizer": (
        of(torch.optim.Adam(nn.Linear(2, 2).parameters()).state_dict()),
        "state of an optimizer",
        r"state_dict\(\)",
    ),
    "several networks": (of({"model": STATE, "net": STATE}), "under each of model, net", "Save those"),
    "of other names": (of({"generator": STATE, "critic": STATE}), "dictionaries under generator", "state_dict"),
    "numbers": (of({"epoch": 3, "loss": 0.5}), "the keys epoch, loss", "state_dict"),
    "tensor": (of(torch.zeros(3)), "a Tensor", "state_dict"),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".bin"])
def test_a_file_that_holds_no_weights_is_told_by_name(case, suffix, tmp_path):
    content, what, remedy = case
    path = tmp_path / f"net{suffix}"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=rf"(?s)net{suffix}.*{what}.*{remedy}"):
        load_weights(nn.Linear(2, 2), path)


@pytest.mark.parametrize("suffix", [".onnx", ".pt", ".pt2", ".ts"])
def test_the_same_of_a_file_of_a_model(suffix, tmp_path):
    path = tmp_path / f"net{suffix}"
    for content, what, remedy in list(REFUSED.values())[:16]:
        path.write_bytes(content)
        if not (suffix == ".onnx" and what == "unknown kind"):  # any bytes may be a protocol buffer
            with pytest.raises(ModelError, match=rf"(?s)net{suffix}.*{what}.*{remedy}"):
                load_model(str(path))
    path.write_bytes(of(STATE))
    with pytest.raises(ModelError, match=r"(?s)torch\.save.*model=file\.py:function"):
        load_model(str(path))


def test_folders_and_files_of_another_use(tmp_path):
    for content in (tmp_path, Path("net.py"), Path("net.onnx"), Path("net.pt2")):
        (tmp_path / "net.py").write_text("import torch\n")
        (tmp_path / "net.onnx").write_bytes(b"\x08\x09\x12\x05torch")
        (tmp_path / "net.pt2").write_bytes(zipped("net/archive_format"))
        path = tmp_path / content
        words = {"": "a folder", ".py": "Python code", ".onnx": "an ONNX file", ".pt2": "a torch.export file"}
        with pytest.raises(WeightsError, match=f"it is {words[path.suffix]}"):
            load_weights(nn.Linear(2, 2), path)
    with pytest.raises(ModelError, match="a folder"):
        load_model(str(tmp_path))
    with pytest.raises(ModelError, match=r"Python code.*model=file\.py:function"):
        load_model(str(tmp_path / "net.py"))


def test_content_decides_and_not_the_ending(tmp_path):
    model = nn.Linear(2, 2)
    save_file(model.state_dict(), tmp_path / "weights.bin")
    torch.save(model.state_dict(), tmp_path / "weights.safetensors")
    for name in ("weights.bin", "weights.safetensors"):
        other = nn.Linear(2, 2)
        load_weights(other, tmp_path / name)
        assert torch.equal(model.weight, other.weight)


def test_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    model, other = nn.Linear(2, 2), nn.Linear(2, 2)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    load_weights(other, "~/weights.pt")
    assert torch.equal(model.weight, other.weight)
    (tmp_path / "net.py").write_text("from torch import nn\ndef build():\n    return nn.Linear(2, 2)\n")
    assert torch.equal(load_model("~/net.py:build", "~/weights.pt").network.weight, model.weight)
    (tmp_path / "net.onnx").write_text("text")
    for load in (load_onnx, load_model):
        with pytest.raises(ModelError, match="a text"):
            load("~/net.onnx")
