"""Bring your own model: every form that it comes in, and checkpoints in their usual wrappings."""

import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.external import network, write_models
from safetensors.torch import save_file
from torch import nn

import lipbench
from lipbench.interop.load import ModelError, check_classifier, default_name, load_model
from lipbench.interop.weights import WeightsError, load_weights


@pytest.fixture
def file(tmp_path) -> Path:
    return write_models(tmp_path)


@pytest.fixture(scope="module")
def digits() -> lipbench.data.Dataset:
    return lipbench.data.digits()


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
    sys.modules.pop("sibling")


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
        ("{}", r"Python code.*model=file\.py:function"),
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
    found, expected = (lipbench.certificate.gaps(net, (1, 8, 8)) for net in (loaded.network, model.eval()))
    assert torch.allclose(found, expected, rtol=1e-8)
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


def test_code_beside_the_file_belongs_to_the_model(file, tmp_path, monkeypatch):
    first = load_model(f"{file}:build").identity
    assert load_model(f"{file}:build").identity == first
    # As in another process: the module is read again.
    monkeypatch.delitem(sys.modules, "sibling")
    (tmp_path / "sibling.py").write_text("WIDTH = 12  # and something that changes no weight\n")
    second = load_model(f"{file}:build").identity
    assert second["weights"] == first["weights"]
    assert second["sha256"] != first["sha256"]
