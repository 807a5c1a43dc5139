"""The kinds of the options of all commands, checked before anything is made."""

import inspect
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from hydra._internal.utils import _locate

from lipbench.losses import check_options
from lipbench.results.radii import radius_of

# Of the options that conf/ gives to no function.
KINDS: dict[str, Any] = {
    **{"seed": int, "images": int, "batch_size": int, "threads": int | None, "processes": int | None},
    **{"results": str, "data_root": str | None, "device": str, "epsilons": Sequence[float]},
    **{"force": bool, "progress": bool, "tensorboard": bool, "figures": bool},
    **{"model.source": str | None, "checkpoint": str | None, "name": str | None},
    **{"on_run_end": str | None},
    **{"input_layout": str | None, "input_mean": float | Sequence[float] | None},
    **{"input_std": float | Sequence[float] | None},
    **{"run": str | None, "out": str | None, "source": str | None, "trust": Sequence[str]},
    **{"formats": str | Sequence[str], "opset": int | None, "batch": int | str},
    **{"vnnlib": int, "radius": float | str | None, "timeout": int, "attackbench": bool},
    **{"verdicts": str | None, "method": str | None},
    **{"datasets": str | Sequence[str] | None, "compare": str | None, "training_curves": bool | Sequence[str]},
}
# The smallest value of an option.
LEAST: dict[str, float] = {
    **{"seed": 0, "images": 1, "batch_size": 1, "threads": 1, "processes": 1},
    **{"vnnlib": 0, "timeout": 1},
    **{"loss.margin": 0, "loss.offset": 0, "loss.alpha": 0, "loss.temperature": 0},
    **{"epsilons": 0, "training.epochs": 1, "training.batch_size": 1, "training.epsilon": 0},
}
# Whole numbers below this in size are those of numpy and torch.
LARGEST = 2**63
LISTS = (Sequence, list, tuple, Collection, Iterable)
# Characters of a wrong value in a message.
SHOWN = 200
WORDS = {
    **{int: "a whole number", float: "a number", bool: "true or false", str: "text", NoneType: "null"},
    Callable: "a function",
}


class OptionError(ValueError):
    """An option of a wrong kind, with what was given and what is expected.

    Attributes:
        unused: the option, where the function does not have it; else "".
    """

    def __init__(self, text: str, unused: str = "") -> None:
        super().__init__(text)
        self.unused = unused


