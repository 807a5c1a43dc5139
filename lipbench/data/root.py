"""Where data files live."""

from __future__ import annotations

import os
from pathlib import Path

import pooch

VARIABLE = "LIPBENCH_DATA"


def data_root(root: str | Path | None = None) -> Path:
    """The folder of all data files: `root`, else the environment's LIPBENCH_DATA, else the user's cache.

    An empty string counts as not given. The folder may not exist yet.
    """
    return Path(root or os.environ.get(VARIABLE) or pooch.os_cache("lipbench")).expanduser()
