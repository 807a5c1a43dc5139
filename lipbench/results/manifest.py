"""The manifest of a run: which files its results are, with the size and the hash of each.

`manifest.json` is written last. A run without one is unfinished. A run whose files differ from it is damaged.
"""

import hashlib
import json
import os
import stat
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from lipbench.files import ResultsError, digest, read_json, write_json
from lipbench.results.layout import MANIFEST, SUFFIXES

# Layout of the files of a run. It grows when older versions of lipbench cannot read them. A manifest without it has 1.
SCHEMA_VERSION = 1
# Files of a run besides its tables. A run has those that its methods and its kind of network make.
FILES = (
    *("config.yaml", "data.json", "environment.json", "model.json", "model.safetensors", "network.json"),
    *("history.csv", "layers.csv", "costs.csv", "flags.json", "gallery.npz", "illustrations.npz"),
    *("violations.csv", "violations.npz", "summary.json"),
)


class Damaged(ResultsError):
    """Files of a finished run differ from its manifest.

    Attributes:
        files: name of a damaged file, relative to the folder -> what is wrong with it.
    """

    def __init__(self, folder: Path, files: dict[str, str], advice: str = "") -> None:
        listed = "; ".join(f"{name} {why}" for name, why in files.items())
        advice = advice or "Restore it from a copy, or run the experiment again: it makes again what it can."
        super().__init__(f"{folder} is damaged: {listed}. {advice}")
        self.files = files


def write_manifest(folder: Path, identity: str = "", run: Mapping[str, Any] | None = None) -> None:
    """Writes `manifest.json` for the files that the folder holds now.

    Args:
        identity: fingerprint of what the run depends on.
        run: the facts of the run (`lipbench.results.facts`).
    """
    files = {name: _entry(folder / name) for name in _present(folder)}
    content = {
        "schema_version": SCHEMA_VERSION,
        "identity": identity,
        "files": files,
        **({"run": dict(run)} if run else {}),
    }
    write_json(folder / MANIFEST, {**content, "sha256": _sealed(content)})


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """What `write_manifest` wrote: the keys "identity", "files" and, of newer runs, "schema_version" and "run".

    None where the run is unfinished.

    Raises:
        Damaged: the manifest was changed after it was written.
        ResultsError: a newer version of lipbench wrote it.
    """
    try:
        held = read_json(folder / MANIFEST)
        seal = held.pop("sha256")
    except FileNotFoundError:
        return None
    except (ResultsError, OSError, LookupError, AttributeError, TypeError):
        held = seal = None
    if held is None or seal != _sealed(held) or not _is_manifest(held):
        raise Damaged(folder, {MANIFEST: "was changed after the run"})
    manifest: dict[str, Any] = held
    version = manifest.get("schema_version", 1)
    if version > SCHEMA_VERSION:
        raise ResultsError(
            f"{folder} was written by a newer version of lipbench: its schema is {version}, this version reads up to "
            f"{SCHEMA_VERSION}. Update lipbench, or choose another folder with results=."
        )
    return manifest


def verify(folder: Path, names: Collection[str] | None = None, *, quick: bool = False) -> dict[str, Any] | None:
    """Compares the files of a run with its manifest.

    Args:
        names: of the files, relative to the folder; None: all of them.
        quick: a file of the recorded size that was written before the manifest is not read.

    Returns:
        the manifest; None where the run is unfinished.

    Raises:
        Damaged: a file is missing, or differs; there is one that the run did not make.
    """
    manifest = read_manifest(folder)
    if manifest is not None and (found := damage(folder, manifest, names, quick=quick)):
        raise Damaged(folder, found)
    return manifest


def verify_tables(folder: Path) -> dict[str, Any] | None:
    """As `verify`, of the tables of bounds alone."""
    manifest = read_manifest(folder)
    names = [name for name in manifest["files"] if name.startswith("bounds/")] if manifest else []
    return verify(folder, [*names, *_tables(folder)])


