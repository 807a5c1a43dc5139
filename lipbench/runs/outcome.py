"""One run of a command up to its outcome: it says what went wrong, in its folder too, and stops no other."""

import errno
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lipbench.escapes import say
from lipbench.results import MANIFEST, LawViolation
from lipbench.results.words import counted
from lipbench.runs.claim import OtherNetwork
from lipbench.runs.codes import ELSEWHERE, FAILED, FINISHED, INTERRUPTED
from lipbench.runs.errors import ERROR, write_error
from lipbench.runs.lock import Running, held
from lipbench.training import CheckpointError, TrainingDiverged, processes

# Errors of ours and of the system, written for people.
SAID = (ValueError, OSError, ImportError, LawViolation, CheckpointError, TrainingDiverged)
_NOT_WRITTEN = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class Outcome:
    """How a run ended, in a form that comes back from any worker.

    Attributes:
        name: "<dataset>/<experiment>".
        folder: where it lies.
        code: FINISHED, FAILED, ELSEWHERE (another process makes it) or INTERRUPTED.
        why: of one that is not finished.
    """

    name: str
    folder: str
    code: int = FINISHED
    why: str = ""


def attempt(
    name: str,
    folder: Path,
    command: str,
    work: Callable[[], None],
    said: tuple[type[Exception], ...] = SAID,
    prepare: Callable[[], None] = lambda: None,
) -> Outcome:
    """Does the work of one run. An error is printed on stderr and written to `error.json`.

    `error.json` is written only where the run has begun and is not finished: a refused command makes no folder and
    changes no results.

    Args:
        command: what repeats the run.
        said: errors whose message says all that there is to say: of others the traceback is shown as well.
        prepare: what comes before the work and touches nothing: it looks at the options and reads the data.
    """
    begun = False
    try:
        prepare()
        begun = True
        work()
    except Running as error:
        say(f"{name}: {error}", sys.stderr)
        return Outcome(name, str(folder), ELSEWHERE, str(error))
    except Exception as error:
        why = explained(error, folder, said, begun)
        say(f"\n{name}: {why}\n", sys.stderr)
        if not isinstance(error, said):
            traceback.print_exception(error)
        unfinished = folder.exists() and not (folder / MANIFEST).exists()
        refused = not begun or isinstance(error, OtherNetwork)
        if processes.rank() == 0 and unfinished and not refused and not held(folder):
            try:
                write_error(folder, error, command)
            except OSError as second:
                say(f"{folder / ERROR} could not be written: {second}", sys.stderr)
        return Outcome(name, str(folder), FAILED, why)
    return Outcome(name, str(folder))


def explained(error: Exception, folder: Path, said: tuple[type[Exception], ...] = SAID, begun: bool = True) -> str:
    """The message of an error, and what to do where results cannot be written.

    Args:
        begun: False: the data were read at most, and nothing was written.
    """
    why = str(error) if isinstance(error, said) else f"{type(error).__name__}: {error}"
    # An OSError about the folder or one above it: it cannot be made, as in /proc.
    # A folder that was opened as a file is the mistake of who reads it.
    if not begun or not isinstance(error, OSError) or isinstance(error, IsADirectoryError):
        return why
    if error.errno in _NOT_WRITTEN or Path(str(error.filename)) in (folder, *folder.parents):
        why += (
            f"\n{folder} cannot be written: free space, get the right to write, or give another results=. What is "
            "finished stays; the same command goes on from there."
        )
    return why


def exit_code(outcomes: Sequence[Outcome]) -> int:
    """That of a command, from those of its runs."""
    codes = {outcome.code for outcome in outcomes}
    return next((code for code in (FAILED, ELSEWHERE) if code in codes), FINISHED)


def summary_lines(outcomes: Sequence[Outcome]) -> str:
    """How many runs ended how, and of every failed one why."""
    count = Counter(outcome.code for outcome in outcomes)
    kinds = [(FINISHED, "finished"), (ELSEWHERE, "left to other processes"), (FAILED, "failed")]
    kinds += [(INTERRUPTED, "stopped")]
    counts = ", ".join(f"{count[code]} {kind}" for code, kind in kinds if count[code] or code == FINISHED)
    lines = [f"{counted(len(outcomes), 'run')}: {counts}."]
    for code, kind in kinds[1:]:
        mine = [outcome for outcome in outcomes if outcome.code == code]
        lines += [f"  {kind}: {outcome.folder}: {_first_line(outcome.why)}" for outcome in mine]
    return "\n".join(lines)


def _first_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[0]
