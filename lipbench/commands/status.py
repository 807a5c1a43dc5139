"""`lipbench status results=results/runs suite=mnist08 seed=0,1,2`: how many runs of a sweep are
finished, and which are running, violated, damaged, failed, stopped or missing. The options are those of the sweep. With
`results=` alone, the command looks at all runs that were begun.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from lipbench.commands.mistakes import CommandError
from lipbench.commands.options import PATHS, check_overrides, quoted
from lipbench.commands.suites import expand_suites
from lipbench.commands.sweeps import planned
from lipbench.escapes import say
from lipbench.results.words import counted
from lipbench.runs.state import DAMAGED, FINISHED, KINDS, VIOLATED, State, begun, state_of

RESULTS = "results/runs"


def states(arguments: Sequence[str]) -> dict[Path, State]:
    """Folder -> state, of the runs that a command line of `lipbench run` asks for; of those that were started
    where it names a results folder alone.

    Raises:
        CommandError: an option that there is not; a results folder that there is not.
    """
    folders: Sequence[Path]
    if all(argument.startswith("results=") for argument in arguments):
        given = arguments[-1].removeprefix("results=") if arguments else RESULTS
        root = Path(given).expanduser()
        if not given.strip() or not root.is_dir():  # an empty path would be the working directory
            raise CommandError(f"There is no results folder {root}. Give results=, as the sweep got it.")
        folders = begun(root)
    else:
        expanded = [quoted(argument, PATHS, sweeps=True) for argument in expand_suites(arguments)]
        check_overrides(expanded, "config")
        folders = [run.folder for run in planned(expanded)]
    return {folder: state_of(folder) for folder in folders}


def text(found: Mapping[Path, State]) -> str:
    """For a terminal: how many of each kind, and a line for each that is not finished."""
    count = Counter(state.kind for state in found.values())
    counts = ", ".join(f"{count[kind]} {kind}" for kind in KINDS if count[kind] or kind == FINISHED)
    lines = [f"{counted(len(found), 'run')}: {counts}."]
    for kind in KINDS[1:]:
        for folder, state in found.items():
            if state.kind == kind:
                lines.append(f"{kind:8s} {folder}" + (f": {state.detail}" if state.detail else ""))
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """The command `lipbench status`. Its exit code is 1 where a law is violated or a file is damaged."""
    found = states(arguments)
    say(text(found))
    return int(bool({state.kind for state in found.values()} & {VIOLATED, DAMAGED}))
