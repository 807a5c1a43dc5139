"""A data set whose loading ends as a file says. For tests of what a launcher does then."""

import os
import signal
from pathlib import Path

from lipbench.data import Dataset, two_moons


def moons(noise: float, path: str) -> Dataset:
    """Two moons. Where there is a file at `path` that says "dies", it is removed and the process killed; "hangs": it is
    removed and nothing happens for an hour; "fails": an error.
    """
    fate = Path(path)
    what = fate.read_text() if fate.exists() else "lives"
    if what in ("dies", "hangs"):
        fate.unlink()
    if what == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "hangs":
        signal.pause()
    if what == "fails":
        raise ValueError("fated to fail")
    return two_moons(noise)
