"""The leaderboard: one row per network, as a table, as Markdown, CSV and LaTeX."""

from functools import partial
from numbers import Real
from typing import Any

import pandas as pd

from lipbench.escapes import csv, markdown
from lipbench.files import write_text
from lipbench.report.lineup import lineup_table
from lipbench.results import IMBALANCED, RUN_COLUMNS
from lipbench.results.runs import Runs

GROUP = RUN_COLUMNS[:3]
# Shown in a second table, so that both fit a page.
SHORT = {
    "accuracy": "acc",
    "balanced accuracy": "bal",
    "sensitivity": "sens",
    "specificity": "spec",
    "median certificate": "cert",
    "median distance": "dist",
    "tightness": "tight",
    "violations": "viol",
}
# Kinds of columns "<kind> @ <epsilon>" -> beginning of the short name, and the entry of a summary. Those of each class
# alike stand in for the others where classes are of unequal size.
CURVES = {"rob": ("r@", "robust_accuracy"), "cert": ("c@", "certified_accuracy")}
BALANCED_CURVES = {
    "balanced rob": ("br@", "balanced_robust_accuracy"),
    "balanced cert": ("bc@", "balanced_certified_accuracy"),
}
BY_CLASS = ["balanced accuracy", "sensitivity", "specificity"]
LAWS = ["lipschitz", "KR / L", "W1", "transport law", "train seconds", "attack seconds"]
EXPLAINED = (
    "acc: accuracy on the test set, %. bal, sens, spec: balanced accuracy, sensitivity (of class 1) and "
    "specificity (of class 0), %, where the classes are of unequal size. r@eps: robust accuracy, combined attack "
    "on the attacked images, %. c@eps: certified accuracy on the test set, %. br@eps, bc@eps: their means over the "
    "classes, which stand for them where the classes are of unequal size. cert, dist: median certificate and "
    "distance of the combined attack, L2, pixels in [0, 1]. tight: median of distance / certificate, 1 is perfect. "
    "viol: violations of the sandwich law. lipschitz: bound of the network (of f, for two classes). Means over "
    "seeds."
)


LINEUP = (
    "Of each data set one network per kind of training, at the radii that all of them have. Where the classes are of "
    "unequal size, accuracies are means over the classes."
)


def leaderboard(runs: Runs) -> pd.DataFrame:
    """One row per dataset, experiment and variant: means over the seeds of their summaries.

    accuracy (for each class alike: balanced accuracy) and certified accuracy are over the whole test set, robust
    accuracy (combined attack) over the attacked images, in percent; violations are summed.
    """
    table = pd.DataFrame([_row(run.summary) for run in runs.finished])
    # A column that no run has a number for, such as the training time of brought models, is one of numbers still.
    numbers = [str(c) for c in table if c not in (*RUN_COLUMNS, "violations", "transport law")]
    table[numbers] = table[numbers].astype(float)
    groups = table.groupby(GROUP, sort=True)
    table = groups.mean(numeric_only=True).drop(columns="seed")
    # Whichever run came first, and whatever it lacks.
    kinds = (*CURVES, *BALANCED_CURVES)
    radii = {name: [c for c in table if str(c).startswith(f"{name} @ ")] for name in kinds}
    ordered = [c for name in radii for c in sorted(radii[name], key=_radius)]
    first = ["accuracy", *(c for c in BY_CLASS if c in table), *ordered]
    table = table[[*first, *(c for c in table if c not in first)]]
    table["violations"] = groups["violations"].sum()
    table.insert(0, "seeds", groups["seed"].nunique())
    table["transport law"] = groups["transport law"].agg(_verdict)
    return table.reset_index()


def write_leaderboard(table: pd.DataFrame, runs: Runs) -> str:
    """`leaderboard.csv` with all digits and `leaderboard.md` for readers, whose text is returned."""
    lines = [markdown(f"{'/'.join(map(str, run.key))}: {flag}") for run in runs.finished for flag in run.flags]
    parts = [*_markdown(table), *_flags(lines)]
    if runs.problems:
        parts += ["## Left out", "\n".join(f"* {markdown(str(problem))}" for problem in runs.problems)]
    text = "\n\n".join(parts)
    write_text(runs.root / "leaderboard.csv", csv(table))
    write_text(runs.root / "leaderboard.md", text + "\n")
    return text


