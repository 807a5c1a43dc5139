"""`lipbench forget FOLDER`: removes a run."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from lipbench.commands.mistakes import CommandError
from lipbench.escapes import say
from lipbench.files import ResultsError, read_config, read_json
from lipbench.results import MANIFEST
from lipbench.runs.claim import empty
from lipbench.runs.errors import ERROR
from lipbench.runs.lock import leftovers, locked

# File -> the keys by which it is one of a run.
MARKS = {MANIFEST: {"identity", "files"}, "config.yaml": {"dataset", "model"}, ERROR: {"type", "message", "command"}}


def forget(folder: Path) -> None:
    """Removes the folder of a run, finished or not, and the folders above it that are empty then.

    Args:
        folder: `<root>/<dataset>/<experiment>/<variant>/<seed>`.

    Raises:
        CommandError: the folder is no run; nothing is removed.
        Running: a process is at work in it; nothing is removed.
    """
    if folder.is_symlink() or not folder.is_dir():
        raise CommandError(
            f"There is no folder {folder}. A run's is <results>/<dataset>/<experiment>/<variant>/<seed>."
        )
    if not any(_has(folder / name, keys) for name, keys in MARKS.items()):
        raise CommandError(f"{folder} is no run: it has no {' or '.join(MARKS)} of a run. Nothing was removed.")
    with locked(folder):
        empty(folder)
        for path in leftovers(folder):
            path.unlink(missing_ok=True)
    with suppress(OSError):  # a folder that holds other runs, or that another process has begun again, stays
        for empty_folder in (folder, *list(folder.absolute().parents)[:3]):
            empty_folder.rmdir()


def _has(path: Path, keys: set[str]) -> bool:
    if not path.is_file():
        return False
    try:
        held = read_config(path) if path.suffix == ".yaml" else read_json(path)
    except (ResultsError, OSError):
        return False
    return isinstance(held, dict) and keys <= held.keys()


def main(arguments: Sequence[str]) -> int:
    """The command `lipbench forget`."""
    if not arguments:
        raise CommandError("Which run? lipbench forget results/runs/digits08/hkr_cnn/default/0, for example.")
    for argument in arguments:
        folder = Path(argument.removeprefix("run=")).expanduser()
        forget(folder)
        say(f"Removed: {folder}")
    return 0