def checked(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options, whole numbers as integers where these are asked for (1e3 is 1000).

    The kind of an option is that of the parameter of the function that gets it, else that of `KINDS`.

    Args:
        options: a composed configuration as plain containers.

    Raises:
        OptionError: a value of another kind, too small a number, an option that the function does not have.
    """
    return _node(options, "")


def _node(node: Mapping[str, Any], where: str) -> dict[str, Any]:
    parameters = _parameters(str(node["_target_"])) if "_target_" in node else None
    found = {}
    for key, value in node.items():
        name = f"{where}.{key}" if where else str(key)
        if str(key).startswith("_"):
            found[key] = value
            continue
        if parameters is not None and "**" not in parameters and str(key) not in parameters:
            has = f"{node['_target_']} has no {key}. It has {', '.join(parameters)}."
            raise OptionError(f"{name}={value}: {has}", name)
        kind = KINDS.get(name, Any) if parameters is None else parameters.get(str(key), Any)
        taken = _of_kind(name, value, kind)
        found[key] = _node(taken, name) if isinstance(taken, Mapping) else taken
    if where == "loss" and str(node.get("_target_")).startswith("lipbench.losses."):
        _check_loss(found)
    return found


def _check_loss(options: Mapping[str, Any]) -> None:
    """The limits are those that the loss itself has."""
    for name in ("temperature", "alpha"):
        if name == "temperature" and str(options["_target_"]).endswith(".soft_hkr"):
            continue  # it takes 0
        try:
            check_options(**{name: options[name]} if name in options else {})
        except ValueError as error:
            raise OptionError(f"loss.{name}={options[name]}: {error}") from None


def _of_kind(name: str, value: Any, kind: Any) -> Any:
    least = LEAST.get(name)
    given, alone = value, type(value) in (str, int, float)
    if alone and name in KINDS and get_origin(KINDS[name]) is Sequence:
        value = [value]  # epsilons=0.5
    if name == "epsilons" and isinstance(value, list | tuple):
        value = [radius_of(radius) if isinstance(radius, str) else radius for radius in value]  # 36/255
    try:
        taken = _taken(value, kind)
        numbers = taken if isinstance(taken, list) else [taken]
        if least is not None and any(isinstance(n, int | float) and n < least for n in numbers):
            raise TypeError
        if name == "results" and not str(taken).strip():
            raise OptionError("results= is empty: give the folder of the results, such as results=results/runs.")
    except TypeError:
        limit = "" if least is None else f", {least} or more"
        if type(value) in (int, float) and LARGEST <= abs(value) < math.inf:
            limit += ", less than 2^63"
        shown = f"{given}"
        shown = shown if len(shown) <= SHOWN else f"{shown[:SHOWN]}..."
        limit += f", such as [{shown}]" if value is given and alone and get_origin(kind) in LISTS else ""
        raise OptionError(f"{name}={shown}: {name} is {_words(kind)}{limit}.") from None
    return taken


def _taken(value: Any, kind: Any) -> Any:
    """The value as its kind has it.

    Raises:
        TypeError: it is of no such kind.
    """
    origin, arguments = get_origin(kind) or kind, get_args(kind)
    if kind is Any or (isinstance(value, Mapping) and "_target_" in value):
        return value
    if origin in (Union, UnionType):
        return _first_taken(value, arguments)
    if origin in LISTS and isinstance(value, list):
        return [_taken(item, arguments[0]) for item in value] if arguments else value
    if origin in (str, Path) and type(value) in (str, int, float):
        return str(value)
    if origin is int and type(value) is float and value.is_integer():
        value = int(value)
    small = type(value) is int and abs(value) < LARGEST  # a larger one overflows, here or in what gets it
    fits = {
        bool: type(value) is bool,
        NoneType: value is None,
        int: small,
        float: small or (type(value) is float and math.isfinite(value)),
        Literal: value in arguments,
        Mapping: isinstance(value, Mapping),
        dict: isinstance(value, Mapping),
    }
    known = (*fits, *LISTS, str, Path, Callable)
    if not fits.get(origin, origin not in known):
        raise TypeError
    return value


def _first_taken(value: Any, kinds: Sequence[Any]) -> Any:
    for kind in kinds:
        try:
            return _taken(value, kind)
        except TypeError:
            continue
    raise TypeError


def _words(kind: Any) -> str:
    origin, arguments = get_origin(kind) or kind, get_args(kind)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(map(_words, arguments)))
    if origin is Literal:
        return " or ".join(map(str, arguments))
    if origin in LISTS:
        return f"a list, each {_words(arguments[0])}" if arguments else "a list"
    return str(WORDS.get(origin, getattr(origin, "__name__", origin)))


@cache
def _parameters(target: str) -> dict[str, Any] | None:
    """Parameter -> kind, of a function or class; "**" where it takes others as well; None where it cannot be found,
    which its call says.
    """
    try:
        function = _locate(target)  # as `hydra.utils.get_object`, which logs what it cannot find
        signature = inspect.signature(function)
    except Exception:  # a library that is missing, a module of the user's own that fails
        return None
    try:
        hints = get_type_hints(function.__init__ if inspect.isclass(function) else function)
    except Exception:  # names that only a type checker sees
        hints = {}
    kinds = {}
    for name, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            kinds["**"] = Any
        else:
            kinds[name] = hints.get(name, _kind_of(parameter.default))
    return kinds


def _kind_of(default: Any) -> Any:
    """Of a parameter without annotation, from its default."""
    if isinstance(default, bool):
        return bool
    return float if isinstance(default, int | float) else Any
