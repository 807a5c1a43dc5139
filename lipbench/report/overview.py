"""The main networks of every data set in one table."""

import pandas as pd

from lipbench.report.columns import COLUMNS
from lipbench.results import IMBALANCED
from lipbench.results.selection import main_names

# The curves.
KINDS = [column.name for column in COLUMNS if column.is_curve and column.classes == "equal"]


def overview_table(table: pd.DataFrame) -> pd.DataFrame:
    """The main networks (see `lipbench.results.selection`), variant "default", of all data sets.

    Args:
        table: as `lipbench.report.leaderboard` returns it.

    Returns:
        dataset, experiment, accuracy, robust and certified accuracy at the radii that all data sets have, medians,
        tightness. Where the classes of a data set are of unequal size, accuracies are means over the classes.
    """
    rows = table[table["variant"] == "default"]
    parts = [_of_one(group) for _, group in rows.groupby("dataset", sort=True)]
    if not parts:
        return pd.DataFrame(columns=["dataset", "experiment"])
    # A data set that was not attacked has no robust accuracy; its certified ones decide with the others.
    radii = {kind: [_radii(part, kind) for part in parts if _radii(part, kind)] for kind in KINDS}
    shared = {
        kind: sorted(set.intersection(*map(set, held)), key=float) if held else [] for kind, held in radii.items()
    }
    names = ["dataset", "experiment"]
    for column in COLUMNS:
        names += [f"{column.name} @ {radius}" for radius in shared.get(column.name, [])]
        names += [column.name] if column.card else []
    return pd.concat(parts, ignore_index=True).reindex(columns=names)


def _of_one(rows: pd.DataFrame) -> pd.DataFrame:
    """The main networks of one data set, each class alike where they are of unequal size."""
    names = main_names(rows["experiment"])
    rows = rows.set_index("experiment").loc[names].reset_index()
    if "imbalance" in rows and bool((rows["imbalance"] >= IMBALANCED).any()):
        balanced = {str(c): str(c).removeprefix("balanced ") for c in rows if str(c).startswith("balanced ")}
        others = [c for c in rows if str(c).split(" @ ")[0] in ("accuracy", *KINDS)]
        rows = rows.drop(columns=others).rename(columns=balanced)
    return rows.dropna(axis=1, how="all")


def _radii(rows: pd.DataFrame, kind: str) -> list[str]:
    return [str(c).removeprefix(f"{kind} @ ") for c in rows if str(c).startswith(f"{kind} @ ")]
