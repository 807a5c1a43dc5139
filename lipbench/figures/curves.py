"""Accuracy against epsilon: survival functions of distances."""

import textwrap
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lipbench.figures.numbers import drawn
from lipbench.figures.recipes import Recipe
from lipbench.figures.style import METHODS, ONE_COLUMN, TWO_COLUMNS, legend_below, method_look, style
from lipbench.files import ResultsError
from lipbench.results import IMBALANCED, RUN_COLUMNS, balanced_survival, best, imbalance, survival
from lipbench.results.runs import Runs
from lipbench.results.words import network_name, shortened

COLUMNS = 4
# Letters of a line above a panel.
LINE = 21
# The picture ends where this share of the images is lost.
REACH = 0.98
NORM_LABELS = {"l2": "L2", "linf": "L-infinity", "l1": "L1"}


def accuracy_curves(table: pd.DataFrame, title: str = "", norm: str = "l2", balanced: bool | None = None) -> Figure:
    """One panel per experiment: a curve per attack, all attacks together (black), the certificate (black, dashed).

    Args:
        table: rows of one data set as `lipbench.read` returns them. Curves of a panel use the images that every method
            of it has; several seeds are pooled.
        norm: of the distances. Most attacks minimise L2: in another norm their curves are not tight.
        balanced: whether each class counts alike; None: where they are of unequal size.

    Raises:
        ResultsError: the table has no rows of this norm.
    """
    found = sorted(set(table["norm"]))
    if norm not in found:
        known = ", ".join(found) or "no rows"
        raise ResultsError(f"There are no distances in the norm {norm!r}; the table has {known}.")
    table = table[table["norm"] == norm]
    # In the order of the names above the panels.
    groups = sorted(table.groupby(RUN_COLUMNS[:3], sort=True), key=lambda group: network_name(str(group[0][1])))
    attacked = set(table[table["side"] == "upper"]["method"])
    attacks = [m for m in dict.fromkeys((*METHODS, *sorted(attacked))) if m in attacked]
    limit = _reach(table)
    balanced = imbalance(table["label"].to_numpy()) >= IMBALANCED if balanced is None else balanced
    columns = min(COLUMNS, len(groups))
    rows = -(-len(groups) // columns)
    with style():
        figure = Figure(figsize=(TWO_COLUMNS if columns > 1 else ONE_COLUMN, 1.65 * rows + 0.9))
        axes = np.atleast_1d(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)).ravel()
        for axis, (key, rows_of_panel) in zip(axes, groups, strict=False):
            _panel(axis, rows_of_panel, norm, attacks, limit, balanced)
            variant = "" if key[2] == "default" else f"\n{shortened(str(key[2]), 24)}"
            axis.set_title(textwrap.fill(network_name(str(key[1])), LINE) + variant)
        for axis in axes[len(groups) :]:
            axis.set_visible(False)
        for position, axis in enumerate(axes[: len(groups)]):
            if position + columns >= len(groups):
                axis.set_xlabel(f"epsilon ({NORM_LABELS[norm]})")
                axis.tick_params(labelbottom=True)
        figure.supylabel("balanced accuracy (%)" if balanced else "accuracy (%)", fontsize=8)
        handles: dict[str, Any] = {}
        for axis in axes[: len(groups)]:
            handles |= dict(zip(*reversed(axis.get_legend_handles_labels()), strict=True))
        legend_below(figure, handles)
        if title:
            figure.suptitle(title, fontsize=8)
    return figure


def _reach(table: pd.DataFrame) -> float:
    """As far as all attacks together need, or the certificates where there are no attacks; a weak attack's tail is
    cut.
    """
    for side, nearest in (("upper", "min"), ("lower", "max")):
        combined = table[table["side"] == side].groupby([*RUN_COLUMNS, "index"], observed=True)["distance"].agg(nearest)
        finite = combined[np.isfinite(combined) & (combined > 0)]
        if len(finite):
            return 1.05 * float(finite.quantile(REACH))
    return 1.0


def _panel(axis: Axes, table: pd.DataFrame, norm: str, attacks: Sequence[str], limit: float, balanced: bool) -> None:
    """Curves of one experiment, whose rows are of one norm, on the images that all its methods share."""
    # One image of one seed is one key: seeds are pooled.
    table = table.assign(index=table["seed"].astype(str) + "/" + table["index"].astype(str))
    methods = table["method"].nunique()
    counts = table.groupby("index")["method"].nunique()
    table = table[table["index"].isin(counts[counts == methods].index)]
    epsilons = np.linspace(0, limit, 400)
    labels = table.drop_duplicates("index").set_index("index")["label"]

    def percent(distances: pd.Series) -> np.ndarray:
        return 100 * (balanced_survival(distances, labels, epsilons) if balanced else survival(distances, epsilons))

    for method in attacks:
        distances = table[table["method"] == method].set_index("index")["distance"]
        if len(distances):
            axis.plot(
                epsilons,
                percent(distances),
                color=method_look(method).color,
                linewidth=1.0,
                label=method_look(method).label,
            )
    for side, label, dashes in (("upper", "all attacks", "-"), ("lower", "certificate", "--")):
        distances = best(table, side, norm)
        if len(distances):
            # Below the attacks, and wider: an attack that is as good as all together is seen on it.
            width, order = (2.6, 1.5) if side == "upper" else (1.6, 2.0)
            known: dict[str, Any] = {"color": "black", "linestyle": dashes, "linewidth": width, "zorder": order}
            axis.plot(epsilons, percent(distances), label=label, **known)
    axis.set_xlim(0, limit)
    axis.set_ylim(0, 102)
    axis.xaxis.set_major_locator(MaxNLocator(4))


def accuracy(runs: Runs) -> tuple[Figure, pd.DataFrame] | None:
    """`accuracy_curves` of the networks of one data set that were attacked, without the variants of a sweep, and what
    is drawn; None where none was attacked by several attacks.
    """
    chosen = [run for run in runs.of_defaults().finished if len(run.attacked.attacks) > 1]
    if not chosen:
        return None
    figure = accuracy_curves(replace(runs, finished=chosen).tables)
    return figure, drawn(figure)


RECIPES = (
    Recipe(
        "accuracy",
        "Accuracy against epsilon, attack by attack",
        "One panel per network, one curve per attack: the accuracy that it leaves falls as the L2 norm of the "
        "perturbation grows. Black: all attacks together; an attack that lies on it is the best. Dashed: certified.",
        accuracy,
    ),
)
