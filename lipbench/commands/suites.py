"""Names of experiments and suites."""

from collections.abc import Sequence

from lipbench.commands.mistakes import CommandError
from lipbench.configuration import CONF, unknown

# Options of a data set that say where files lie: no part of what it is, so of no identity.
PLACES = ("root", "path", "cache")

# Run where they are named, not with their data set: a vote costs a thousand passes, so that one of them takes longer
# than all the others together.
ALONE = ("smoothed_cnn",)


def experiments(suite: str | None = None) -> list[str]:
    """Names "<dataset>/<experiment>" of all experiments, of one data set but for `ALONE`, or the one experiment of that
    name.

    A folder whose name begins with "_" holds bases that experiments include, no experiments.
    """
    root = CONF / "experiment"
    names = (path.relative_to(root).with_suffix("").as_posix() for path in root.glob("[!_]*/*.yaml"))
    mine = (name for name in names if suite in (None, name, name.split("/")[0]))
    return sorted(name for name in mine if suite in (None, name) or name.split("/")[1] not in ALONE)


def expand_suites(arguments: Sequence[str]) -> list[str]:
    """Replaces `suite=a,b` by the list of experiments of both and asks for a sweep. A suite is a data set, or one
    experiment whose own `hydra.sweeper.params` are then swept.

    Hydra's glob does not see nested groups and would run nothing, silently.

    Raises:
        CommandError: an unknown suite.
    """
    result: list[str] = []
    sweep = False
    for argument in arguments:
        if not argument.startswith("suite="):
            result.append(argument)
            continue
        jobs: list[str] = []
        for suite in argument.removeprefix("suite=").split(","):
            found = experiments(suite)
            if not found:
                raise CommandError(unknown("suite", suite, {name.split("/")[0] for name in experiments()}))
            jobs += found
        result.append(f"experiment={','.join(jobs)}")
        sweep = True
    return ["--multirun", *result] if sweep else result