def _flags(lines: list[str]) -> list[str]:
    explained = (
        "Signs that a number says less than it seems to. A warning: distances may be too large, or mean something else."
    )
    return ["## Flags", f"{explained}\n\n" + "\n".join(f"* {line}" for line in lines) if lines else "None."]


def _markdown(table: pd.DataFrame) -> list[str]:
    parts = ["# Leaderboard", EXPLAINED]
    lineup = lineup_table(table)
    if lineup["dataset"].nunique() > 1:
        parts += ["## The line-up on all data sets", LINEUP, _table(lineup)]
    for dataset, rows in table.groupby("dataset", sort=True):
        shown = rows.drop(columns=[*hidden(rows), *LAWS], errors="ignore")
        parts += [f"## {markdown(str(dataset))}", _table(shown), _table(rows[[*GROUP, *LAWS]])]
    return parts


def hidden(rows: pd.DataFrame) -> list[str]:
    """The columns that say nothing of the rows of one data set: of classes, where they are of equal size; and where
    they are not, those that the same of each class alike stand in for.
    """
    # Summaries that are older than the column have none.
    unequal = "imbalance" in rows and bool((rows["imbalance"] >= IMBALANCED).any())
    replaced = [str(c) for c in rows if str(c).split(" @ ")[0] in (CURVES if unequal else BALANCED_CURVES)]
    return ["imbalance", *([] if unequal else BY_CLASS), *replaced]


def _table(rows: pd.DataFrame) -> str:
    """A Markdown table, rounded for readers; columns that are empty are left out."""
    same = ["dataset"] if rows["dataset"].nunique() == 1 else []
    shown = rows.drop(columns=same).dropna(axis=1, how="all").copy()
    if "variant" in shown and set(shown["variant"]) == {"default"}:
        shown = shown.drop(columns="variant")
    numbers = list(map(str, shown.select_dtypes("number")))
    for column in numbers:
        shown[column] = shown[column].map(partial(written, column))
    for column in shown.columns.difference(numbers):
        shown[column] = shown[column].map(markdown, na_action="ignore")
    alignment = ["right" if column in numbers else "left" for column in shown]
    shown = shown.rename(columns=_short)
    return shown.to_markdown(index=False, disable_numparse=True, colalign=alignment)


def _short(column: str) -> str:
    kind, _, radius = column.partition(" @ ")
    return (CURVES | BALANCED_CURVES)[kind][0] + radius if radius else SHORT.get(column, column)


def _radius(column: Any) -> float:
    """Of a column such as "cert @ 0.5"."""
    return float(str(column).split(" @ ")[1])


def written(column: str, value: Any) -> str:
    """A value of a column, rounded for readers; "-" where there is none."""
    if value is None or pd.isna(value):
        return "-"
    if not isinstance(value, Real):
        return str(value)
    if column in ("seeds", "violations"):
        return format(value, ".0f")
    if column == "lipschitz":
        return format(value, ".3g")
    return format(value, ".1f" if column in ("accuracy", *BY_CLASS) or "@" in column or "seconds" in column else ".3f")


def _row(summary: dict[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {column: summary[column] for column in RUN_COLUMNS}
    row["accuracy"] = 100 * summary["accuracy"]
    for column in BY_CLASS:
        value = summary.get(column.replace(" ", "_"))
        if value is not None:
            row[column] = 100 * value
    if "imbalance" in summary:
        row["imbalance"] = summary["imbalance"]
    unequal = summary.get("imbalance", 1.0) >= IMBALANCED
    for kind, (_, name) in (CURVES | (BALANCED_CURVES if unequal else {})).items():
        for eps, value in (summary.get(name) or {}).items():
            row[f"{kind} @ {eps}"] = 100 * value
    row["median certificate"] = summary["median_certificate"]
    row["median distance"] = summary["median_distance"]
    row["tightness"] = summary["tightness"]
    row["violations"] = summary["violations"]
    row["lipschitz"] = summary["lipschitz"]
    kr, bound = summary.get("kr"), summary["lipschitz"]
    row["KR / L"] = kr / bound if kr is not None and bound else None
    row["W1"] = summary.get("wasserstein")
    row["transport law"] = summary.get("transport_law")
    row["train seconds"] = summary["training_seconds"]
    row["attack seconds"] = summary["attack_seconds"]
    return row


def _verdict(values: pd.Series) -> str | None:
    known = values.dropna()
    if not len(known):
        return None
    return "holds" if known.astype(bool).all() else "VIOLATED"
