"""What the commands share: the checked configuration, the methods that it names, and answers to a wrong option."""

import os
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import hydra
import torch
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep
from hydra.errors import ConfigCompositionException, HydraException, InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lipbench.attacks.peers import MissingExtra
from lipbench.commands.kinds import OptionError, checked
from lipbench.commands.mistakes import CommandError
from lipbench.commands.suites import CONF, experiments
from lipbench.configuration import unknown

# Options that hold a path or a name, as it is written.
PATHS = ("results", "data_root", "on_run_end", "dataset.root", "dataset.path", "dataset.name")
# Of each file of `conf/`: the option that a word alone probably is; of "config" that depends on the word.
BARE = {"config": "", "evaluate": "model", "report": "results", "reproduce": "run", "export": "run", "import": "run"}
# What makes a sweep of a command.
MULTIRUN = frozenset({"-m", "--multirun"})
# Hydra's own options.
HYDRA = ("--multirun", "--run", "--cfg", "-c", "--info", "-i", "--resolve", "--package", "-p", "--config-dir", "-cd")


def configured(arguments: Sequence[str], config: str, paths: Collection[str]) -> DictConfig:
    """The configuration of a command that makes one thing: composed from `conf/`, every value checked.

    Args:
        arguments: of the command line.
        config: the command's file in `conf/`.
        paths: options that hold a path or a name.

    Raises:
        CommandError: as in `check_overrides`.
    """
    overrides = [quoted(argument, paths) for argument in arguments]
    check_overrides(overrides, config)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose(config, overrides=overrides)
    return OmegaConf.create(checked(OmegaConf.to_container(composed, resolve=True)))  # type: ignore[arg-type]


def show_hydra(command: str, config: str, arguments: Sequence[str]) -> None:
    """What Hydra itself shows of a configuration, with its options `--cfg`, `--info` and, here, `--hydra-help`."""
    words = ["--help" if argument == "--hydra-help" else argument for argument in arguments]
    sys.argv = [f"lipbench {command}", *words]
    hydra.main(version_base="1.3", config_path=str(CONF), config_name=config)(lambda _: None)()


def check_overrides(arguments: Sequence[str], config: str) -> None:
    """Composes the configuration once for each experiment, with the first value of every other override, so that a
    wrong word is answered with what exists. Every value is checked (`lipbench.commands.kinds`).

    Raises:
        CommandError: a word that is no option; an unknown experiment, option or choice; a value of a wrong kind.
    """
    _check_words(arguments, config)
    overrides = [a for a in arguments if ("=" in a and not a.startswith("-")) or a.startswith("~")]
    for override in overrides:
        key, _, values = override.partition("=")
        _check_choice(override)
        if key == "experiment":
            for value in values.split(","):
                if experiments(value) and value not in experiments():
                    raise CommandError(f"experiment={value}: that is a data set. All its experiments: suite={value}")
                if value not in experiments():
                    raise CommandError(unknown("experiment", value, experiments()))
    ours = [override for override in overrides if not override.startswith("hydra")]
    chosen = next((_values(o) for o in reversed(ours) if o.startswith("experiment=")), [])
    rest = [_values(o)[0] for o in ours if not (chosen and o.startswith("experiment="))]
    depends = any("." in o.partition("=")[0] for o in rest)  # whether an experiment has it
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for experiment in (chosen if depends else chosen[:1]) or [""]:
            _check([*([experiment] if experiment else []), *rest], ours, config)


def _check(first: Sequence[str], overrides: Sequence[str], config: str) -> None:
    try:
        composed = compose(config, overrides=list(first))
        checked(OmegaConf.to_container(composed, resolve=True))  # type: ignore[arg-type]
        for other in (o for override in overrides for o in _values(override)[1:]):
            (parsed,) = OverridesParser.create().parse_overrides([other])
            if OmegaConf.select(composed, parsed.key_or_group, throw_on_missing=False) is not None:
                OmegaConf.update(composed, parsed.key_or_group, parsed.value())
                checked(OmegaConf.to_container(composed, resolve=True))  # type: ignore[arg-type]
    except OptionError as error:
        raise CommandError(f"{error}{_left_over(error.unused, first, config)}") from None
    except (HydraException, OmegaConfBaseException, ConfigCompositionException) as error:
        raise CommandError(_answer(str(error), first, config)) from None


