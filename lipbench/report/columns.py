"""The columns of the leaderboard, one entry each.

The board, Markdown, LaTeX, page, cards and the check of summaries iterate over `COLUMNS`. A new column is one entry.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal

import numpy as np
import pandas as pd

from lipbench.report.checks import POSITIVE, SHARE, Check, is_count, is_curve, is_text, number, or_none
from lipbench.results import RUN_COLUMNS
from lipbench.results.radii import radius_text
from lipbench.results.words import is_one_class

# What a row of the leaderboard is named by.
GROUP = RUN_COLUMNS[:3]
# The version of `leaderboard.{csv,json,md,tex}`: a column that changes its name or its meaning is another version.
SCHEMA_VERSION = 1
# The columns of the uncertainty of another one end so: over the choice of the images, and over the seeds.
OVER_IMAGES, OVER_SEEDS = " ± images", " ± seeds"
Numbers = Mapping[Any, Any]
# How a number is rounded: a format, or a function that gives its text.
Form = str | Callable[[float], str]
# At the name of a network that was certified without inscribed balls, where others of the report were certified with.
MARK = "\u2020"
MARKED = (
    f"{MARK} certified without certificate_inscribed, which other rows of this report have: certified radius and "
    "accuracy may be smaller and tight larger for this reason alone. Run it again before you compare."
)


@dataclass(frozen=True)
class Column:
    """A column of the leaderboard. A curve is a family of columns, "<name> @ <radius>", one per radius.

    Attributes:
        name: in `leaderboard.csv`.
        key: its entry in the numbers of a run: `summary.json`, and what `attacked_numbers` derives from the tables.
        check: what the entry has to be, where `summary.json` holds it.
        meaning: one sentence for readers.
        needed: a summary without the entry is refused.
        percent: the entry is a share, the column is in percent.
        form: how a number is rounded for readers.
        read: numbers -> the value, where it is not the entry itself.
        combine: the values of several seeds -> one; as `pandas.Series.agg` takes it.
        is_text: its values are words.
        is_curve: its entry maps radii to values.
        short: heading for readers; of a curve its beginning; "": the name.
        place: "board": in the first table of `leaderboard.md`, in LaTeX and on the page; "details": in the second
            table; "file": in `leaderboard.csv` and `.json` alone.
        larger_is_better: the largest value is bold where it leads clearly.
        card: a card shows it seed by seed: how its number is rounded there.
    """

    name: str
    key: str
    check: Check
    meaning: str
    needed: bool = False
    percent: bool = False
    form: Form = ".3f"
    read: Callable[[Numbers], Any] | None = None
    combine: str | Callable[[pd.Series], Any] = "mean"
    is_text: bool = False
    is_curve: bool = False
    short: str = ""
    place: Literal["board", "details", "file"] = "details"
    larger_is_better: bool = False
    card: Form = ""

    def values(self, numbers: Numbers) -> dict[str, Any]:
        """Name of a column -> its value for one run: one per radius of a curve."""
        value = numbers.get(self.key) if self.read is None else self.read(numbers)
        scale = 100 if self.percent else 1
        if self.is_curve:
            return {f"{self.name} @ {radius}": scale * share for radius, share in (value or {}).items()}
        return {self.name: value if value is None or self.is_text else scale * value}


def _kr_per_bound(numbers: Numbers) -> float | None:
    kr, bound = numbers.get("kr"), numbers.get("lipschitz")
    return kr / bound if kr is not None and bound else None


def _all(values: pd.Series) -> str | None:
    known = values.dropna()
    if not len(known):
        return None
    return "holds" if known.astype(bool).all() else "VIOLATED"


def _first(values: pd.Series) -> Any:
    return values.iloc[0]


def _ratio(value: float) -> str:
    """Three significant digits; of a certificate that says nothing, "> 100"."""
    return "> 100" if value > 100 else f"{value:#.3g}".rstrip(".")


def _accuracy(name: str, key: str, check: Check, meaning: str, **others: Any) -> Column:
    """A column in percent. A larger value is better."""
    return Column(name, key, check, meaning, percent=True, form=".1f", larger_is_better=True, **others)


# Each entry as a paragraph.
# fmt: off
COLUMNS = (
    Column("seeds", "seed", is_count, "number of seeds; every other number is the mean over them", form=".0f",
        combine="nunique", place="board"),
    Column("images", "attacked_images", is_count, "number of attacked images: accuracies, medians and tightness are "
        "over them", form=".0f", combine="max", short="n", place="board"),
    Column("attacks", "attacks", is_count, "number of attacks; the nearest image of all counts", form=".0f",
        combine="max", place="board"),
    _accuracy("accuracy", "attacked_accuracy", SHARE, "accuracy (%)", short="acc", place="board", card=".1f"),
    _accuracy("cert", "attacked_certified_accuracy", or_none(is_curve),
        "certified accuracy (%): the largest certified radius of the image exceeds the radius", is_curve=True,
        place="board"),
    _accuracy("rob", "robust_accuracy", or_none(is_curve),
        "robust accuracy (%): no attack finds an adversarial image within the radius", needed=True, is_curve=True,
        place="board"),
    Column("median certificate", "median_certificate", or_none(POSITIVE), "median certified radius", needed=True,
        short="radius", larger_is_better=True, place="board", card=".3f"),
    Column("median distance", "median_distance", or_none(POSITIVE), "median distance of the nearest adversarial image",
        needed=True, short="distance", larger_is_better=True, place="board", card=".3f"),
    Column("tightness", "tightness", or_none(POSITIVE), "median of distance / certified radius; 1 is perfect",
        needed=True, short="tight", place="board", form=_ratio, card=_ratio),
    Column("violations", "violations", is_count, "images on which an attack beats a certificate; 0 is right",
        needed=True, form=".0f", combine="sum"),
    _accuracy("cert f", "attacked_certificate_accuracy", or_none(is_curve),
        "certified accuracy (%) of the method `certificate` alone", is_curve=True),
    Column("test images", "test_images", is_count, "number of images of the whole test set", form=".0f",
        combine="max"),
    _accuracy("test accuracy", "accuracy", SHARE, "accuracy on the whole test set (%)", needed=True, card=".2f"),
    _accuracy("test balanced accuracy", "balanced_accuracy", or_none(SHARE),
        "mean of the accuracies of the classes on the whole test set (%)"),
    _accuracy("test sensitivity", "sensitivity", or_none(SHARE), "accuracy on class 1, whole test set (%)",
        place="file"),
    _accuracy("test specificity", "specificity", or_none(SHARE), "accuracy on class 0, whole test set (%)",
        place="file"),
    _accuracy("test cert", "certified_accuracy", or_none(is_curve), "certified accuracy on the whole test set (%)",
        needed=True, is_curve=True),
    Column("lacks", "lacks", or_none(is_text), "a certificate that other rows have", combine=_first, is_text=True,
        place="file"),
    Column("imbalance", "imbalance", number(1), "images of the largest class per image of the smallest", place="file"),
    Column("lipschitz", "lipschitz", or_none(POSITIVE), "Lipschitz bound of the network (of f, for two classes)",
        needed=True, form=".3g", short="L"),
    Column("KR / L", "kr", or_none(number()), "Kantorovich-Rubinstein estimate over the Lipschitz bound; at most W1",
        read=_kr_per_bound),
    Column("W1", "wasserstein", or_none(number()), "exact Wasserstein-1 distance of the two classes"),
    Column("transport law", "transport_law", or_none(lambda value: isinstance(value, bool)),
        "whether KR / L is at most W1", combine=_all, is_text=True),
    Column("train seconds", "training_seconds", or_none(POSITIVE), "seconds of training", needed=True, form=".1f"),
    Column("attack seconds", "attack_seconds", or_none(POSITIVE), "seconds of all attacks", needed=True, form=".1f"),
)
# fmt: on
BY_NAME = {column.name: column for column in COLUMNS}


def split(name: str) -> tuple[Column | None, str]:
    """The entry of a column of the leaderboard and its radius ("" where it is no curve); no entry: a name of a run, or
    an uncertainty.
    """
    kind, _, radius = name.partition(" @ ")
    return (None, "") if " ± " in name else (BY_NAME.get(kind), radius)


def written(name: str, value: Any) -> str:
    """A value of a column, rounded for readers; "-" where there is none."""
    if value is None or pd.isna(value):
        return "-"
    column, _ = split(name)
    return rounded(float(value), column.form) if column is not None and isinstance(value, Real) else str(value)


def rounded(value: float, form: Form) -> str:
    """A number as text."""
    return form(value) if callable(form) else format(value, form)


def mark(row: Numbers) -> str:
    """`MARK` for a row that lacks a certificate that others have; else ""."""
    return "" if pd.isna(row.get("lacks")) else MARK


def heading(name: str) -> str:
    """The heading of a column for readers, such as "cert@36/255"."""
    column, radius = split(name)
    if column is None:
        return name
    short = column.short or column.name
    return f"{short}@{radius_text(radius)}" if radius else short


def uncertainty(row: Numbers, name: str) -> float:
    """The uncertainty of a number of a row: the larger one of that over the images and that over the seeds. NaN where
    it is unknown.
    """
    known = [row.get(name + kind, math.nan) for kind in (OVER_IMAGES, OVER_SEEDS)]
    return max((float(value) for value in known if not pd.isna(value)), default=math.nan)


def written_with(name: str, row: Numbers) -> str:
    """A number of a row with its uncertainty, such as "98.0±1.2"."""
    margin = uncertainty(row, name)
    text = written(name, row.get(name))
    if text == "-" or math.isnan(margin):
        return text
    return f"{text}±{margin:.0f}" if margin >= 10 else f"{text}±{written(name, margin)}"


def leader(rows: pd.DataFrame, name: str) -> Any:
    """The index of the row that leads in a column: its lead over every other row is larger than the uncertainties of
    both together. None where no row does.
    """
    column, _ = split(name)
    if column is None or not column.larger_is_better or rows[name].notna().sum() < 2:
        return None
    if "dataset" in rows and rows["dataset"].map(is_one_class).any():  # each inlier class is a task of its own
        return None
    values = rows[name].astype(float)
    best: Any = values.idxmax()
    others = values.drop(best).dropna().index
    margins = rows.reindex(columns=[name + OVER_IMAGES, name + OVER_SEEDS]).astype(float).max(axis=1)
    leads = values[best] - values[others] > np.hypot(margins[best], margins[others])
    return best if leads.all() else None
