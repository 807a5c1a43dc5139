"""Results files, each written whole or not at all, and hashes that say what a result depends on."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lipbench.files import atomic


class ResultsError(ValueError):
    """A results folder or table is missing, incomplete or malformed."""


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text)


def write_json(path: Path, value: Any) -> None:
    """Writes JSON atomically; infinite and NaN numbers become null."""
    write_text(path, json.dumps(_finite(value), indent=2, sort_keys=True) + "\n")


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        ResultsError: the file is no JSON.
    """
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ResultsError(f"{path} is not valid JSON ({error}). Delete it and run the experiment again.") from error


def fingerprint(value: Any) -> str:
    """Hash of a JSON-like value: 16 hexadecimal digits, independent of the order of keys."""
    return hashlib.sha256(json.dumps(_finite(value), sort_keys=True).encode()).hexdigest()[:16]


def file_hash(path: Path) -> str:
    """SHA-256 of a file's content, 16 hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    """Which keys of two nested dictionaries differ, as lines "a.b: 1 -> 2"."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return [
            line
            for key in sorted({*old, *new})
            for line in differences(old.get(key), new.get(key), f"{prefix}.{key}" if prefix else str(key))
        ]
    return [] if old == new else [f"{prefix}: {old} -> {new}"]


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value
