"""What is said of work that takes long: a bar on a terminal or in a notebook, elsewhere lines with an estimate."""

import inspect
import math
import sys
import time
import warnings
from collections.abc import Callable
from functools import partial
from threading import Timer
from typing import Any

with warnings.catch_warnings():
    # Without ipywidgets a notebook shows the bar as text, which needs no warning.
    warnings.simplefilter("ignore")
    from tqdm.auto import tqdm

# Seconds of work above which its cost is said.
PATIENCE = 10.0


class Progress:
    """The progress of one piece of work, as a context.

    On a terminal and in a notebook it is a bar. In a file or a pipe it is a line after `PATIENCE` seconds without a
    step, and a line with an estimate after the first step that shows that the work takes longer than that.

    Args:
        name: of the work.
        total: its number of units.
        show: False: nothing is said.
        done: units that were done before.
        most: seconds at which the work ends in any case.
    """

    def __init__(
        self, name: str, total: int, unit: str = "image", *, show: bool = True, done: int = 0, most: float = math.inf
    ):
        self._name, self._total, self._unit, self._most = name, total, unit, most
        self._before, self._done, self._started = done, done, time.perf_counter()
        hidden = True if not show else False if _in_notebook() else None  # None: outside of a terminal
        self._bar = tqdm(total=total, initial=done, desc=name, unit=unit, disable=hidden, leave=False)
        self._in_lines = show and bool(self._bar.disable)
        self._timer = Timer(PATIENCE, self._say, [f"after {PATIENCE:.0f} s"])
        self._timer.daemon = True

    def __enter__(self) -> "Progress":
        if self._in_lines:
            self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        self._bar.close()

    def update(self, count: int = 1, **numbers: float) -> None:
        """So many units more are done.

        Args:
            numbers: shown at the end of the bar.
        """
        self._done += count
        self._bar.set_postfix({name: f"{value:.4g}" for name, value in numbers.items()}, refresh=False)
        self._bar.update(count)
        seconds = time.perf_counter() - self._started
        whole = min(self._most, seconds / max(1, self._done - self._before) * (self._total - self._before))
        if self._in_lines and whole > PATIENCE and self._done < self._total:
            self._timer.cancel()
            self._say(f"done, {in_words(max(0.0, whole - seconds))} left")
            self._in_lines = False

    def _say(self, what: str) -> None:
        line = f"{self._name}: {self._done} of {self._total} {self._unit}{'s' * (self._total != 1)} {what}."
        print(line, file=sys.stderr, flush=True)


def _in_notebook() -> bool:
    """Whether the output goes to the page of a notebook, as `tqdm.auto` decides it."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None and "IPKernelApp" in shell.config


# What a method calls with its number of units (and their name), where no progress is shown.
SILENT: Callable[..., Progress] = partial(Progress, "", show=False)


def reporting(method: Callable[..., Any], name: str, show: bool) -> dict[str, Any]:
    """The option `progress` for a method that has it: a `Progress` but for its total. Others get nothing."""
    known = inspect.signature(method).parameters
    return {"progress": partial(Progress, name, show=show)} if "progress" in known else {}


def in_words(seconds: float) -> str:
    """A duration: "about 40 s", "about 12 min", "about 3.5 h"."""
    if seconds < 100:
        return f"about {seconds:.0f} s"
    return f"about {seconds / 60:.0f} min" if seconds < 6000 else f"about {seconds / 3600:.1f} h"
