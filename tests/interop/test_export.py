"""Exported files compute what the network computes, carry its certificate, and are refused where they do not."""

import hashlib
import json
import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

import lipbench
from lipbench import layers, models
from lipbench.commands.main import main
from lipbench.commands.options import check_overrides
from lipbench.interop import export as command
from lipbench.interop.export import export
from lipbench.interop.formats import ExportError, content_of, read_back, traced
from lipbench.layers import bake, constrain

onnx = pytest.importorskip("onnx", reason="the extra lipbench[onnx] is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the extra lipbench[onnx] is not installed")
pytest.importorskip("onnxscript", reason="the extra lipbench[onnx] is not installed")

SHAPE = (1, 8, 8)
cnn = partial(models.convnet, SHAPE, kernel_size=3, padding=1, widths=(12,), activation=layers.FullSort)


def residual() -> nn.Module:
    branch = nn.Sequential(constrain(nn.Conv2d(4, 4, 3, padding=1), layers.aol, size=(8, 8)), layers.GroupSort(2))
    return nn.Sequential(
        constrain(nn.Conv2d(1, 4, 3, padding=1), layers.aol, size=(8, 8)),
        layers.Residual(branch, scale=0.5),
        layers.ScaledAvgPool2d(2),
        nn.Flatten(),
        constrain(nn.Linear(64, 64), layers.liresnet),
        nn.LeakyReLU(0.2),
        constrain(nn.Linear(64, 3), layers.UnitRows),
    )


