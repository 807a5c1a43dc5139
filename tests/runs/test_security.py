"""What lies in a results folder is data: nothing of it is imported or called beyond the building blocks of networks."""

import copy
import importlib
import inspect
import io
import pickle
import resource
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import lipbench
from lipbench.files import ResultsError, read_arrays, read_config, read_json, write_json
from lipbench.runs.trust import PLACED, PLACES, REFUSED, ROOMS, UntrustedError, check_targets

RECIPE = {
    "model": {
        "_target_": "lipbench.models.mlp",
        "widths": [8],
        "activation": {"_target_": "lipbench.layers.MaxMin", "_partial_": True},
    },
    "constraint": {"_target_": "lipbench.layers.Orthogonal", "_partial_": True},
    "shape": [1, 4, 4],
    "classes": 2,
}
# Every one would do something if it were called.
HOSTILE = [
    "os.system",
    "builtins.eval",
    "subprocess.run",
    "pathlib.Path.unlink",
    "hydra.utils.get_class",
    "hydra.utils.instantiate",
    "lipbench.data.cifar.pickles.pickle.loads",
    "lipbench.data.archives.lzma.open",
    "lipbench.runs.network.instantiate",
    "lipbench.interop.load.load_model",
    "lipbench.load",
    "lipbench.runs.network.build",
    "lipbench.runs.network.save",
    "lipbench.files.atomic",
    "lipbench.files.write_text",
    "lipbench.runs.folder.shutil.rmtree",
    "lipbench.data.download.fetch_mnist",
    "lipbench.training.event_log",
    "lipbench.layers.MaxMin.forward",
    "lipbench.layers.MaxMin.__init__.__globals__",
    "lipbench",
    "lipbench.layers",
    "lipbench.",
    "lipbench..layers.MaxMin",
    "lipbenchmark.layers.MaxMin",
    "torch.load",
    "torch.hub.load",
    "torch.nn.functional.os.system",
    "torch.nn.modules.module.torch.load",
    "torch.nn.modules.module.warnings.warn",
    "torch.nn.functional.boolean_dispatch",
    "torch.nn.Module.register_forward_hook",
    "torch.nn.utils.parametrize.copy.copy",
    "torch.optim.optimizer.torch.load",
    "torch.nn.",
    "torch.nnn.Linear",
    "",
    "__import__",
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    lipbench.runs.network.save(lipbench.runs.network.build(RECIPE, baked=True), RECIPE, tmp_path)
    return tmp_path


def planted(run: Path, change) -> None:
    recipe = copy.deepcopy(read_json(run / "model.json"))
    change(recipe)
    write_json(run / "model.json", recipe)


def test_a_recipe_of_building_blocks_is_loaded(run):
    assert isinstance(lipbench.load(run), nn.Module)
    for target in ("torch.nn.ReLU", "torch.nn.modules.activation.Tanh", "lipbench.layers.activations.MaxMin"):
        planted(run, lambda recipe, target=target: recipe["model"]["activation"].update(_target_=target))
        assert lipbench.load(run)(torch.rand(3, 1, 4, 4)).shape == (3, 2)


@pytest.mark.parametrize("target", HOSTILE)
def test_a_target_outside_is_refused_before_anything_is_called(target, run, monkeypatch):
    monkeypatch.setattr("lipbench.runs.network.instantiate", lambda *_, **__: pytest.fail("called"))
    for change in (
        lambda recipe: recipe["model"].update(_target_=target),
        lambda recipe: recipe["model"].update(extra=[{"deep": {"_target_": target, "_partial_": True}}]),
        lambda recipe: recipe["constraint"].update(_args_=[{"_target_": target, "_args_": ["x"]}]),
        lambda recipe: recipe["model"].update(f={"_target_": "hydra.utils.get_method", "path": target}),
    ):
        before = read_json(run / "model.json")
        planted(run, change)
        with pytest.raises(UntrustedError, match=r"model\.json: (model|constraint).*is not called"):
            lipbench.load(run)
        write_json(run / "model.json", before)


def test_what_a_module_of_the_users_does_on_import_is_not_done(run, tmp_path, monkeypatch):
    place = tmp_path / "python"
    place.mkdir()
    (place / "mine.py").write_text(
        "import os\nfrom pathlib import Path\nfrom torch import nn\nPath(__file__).with_name('imported').touch()\n"
        "class Mine(nn.Identity): pass\n"
    )
    monkeypatch.syspath_prepend(str(place))
    try:
        planted(run, lambda recipe: recipe["model"]["activation"].update(_target_="mine.Mine"))
        with pytest.raises(UntrustedError, match=r"trust=\[mine\]"):
            lipbench.load(run)
        assert not (place / "imported").exists()
        assert any(type(module).__name__ == "Mine" for module in lipbench.load(run, trust=("mine",)).modules())
        assert (place / "imported").exists()
        for target in ("mine.os.system", "mine.nn.Linear", "mine.Path", "mine.Path.touch", "minelike.Mine", "mine.no"):
            planted(run, lambda recipe, target=target: recipe["model"]["activation"].update(_target_=target))
            with pytest.raises(UntrustedError):
                lipbench.load(run, trust=("mine",))
    finally:
        sys.modules.pop("mine", None)
    with pytest.raises(TypeError, match=r"trust=\('mine',\)"):
        lipbench.load(run, trust="mine")


@pytest.mark.parametrize(
    ("configuration", "message"),
    [
        ({"a": "${oc.env:HOME}"}, "a holds an interpolation"),
        ({"a": [{"${oc.env:HOME}": 1}]}, "interpolation"),
        ({"_target_": "lipbench.layers.${b}", "b": "MaxMin"}, "is not called"),
        ({"_target_": ["os.system"]}, "is a list"),
        ({"_target_": {"_target_": "lipbench.layers.MaxMin"}}, "is a dict"),
        ({"_target_": None}, "is a NoneType"),
        ({"_target_": "hydra.utils.get_method"}, "takes a path alone"),
        ({"_target_": "hydra.utils.get_method", "path": "os.system"}, "os.system"),
        ({"_target_": "hydra.utils.get_method", "path": "lipbench.losses.kr", "_args_": ["os.system"]}, "path alone"),
        ({"_target_": "lipbench.data.folder", "cache": "/etc"}, "where files lie"),
        ({"_target_": "lipbench.data.folder", "_args_": ["/etc"]}, "where files lie"),
        ({"_target_": "lipbench.fit", "checkpoint": "/etc/x"}, "where files lie"),
    ],
)
def test_tricks_around_targets(configuration, message):
    with pytest.raises(UntrustedError, match=message):
        check_targets({"x": configuration}, "config.yaml")


def test_deep_nesting_is_refused():
    value: object = {"_target_": "os.system"}
    for _ in range(3000):
        value = [value]
    with pytest.raises(UntrustedError, match="nested"):
        check_targets(value, "config.yaml")


def test_no_building_block_touches_files_or_loads_code():
    """A function of a room that takes a path belongs into `REFUSED`, or what it calls its places into `PLACES`."""
    suspicious = {"path", "folder", "file", "checkpoint", "source", "recipe", "target", "trust", "run"} - PLACES
    for room in ROOMS:
        module = importlib.import_module(room)
        for name in getattr(module, "__all__", None) or vars(module):
            found = vars(module)[name]
            if inspect.isroutine(found) and not name.startswith("_") and name not in REFUSED.get(room, ()):
                assert not set(inspect.signature(found).parameters) & suspicious, f"{room}.{name}"
                if set(inspect.signature(found).parameters) & PLACES:
                    assert room in PLACED, f"{room}.{name}"


@pytest.mark.parametrize("widths", [[10**6, 10**6], [1] * 5000, [8, 10**12], ["8"], [-1], {"a": 1}, None])
def test_a_recipe_that_does_not_fit_its_weights_takes_no_memory(widths, run):
    planted(run, lambda recipe: recipe["model"].update(widths=widths))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    with pytest.raises(ResultsError, match="does not fit its recipe"):
        lipbench.load(run)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**19, "KiB"
    assert time.perf_counter() - start < 30


def test_a_run_of_ones_own_loads_its_own_functions(run):
    """The recipe is then that of the command line, not that of the file."""
    recipe = {**RECIPE, "model": {"_target_": f"{__name__}.mine"}}
    lipbench.runs.network.save(lipbench.runs.network.build(recipe, baked=True), recipe, run)
    assert lipbench.runs.network.rebuild(recipe, run)(torch.rand(3, 1, 4, 4)).shape == (3, 2)
    with pytest.raises(UntrustedError, match=rf"trust=\[{__name__}\]"):
        lipbench.load(run)
    assert isinstance(lipbench.load(run, trust=[__name__]), nn.Module)


def mine(shape, classes, *, constraint=nn.Identity):
    return nn.Sequential(nn.Flatten(), nn.Linear(16, classes))


YAML_BOMB = "a: &a [x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9)
)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1]",
        "a: [",
        "a: ${",
        YAML_BOMB,
        "a: !!python/object/apply:os.system [x]",
        "[" * 5000,
        "\0",
        "a: 1\na: 2",
        "? {a}",
    ],
)
def test_a_configuration_that_is_none_is_refused(text, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ResultsError, match=r"config\.yaml"):
        read_config(path)


