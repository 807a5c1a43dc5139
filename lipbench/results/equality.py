"""Two folders of one run, table by table: which are the same byte for byte, and by how much the others differ."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from lipbench.files import ResultsError

# Columns that are measured by a clock.
CLOCK = ("seconds",)


@dataclass(frozen=True)
class Equality:
    """Of one table.

    Attributes:
        name: of its file, such as "bounds/certificate.csv".
        equal: byte for byte (in history.csv: but for the seconds).
        how: what differs; "" where it is equal.
    """

    name: str
    equal: bool
    how: str = ""


def equalities(first: Path, second: Path) -> list[Equality]:
    """One per table that either folder of a run has: of the methods, of the history, of the measures."""
    names = {
        path.relative_to(folder).as_posix()
        for folder in (first, second)
        for pattern in ("bounds/*.csv", "*.csv")
        for path in folder.glob(pattern)
    }
    return [_equality(name, first / name, second / name) for name in sorted(names - {"costs.csv", "violations.csv"})]


def _equality(name: str, first: Path, second: Path) -> Equality:
    for path, which in ((first, "first"), (second, "second")):
        if not path.exists():
            return Equality(name, False, f"missing in the {which} folder")
    if first.read_bytes() == second.read_bytes():
        return Equality(name, True)
    try:
        # As text: what is the same number is the same text, and an empty cell stays one.
        tables = [pd.read_csv(path, dtype=str, keep_default_na=False) for path in (first, second)]
    except ValueError as error:
        raise ResultsError(f"{name} of one of the folders is damaged ({error}).") from error
    one, two = (table.drop(columns=[c for c in CLOCK if c in table]) for table in tables)
    if list(one.columns) != list(two.columns) or len(one) != len(two):
        return Equality(name, False, f"{len(one)} rows of {list(one.columns)}, then {len(two)} of {list(two.columns)}")
    differ = one != two
    if not differ.to_numpy().any():
        return Equality(name, name == "history.csv", "" if name == "history.csv" else "the same values, other bytes")
    return Equality(
        name,
        False,
        "; ".join(_column(str(c), one[c][differ[c]], two[c][differ[c]], len(one)) for c in one if differ[c].any()),
    )


def _column(name: str, first: pd.Series, second: pd.Series, rows: int) -> str:
    """How much the unequal values of a column differ."""
    a, b = (pd.to_numeric(values, errors="coerce").to_numpy(dtype=float) for values in (first, second))
    changes = np.abs(a - b)[np.isfinite(a) & np.isfinite(b)]
    text = f"{name} in {len(first)} of {rows} rows"
    if len(changes):
        scale = np.maximum(np.abs(a), np.abs(b))[np.isfinite(a) & np.isfinite(b)]
        relative = (changes / np.where(scale > 0, scale, 1)).max()
        text += f", by up to {changes.max():.2g} (relative {relative:.2g})"
    others = len(first) - len(changes)
    return text + (f", of which {others} are no numbers in one of the two" if others else "")
