"""How far the runs of a results folder are, from their files alone."""

import pickle
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import torch
import yaml

from lipbench.files import ResultsError
from lipbench.results import MANIFEST, LawViolation, check_laws, read_summary, table_paths
from lipbench.runs.errors import ERROR, read_error
from lipbench.runs.lock import LOCK, Owner, owner_of

KINDS = ("finished", "running", "violated", "damaged", "failed", "stopped", "missing")
FINISHED, RUNNING, VIOLATED, DAMAGED, FAILED, STOPPED, MISSING = KINDS


@dataclass(frozen=True)
class State:
    """How far a run is.

    Attributes:
        kind: finished; running, in some process; violated, finished but a law does not hold; damaged, finished but a
            file was changed since; failed, and `error.json` says why; stopped, by a kill or an interruption, so that
            the same command goes on; missing.
        detail: of a run that is not finished.
    """

    kind: str
    detail: str = ""


def state_of(folder: Path) -> State:
    """The state of one run. Nothing is written."""
    owner = owner_of(folder / LOCK)
    if owner is not None and not owner.gone:
        return State(RUNNING, f"{owner}; {_progress(folder, owner)}")
    ended = _ended(folder)
    if ended is not None:
        return ended
    error = read_error(folder)
    if error is not None:
        where = f" ({error['time']} on {error['host']})" if "time" in error and "host" in error else ""
        kind = VIOLATED if error["type"] == LawViolation.__name__ else FAILED
        return State(kind, f"{error['type']}: {_first_line(error['message'])}{where}")
    if not any((folder / name).exists() for name in ("config.yaml", "bounds", LOCK)):
        return State(MISSING)
    return State(STOPPED, _progress(folder, owner) + (f"; {owner}, has ended" if owner else ""))


def _ended(folder: Path) -> State | None:
    """The state of a run that has a manifest."""
    try:
        summary = read_summary(folder)
        if summary is None:
            return None
        check_laws(folder, summary, quick=True)
    except LawViolation as violation:
        return State(VIOLATED, _first_line(str(violation)))
    except (ResultsError, OSError, ValueError, TypeError, LookupError) as broken:
        return State(DAMAGED, str(broken))
    return State(FINISHED)


def begun(root: Path) -> list[Path]:
    """The folders of all runs under a results folder that were started."""
    names = ("config.yaml", MANIFEST, LOCK, ERROR)
    return sorted({path.parent for name in names for path in root.glob(f"*/*/*/*/{name}")})


def _progress(folder: Path, owner: Owner | None) -> str:
    """What is done, of what the owner of the lock is about to do."""
    done = [path.stem for path in table_paths(folder)]
    if not done and not (folder / "model.safetensors").exists():
        return _epochs(folder)
    about = (owner.about if owner else None) or {}
    methods, measures = (about.get(key) for key in ("methods", "measures"))
    measures = measures if isinstance(measures, list) else []
    asked = [*(methods if isinstance(methods, list) else []), *measures]
    done += [name for name in measures if (folder / f"{name}.csv").exists()]
    left = [name for name in asked if name not in done]
    if not asked:
        return f"{len(done)} tables"
    return f"{len(asked) - len(left)} of {len(asked)} tables" + (f", now {left[0]}" if left else ", now the summary")


def _epochs(folder: Path) -> str:
    """How far the training is, by its checkpoint."""
    try:
        config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        epochs = config["training"]["epochs"]
    except (OSError, yaml.YAMLError, LookupError, TypeError):
        return "at its start"
    try:
        held = torch.load(folder / "checkpoint.pt", map_location="cpu", weights_only=True, mmap=True)
        return f"{len(held['history'])} of {epochs} epochs"
    except (OSError, RuntimeError, ValueError, LookupError, TypeError, pickle.UnpicklingError, BadZipFile):
        return f"0 of {epochs} epochs"


def _first_line(text: str) -> str:
    return (str(text).strip().splitlines() or [""])[0]
