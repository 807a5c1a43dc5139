"""Which functions a file of a results folder may name. Such a folder is data and may come from elsewhere.
So it chooses among the building blocks of networks and methods, and nothing else is imported or called for it.

The user's own command line and `conf/` are not checked: their author could run anything anyway.
"""

import inspect
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

from lipbench.files import DEPTH, ResultsError

# Whose public names (`__all__`, or the functions and classes of a file without one) are building blocks. They are named
# here and not imported, because they import this one.
ROOMS = (
    "lipbench.attacks",
    "lipbench.certificate",
    "lipbench.data",
    "lipbench.layers",
    "lipbench.losses",
    "lipbench.measures",
    "lipbench.models",
    "lipbench.training",
)
# Those of them that read or write files of a caller's choice, or build from another recipe.
REFUSED = {
    "lipbench.training": {"event_log"},
}
# Of torch, classes alone: package -> modules and names of what they must derive from.
TORCH = {
    "torch.nn": (("torch.nn", "Module"),),
    "torch.optim": (("torch.optim", "Optimizer"), ("torch.optim.lr_scheduler", "LRScheduler")),
}
# It gives a function without calling it; the path that it is given is checked as a target is.
GET_METHOD = "hydra.utils.get_method"
# Options of lipbench's own functions that say where files lie: results never hold them, and a file may be written
# there. These packages have such options, which could be given by their position as well.
PLACES, PLACED = {"root", "path", "cache", "checkpoint"}, ("lipbench.data", "lipbench.training")
NODES = 20_000

ALLOWED = "the public names of lipbench's packages, and the classes of torch.nn and torch.optim"


class UntrustedError(ResultsError):
    """A file of a results folder asks for something that such a file may not: nothing was called or imported for it."""


def check_targets(configuration: Any, where: str, trust: Sequence[str] = ()) -> None:
    """Looks at every `_target_` in a configuration that was read back, however deep, before anything is made of it.

    A target is allowed where it is, by its path and by where it is defined, one of `ALLOWED` or part of a package in
    `trust`. So `lipbench.data.cifar.pickles.pickle.loads` is refused: it is not defined in lipbench. Modules are
    imported for packages of `trust` alone. Interpolations (`${...}`) are refused: they would read the reader's
    environment.

    Args:
        configuration: plain containers, as from JSON or YAML.
        where: what messages call it, for example the file's path.
        trust: names of packages, or modules, whose functions may be called as well.

    Raises:
        UntrustedError: something is not allowed; it names the place, the target and what to do.
    """
    if isinstance(trust, str):
        raise TypeError(f"trust is a list of names of packages, not {trust!r}: trust=({trust!r},).")
    for count, (place, node) in enumerate(_nodes(configuration, where)):
        if count > NODES:
            raise UntrustedError(f"{where} has more than {NODES:,} entries, which is no configuration of a network.")
        if isinstance(node, Mapping):
            _check_node(node, f"{where}: {place}" if place else where, trust)
        elif isinstance(node, str) and "${" in node:
            raise UntrustedError(
                f"{where}: {place} holds an interpolation, {_short(node)}, which could read files or variables of this "
                "machine. Files of results hold plain values: write its value there if you trust it."
            )


def _nodes(value: Any, where: str, place: str = "", depth: int = 0) -> Iterator[tuple[str, Any]]:
    """(dotted place, node) of every node and every key, from the outside in."""
    if depth > DEPTH:
        raise UntrustedError(f"{where}: {place[:80]}... is nested more than {DEPTH} deep.")
    yield place, value
    if isinstance(value, Mapping):
        for key, inner in value.items():
            inside = f"{place}.{key}" if place else str(key)
            yield inside, key if isinstance(key, str) else str(key)
            yield from _nodes(inner, where, inside, depth + 1)
    elif isinstance(value, list | tuple):
        for i, inner in enumerate(value):
            yield from _nodes(inner, where, f"{place}[{i}]", depth + 1)


def _check_node(node: Mapping[Any, Any], place: str, trust: Sequence[str]) -> None:
    if "_target_" not in node:
        return
    if node["_target_"] == GET_METHOD:
        if set(node) != {"_target_", "path"}:
            raise UntrustedError(f"{place}: {GET_METHOD} takes a path alone, here it has {', '.join(map(str, node))}.")
        _check_target(node["path"], f"{place}.path", trust)
        return
    home = _check_target(node["_target_"], f"{place}._target_", trust)
    forbidden = PLACES if _inside(home, "lipbench") else set()
    forbidden = forbidden | {"_args_"} if any(_inside(home, package) for package in PLACED) else forbidden
    if given := sorted(forbidden & set(node)):
        raise UntrustedError(
            f"{place} gives {', '.join(given)} to {node['_target_']}: results do not say where files lie. Remove that; "
            "data are looked for in data_root=, else in $LIPBENCH_DATA."
        )


def _check_target(target: Any, place: str, trust: Sequence[str]) -> str:
    """The module that an allowed target is defined in."""
    if not isinstance(target, str):
        raise UntrustedError(f"{place} is a {type(target).__name__} instead of the name of a function.")
    parts = target.split(".")
    if all(part.isidentifier() and not part.startswith("_") for part in parts):
        ways = [(package, _of_package) for package in trust if _inside(target, package)]
        ways += [("lipbench", _building_block)] if parts[0] == "lipbench" else []
        ways += [(package, _class_of_torch) for package in TORCH if _inside(target, package)]
        for package, find in ways:
            found = find(package, target)
            if found is not None and _inside(home := str(getattr(found, "__module__", "")), package):
                return home
    known = _inside(target, "lipbench") or any(_inside(target, package) for package in TORCH)
    raise UntrustedError(
        f"{place} is {_short(target)}, which is not called: a file of results may name {ALLOWED}"
        + ("." if known else f", or those of packages that you trust: trust=[{_short(parts[0])[1:-1]}].")
    )


def _building_block(package: str, target: str) -> Any:
    """A public name of one of the packages, by any path inside of lipbench; None if it is none."""
    rooms = {room: import_module(room) for room in ROOMS}
    found = _walk(target, package)
    if not (inspect.isclass(found) or inspect.isfunction(found)):
        return None
    for room, module in rooms.items():
        names = getattr(module, "__all__", None) or [name for name in vars(module) if not name.startswith("_")]
        if any(vars(module).get(name) is found for name in set(names) - REFUSED.get(room, set())):
            return found
    return None


def _class_of_torch(package: str, target: str) -> Any:
    found = _walk(target, package)
    bases = tuple(getattr(import_module(module), name) for module, name in TORCH[package])
    return found if inspect.isclass(found) and issubclass(found, bases) else None


def _of_package(package: str, target: str) -> Any:
    return _walk(target, package, importing=True)


def _walk(target: str, package: str, *, importing: bool = False) -> Any:
    """What a dotted name leads to through modules of a package, or None. Without `importing`, through loaded ones."""
    module = sys.modules.get(package)
    if module is None and (importing or package in TORCH or package == "lipbench"):
        try:
            module = import_module(package)
        except ImportError:
            return None
    found: Any = module
    steps = target[len(package) + 1 :].split(".") if target != package else []
    for i, step in enumerate(steps):
        inner = getattr(found, step, None)
        if inner is None and importing and isinstance(found, ModuleType):
            try:
                inner = import_module(".".join([package, *steps[: i + 1]]))
            except ImportError:
                return None
        if isinstance(inner, ModuleType) and not _inside(inner.__name__, package):
            return None
        found = inner
    return found


def _inside(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:76]}...{text[-1]}"
