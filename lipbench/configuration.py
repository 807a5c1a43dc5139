"""The folder `conf/`, which names every method and its options once, for commands and for Python."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from hydra.errors import InstantiationException
from hydra.utils import instantiate

# An installed package contains the folder; in a checkout the folder is next to the package.
_INSIDE = Path(__file__).resolve().parent / "conf"
CONF = _INSIDE if _INSIDE.is_dir() else _INSIDE.parent.parent / "conf"


def names(group: str) -> list[str]:
    """The names of a group such as "attack", sorted."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def method(group: str, name: str) -> Callable[..., Any]:
    """The attack or certificate of that name, with the options of its file.

    Raises:
        ValueError: the library of the method is not installed.
    """
    text = (CONF / group / f"{name}.yaml").read_text(encoding="utf-8")
    try:
        return instantiate(yaml.safe_load(text)[name])
    except (ImportError, InstantiationException) as error:
        needs = text.partition("\n")[0].removeprefix("# ")
        raise ValueError(f"The {group} {name!r} cannot be loaded. {needs}") from error
