"""What a run is called: the name of its data set and its variant, from the composed configuration."""

import json
import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lipbench.commands.mistakes import CommandError
from lipbench.commands.suites import CONF, PLACES
from lipbench.files import fingerprint
from lipbench.results.layout import run_folder_of

NETWORK = ("dataset", "model", "constraint", "loss", "optimizer", "training", "seed")
# What a variant is made of.
PARTS = tuple(part for part in NETWORK if part != "seed")
# Letters of a folder's name.
LONGEST = 120

# Key -> (value, how the experiment's file writes it), of what an experiment sweeps by itself.
Axes = Mapping[str, Sequence[tuple[Any, str]]]


@dataclass(frozen=True)
class Variant:
    """What the overrides of a command line make of an experiment.

    Attributes:
        text: the name of its folder.
        overrides: as "name=value", sorted, values in their shortest form.
        dataset: the configuration of the data set where it is not the experiment's own; else None.
    """

    text: str
    overrides: list[str]
    dataset: Mapping[str, Any] | None


def folder_of(results: str | Path, name: str, overrides: Sequence[str], seed: Any) -> Path:
    """The folder of one run, `<results>/<dataset>/<experiment>/<variant>/<seed>`.

    Args:
        name: "<dataset>/<experiment>".
        overrides: of the command line.
        seed: as composed.

    Raises:
        CommandError: the data set's own name cannot be found, or is no folder's name.
    """
    variant = variant_of(name, overrides)
    dataset, _, experiment = name.rpartition("/")
    if variant.dataset is not None:
        dataset = _dataset_name(json.dumps(variant.dataset))
    return run_folder_of(Path(results), f"{dataset}/{experiment}", variant.text, _shortest(seed))


def called(folder: Path) -> str:
    """ "<dataset>/<experiment>" of a run's folder."""
    return "/".join(folder.parts[-4:-2])


def variant_of(name: str, overrides: Sequence[str]) -> Variant:
    """The overrides that change the network, sorted; "default" where there is none.

    An override that leaves the composed configuration as it is has no part in the name, and how a value is written
    (order, prefix, quotes, 1e0 for 1) changes nothing. What an experiment sweeps by itself (`hydra.sweeper.params`) is
    always named, as its file writes it: such an experiment has no default.

    Args:
        name: "<dataset>/<experiment>".
        overrides: of the command line.
    """
    kept = [o for o in _parsed(overrides) if _part(o) in (*PARTS, "data_root")]
    base = _composed(name, ())
    whole = _network(name, kept)
    ours = [o for o in kept if o.key_or_group not in base.axes and not _is_place(o)]
    while ours:  # what one override changes may be no change without another, so each is tried again after a removal
        kept_before = kept
        for one in sorted(ours, key=_text):
            others = [override for override in kept if override is not one]
            if len(others) < len(kept) and _network(name, others) == whole:
                kept = others
        if kept is kept_before:
            break
    named = {o.key_or_group: _text(o, base.axes) for o in kept if not _is_place(o)}
    for key in base.axes.keys() - named.keys():
        value = base.choices.get(key, OmegaConf.select(base.config, key))
        if key.partition(".")[0] in PARTS:
            named[key] = _text(_parsed([f"{key}={value}"])[0], base.axes)
    other = any(key.partition(".")[0] == "dataset" and key not in base.axes for key in named)
    overrides = sorted(named.values())
    return Variant(_folder_name(overrides), overrides, (whole or {}).get("dataset") if other else None)


def numbers_like_default(network: Mapping[str, Any], name: str, overrides: Sequence[str]) -> dict[str, Any]:
    """The configuration of a network, with numbers that do not depend on how the command line writes them.

    A number that equals the default of the chosen groups is written as there, one of the experiment's own sweep as its
    file has it, any other in its shortest form: 2 for 2.0 and 2e0.

    Args:
        network: composed, plain containers.
        name, overrides: as in `variant_of`.
    """
    composed = _composed(name, tuple(_line(o) for o in _parsed(overrides) if _is_group(o) and _part(o) in PARTS))
    default = OmegaConf.to_container(composed.config, resolve=True)
    alike: dict[str, Any] = _alike(network, default, composed.axes)
    return alike


@dataclass(frozen=True)
class _Composed:
    """The configuration of an experiment with some choices of groups: of the network and of `data_root`."""

    config: DictConfig
    axes: Axes
    choices: Mapping[str, Any]


