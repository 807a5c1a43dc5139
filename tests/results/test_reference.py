"""The committed results: their size, and the networks that can be loaded by name."""

import subprocess

import pytest

import lipbench
from lipbench.modules import weights_hash
from lipbench.results import read_manifest
from lipbench.results.layout import REFERENCE

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
