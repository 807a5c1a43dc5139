"""Files that are written whole or not at all."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`, renamed to it if the block succeeds and deleted if not.

    What the block wrote is on the disk before the name is, and the name before anything that comes later: neither a
    kill nor a power cut leaves a part of it, or what was built on it without it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The number of a process is another one's on the next machine.
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
