"""The columns of the leaderboard, one entry each.

The board, Markdown, LaTeX, page, cards and the check of summaries iterate over `COLUMNS`. A new column is one entry.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal

import pandas as pd

from lipbench.report.checks import POSITIVE, SHARE, Check, is_count, is_curve, number, or_none
from lipbench.results import IMBALANCED, RUN_COLUMNS

# What a row of the leaderboard is named by.
GROUP = RUN_COLUMNS[:3]
Summary = Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """A column of the leaderboard. A curve is a family of columns, "<name> @ <radius>", one per radius.

    Attributes:
        name: in `leaderboard.csv`.
        key: its entry of `summary.json`.
        check: what the entry has to be.
        meaning: what it says, on the page.
        needed: a summary without the entry is refused.
        percent: the entry is a share, the column is in percent.
        form: how a number is rounded for readers.
        read: summary -> the value, where it is not the entry itself.
        combine: the values of several seeds -> one; as `pandas.Series.agg` takes it.
        is_text: its values are words.
        is_curve: its entry maps radii to values.
        page: heading over several columns, and heading, on the page ("": the radius of a curve, else the name).
        latex: the same of the LaTeX tables.
        short: heading in `leaderboard.md`; of a curve its beginning; "": the name.
        legend: the sentence in `leaderboard.md` that explains it.
        classes: shown where the classes are of equal size, of unequal size, in both cases, or never.
        larger_is_better: LaTeX has the largest value in bold.
        is_detail: in the second table of `leaderboard.md`, and not in LaTeX.
        card: of the main numbers of a network, which its card shows seed by seed and the comparison of all data sets
            shows too: how a number of the card is rounded.
    """

    name: str
    key: str
    check: Check
    meaning: str
    needed: bool = False
    percent: bool = False
    form: str = ".3f"
    read: Callable[[Summary], Any] | None = None
    combine: str | Callable[[pd.Series], Any] = "mean"
    is_text: bool = False
    is_curve: bool = False
    page: tuple[str, str] = ("", "")
    latex: tuple[str, str] = ("", "")
    short: str = ""
    legend: str = ""
    classes: Literal["both", "equal", "unequal", "never"] = "both"
    larger_is_better: bool = False
    is_detail: bool = False
    card: str = ""

    def values(self, summary: Summary) -> dict[str, Any]:
        """Name of a column -> its value for one run: one per radius of a curve. Nothing where a number about classes
        is unknown, and for a curve of unequal classes where the classes are of equal size.
        """
        value = summary.get(self.key) if self.read is None else self.read(summary)
        scale = 100 if self.percent else 1
        if self.is_curve:
            left_out = self.classes == "unequal" and summary.get("imbalance", 1.0) < IMBALANCED
            curve = {} if left_out or value is None else value
            return {f"{self.name} @ {radius}": scale * share for radius, share in curve.items()}
        if value is None:
            return {self.name: None} if self.classes == "both" else {}
        return {self.name: value if self.is_text else scale * value}


def _kr_per_bound(summary: Summary) -> float | None:
    kr, bound = summary.get("kr"), summary["lipschitz"]
    return kr / bound if kr is not None and bound else None


def _verdict(values: pd.Series) -> str | None:
    known = values.dropna()
    if not len(known):
        return None
    return "holds" if known.astype(bool).all() else "VIOLATED"


def _accuracy(name: str, key: str, check: Check, meaning: str, **others: Any) -> Column:
    """A column in percent. A larger value is better."""
    return Column(name, key, check, meaning, percent=True, form=".1f", larger_is_better=True, **others)


# Each entry as a paragraph.
# fmt: off
COLUMNS = (
    Column("seeds", "seed", is_count, "number of seeds; every other number is the mean over them", form=".0f",
        combine="nunique"),
    _accuracy("accuracy", "accuracy", SHARE, "accuracy on the test set, %", needed=True, latex=("", "acc."),
        short="acc", legend="acc: accuracy on the test set, %.", card=".2f"),
    _accuracy("balanced accuracy", "balanced_accuracy", or_none(SHARE),
        "mean over the classes of their accuracies, %", page=("", "balanced"), latex=("", "bal."), short="bal",
        legend="bal, sens, spec: balanced accuracy, sensitivity (of class 1) and specificity (of class 0), %, "
        "where the classes are of unequal size.", classes="unequal"),
    _accuracy("sensitivity", "sensitivity", or_none(SHARE), "accuracy on class 1, %", latex=("", "sens."),
        short="sens", classes="unequal"),
    _accuracy("specificity", "specificity", or_none(SHARE), "accuracy on class 0, %", latex=("", "spec."),
        short="spec", classes="unequal"),
    _accuracy("rob", "robust_accuracy", or_none(is_curve), "of the combined attack on the attacked images, %",
        needed=True, is_curve=True, page=("robust accuracy at ε", ""), latex=(r"robust at $\varepsilon$", ""),
        short="r@", legend="r@eps: robust accuracy, combined attack on the attacked images, %.", classes="equal"),
    _accuracy("cert", "certified_accuracy", or_none(is_curve), "on the test set, %", needed=True, is_curve=True,
        page=("certified accuracy at ε", ""), latex=(r"certified at $\varepsilon$", ""), short="c@",
        legend="c@eps: certified accuracy on the test set, %.", classes="equal"),
    _accuracy("balanced rob", "balanced_robust_accuracy", or_none(is_curve),
        "mean over the classes, of classes of unequal size, %", is_curve=True,
        page=("balanced robust accuracy at ε", ""), latex=(r"robust at $\varepsilon$, balanced", ""), short="br@",
        legend="br@eps, bc@eps: their means over the classes, which stand for them where the classes are of "
        "unequal size.", classes="unequal"),
    _accuracy("balanced cert", "balanced_certified_accuracy", or_none(is_curve),
        "mean over the classes, of classes of unequal size, %", is_curve=True,
        page=("balanced certified accuracy at ε", ""), latex=(r"certified at $\varepsilon$, balanced", ""),
        short="bc@", classes="unequal"),
    Column("imbalance", "imbalance", number(1), "images of the largest class per image of the smallest",
        classes="never"),
    Column("median certificate", "median_certificate", or_none(POSITIVE),
        "median certified radius, L2, pixels in [0, 1]", needed=True, page=("median", "certificate"),
        latex=("median", "cert."), short="cert",
        legend="cert, dist: median certificate and distance of the combined attack, L2, pixels in [0, 1].",
        larger_is_better=True, card=".3f"),
    Column("median distance", "median_distance", or_none(POSITIVE),
        "median distance of the combined attack, L2, pixels in [0, 1]", needed=True, page=("median", "distance"),
        latex=("median", "dist."), short="dist", larger_is_better=True, card=".3f"),
    Column("tightness", "tightness", or_none(POSITIVE), "median of distance / certificate; 1 is perfect", needed=True,
        latex=("", "tight."), short="tight", legend="tight: median of distance / certificate, 1 is perfect.",
        card=".3f"),
    Column("violations", "violations", is_count, "images on which an attack beats a certificate; 0 is right",
        needed=True, form=".0f", combine="sum", latex=("", "viol."), short="viol",
        legend="viol: violations of the sandwich law."),
    Column("lipschitz", "lipschitz", or_none(POSITIVE), "Lipschitz bound of the network (of f, for two classes)",
        needed=True, form=".3g", page=("transport", "Lipschitz"),
        legend="lipschitz: bound of the network (of f, for two classes).", is_detail=True),
    Column("KR / L", "kr", or_none(number()), "Kantorovich-Rubinstein estimate over the Lipschitz bound; at most W1",
        read=_kr_per_bound, page=("transport", "KR / L"), is_detail=True),
    Column("W1", "wasserstein", or_none(number()), "exact Wasserstein-1 distance of the two classes",
        page=("transport", "W1"), is_detail=True),
    Column("transport law", "transport_law", or_none(lambda value: isinstance(value, bool)),
        "whether KR / L is at most W1", combine=_verdict, is_text=True, page=("transport", "law"), is_detail=True),
    Column("train seconds", "training_seconds", or_none(POSITIVE), "seconds of training", needed=True, form=".1f",
        page=("seconds", "training"), is_detail=True),
    Column("attack seconds", "attack_seconds", or_none(POSITIVE), "seconds of all attacks", needed=True, form=".1f",
        page=("seconds", "attacks"), is_detail=True),
)
# fmt: on
BY_NAME = {column.name: column for column in COLUMNS}


def split(name: str) -> tuple[Column | None, str]:
    """The entry of a column of the leaderboard and its radius ("" where it is no curve); no entry: a name of a run."""
    kind, _, radius = name.partition(" @ ")
    return BY_NAME.get(kind), radius


def written(name: str, value: Any) -> str:
    """A value of a column, rounded for readers; "-" where there is none."""
    if value is None or pd.isna(value):
        return "-"
    column, _ = split(name)
    return format(value, column.form) if column is not None and isinstance(value, Real) else str(value)


def heading(name: str, headings: Callable[[Column], tuple[str, str]]) -> tuple[str, str]:
    """The heading over several columns and that of the column itself.

    Args:
        headings: gives those of an entry, such as `page` or `latex`.
    """
    column, radius = split(name)
    if column is None:
        return "", name
    group, own = headings(column)
    return group, radius or own or name


def hidden(rows: pd.DataFrame) -> list[str]:
    """The columns that say nothing of the rows of one data set: of classes, where they are of equal size; and where
    they are not, the curves for which those of each class alike stand.
    """
    # Summaries that are older than the column have none.
    unequal = "imbalance" in rows and bool((rows["imbalance"] >= IMBALANCED).any())
    shown = ("both", "unequal" if unequal else "equal")
    return [name for name in map(str, rows) if (column := split(name)[0]) is not None and column.classes not in shown]