def _left_over(option: str, overrides: Sequence[str], config: str) -> str:
    """What to do about an option that the experiment sets for another choice of its group, such as another loss."""
    if not option or config != "config" or any(o.lstrip("+").startswith(f"{option}=") for o in overrides):
        return ""
    given = [o.partition("=")[2] for o in overrides if o.startswith("experiment=")]
    group = option.partition(".")[0]
    return f" {given[-1] if given else 'The experiment'} sets it for another {group}. Leave it out: ~{option}"


def _check_words(arguments: Sequence[str], config: str) -> None:
    """
    Raises:
        CommandError: a word that is neither "name=value" nor an option of Hydra.
    """
    for before, word in zip(("", *arguments), arguments, strict=False):
        name, _, value = word.lstrip("-").partition("=")
        if word.startswith("--") and f"--{name}" not in HYDRA:
            raise CommandError(f"{word}: options are written without dashes, as {name}={value or 'VALUE'}.")
        if "=" in word or word.startswith(("-", "~")) or before in HYDRA:
            continue
        option = BARE[config] or ("suite" if experiments(word) and word not in experiments() else "experiment")
        if config != "config" or experiments(word):
            raise CommandError(f"'{word}' is no option. Did you mean {option}={word}?")
        raise CommandError(f"'{word}' is no option: options are written as name=value.")


def _answer(message: str, overrides: Sequence[str], config: str) -> str:
    """Hydra's message; where it names a choice or an option that does not exist, what was meant and what exists."""
    choice = re.search(r"Could not (?:find|load) '([a-z_]+)/([^']+)'", message)
    if choice is not None and (CONF / choice.group(1)).is_dir():
        return unknown(choice.group(1), choice.group(2), [p.stem for p in (CONF / choice.group(1)).glob("*.yaml")])
    key = re.search(r"Could not override '([^']+)'", message)
    if key is None:
        return message
    groups = [o for o in overrides if (CONF / o.partition("=")[0]).is_dir()]
    composed = compose(config, overrides=groups, return_hydra_config=True)
    parent, _, last = key.group(1).rpartition(".")
    node = OmegaConf.select(composed, parent) if parent else composed
    group = parent.partition(".")[0]
    if not isinstance(node, DictConfig):
        options = [str(option) for option in composed if option != "hydra"]
        return unknown("option", group or last, options) if group not in composed else message
    options = [str(option) for option in node if not str(option).startswith("_") and option != "hydra"]
    if not parent and (meant := [f"{part}.{last}" for part in options if _has(composed[part], last)]):
        return f"Unknown option '{last}'. Did you mean {' or '.join(meant)}?"
    others = [p.stem for p in sorted((CONF / parent).glob("*.yaml")) if parent and _has(OmegaConf.load(p), last)]
    if not others:
        return unknown(f"option of {parent}" if parent else "option", last, options)
    choices = composed.hydra.runtime.choices
    who = f"{choices['experiment']} has " if "experiment" in choices else ""
    return (
        f"{who}{parent}={choices[parent]}, which has no {last}. It has: {', '.join(options)}. "
        f"{last} is an option of {parent}={', '.join(others)}."
    )


def _has(node: Any, key: str) -> bool:
    return isinstance(node, DictConfig) and key in node


def _check_choice(override: str) -> None:
    """
    Raises:
        CommandError: null or a number for a group of conf/, which Hydra answers by an error of its own code.
    """
    group = override.partition("=")[0].lstrip("+")
    if group not in {path.name for path in CONF.iterdir() if path.is_dir()}:
        return
    for one in _values(override):
        with suppress(HydraException):  # what cannot be read is answered when it is composed
            if not isinstance(OverridesParser.create().parse_override(one).value(), str | list | dict):
                several = group in ("attack", "certificate", "measure")
                names = ", ".join(sorted(path.stem for path in (CONF / group).glob("*.yaml")))
                kind = f"names in brackets; for none {group}=[]" if several else "a name"
                raise CommandError(f"{one}: {group} is {kind}. There are: {names}.")


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
    if MULTIRUN & set(arguments) and not os.access(there, os.W_OK):
        raise CommandError(f"results={root}: {there} cannot be written. Get the right to write, or give another.")


def judging(options: Mapping[str, Any]) -> dict[str, Any]:
    """What an `Experiment` takes from any configuration: the methods, the images, the device.

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
