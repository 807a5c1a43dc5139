"""The manifest says which layout of files a run has."""

import json
from pathlib import Path
from typing import Any

import pytest

from lipbench.files import ResultsError
from lipbench.results import Damaged, read_manifest, verify, write_manifest
from lipbench.results.manifest import SCHEMA_VERSION, _sealed


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "config.yaml").write_text("a: 1\n")
    write_manifest(tmp_path, "some identity")
    return tmp_path


def write(folder: Path, **changes: Any) -> None:
    """The manifest with other entries, and the hash of these; None removes an entry."""
    path = folder / "manifest.json"
    content = {**json.loads(path.read_text()), **changes}
    del content["sha256"]
    content = {key: value for key, value in content.items() if value is not None}
    path.write_text(json.dumps({**content, "sha256": _sealed(content)}))


def test_a_manifest_names_its_schema(folder):
    assert read_manifest(folder)["schema_version"] == SCHEMA_VERSION


def test_a_manifest_of_before_the_schema_had_a_number_is_read(folder):
    write(folder, schema_version=None)
    assert "schema_version" not in json.loads((folder / "manifest.json").read_text())
    assert verify(folder)["identity"] == "some identity"


def test_a_newer_schema_is_refused_and_is_no_damage(folder):
    write(folder, schema_version=SCHEMA_VERSION + 1)
    with pytest.raises(ResultsError, match=r"written by a newer version.*Update lipbench") as refused:
        verify(folder)
    assert not isinstance(refused.value, Damaged)


def test_a_schema_that_is_no_number_is_damage(folder):
    write(folder, schema_version="1")
    with pytest.raises(Damaged, match="was changed after the run"):
        read_manifest(folder)
