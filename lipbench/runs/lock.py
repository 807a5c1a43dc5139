"""One process at a time in a folder: a lock file that names its owner, for network file systems too.

A hard link makes it, which fails where there is one already: that holds on NFS, where locks of the kernel may not. Its
time of modification is the owner's sign of life.
"""

import errno
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

LOCK = "lock.json"
# Seconds between two signs of life; without one for STALE, an owner that cannot be asked is taken for dead. Clients of
# NFS may see a time of modification a minute late.
BEAT, STALE = 20.0, 300.0
# What a file system says that knows no hard links.
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)


@dataclass(frozen=True)
class Owner:
    """Who holds a lock.

    Attributes:
        token: of this one holding of it; no two are alike.
        machine: boot and process namespace, in which `pid` means something; "" where the system does not tell.
        started: when the process started, in the machine's own ticks.
        since: when the lock was taken, ISO 8601 in UTC.
        silent: seconds since the last sign of life.
        about: what the owner says of its work.
    """

    token: str = ""
    host: str = "unknown"
    pid: int = 0
    machine: str = ""
    started: str = ""
    since: str = ""
    silent: float = 0.0
    about: Mapping[str, Any] | None = None

    @property
    def gone(self) -> bool:
        """Whether the process has ended; one elsewhere, or that cannot be seen, has if it was silent for `STALE`
        seconds.

        Copies of a virtual machine share what `machine` says, so the host counts too.
        """
        if self.machine and (self.host, self.machine) == (socket.gethostname(), _machine()):
            started = _started(self.pid)
            if started is not None or not _exists(self.pid):
                return started != self.started
        return self.silent > STALE

    @property
    def age(self) -> str:
        """How long it has held the lock, such as "2 h 5 min"."""
        try:
            return duration((datetime.now(UTC) - datetime.fromisoformat(self.since)).total_seconds())
        except (ValueError, TypeError):  # no date, or one without a time zone
            return "unknown"

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, for {self.age}"


class Running(RuntimeError):
    """Another process is at work in a folder.

    Attributes:
        owner: which one.
    """

    def __init__(self, folder: Path, owner: Owner):
        super().__init__(f"{folder} is being made by {owner}. It is left to it.")
        self.owner = owner


