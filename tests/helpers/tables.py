"""Tables of bounds on disk, changed by a test."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd

from lipbench.files import read_json, write_text
from lipbench.results import read_table, write_bounds


def rewrite(path: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    """Writes a table again as `change` makes it, with the same identity."""
    write_bounds(path.parent.parent, change(read_table(path)), read_json(path.with_suffix(".json")))


def in_the_old_layout(path: Path) -> Path:
    """Replaces a table by the CSV file that older versions wrote; its path."""
    old = path.with_suffix(".csv")
    write_text(old, read_table(path).to_csv(index=False, float_format="%.17g", lineterminator="\n"))
    path.unlink()
    return old