def test_a_configuration_is_plain(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text("a: ${oc.env:HOME}\nb: {c: [1, 2.5e-3, null, true, 1e-4]}\n")
    assert read_config(path) == {"a": "${oc.env:HOME}", "b": {"c": [1, 0.0025, None, True, 0.0001]}}


@pytest.mark.parametrize("content", [b"[" * 100_000, b"9" * 5000, b"\xff", b'{"a": ', b" " * (2**24 + 1)])
def test_json_that_is_none_is_refused(content, tmp_path):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(ResultsError, match=r"x\.json"):
        read_json(tmp_path / "x.json")


def test_arrays_that_promise_more_than_they_hold_are_refused(tmp_path):
    path = tmp_path / "x.npz"
    np.savez_compressed(path, a=np.arange(3), b=np.array(["é", "b"]))
    assert read_arrays(path)["b"].tolist() == ["é", "b"]
    np.savez_compressed(path, a=np.zeros(2**28 + 1, np.uint8))
    assert path.stat().st_size < 2**20
    for content in (
        b"",
        path.read_bytes(),
        npz("(1000000000000,)"),
        npz("(-1, -8)"),
        npz("(8,)", "|O"),
        pickle.dumps(1),
    ):
        path.write_bytes(content)
        with pytest.raises(ResultsError, match=r"x\.npz is damaged"):
            read_arrays(path)


def npz(shape: str, kind: str = "<f8") -> bytes:
    """An archive of one array whose header says anything."""
    content = io.BytesIO()
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr(
            "a.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + bytes(64)
        )
    return content.getvalue()


COPYING = {
    "clones": {
        "_target_": "torch.nn.TransformerEncoder",
        "encoder_layer": {"_target_": "torch.nn.Linear", "in_features": 1000, "out_features": 1000},
        "num_layers": 60,
    },
    "decoder": {
        "_target_": "torch.nn.TransformerDecoder",
        "decoder_layer": {
            "_target_": "torch.nn.Bilinear",
            "in1_features": 100,
            "in2_features": 100,
            "out_features": 100,
        },
        "num_layers": 60,
    },
    "buffers": {
        "_target_": "torch.nn.TransformerEncoder",
        "encoder_layer": {"_target_": "torch.nn.BatchNorm1d", "num_features": 300_000},
        "num_layers": 60,
    },
}


@pytest.mark.parametrize("activation", COPYING.values(), ids=list(COPYING))
def test_copies_of_layers_count_as_memory(activation, run):
    planted(run, lambda recipe: recipe["model"].update(activation=activation))
    with pytest.raises(ResultsError, match="far larger network"):
        lipbench.load(run)
