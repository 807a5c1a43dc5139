"""`error.json` in the folder of a run that failed: what was wrong, and what to do again."""

import os
import socket
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lipbench.files import ResultsError, read_json, write_json

ERROR = "error.json"


def write_error(folder: Path, error: BaseException, command: str) -> None:
    """
    Args:
        command: what repeats the run.

    Raises:
        OSError: the folder cannot be written.
    """
    entries = {
        "type": type(error).__name__,
        "message": str(error),
        "traceback": "".join(traceback.format_exception(error)),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "command": command,
    }
    write_json(folder / ERROR, entries)


def read_error(folder: Path) -> dict[str, Any] | None:
    """What `write_error` wrote; None where nothing failed."""
    path = folder / ERROR
    if not path.exists():
        return None
    try:
        error: dict[str, Any] = read_json(path)
        return {**error, "type": str(error["type"]), "message": str(error["message"])}
    except (ResultsError, OSError, LookupError, TypeError):
        return {"type": "unknown", "message": f"{path} is damaged."}


def clear_error(folder: Path) -> None:
    """Removes `error.json`: what it said is over."""
    (folder / ERROR).unlink(missing_ok=True)