def skew() -> nn.Module:
    """Series, frequencies and matrices of `soc`; what stands between them."""
    model = nn.Sequential(
        constrain(nn.Conv2d(1, 4, 3, padding=1), layers.soc, size=(8, 8)),
        layers.Householder(4),
        layers.BatchCentering(4),
        constrain(nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"), layers.soc, size=(8, 8)),
        layers.AdaptiveL2Pool2d(3),
        nn.Flatten(),
        constrain(nn.Linear(36, 12), layers.soc),
        layers.Abs(),
        constrain(nn.Linear(12, 3), layers.UnitRows),
    )
    model(torch.rand(32, *SHAPE))  # a running mean other than the initial one
    return model


def sandwiches() -> nn.Module:
    """Zero-padded Cayley layers, with a stride and without, and sandwich layers; what stands between them."""
    return nn.Sequential(
        constrain(nn.Conv2d(1, 8, 3, stride=2, padding=1), layers.sandwich, size=(8, 8)),
        layers.clamped_prelu(8),
        layers.ConvexResidual(constrain(nn.Conv2d(8, 8, 3, padding=1), layers.sandwich, size=(4, 4))),
        layers.LayerCentering(),
        layers.AdaptiveScaledAvgPool2d((3, 2)),
        nn.Flatten(),
        constrain(nn.Linear(48, 12), layers.sandwich),
        constrain(nn.Linear(12, 3), layers.UnitRows),
        layers.Scale(2.0),
    )


def plain() -> nn.Module:
    body = nn.Sequential(nn.Conv2d(1, 4, 5, padding=2), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
    model = nn.Sequential(body, nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))
    model(torch.rand(32, *SHAPE))  # running statistics other than the initial ones
    return model


# Together they hold every layer of lipbench (see the test of that).
NETWORKS = {
    "mlp": lambda: models.mlp(
        SHAPE, 2, widths=(32, 16), constraint=layers.Orthogonal, activation=layers.FullSort, mean=(0.3,), std=(0.5,)
    ),
    "cnn": lambda: models.convnet(
        SHAPE,
        10,
        channels=(16,),
        kernel_size=2,
        stride=2,
        widths=(16,),
        constraint=layers.Orthogonal,
        activation=layers.MaxMin,
        pooling=nn.PixelUnshuffle,
        pool_first=True,
    ),
    "aoc": lambda: cnn(
        classes=2,
        channels=(4, 8),
        padding_mode="circular",
        constraint=layers.aoc,
        activation=partial(layers.GroupSort, 4),
        pooling=layers.L2Pool2d,
    ),
    "cpl": lambda: cnn(classes=3, channels=(4,), depth=2, padding_mode="circular", constraint=layers.cpl),
    "residual": residual,
    "skew": skew,
    "sandwiches": sandwiches,
    "plain": plain,
}


def tiny(classes: int = 2) -> nn.Module:
    return models.mlp(SHAPE, classes, widths=(8,), constraint=layers.Orthogonal, activation=layers.MaxMin)


@pytest.fixture
def run(tmp_path) -> Path:
    """A run's folder as an experiment leaves it, with overrides in its name."""
    folder = tmp_path / "digits08" / "hkr_mlp" / "loss.margin=2,training.epochs=1" / "3"
    recipe = {
        "model": {"_target_": "lipbench.models.mlp", "widths": [16]},
        "constraint": {"_target_": "lipbench.layers.Orthogonal", "_partial_": True},
        "shape": list(SHAPE),
        "classes": 2,
    }
    folder.mkdir(parents=True)
    dataset = {"_target_": "lipbench.data.digits", "keep": [0, 8]}
    (folder / "config.yaml").write_text(OmegaConf.to_yaml({"dataset": dataset}))
    (folder / "environment.json").write_text(json.dumps({"commit": "0123abc"}))
    lipbench.runs.network.save(bake(lipbench.runs.network.build(recipe)), recipe, folder)
    return folder


@pytest.mark.parametrize("name", NETWORKS)
def test_every_layer_in_both_formats(name, tmp_path, capfd):
    model = NETWORKS[name]()
    written = export(model, SHAPE, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in written}
    assert capfd.readouterr() == ("", ""), "the exporter's chatter"
    images = torch.rand(9, *SHAPE)
    expected = bake(model)(images).detach()
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    program = torch.export.load(tmp_path / "model.pt2").module()
    certificate = json.loads((tmp_path / "certificate.json").read_text())
    logits = session.run(None, {"images": images.numpy()})[0]
    assert np.allclose(logits, expected, atol=1e-5)
    assert torch.allclose(program(images), expected, atol=1e-5)
    # The certificate by hand, from what a reader of the file has.
    gaps = np.array(json.loads(session.get_modelmeta().custom_metadata_map["gaps"]))
    assert gaps.tolist() == certificate["gaps"]
    ordered = np.arange(len(images)), logits.argmax(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        radii = np.nanmin((logits[ordered][:, None] - logits) / gaps[ordered[1]], axis=1)
    assert np.allclose(radii, lipbench.certify(model, images), atol=1e-4)
    assert (radii > 0).all()


def test_together_the_networks_hold_every_layer():
    held = {type(module) for make in NETWORKS.values() for module in bake(make()).modules()}
    own = {kind for kind in vars(layers).values() if isinstance(kind, type) and issubclass(kind, nn.Module)}
    # Constraints and two constructions leave plain layers; a peer's layer is of another library.
    gone = {layers.Construction, layers.OrthogonalConv2d, layers.FourierOrthogonalConv2d, layers.PeerLayer}
    assert {kind for kind in own if not issubclass(kind, layers.Constraint)} - gone == own & held


def test_the_input_and_its_model_are_left_alone(tmp_path):
    model = tiny().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    export(model, SHAPE, tmp_path, formats=["torch"])
    assert model.training
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("format", ["onnx", "torch"])
def test_a_wrong_weight_is_refused(format, tmp_path, monkeypatch):
    def wrong(model, *arguments):
        with torch.no_grad():
            changed = bake(tiny(3))
            changed.load_state_dict(model.state_dict())
            changed[-1].weight[1, 2] += 1e-3
        return traced(changed, *arguments)

    model, folder = tiny(3), tmp_path / "new" / "folder"
    monkeypatch.setattr(command, "traced", wrong)
    with pytest.raises(ExportError, match="gives other logits than the model"):
        export(model, SHAPE, folder, formats=[format])
    assert not list(tmp_path.iterdir()), "something half-written stays"


@pytest.mark.parametrize("format", ["onnx", "torch"])
def test_a_wrong_certificate_is_refused_and_the_old_files_stay(format, tmp_path, monkeypatch):
    model = tiny(3)
    export(model, SHAPE, tmp_path, formats=[format])
    old = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def wrong(name, program, entries, *arguments):
        gaps = [[gap / 1.01 for gap in row] for row in entries["gaps"]]
        return content_of(name, program, {**entries, "gaps": gaps}, *arguments)

    monkeypatch.setattr(command, "content_of", wrong)
    with pytest.raises(ExportError, match="gives other radii than the model"):
        export(model, SHAPE, tmp_path, formats=[format])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == old


class Noisy(nn.Module):
    def forward(self, x):
        return nn.functional.dropout(x, 0.5, training=True)


class Pairs(nn.Module):
    def forward(self, x):
        return x.reshape(2, -1)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 3), Noisy()), "random draws of forward: remove them"),
        (nn.Sequential(nn.Flatten(), Pairs(), nn.Linear(64, 3)), "refuses an image of shape"),
        (nn.Flatten(0), "logits .N, K."),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 1)), "antipodal"),
        (nn.Sequential(nn.Flatten(), nn.Linear(60, 3)), "refuses an image of shape .1, 8, 8."),
    ],
)
def test_models_that_are_no_function_of_one_image_are_refused(model, message, tmp_path):
    with pytest.raises(ExportError, match=message):
        export(model, SHAPE, tmp_path / "out", formats=["torch"])
    assert not list(tmp_path.iterdir())


