"""The table of the methods of one network: how near each attack comes, what each method costs. A column is an entry."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from lipbench.results.attacked import Attacked
from lipbench.results.flags import Flag


@dataclass(frozen=True)
class MethodColumn:
    """A column of the table.

    Attributes:
        name: its heading.
        key: its column in `method_numbers`.
        form: how a number is written.
        meaning: one sentence for readers.
    """

    name: str
    key: str
    form: str
    meaning: str


COLUMNS = (
    MethodColumn(
        "optimality (%)",
        "optimality",
        ".1f",
        "area above accuracy against epsilon, relative to that of the nearest known images (AttackBench); 100 is best",
    ),
    MethodColumn("unbroken", "unbroken", ".0f", "images for which the attack found no adversarial image"),
    MethodColumn("outside the box", "outside", ".0f", "images that the attack returned with pixels outside [0, 1]"),
    MethodColumn("seconds in all", "seconds", ".1f", "seconds for all images together"),
    MethodColumn(
        "passes per image", "passes", ".0f", "how often an image went forward through the network, on average"
    ),
)


def method_numbers(attacked: Attacked, costs: pd.DataFrame, flags: Sequence[Flag]) -> pd.DataFrame:
    """The numbers of one run, indexed by method: those that cost something, then attacks without costs; with the keys
    of `COLUMNS` as columns, NaN where a method has no such number.

    Args:
        costs: indexed by method, with the columns seconds and passes.
        flags: of the run.
    """
    outside = {flag.method: flag.count for flag in flags if flag.name == "outside_box"}
    names = list(dict.fromkeys([*costs.index, *attacked.attacks]))
    table = costs.reindex(names).join(attacked.optimality[["optimality", "unbroken"]])
    table["optimality"] *= 100
    table["outside"] = [outside.get(name, 0) if name in attacked.attacks else None for name in names]
    table.loc[table.index == "training", "passes"] = None  # which are in all
    return table[[column.key for column in COLUMNS]].astype(float)


def method_cells(tables: Sequence[pd.DataFrame]) -> list[list[str]]:
    """Means over the runs as text, the headings first. A column without any number is left out.

    Args:
        tables: of each run, as of `method_numbers`.
    """
    means = pd.concat(tables).groupby(level=0, sort=False).mean()
    shown = [column for column in COLUMNS if means[column.key].notna().any()]
    rows = [["method", *(column.name for column in shown)]]
    for name, row in means.iterrows():
        rows.append([str(name), *("-" if pd.isna(row[c.key]) else format(row[c.key], c.form) for c in shown)])
    return rows


def explained(attacked: Sequence[Attacked]) -> str:
    """What the optimality is measured against; "" without attacks."""
    known = sorted({str(text) for each in attacked for text in each.optimality["reference"]})
    if not known:
        return ""
    return f"Optimality is relative to: {', '.join(known)} (local optimality of AttackBench, arXiv 2404.19460)."
