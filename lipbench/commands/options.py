"""What the commands share: where `conf/` is, suites, methods, what is printed, and answers to a wrong option."""

import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep
from hydra.errors import ConfigCompositionException, HydraException, InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lipbench.attacks.peers import MissingExtra
from lipbench.commands.kinds import OptionError, checked
from lipbench.commands.suites import CONF, CommandError, _answer, _unknown, experiments
from lipbench.results.flags import Flag

# Options that hold a path or a name, as it is written.
PATHS = ("results", "data_root", "dataset.root", "dataset.path", "dataset.name")


def check_overrides(arguments: Sequence[str], config: str) -> None:
    """Composes the configuration once with the first value of every override, so that a wrong word is answered with
    what exists; every value is checked (`lipbench.commands.kinds`).

    Raises:
        CommandError: an unknown experiment, option or choice; a value of a wrong kind.
    """
    overrides = [a for a in arguments if ("=" in a and not a.startswith("-")) or a.startswith("~")]
    for override in overrides:
        key, _, values = override.partition("=")
        _check_choice(override)
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
            if not isinstance(OverridesParser.create().parse_override(one).value(), str | list):
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
