"""What an entry of a summary may be: its type and its range."""

import math
from collections.abc import Callable
from typing import Any

# Of whole numbers: tables hold 64 bits.
LARGEST = 2**63
Check = Callable[[Any], bool]


def number(low: float = -math.inf, high: float = math.inf) -> Check:
    """A finite number from low to high."""
    return lambda value: type(value) in (int, float) and math.isfinite(value) and low <= value <= high


def or_none(check: Check) -> Check:
    """The same, or None."""
    return lambda value: value is None or check(value)


SHARE, POSITIVE = number(0, 1), number(0)


def is_curve(value: Any) -> bool:
    """Radius, as it is written ("0.5"), -> share of the images."""
    return isinstance(value, dict) and all(_is_radius(key) and SHARE(share) for key, share in value.items())


def _is_radius(key: str) -> bool:
    try:
        radius = float(key)
    except ValueError:
        return False
    return math.isfinite(radius) and radius >= 0 and f"{radius:g}" == key


def is_count(value: Any) -> bool:
    """A whole number from 0."""
    return type(value) is int and 0 <= value < LARGEST


def is_text(value: Any) -> bool:
    """A text."""
    return isinstance(value, str)


def are_flags(value: Any) -> bool:
    """A list of health flags, as `lipbench.evaluation.health` writes them."""
    return isinstance(value, list) and all(map(_is_flag, value))


def _is_flag(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and {"name", "severity", "message"} <= value.keys() <= {"name", "severity", "message", "method"}
        and all(map(is_text, value.values()))
        and value["severity"] in ("warning", "note")
    )
