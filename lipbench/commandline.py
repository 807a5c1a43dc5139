"""What the commands share: where `conf/` is, suites, methods, what is printed, and answers to a wrong option."""

import difflib
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep
from hydra.errors import ConfigCompositionException, HydraException, InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lipbench.attacks.peers import MissingExtra
from lipbench.health import Flag
from lipbench.options import OptionError, checked

# In an installed package the configuration lies inside it, in a checkout beside it.
_INSIDE = Path(__file__).resolve().parent / "conf"
CONF = _INSIDE if _INSIDE.is_dir() else _INSIDE.parent.parent / "conf"

# Options of a data set that say where files lie: no part of what it is, so of no identity.
PLACES = ("root", "path", "cache")

# Options that hold a path or a name, as it is written.
PATHS = ("results", "data_root", "dataset.root", "dataset.path", "dataset.name")

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


def check_overrides(arguments: Sequence[str], config: str) -> None:
    """Composes the configuration once with the first value of every override, so that a wrong word is answered with
    what exists; every value is checked (`lipbench.options`).

    Raises:
        CommandError: an unknown experiment, option or choice; a value of a wrong kind.
    """
    overrides = [a for a in arguments if ("=" in a and not a.startswith("-")) or a.startswith("~")]
    for override in overrides:
        key, _, values = override.partition("=")
        if key == "experiment":
            for value in values.split(","):
                if experiments(value) and value not in experiments():
                    raise CommandError(f"experiment={value}: that is a data set. All its experiments: suite={value}")
                if value not in experiments():
                    raise CommandError(_unknown("experiment", value, experiments()))
    if any(a.startswith("-") and a not in ("-m", "--multirun") for a in arguments):
        return  # Hydra's own options, such as --help or --cfg
    with initialize_config_dir(str(CONF), version_base="1.3"):
        try:
            composed = compose(config, overrides=[_values(o)[0] for o in overrides if not o.startswith("hydra")])
            checked(OmegaConf.to_container(composed, resolve=True))  # type: ignore[arg-type]
            for other in (o for override in overrides for o in _values(override)[1:]):
                (parsed,) = OverridesParser.create().parse_overrides([other])
                if OmegaConf.select(composed, parsed.key_or_group, throw_on_missing=False) is not None:
                    OmegaConf.update(composed, parsed.key_or_group, parsed.value())
                    checked(OmegaConf.to_container(composed, resolve=True))  # type: ignore[arg-type]
        except OptionError as error:
            raise CommandError(str(error)) from None
        except (HydraException, OmegaConfBaseException, ConfigCompositionException) as error:
            raise CommandError(_answer(str(error), compose(config))) from None


def check_results(arguments: Sequence[str]) -> None:
    """Whether the results of a command can be written: of a sweep Hydra itself writes there before any run.

    Raises:
        CommandError: they cannot, with the reason.
    """
    given = [a.partition("=")[2] for a in arguments if a.lstrip("+").startswith("results=")]
    if given and "${" in given[-1]:
        return  # Hydra resolves it
    root = Path(given[-1].strip("'\"") if given else "results/runs").absolute()
    try:
        there = next(path for path in (root, *root.parents) if path.exists())
        folder = there.is_dir()
    except OSError as error:  # no right to look, a name that is too long
        raise CommandError(f"results={root} cannot be used ({error.strerror}). Give another.") from None
    if not folder:
        raise CommandError(f"results={root}: {there} is a file, no folder. Give another.")
    if {"-m", "--multirun"} & set(arguments) and not os.access(there, os.W_OK):
        raise CommandError(f"results={root}: {there} cannot be written. Get the right to write, or give another.")


def judging(options: Mapping[str, Any]) -> dict[str, Any]:
    """What a `RunFolder` takes from any configuration: the methods, the images, the device.

    Args:
        options: a composed configuration as plain containers.

    Raises:
        MissingExtra: an attack of another library that is not installed; before any training.
        ValueError: a device that is not there.
    """
    attacks, certificates = options.get("attack") or {}, options.get("certificate") or {}
    measures = options.get("measure") or {}
    return {
        "attacks": {key: _method(value) for key, value in attacks.items()},
        "certificates": {key: _method(value) for key, value in certificates.items()},
        "measures": {key: _method(value) for key, value in measures.items()},
        "options": {**attacks, **certificates, **measures},
        "device": _device(options["device"]),
        **{key: options[key] for key in ("images", "batch_size", "epsilons", "force", "progress")},
    }


def _device(name: str) -> torch.device:
    """
    Raises:
        ValueError: torch has no such device, or sees none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"device={name}: give auto, cpu, cuda, or one GPU such as cuda:1.") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device={name}: this torch ({torch.__version__}) sees {torch.cuda.device_count()} GPUs. Use device=auto "
            "or device=cpu, or install a torch for CUDA: https://pytorch.org/get-started"
        )
    return device


def _method(options: Mapping[str, Any]) -> Any:
    """An attack or a certificate. Of a library that is missing, Hydra says where it looked; the cause, what to do."""
    try:
        return instantiate(options, _convert_="all")
    except InstantiationException as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, MissingExtra):
            cause = cause.__cause__
        raise cause or error from None


def report_lines(name: str, folder: Path, summary: Mapping[str, Any]) -> str:
    """What a command says of a run at its end: its numbers in a line, and a line for each of its flags."""
    distance = summary["median_distance"]
    numbers = (
        f"{name:24s} accuracy {100 * summary['accuracy']:6.2f} %   "
        f"median certificate {summary['median_certificate'] or 0:.3f}   "
        f"median distance {distance if distance is not None else float('nan'):.3f}   "
        f"violations {summary['violations']}   -> {folder}"
    )
    return "\n".join([numbers, *(f"  {Flag(**flag)}" for flag in summary["flags"])])


def quoted(argument: str, keys: Collection[str], sweeps: bool = False) -> str:
    """An option that holds a path or a name, for Hydra as it is written: "=", "," and blanks mean something else there
    unless they are quoted, 2024_01 is a number, and letters such as an umlaut are none. "~" is the home folder.

    Args:
        keys: the options that hold one.
        sweeps: whether "a,b" means two values.
    """
    key, _, value = argument.partition("=")
    if key.lstrip("+") not in keys or value[:1] in ("'", '"') or value in ("", "null"):
        return argument
    value = os.path.expanduser(value)
    if sweeps and len(_values(f"{key}={value}")) > 1:
        return argument
    escaped = value.replace("'", r"\'")
    return f"{key}='{escaped}'"


def _values(override: str) -> list[str]:
    """An override for each value of a sweep `key=a,b`, or for the start of an interval; one that is no sweep, or cannot
    be read, is left as it is.
    """
    try:
        parsed = OverridesParser.create().parse_override(override)
        if not parsed.is_sweep_override():
            return [override]
        sweep = parsed.value()
        values = [sweep.start] if isinstance(sweep, IntervalSweep) else parsed.sweep_string_iterator()
        return [f"{override.partition('=')[0]}={value}" for value in values] or [override]
    except HydraException:
        return [override]


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