def damage(
    folder: Path, manifest: dict[str, Any], names: Collection[str] | None = None, *, quick: bool = False
) -> dict[str, str]:
    """Name of each damaged file of a run -> what is wrong with it. The arguments are those of `verify`."""
    held: dict[str, Any] = manifest["files"]
    since = _written(os.stat(folder / MANIFEST)) if quick else 0
    found = {}
    for name in held if names is None else names:
        if why := _wrong(folder / name, held.get(name), since):
            found[name] = why
    added = {name for name in _present(folder) if names is None or name in names}
    return found | dict.fromkeys(sorted(added - held.keys()), "is no file of this run")


def touched(folder: Path) -> bool:
    """Whether a file of a finished run was written, copied or moved since its manifest was written."""
    manifest = read_manifest(folder)
    if manifest is None:
        return True
    since = _written(os.stat(folder / MANIFEST))
    return any(_written(os.stat(folder / name)) >= since for name in manifest["files"])


def _wrong(path: Path, entry: dict[str, Any] | None, since: int) -> str:
    """What is wrong with a file; "" where nothing is.

    Args:
        since: a file of the right size that was written before this time, in nanoseconds, is not read.
    """
    try:
        found = os.stat(path)
    except OSError:
        return "" if entry is None else "is missing"
    if entry is None:
        return "is no file of this run"
    if not stat.S_ISREG(found.st_mode):
        return "is no file"
    if found.st_size != entry["bytes"]:
        return f"has {found.st_size:,} bytes, expected {entry['bytes']:,}"
    if _written(found) < since or digest(path) == entry["sha256"]:
        return ""
    return "has another content than the run wrote"


def _written(found: os.stat_result) -> int:
    """When a file was last written, copied or moved, in nanoseconds: a copy may keep the time of its content alone."""
    return max(found.st_mtime_ns, found.st_ctime_ns)


def _is_manifest(held: Mapping[str, Any]) -> bool:
    """Whether a manifest says what one says: any program can seal another content."""
    files = held.get("files")
    return (
        isinstance(held.get("identity"), str)
        and isinstance(held.get("schema_version", 1), int)
        and isinstance(files, dict)
        and all(map(_is_inside, files))
        and all(isinstance(entry, dict) and {"bytes", "sha256"} <= entry.keys() for entry in files.values())
    )


def _is_inside(name: Any) -> bool:
    """Whether a name is that of a file in the folder of a run or in its `bounds/`: a manifest may be foreign."""
    parts = name.removeprefix("bounds/").split("/") if isinstance(name, str) else []
    return len(parts) == 1 and parts[0] not in ("", ".", "..") and "\\" not in parts[0]


def _entry(path: Path) -> dict[str, Any]:
    entry: dict[str, Any] = {"bytes": path.stat().st_size, "sha256": digest(path)}
    if path.suffix == ".csv":
        entry["rows"] = max(0, path.read_bytes().count(b"\n") - 1)
    elif path.suffix == ".parquet":
        with suppress(ValueError, KeyError, TypeError):  # a damaged table is refused when it is read
            entry["rows"] = int(pq.read_metadata(path).metadata[b"rows"])
    return entry


def _present(folder: Path) -> list[str]:
    """The files of a run that there are: `FILES`, the tables of bounds and those of measures, each of which has a JSON
    file of the same name.
    """
    measures = [path.stem for path in folder.glob("*.json") if path.with_suffix(".csv").is_file()]
    names = {*FILES, *_tables(folder), *(f"{name}{kind}" for name in measures for kind in (".csv", ".json"))}
    return sorted(name for name in names if (folder / name).is_file())


def _tables(folder: Path) -> list[str]:
    paths = [path for suffix in (*SUFFIXES, ".json") for path in folder.glob(f"bounds/[!.]*{suffix}")]
    return [path.relative_to(folder).as_posix() for path in paths]


def _sealed(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