@contextmanager
def locked(folder: Path, **about: Any) -> Iterator[None]:
    """Holds the lock of a folder, which is made. A lock whose owner is gone is taken over, by one process.

    A process that is suspended for more than `STALE` seconds and whose machine cannot be asked loses its lock and does
    not know: both then write the same files, whole ones.

    Args:
        about: kept in the lock, for readers.

    Raises:
        Running: another process holds it.
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, token = folder / LOCK, uuid.uuid4().hex[:12]
    _take(path, {**_me(), "token": token, "about": about})
    ended = threading.Event()
    heart = threading.Thread(target=_beat, args=(path, token, ended), daemon=True)
    heart.start()
    try:
        yield
    finally:
        ended.set()
        heart.join()
        with suppress(OSError):
            if _token(path) == token:
                path.unlink()


def held(folder: Path) -> bool:
    """Whether a process that is not gone holds the lock of a folder."""
    owner = owner_of(folder / LOCK)
    return owner is not None and not owner.gone


def owner_of(path: Path, now: float | None = None) -> Owner | None:
    """Who holds a lock, or held it until it was gone; None where there is none.

    Args:
        now: by the clock that gave the file its times; by default this machine's.
    """
    try:
        text, beat = path.read_text(encoding="utf-8", errors="replace"), path.stat().st_mtime
    except FileNotFoundError:
        return None
    # A sign of life in the future, by a clock that was ahead, is none.
    silent = abs((time.time() if now is None else now) - beat)
    try:
        owner = Owner(**{**json.loads(text), "silent": silent})
    except (ValueError, TypeError, RecursionError):
        return Owner(silent=silent)  # written just now, or by something else
    return owner if _is_sane(owner) else Owner(silent=silent)


def _is_sane(owner: Owner) -> bool:
    """Whether what a lock says can be used: its token in the name of a file, its number for a process."""
    texts = (owner.token, owner.host, owner.machine, owner.started, owner.since)
    return (
        all(isinstance(text, str) for text in texts)
        and (not owner.token or owner.token.isalnum())
        and type(owner.pid) is int
        and 0 <= owner.pid < 2**31
        and isinstance(owner.about, Mapping | None)
    )


def duration(seconds: float) -> str:
    """Such as "40 s", "5 min", "2 h 5 min", "3 d 4 h"."""
    minutes, hours, days = int(seconds // 60), int(seconds // 3600), int(seconds // 86400)
    if days:
        return f"{days} d {hours % 24} h"
    if hours:
        return f"{hours} h {minutes % 60} min"
    return f"{minutes} min" if minutes else f"{max(0, int(seconds))} s"


def leftovers(folder: Path) -> list[Path]:
    """Lock files that a killed process left half-way, old enough that no process is at them."""
    old = time.time() - STALE
    found = []
    for path in folder.glob(f".*{LOCK}.*"):
        with suppress(FileNotFoundError):  # another process may delete its own temporary file meanwhile
            if path.stat().st_mtime < old:
                found.append(path)
    return found


def _take(path: Path, mine: Mapping[str, Any]) -> None:
    """
    Raises:
        Running: its owner is not gone, or another process is taking it over.
    """
    temporary = path.with_name(f".{path.name}.{mine['token']}")
    try:
        while True:
            temporary.write_text(json.dumps(mine), encoding="utf-8")
            with suppress(FileExistsError):
                _link(temporary, path)
                return
            # Ages by the file system's clock, which may not be this machine's.
            owner = owner_of(path, temporary.stat().st_mtime)
            if owner is None:
                continue  # given back a moment ago
            if owner.token == mine["token"]:
                return  # the answer to the first attempt was lost on its way
            if not owner.gone:
                raise Running(path.parent, owner)
            # Of all who find the same owner gone one may replace it, and no later holder: tokens do not come back.
            guard = path.with_name(f".{path.name}.{owner.token}.over")
            _take(guard, mine)
            try:
                if _token(path) == owner.token:
                    os.replace(temporary, path)
                    return
            finally:
                guard.unlink(missing_ok=True)
    finally:
        temporary.unlink(missing_ok=True)


def _link(temporary: Path, path: Path) -> None:
    """
    Raises:
        FileExistsError: there is one already.
    """
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        with path.open("x", encoding="utf-8") as file:
            file.write(temporary.read_text(encoding="utf-8"))


def _beat(path: Path, token: str, ended: threading.Event) -> None:
    while not ended.wait(BEAT):
        with suppress(OSError):
            if _token(path) == token:
                os.utime(path)


def _token(path: Path) -> str | None:
    owner = owner_of(path)
    return None if owner is None else owner.token


def _me() -> dict[str, Any]:
    pid = os.getpid()
    since = datetime.now(UTC).isoformat(timespec="seconds")
    started = _started(pid)
    return {
        "host": socket.gethostname(),
        "pid": pid,
        "machine": _machine() if started else "",
        "started": started or "",
        "since": since,
    }


@cache
def _machine() -> str:
    """In a container of the same machine, the same number is another process."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(pid: int) -> str | None:
    """When a process of this machine started; None where there is none, or only its exit code is left."""
    try:
        state, *fields = _status(pid)
    except (OSError, ValueError):
        return None
    return None if state in "ZX" else fields[18]


def _status(pid: int) -> list[str]:
    """What /proc says of a process, from its state on: the name before it may be cut inside of a character."""
    return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].decode().split()


def _exists(pid: int) -> bool:
    """Whether there is such a process, also one of another user that /proc hides."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return not _is_over(pid)


def _is_over(pid: int) -> bool:
    try:
        return _status(pid)[0] in "ZX"
    except (OSError, IndexError):
        return False
