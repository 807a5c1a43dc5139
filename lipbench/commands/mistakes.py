"""Answers to wrong words: what was probably meant, and what exists."""

import difflib
from collections.abc import Iterable

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


class CommandError(Exception):
    """A command line that cannot be obeyed, with what exists instead."""


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """The answer to a name that does not exist.

    Args:
        kind: of what, such as "attack".
        known: the names that exist.
    """
    names = sorted(known)
    alias = ALIASES.get(name.lower())
    close = [alias] if alias in names else difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    if len(names) <= LISTED:
        return f"Unknown {kind} '{name}'.{hint} There are: {', '.join(names)}."
    closest = difflib.get_close_matches(name, names, n=CLOSEST, cutoff=0.0)
    return f"Unknown {kind} '{name}'.{hint} The closest of {len(names)}: {', '.join(closest)}."
