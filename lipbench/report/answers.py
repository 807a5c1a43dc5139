"""The answer first: one sentence per data set, made from the numbers of the leaderboard."""

import math
from typing import Any

import pandas as pd

from lipbench.report.columns import uncertainty
from lipbench.report.leaderboard import board_radii, speakers
from lipbench.results.looks import kind_of
from lipbench.results.radii import radius_text
from lipbench.results.words import dataset_name, is_one_class, network_name

Row = dict[Any, Any]


def answer(rows: pd.DataFrame) -> str:
    """Which network of a data set is the most robust at the main radius, how sure that is, how far proof and attack are
    apart, and what a classical network is worth.

    Args:
        rows: of one data set, as `lipbench.report.leaderboard` returns them: best first.
    """
    dataset = str(rows["dataset"].iloc[0])
    name, radius = dataset_name(dataset), board_radii(rows)[-1:]
    if is_one_class(dataset):
        said = "each inlier class is a task of its own, so the board is not ranked. AUROC judges these networks"
        return f"{_violation(rows)}{name}: {said} (measure=[one_class])."
    if not radius:
        return f"{_violation(rows)}{name}: no network has a certificate."
    cert, rob, test = (f"{kind} @ {radius[0]:g}" for kind in ("cert", "rob", "test cert"))
    shown = speakers(rows).to_dict("records")
    known = [row for row in shown if not any(pd.isna(row.get(key)) for key in (cert, rob))]
    start = f"{_violation(rows)}{name}, radius {radius_text(radius[0])}:"
    if not known:
        return f"{start} {_untested(rows, test)}"
    best = known[0]
    said = f"{start} {_network(best)} is proven right on {_share(best, cert)}, and the best attack leaves "
    said += f"{_share(best, rob)} ({_count(best)}).{_rivals(best, known, cert)}"
    classical = [row for row in known if kind_of(str(row["experiment"])) == "plain"]
    if classical and kind_of(str(best["experiment"])) != "plain":
        row = max(classical, key=lambda row: float(row[rob]))
        kind = network_name(str(row["experiment"]))
        others = "" if row["images"] == best["images"] else f" ({_count(row)})"
        said += f" The {kind}: {_share(row, rob)} under attack, {_share(row, cert)} proven{others}."
    return said + _not_attacked(best, shown, rob, test)


def _violation(rows: pd.DataFrame) -> str:
    """A warning that comes before everything else; "" where the law holds."""
    broken = rows[rows["violations"] > 0]
    if broken.empty:
        return ""
    names = ", ".join(dict.fromkeys(map(str, broken["experiment"])))
    return f"VIOLATION: an attack beat a certificate on {broken['violations'].sum():.0f} images ({names}). "


def _untested(rows: pd.DataFrame, test: str) -> str:
    """Of networks that were not attacked: the whole test set."""
    known = [row for row in rows.to_dict("records") if not pd.isna(row.get(test))]
    if not known:
        return "nothing is known."
    best = max(known, key=lambda row: float(row[test]))
    images = f"{best['test images']:.0f} images of the whole test set"
    return f"{_network(best)} is proven right on {best[test]:.1f} % of the {images}. No network was attacked."


def _not_attacked(best: Row, shown: list[Row], rob: str, test: str) -> str:
    """The best certificate of a network that was not attacked, where it is larger than that of the best network."""
    others = [row for row in shown if pd.isna(row.get(rob)) and row.get(test, math.nan) > best.get(test, math.nan)]
    if not others:
        return ""
    row = max(others, key=lambda row: float(row[test]))
    return (
        f" Not attacked: {_network(row)}, proven right on {row[test]:.1f} % of the whole test set "
        f"({best[test]:.1f} % for the {_network(best)})."
    )


def _rivals(best: Row, known: list[Row], name: str) -> str:
    """The networks that the best one does not clearly beat: within the uncertainties of both."""
    close = []
    for row in known:
        margin = math.hypot(uncertainty(best, name), uncertainty(row, name))
        if row is not best and best[name] - row[name] <= margin:
            close.append(network_name(str(row["experiment"]), str(row["variant"])))
    if not close:
        return ""
    shown = close[0] if len(close) == 1 else f"{', '.join(close[:-1])} and {close[-1]}"
    if len(close) > 3:
        shown = f"{', '.join(close[:2])} and {len(close) - 2} others"
    return f" Its lead over {shown} is within the uncertainty."


def _network(row: Row) -> str:
    name = network_name(str(row["experiment"]), str(row["variant"]))
    return name[:1].upper() + name[1:] if name[:1].islower() and "_" not in name else name


def _share(row: Row, name: str) -> str:
    margin = uncertainty(row, name)
    # A number stays in one line.
    text = f"{row[name]:.1f} %" if math.isnan(margin) else f"{row[name]:.1f} ± {margin:.1f} %"
    return text.replace(" ", "\u00a0")


def _count(row: Row) -> str:
    seeds = "1 seed" if row["seeds"] == 1 else f"{row['seeds']:.0f} seeds"
    return f"{row['images']:.0f} images, {seeds}"
