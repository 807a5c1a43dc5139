"""Whether a summary is one: each entry that the report reads has the type and the range that a run writes."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from lipbench.escapes import printable
from lipbench.files import ResultsError
from lipbench.results.flags import Flag

# Of whole numbers: tables hold 64 bits.
LARGEST = 2**63
Check = Callable[[Any], bool]


def _number(low: float = -math.inf, high: float = math.inf) -> Check:
    return lambda value: type(value) in (int, float) and math.isfinite(value) and low <= value <= high


def _or_none(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _is_curve(value: Any) -> bool:
    """Radius, as it is written ("0.5"), -> share of the images."""
    return isinstance(value, dict) and all(_is_radius(key) and SHARE(share) for key, share in value.items())


def _is_radius(key: str) -> bool:
    try:
        radius = float(key)
    except ValueError:
        return False
    return math.isfinite(radius) and radius >= 0 and f"{radius:g}" == key


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < LARGEST


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_flag(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and {"name", "severity", "message"} <= value.keys() <= {"name", "severity", "message", "method"}
        and all(map(_is_text, value.values()))
        and value["severity"] in ("warning", "note")
    )


def _are_flags(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_flag, value))


SHARE, POSITIVE = _number(0, 1), _number(0)
# Entry -> what it has to be. Without these a summary says too little.
NEEDED: dict[str, Check] = {
    "accuracy": SHARE,
    "robust_accuracy": _or_none(_is_curve),
    "certified_accuracy": _or_none(_is_curve),
    "median_certificate": _or_none(POSITIVE),
    "median_distance": _or_none(POSITIVE),
    "tightness": _or_none(POSITIVE),
    "violations": _is_count,
    "lipschitz": _or_none(POSITIVE),
    "training_seconds": _or_none(POSITIVE),
    "attack_seconds": _or_none(POSITIVE),
}
# Summaries of other kinds of runs, and older ones, lack some of these.
OPTIONAL: dict[str, Check] = {
    "balanced_accuracy": _or_none(SHARE),
    "sensitivity": _or_none(SHARE),
    "specificity": _or_none(SHARE),
    "balanced_robust_accuracy": _or_none(_is_curve),
    "balanced_certified_accuracy": _or_none(_is_curve),
    "imbalance": _number(1),
    "test_images": _is_count,
    "attacked_images": _is_count,
    "kr": _or_none(_number()),
    "wasserstein": _or_none(_number()),
    "transport_law": _or_none(lambda value: isinstance(value, bool)),
    "flags": _are_flags,
    "source": _is_text,
    "construction": _is_text,
    "validation_epsilon": _or_none(POSITIVE),
    "validation_certified_accuracy": _or_none(SHARE),
    "step_seconds": _or_none(POSITIVE),
}


def checked(summary: Mapping[str, Any], key: Mapping[str, Any]) -> tuple[dict[str, Any], list[Flag]]:
    """A summary that the report can read, and its health flags.

    Args:
        summary: as in `summary.json`.
        key: dataset, experiment, variant and seed of the run, from its folder.

    Returns:
        the entries with those of the key; text in them is printable. The flags.

    Raises:
        ResultsError: an entry is missing or is not what it has to be; the folder is not named by a seed.
    """
    if not _is_count(key["seed"]):
        raise ResultsError(
            f"the folder of a run is named by its seed, a whole number; this one is called {key['seed']}. If it is a "
            "copy, move it out of the results folder."
        )
    missing = [name for name in NEEDED if name not in summary]
    if missing:
        raise ResultsError(f"summary.json lacks {', '.join(missing)}. Delete it and run the experiment again.")
    for name, check in (NEEDED | OPTIONAL).items():
        if name in summary and not check(summary[name]):
            raise ResultsError(
                f"summary.json says {name}: {str(summary[name])[:60]}, which is no such value. Delete it and run the "
                "experiment again."
            )
    texts = {name: printable(value) for name, value in {**summary, **key}.items() if isinstance(value, str)}
    flags: list[dict[str, Any]] = [{k: printable(v) for k, v in flag.items()} for flag in summary.get("flags", [])]
    return {**summary, **key, **texts}, [Flag(**flag) for flag in flags]
