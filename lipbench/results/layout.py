"""Where runs lie in a results folder: `<root>/<dataset>/<experiment>/<variant>/<seed>/`."""

import os
from pathlib import Path
from typing import Any

from lipbench.escapes import printable

RUN_COLUMNS = ["dataset", "experiment", "variant", "seed"]


def run_folders(root: Path) -> list[Path]:
    """Every run under `root`, or `root` itself if it is one: the folders that hold tables."""
    found = []
    for folder, inside, _ in os.walk(root):
        if "bounds" in inside and any(Path(folder, "bounds").glob("*.csv")):
            found.append(Path(folder))
            inside.clear()  # no run lies in another
    return sorted(found)


def run_key(folder: Path) -> dict[str, Any]:
    """dataset, experiment, variant and seed of a run, from its path. Text is printable: not every table holds what a
    file system allows in a name.
    """
    parts = tuple(printable(part) for part in folder.resolve().parts[-4:])
    seed: Any = int(parts[-1]) if parts[-1].isdecimal() else parts[-1]
    return dict(zip(RUN_COLUMNS, (*parts[:-1], seed), strict=True))


def run_folder_of(root: Path, experiment: str, variant: str, seed: int) -> Path:
    """`<root>/<dataset>/<experiment>/<variant>/<seed>` of an experiment named "<dataset>/<experiment>"."""
    return root / experiment / variant / str(seed)
