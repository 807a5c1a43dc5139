"""Where data files live."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pooch

VARIABLE = "LIPBENCH_DATA"


def data_root(root: str | Path | None = None) -> Path:
    """The folder of all data files: `root`, else the environment's LIPBENCH_DATA, else the user's cache.

    An empty string counts as not given. The folder may not exist yet.
    """
    return Path(root or os.environ.get(VARIABLE) or pooch.os_cache("lipbench")).expanduser()


def fetch_command(name: str, root: str | Path | None = None) -> str:
    """The command that fetches the data set `name`; `root` if it was given, because `make` knows only the variable."""
    return f"{VARIABLE}={shlex.quote(str(root))} make data DATA={name}" if root else f"make data DATA={name}"


def how_to_fetch(name: str, root: str | Path | None, folder: str) -> str:
    """What to do where a data set is missing; `folder` is what holds it under the data root."""
    option = f" --root {shlex.quote(str(root))}" if root else ""
    return (
        f"To fetch it: {fetch_command(name, root)} (or: lipbench data {name}{option}). "
        f"If you have it already, set {VARIABLE} to the folder that holds {folder or 'it'}."
    )
