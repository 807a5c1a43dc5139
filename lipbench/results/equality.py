"""Two folders of one run, table by table: which are the same, and by how much the others differ."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from lipbench.files import ResultsError
from lipbench.results.layout import table_paths
from lipbench.results.storage import is_imported, read_table

# Columns that are measured by a clock.
CLOCK = ("seconds",)


@dataclass(frozen=True)
class Equality:
    """Of one table.

    Attributes:
        name: "bounds/certificate" of a table of bounds, otherwise that of the file, such as "history.csv".
        equal: of a table of bounds, every value to the last bit; of another, byte for byte (in history.csv: but for the
            seconds).
        how: what differs; "" where it is equal.
    """

    name: str
    equal: bool
    how: str = ""


def equalities(first: Path, second: Path) -> list[Equality]:
    """One per table that either folder of a run has: of the methods, of the history, of the measures."""
    one, two = ({**_bounds(folder), **_others(folder)} for folder in (first, second))
    return [_equality(name, one.get(name), two.get(name)) for name in sorted({*one} | {*two})]


def _bounds(folder: Path) -> dict[str, Path]:
    """In the layout of this version, or of an older one; without imported ones, which no run makes."""
    return {f"bounds/{path.stem}": path for path in table_paths(folder) if not is_imported(path)}


def _others(folder: Path) -> dict[str, Path]:
    return {path.name: path for path in folder.glob("*.csv") if path.name not in ("costs.csv", "violations.csv")}


def _text(path: Path) -> pd.DataFrame:
    """A table as text: what is the same number is the same text, and an empty cell stays one."""
    if path.parent.name == "bounds":
        table = read_table(path)
        return table.assign(distance=table["distance"].map(repr)).astype(str)
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def _equality(name: str, first: Path | None, second: Path | None) -> Equality:
    if first is None or second is None:
        return Equality(name, False, f"missing in the {'first' if first is None else 'second'} folder")
    if first.read_bytes() == second.read_bytes():
        return Equality(name, True)
    try:
        tables = [_text(path) for path in (first, second)]
    except ValueError as error:
        raise ResultsError(f"{name} of one of the folders is damaged ({error}).") from error
    one, two = (table.drop(columns=[c for c in CLOCK if c in table]) for table in tables)
    if list(one.columns) != list(two.columns) or len(one) != len(two):
        return Equality(name, False, f"{len(one)} rows of {list(one.columns)}, then {len(two)} of {list(two.columns)}")
    differ = one != two
    if not differ.to_numpy().any():
        same = name == "history.csv" or name.startswith("bounds/")
        return Equality(name, same, "" if same else "the same values, other bytes")
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