def test_an_unknown_layer_is_exported_without_a_certificate(tmp_path):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.LayerNorm(8), nn.Linear(8, 3))
    export(model, SHAPE, tmp_path, formats=["torch"])
    run, inside = read_back("torch", tmp_path / "model.pt2")
    assert inside == json.loads((tmp_path / "certificate.json").read_text())
    assert not inside["certified"]
    assert inside["lipschitz"] is None
    assert inside["gaps"] == [[0.0 if i == j else None for j in range(3)] for i in range(3)]
    assert list(inside["unbounded"]) == ["2"]
    assert run(torch.rand(4, *SHAPE)).shape == (4, 3)


def test_options(tmp_path):
    model = tiny()
    export(model, SHAPE, tmp_path, formats=["onnx"], opset=18, batch=3, metadata={"customer": "ü"})
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == [3, *SHAPE]
    # MaxMin has another formula where a gradient is wanted, which the graph must not hold.
    kinds = [node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node]
    assert (kinds.count("Max"), kinds.count("Min"), kinds.count("Relu")) == (1, 1, 0)
    assert json.loads(session.get_modelmeta().custom_metadata_map["customer"]) == "ü"
    for options, message in {
        ("formats", ("tflite",)): "onnx, torch",
        ("formats", ()): "none",
        ("batch", 0): "1 or more",
        ("batch", "some"): "dynamic",
        ("metadata", (("gaps", 1),)): "gaps",
        ("metadata", (("x", math.inf),)): "JSON",
        ("metadata", (("x", Path()),)): "JSON",
    }.items():
        key, value = options
        with pytest.raises(ExportError, match=message):
            export(model, SHAPE, tmp_path, **{key: dict(value) if key == "metadata" else value})
    with pytest.raises(ExportError, match="opset 99"):
        export(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), SHAPE, tmp_path, formats=["onnx"], opset=99)


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("lipbench.interop.formats.find_spec", lambda name: None if name == "onnxscript" else name)
    with pytest.raises(ExportError, match=r"needs onnxscript: pip install 'lipbench\[onnx\]'"):
        export(tiny(), SHAPE, tmp_path)


def called(*arguments: str) -> int:
    return main(["export", *arguments])


def test_the_command(run, capfd):
    called(f"run={run}")
    out = capfd.readouterr().out
    folder = run / "export"
    assert {path.name for path in folder.iterdir()} == {"certificate.json", "model.onnx", "model.pt2"}
    assert str(folder / "model.onnx") in out
    certificate = json.loads((folder / "certificate.json").read_text())
    assert certificate["certified"]
    assert certificate["weights_sha256"] == hashlib.sha256((run / "model.safetensors").read_bytes()).hexdigest()
    assert {key: certificate[key] for key in ("dataset", "experiment", "variant", "seed", "class_names", "commit")} == {
        "dataset": "digits08",
        "experiment": "hkr_mlp",
        "variant": "loss.margin=2,training.epochs=1",
        "seed": 3,
        "class_names": ["0", "8"],
        "commit": "0123abc",
    }
    for name in ("onnx", "torch"):
        path = folder / {"onnx": "model.onnx", "torch": "model.pt2"}[name]
        assert read_back(name, path)[1] == certificate
        assert b".py" not in path.read_bytes(), "source files of this machine"


def test_a_run_without_its_data_is_exported(run, monkeypatch, tmp_path):
    monkeypatch.setenv("LIPBENCH_DATA", str(tmp_path))
    (run / "config.yaml").write_text(OmegaConf.to_yaml({"dataset": {"_target_": "lipbench.data.mnist"}}))
    called(f"run={run}", "formats=torch", f"out={tmp_path / 'a=b'}")
    certificate = json.loads((tmp_path / "a=b" / "certificate.json").read_text())
    assert certificate["class_names"] is None


@pytest.mark.parametrize("override", ["run='a,b=1'", "run='a=1','b,c'", 'run="a,b"', r"run='it\'s,b'", "formats=[a,b]"])
def test_quotes_and_brackets_are_no_sweep(override):
    check_overrides([override], "export")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Which run"),
        (["run={tmp}/none/0"], "There is no folder"),
        (["run={tmp}/empty"], "holds no run"),
        (["run={run}", "formats=[tflite]"], "onnx, torch"),
        (["run={run}", "opsett=18"], "Did you mean opset"),
    ],
)
def test_wrong_command_lines_are_answered(arguments, message, run, tmp_path, capfd):
    (tmp_path / "empty").mkdir()
    assert called(*(argument.format(tmp=tmp_path, run=run) for argument in arguments)) == 1
    said = capfd.readouterr().err
    assert message in said
    assert "Traceback" not in said
    assert not (run / "export").exists()
