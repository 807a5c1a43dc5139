"""What the commands share: where `conf/` is, suites, and answers to a wrong option."""

import difflib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException, HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

# In an installed package the configuration lies inside it, in a checkout beside it.
_INSIDE = Path(__file__).resolve().parent / "conf"
CONF = _INSIDE if _INSIDE.is_dir() else _INSIDE.parent.parent / "conf"


class CommandError(Exception):
    """A command line that cannot be obeyed, with what exists instead."""


def experiments(suite: str | None = None) -> list[str]:
    """Names "<dataset>/<experiment>" of all experiments, of one data set, or the one experiment of that name."""
    root = CONF / "experiment"
    names = (path.relative_to(root).with_suffix("").as_posix() for path in root.glob("*/*.yaml"))
    return sorted(name for name in names if suite in (None, name, name.split("/")[0]))


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


def check_overrides(arguments: Sequence[str], config: str) -> None:
    """Composes the configuration once with the first value of every override, so that a wrong word is answered with
    what exists.

    Raises:
        CommandError: an unknown experiment, option or choice.
    """
    overrides = [a for a in arguments if "=" in a and not a.startswith("-")]
    for override in overrides:
        key, _, values = override.partition("=")
        if key == "experiment":
            for value in values.split(","):
                if value not in experiments():
                    raise CommandError(_unknown("experiment", value, experiments()))
    if any(a.startswith("-") and a not in ("-m", "--multirun") for a in arguments):
        return  # Hydra's own options, such as --help or --cfg
    with initialize_config_dir(str(CONF), version_base="1.3"):
        try:
            compose(config, overrides=[_first(o) for o in overrides if not o.startswith("hydra")])
        except (HydraException, OmegaConfBaseException, ConfigCompositionException) as error:
            raise CommandError(_answer(str(error), compose(config))) from None


def _first(override: str) -> str:
    """The first value of a sweep `key=a,b`; brackets and quotes are left alone."""
    key, _, value = override.partition("=")
    depth, quote = 0, ""
    for position, letter in enumerate(value):
        if letter in "'\"" and letter == (quote or letter) and not value[:position].endswith("\\"):
            quote = "" if quote else letter
        elif not quote:
            depth += (letter in "[{(") - (letter in "]})")
            if letter == "," and depth == 0:
                return f"{key}={value[:position]}"
    return override


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
    options = [str(option) for option in node] if isinstance(node, DictConfig) else []
    return _unknown(f"option of {parent}" if parent else "option", last, options)


def _unknown(kind: str, name: str, known: Iterable[str]) -> str:
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    return f"Unknown {kind} '{name}'.{hint} There are: {', '.join(known)}."
