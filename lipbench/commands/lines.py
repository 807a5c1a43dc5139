"""What `lipbench run` and `lipbench evaluate` print of a run."""

import os
import textwrap
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lipbench.results import MANIFEST
from lipbench.results.flags import Flag

WIDTH = 100


@dataclass
class Pace:
    """How far a sweep is whose runs are made one after the other, and how long the rest takes.

    Attributes:
        folders: of all its runs; empty outside of such a sweep.
        started: when the sweep began, in seconds of the monotonic clock.
        place: of the run that is being made, from 1.
        computed: seconds of each run that was computed, not kept.
    """

    folders: Sequence[Path] = ()
    started: float = field(default_factory=time.monotonic)
    place: int = 0
    computed: list[float] = field(default_factory=list)

    def begin(self, folders: Sequence[Path]) -> None:
        """Starts the count of another sweep."""
        self.folders, self.started, self.place, self.computed = folders, time.monotonic(), 0, []

    @property
    def head(self) -> str:
        """ "[3/8] ", or "" outside of a sweep."""
        return f"[{self.place}/{len(self.folders)}] " if self.folders else ""

    def text(self, name: str) -> str:
        """What is said when a run begins, such as "[3/8] digits/hkr_mlp: 04:10 elapsed, about 12:30 left"."""
        left = sum(not (folder / MANIFEST).exists() for folder in self.folders[self.place - 1 :])
        said = f"{self.head}{name}: {clock(time.monotonic() - self.started)} elapsed"
        if self.computed:
            said += f", about {clock(left * sum(self.computed) / len(self.computed))} left"
        return said


def clock(seconds: float) -> str:
    """A duration as "01:05", or "2:01:05" from an hour on."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute:02d}:{second:02d}"


def stamp(folder: Path) -> int:
    """When the manifest of a run was written, in nanoseconds; 0 where there is none."""
    try:
        return os.stat(folder / MANIFEST).st_mtime_ns
    except OSError:
        return 0


def run_lines(name: str, folder: Path, summary: Mapping[str, Any], seconds: float | None) -> str:
    """The result of a run: its numbers, its folder, and the flags of one that was computed. Only a path can be longer
    than `WIDTH` letters.

    Args:
        name: "<dataset>/<experiment>".
        summary: as in `summary.json`.
        seconds: that it took; None: nothing was computed.
    """
    accuracy, certificate, distance = (summary[key] for key in ("accuracy", "median_certificate", "median_distance"))
    numbers = [f"test accuracy {100 * accuracy:.2f} %", f"certificate {certificate or 0:.3f}"]
    numbers.append("distance -" if distance is None else f"distance {distance:.3f}")
    numbers += [f"{summary['violations']} VIOLATIONS"] if summary["violations"] else []
    flags = [Flag(**flag) for flag in summary["flags"]]
    if seconds is None:
        numbers += [f"{len(flags)} flags" if len(flags) != 1 else "1 flag", "kept"]
    else:
        numbers.append(f"took {clock(seconds)}")
    lines = textwrap.wrap(f"{name}: {', '.join(numbers)}", WIDTH, subsequent_indent="  ", break_on_hyphens=False)
    lines.append(f"  {folder}")
    for flag in [] if seconds is None else flags:
        lines += textwrap.wrap(str(flag), WIDTH, initial_indent="  ", subsequent_indent="    ")
    return "\n".join(lines)
