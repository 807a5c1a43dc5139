"""A function of the user is told of each run that was made: `on_run_end=my_file.py:log`."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lipbench.escapes import say
from lipbench.interop.code import function_of

Told = Callable[[Path, Mapping[str, Any]], None]


def run_end(source: str | None) -> Told:
    """What is called with the folder and the summary of a run whose results are written.

    The function of the user gets a dict: `summary.json`, and "folder". What it returns is not used. Where it fails,
    this is printed; the run is finished all the same.

    Args:
        source: "file.py:function" or "package.module:function"; None: nothing is called.

    Raises:
        ModelError: there is no such function; before any training.
    """
    if source is None:
        return lambda folder, summary: None
    function = function_of(source)

    def told(folder: Path, summary: Mapping[str, Any]) -> None:
        try:
            function({**summary, "folder": str(folder)})
        except Exception as error:  # of any code
            say(f"on_run_end: {error}\nThe results in {folder} are complete.", sys.stderr)

    return told
