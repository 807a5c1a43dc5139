"""The folder `conf/`, which names every method and its options once, for commands and for Python. The answer to a name
that does not exist. The version of lipbench.
"""

import difflib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml

VERSION = "0.1.0"
# An installed package contains the folder; in a checkout the folder is next to the package.
_INSIDE = Path(__file__).resolve().parent / "conf"
CONF = _INSIDE if _INSIDE.is_dir() else _INSIDE.parent.parent / "conf"
# What others call our attacks, certificates, losses and constraints.
ALIASES = {
    **{"cw": "carlini_wagner", "c&w": "carlini_wagner", "carlini": "carlini_wagner", "df": "deepfool"},
    **{"pgd": "l2_pgd", "bim": "l2_pgd", "autopgd": "apgd", "apgd_ce": "apgd", "autoattack": "apgd", "apgd_l2": "apgd"},
    **{"hsj": "hop_skip_jump", "hopskipjump": "hop_skip_jump", "combined": "lipbench", "strongest": "lipbench"},
    **{"fgsm_l2": "fgm", "ifgsm": "l2_pgd", "crown": "certificate_crown", "smoothing": "certificate_smoothing"},
    **{"lipschitz": "certificate", "float": "certificate_float", "ce": "cross_entropy", "bce": "binary_cross_entropy"},
    **{"xent": "cross_entropy", "gnp": "orthogonal", "spectral_norm": "spectral", "none": "free"},
}
# More names than this are not listed: the closest ones are.
LISTED, CLOSEST = 40, 5


def names(group: str) -> list[str]:
    """The names of a group such as "attack", sorted."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def method(group: str, name: str) -> Callable[..., Any]:
    """The attack or certificate of that name, with the options of its file.

    Raises:
        ValueError: the library of the method is not installed.
    """
    from hydra.errors import InstantiationException  # here, because `lipbench --help` needs neither
    from hydra.utils import instantiate

    text = (CONF / group / f"{name}.yaml").read_text(encoding="utf-8")
    try:
        return instantiate(yaml.safe_load(text)[name])
    except (ImportError, InstantiationException) as error:
        needs = text.partition("\n")[0].removeprefix("# ")
        raise ValueError(f"The {group} {name!r} cannot be loaded. {needs}") from error


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """The answer to a name that does not exist.

    Args:
        kind: of what, such as "attack".
        known: the names that exist.
    """
    names = sorted(known)
    if not names:
        return f"Unknown {kind} '{name}'. There are none."
    alias = ALIASES.get(name.lower())
    close = [alias] if alias in names else difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    if len(names) <= LISTED:
        return f"Unknown {kind} '{name}'.{hint} There are: {', '.join(names)}."
    closest = difflib.get_close_matches(name, names, n=CLOSEST, cutoff=0.0)
    return f"Unknown {kind} '{name}'.{hint} The closest of {len(names)}: {', '.join(closest)}."
