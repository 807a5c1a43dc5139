"""Radii as people write them: 36/255 is the radius 0.141176 of the literature on CIFAR-10."""

from collections.abc import Iterable

from lipbench.files import ResultsError

LEVELS = 255


def radius_of(text: str | float) -> float:
    """The radius of a text such as "0.5" or "36/255", or of a number. A number of six digits that is k / 255 is meant
    to be exactly that.

    Raises:
        ResultsError: it is no radius.
    """
    try:
        first, _, second = str(text).partition("/")
        radius = float(first) / float(second or 1)
    except (ValueError, ZeroDivisionError):
        raise ResultsError(f"epsilons: {text!r} is no radius. Give numbers such as 0.5 or 36/255.") from None
    level = _level(radius)
    return level / LEVELS if level else radius


def radius_text(radius: str | float) -> str:
    """As it is printed: "0.5", or "36/255"."""
    level = _level(float(radius))
    return f"{level}/{LEVELS}" if level else f"{float(radius):g}"


def main_radii(radii: Iterable[str | float]) -> list[float]:
    """The middle one of some radii (of an even number the smaller) and the one before it. The position decides, not a
    result.
    """
    ordered = sorted(set(map(float, radii)))
    middle = (len(ordered) - 1) // 2
    return ordered[max(0, middle - 1) : middle + 1]


def _level(radius: float) -> int:
    """k where the radius is k / 255 to six digits and no short decimal number, else 0."""
    level = round(radius * LEVELS)
    short = abs(radius * 1000 - round(radius * 1000)) < 1e-9
    return level if not short and level > 0 and abs(radius - level / LEVELS) < 1e-6 else 0
