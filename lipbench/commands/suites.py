"""Names of experiments and suites."""

import difflib
import re
from collections.abc import Iterable, Sequence

from omegaconf import DictConfig, OmegaConf

from lipbench.configuration import CONF

# Options of a data set that say where files lie: no part of what it is, so of no identity.
PLACES = ("root", "path", "cache")


# Run where they are named, not with their data set: a vote costs a thousand passes, so that one of them takes longer
# than all the others together.
ALONE = ("smoothed_cnn",)


class CommandError(Exception):
    """A command line that cannot be obeyed, with what exists instead."""


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
                raise CommandError(_unknown("suite", suite, {name.split("/")[0] for name in experiments()}))
            jobs += found
        result.append(f"experiment={','.join(jobs)}")
        sweep = True
    return ["--multirun", *result] if sweep else result


def _answer(message: str, defaults: DictConfig) -> str:
    """Hydra's message, with the options that exist where it names a key that does not."""
    choice = re.search(r"Could not (?:find|load) '([a-z_]+)/([^']+)'", message)
    if choice is not None and (CONF / choice.group(1)).is_dir():
        return _unknown(choice.group(1), choice.group(2), [p.stem for p in (CONF / choice.group(1)).glob("*.yaml")])
    key = re.search(r"Could not override '([^']+)'", message)
    if key is None:
        return message
    parent, _, last = key.group(1).rpartition(".")
    node = OmegaConf.select(defaults, parent) if parent else defaults
    if not isinstance(node, DictConfig) and (group := parent.partition(".")[0]) not in defaults:
        return _unknown("option", group, [str(option) for option in defaults])
    options = [str(option) for option in node] if isinstance(node, DictConfig) else []
    return _unknown(f"option of {parent}" if parent else "option", last, options)


def _unknown(kind: str, name: str, known: Iterable[str]) -> str:
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    return f"Unknown {kind} '{name}'.{hint} There are: {', '.join(known)}."
