"""Files that are written whole or not at all."""

import hashlib
import json
import math
import os
import uuid
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from omegaconf import OmegaConf


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yields a temporary path next to `path`, renamed to it if the block succeeds and deleted if not.

    What the block wrote is on the disk before the name is, and the name before anything that comes later: neither a
    kill nor a power cut leaves a part of it, or what was built on it without it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Process ids repeat across machines, so the name is random.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    """Writes the names in a folder to the disk, where the system can: not on Windows, nor on every network drive."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def unfinished(folder: Path) -> list[Path]:
    """The temporary files of `atomic` in a folder and the folders in it."""
    return [*folder.glob(".*.tmp"), *folder.glob("*/.*.tmp")]


# Bytes of a file of JSON, of YAML (read a hundred times slower), and of the unpacked arrays of a file: far more
# than a run writes, and what a reader can hold.
TEXT, CONFIG, ARRAYS = 2**24, 2**18, 2**28


# Of containers inside of each other.
DEPTH = 50


NO_FILE = (FileNotFoundError, PermissionError, IsADirectoryError)


class ResultsError(ValueError):
    """A results folder or table is missing, incomplete or malformed."""


def write_text(path: Path, text: str) -> None:
    """Writes a text file atomically, the same bytes on every system. What UTF-8 cannot write becomes an escape."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")


def write_json(path: Path, value: Any) -> None:
    """Writes JSON atomically; infinite and NaN numbers become null."""
    write_text(path, as_json(value))


def as_json(value: Any) -> str:
    """The text that `write_json` writes."""
    return json.dumps(_finite(value), indent=2, sort_keys=True) + "\n"


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Raises:
        ResultsError: the file is no JSON, or larger than 16 MiB.
    """
    try:
        return json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise ResultsError(f"{path} is not valid JSON ({error}). Delete it and run the experiment again.") from error


def read_config(path: Path) -> dict[str, Any]:
    """Reads a YAML file as plain containers; interpolations stay text.

    Raises:
        ResultsError: it holds no mapping, is no YAML or larger than 256 KiB, or uses aliases, of which a few lines can
            make gigabytes.
    """
    try:
        text = _text(path, CONFIG)
        _check_events(text)
        found: Any = OmegaConf.to_container(OmegaConf.create(text))
        if not isinstance(found, dict) or not found:
            raise ValueError("it holds no mapping")
    except NO_FILE:
        raise
    except Exception as error:  # of PyYAML and OmegaConf, whose parsers fail in many ways
        reason = " ".join(str(error).split())[:200]
        raise ResultsError(f"{path} is not valid YAML ({reason}). Run it again with force=true.") from error
    return found


def _check_events(text: str) -> None:
    """Looks at YAML as it is read, before anything is made of it."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError("it uses aliases (*name)")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEPTH:
            raise ValueError(f"it is nested more than {DEPTH} deep")


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Reads an npz file of numbers and strings. Nothing in it is unpickled.

    Raises:
        ResultsError: it is damaged, holds objects, or unpacks to more than 256 MiB.
    """
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            if (size := sum(member.file_size for member in archive.infolist())) > ARRAYS:
                raise ValueError(f"it unpacks to {size:,} bytes")
            for member in archive.infolist():
                _check_array(archive, member)
            file.seek(0)
            with np.load(file) as arrays:
                return dict(arrays)
    except NO_FILE:
        raise
    except Exception as error:  # of zipfile, zlib and numpy, in many ways
        raise ResultsError(f"{path} is damaged ({error}). Delete it and run the experiment again.") from error


def _check_array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    """Whether a member is as long as the array that its header promises: numpy makes room for that before it reads."""
    with archive.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stream)
        if min(shape, default=0) < 0 or stream.tell() + math.prod(shape) * dtype.itemsize != member.file_size:
            raise ValueError(f"{member.filename} is not as long as its shape {shape} of {dtype}")


def _text(path: Path, limit: int = TEXT) -> str:
    with path.open("rb") as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ValueError(f"it is larger than {limit:,} bytes")
    return content.decode()


def fingerprint(value: Any) -> str:
    """Hash of a JSON-like value: 16 hexadecimal digits, independent of the order of keys."""
    return hashlib.sha256(json.dumps(_finite(value), sort_keys=True).encode()).hexdigest()[:16]


def file_hash(path: Path) -> str:
    """SHA-256 of a file's content, 16 hexadecimal digits."""
    return digest(path)[:16]


def digest(path: Path) -> str:
    """SHA-256 of a file's content, 64 hexadecimal digits. A large file is never in memory as a whole."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
