"""Where runs lie in a results folder: `<root>/<dataset>/<experiment>/<variant>/<seed>/`."""

import difflib
import os
from pathlib import Path
from typing import Any

from lipbench.escapes import printable
from lipbench.files import ResultsError, read_json

RUN_COLUMNS = ["dataset", "experiment", "variant", "seed"]
# The committed results: a checkout has them, an installed package does not.
REFERENCE = Path(__file__).parents[2] / "results" / "reference"
# Names the files of a finished run (see `lipbench.results.manifest`).
MANIFEST = "manifest.json"
# Of tables of bounds. The second is that of older versions, which is read but not written.
SUFFIXES = (".parquet", ".csv")
WHERE = "The folder of a run is <results>/<dataset>/<experiment>/<variant>/<seed>."
# Runs that an error lists.
LISTED = 10


def run_folders(root: Path) -> list[Path]:
    """Every run under `root`, or `root` itself if it is one: the folders that hold tables, or a manifest that names
    some.
    """
    found = []
    for folder, inside, _ in os.walk(root):
        if _is_run(Path(folder)):
            found.append(Path(folder))
            inside.clear()  # no run lies in another
    return sorted(found)


def _is_run(folder: Path) -> bool:
    return (folder / MANIFEST).is_file() or bool(table_paths(folder))


def run_key(folder: Path) -> dict[str, Any]:
    """dataset, experiment, variant and seed of a run, from its path. Text is printable: not every table holds what a
    file system allows in a name.
    """
    parts = tuple(printable(part) for part in folder.resolve().parts[-4:])
    seed: Any = int(parts[-1]) if parts[-1].isdecimal() else parts[-1]
    return dict(zip(RUN_COLUMNS, (*parts[:-1], seed), strict=True))


def check_seed(folder: Path, summary: Any = None) -> None:
    """Whether a finished run lies in the folder of its own seed.

    Args:
        summary: as in `summary.json`; None: it is read.

    Raises:
        ResultsError: it is a copy of the run of another seed.
    """
    path = folder / "summary.json"
    if summary is None and path.is_file():
        summary = read_json(path)
    made, lies = summary.get("seed") if isinstance(summary, dict) else None, run_key(folder)["seed"]
    if type(made) is int and type(lies) is int and made != lies:
        raise ResultsError(f"{folder} holds a copy of the run of seed {made}. Remove it: a copy is no run of its own.")


def run_folder_of(root: Path, experiment: str, variant: str, seed: int) -> Path:
    """`<root>/<dataset>/<experiment>/<variant>/<seed>` of an experiment named "<dataset>/<experiment>"."""
    return root / experiment / variant / str(seed)


def table_path(folder: Path, method: str) -> Path:
    """The table of one method of a run: where it is, or where it will be."""
    path = folder / "bounds" / f"{method}.parquet"
    old = path.with_suffix(".csv")
    return old if old.exists() and not path.exists() else path


def table_paths(folder: Path) -> list[Path]:
    """The tables of bounds of a run, in the order of their methods' names."""
    found = {path.stem for suffix in SUFFIXES for path in folder.glob(f"bounds/[!.]*{suffix}")}
    return [table_path(folder, method) for method in sorted(found)]


def named_run(name: str | Path) -> Path:
    """The folder of a run: the given one; of a folder with several, its variant "default" and seed 0; or the only one
    in it.

    Args:
        name: a folder, such as `results/runs/mnist08/hkr_mlp`, or a part of the committed results, such as
            "mnist08/hkr_mlp". A folder comes first. The committed results are for reading: a command that writes into
            a run checks that the name is a folder.

    Raises:
        ResultsError: there is no such folder, no run in it, or several.
    """
    root = next((root for root in (Path(name), REFERENCE / name) if root.is_dir()), None)
    if root is None:
        known = [f"{path.parent.name}/{path.name}" for path in REFERENCE.glob("*/*") if path.is_dir()]
        close = difflib.get_close_matches(str(name), known, n=1)
        hint = f" Did you mean {close[0]}, of the committed results?" if close else ""
        raise ResultsError(f"There is no folder {name}. {WHERE}{hint}")
    places = [root / inside for inside in ("", "0", "default/0")]
    found = next((place for place in places if _is_run(place) or (place / "model.json").is_file()), None)
    if found is not None:
        return found
    runs = run_folders(root)
    if not runs:
        raise ResultsError(f"{root} holds no run. {WHERE}")
    if len(runs) > 1:
        listed = "".join(f"\n  {folder}" for folder in runs[:LISTED]) + ("\n  ..." if len(runs) > LISTED else "")
        raise ResultsError(f"{root} holds {len(runs)} runs. Name one of them:{listed}")
    return runs[0]