@cache
def _composed(name: str, groups: tuple[str, ...]) -> _Composed:
    # Not by Hydra's `compose`, which cannot be called inside of a job.
    loader = ConfigLoaderImpl(create_config_search_path(str(CONF)))
    config = loader.load_configuration("config", [f"experiment={name}", *groups], RunMode.RUN)
    axes = {}
    for key, values in (config.hydra.sweeper.get("params") or {}).items():
        (override,) = _parsed([f"{key}={values}"])
        texts = list(override.sweep_string_iterator()) if override.is_discrete_sweep() else []
        axes[str(key)] = [(_parsed([f"{key}={text}"])[0].value(), str(text)) for text in texts]
    ours = OmegaConf.masked_copy(config, [*NETWORK, "data_root"])
    OmegaConf.set_struct(ours, True)
    return _Composed(ours, axes, dict(config.hydra.runtime.choices))


def _network(name: str, overrides: Sequence[Override]) -> dict[str, Any] | None:
    """The configuration of the network, places included; None where the overrides do not fit together."""
    try:
        config = deepcopy(_composed(name, tuple(_line(o) for o in overrides if _is_group(o))).config)
        ConfigLoaderImpl._apply_overrides_to_config([o for o in overrides if not _is_group(o)], config)
        return OmegaConf.to_container(config, resolve=True)  # type: ignore[return-value]
    except (HydraException, OmegaConfBaseException):
        return None


@cache
def _dataset_name(configuration: str) -> str:
    """`Dataset.name` of a data set, from its configuration as JSON. lipbench's own are called what `name` says; others
    are asked.

    Raises:
        CommandError: it cannot be read; its name is no folder's name.
    """
    config = json.loads(configuration)
    name = config.get("name") if str(config.get("_target_")).startswith("lipbench.data.") else None
    if name is None:
        try:
            name = instantiate({**config, "_partial_": True}, _convert_="all")().name
        except Exception as error:  # of a function of the user's own
            raise CommandError(f"The data set has no name before it is read, and that fails: {error}") from error
    if not str(name) or "/" in str(name) or str(name) in (".", ".."):
        raise CommandError(
            f"dataset.name={name} is the name of a folder: give one without a slash that is not {'.'!r} or {'..'!r}."
        )
    return str(_shortest(name))


def _parsed(overrides: Sequence[str]) -> list[Override]:
    parsed: list[Override] = OverridesParser.create().parse_overrides([str(override) for override in overrides])
    return parsed


def _part(override: Override) -> str:
    return str(override.key_or_group).partition(".")[0]


def _is_group(override: Override) -> bool:
    return (CONF / str(override.key_or_group)).is_dir() and not isinstance(override.value(), dict)


def _is_place(override: Override) -> bool:
    return override.key_or_group in ("data_root", *(f"dataset.{place}" for place in PLACES))


def _line(override: Override) -> str:
    return str(override.input_line)


def _text(override: Override, axes: Axes | None = None) -> str:
    """An override as it names a folder: without prefix and quotes, numbers in their shortest form."""
    key = override.get_key_element().lstrip("+~")
    if override.is_delete() and override.value() is None:
        return key
    value = override.value()
    texts = [text for known, text in (axes or {}).get(key, ()) if _same(known, value)]
    return f"{key}={texts[0] if texts else _written(_shortest(value))}"


def _written(value: Any) -> str:
    """A value in Hydra's grammar, without quotes and blanks."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_written(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_written, value)) + "]"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return str(value)


def _folder_name(texts: Sequence[str]) -> str:
    name = re.sub(r"[^A-Za-z0-9_.=,+-]", "_", ",".join(texts))
    if len(name) > LONGEST:
        name = f"{name[:100]}-{fingerprint(texts)}"
    return name or "default"


def _shortest(value: Any) -> Any:
    """Whole floats as integers, in lists and dictionaries as well."""
    if isinstance(value, Mapping):
        return {key: _shortest(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_shortest(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _same(first: Any, second: Any) -> bool:
    """Equality of values, in which 1 is 1.0 but not true."""
    return repr(_shortest(first)) == repr(_shortest(second))


def _alike(value: Any, default: Any, axes: Axes, key: str = "") -> Any:
    if isinstance(value, Mapping):
        known = default if isinstance(default, Mapping) else {}
        return {k: _alike(v, known.get(k), axes, f"{key}.{k}".lstrip(".")) for k, v in value.items()}
    if _same(value, default):
        return default
    swept = [known for known, _ in axes.get(key, ()) if _same(known, value)]
    return swept[0] if swept else _shortest(value)
