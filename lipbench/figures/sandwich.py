"""The sandwich law, image by image: certificate and empirical distance; and how near each attack comes."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from lipbench.figures.recipes import Recipe
from lipbench.figures.style import TWO_COLUMNS, legend_below, method_look, network_look, plain_log, style
from lipbench.results import best
from lipbench.results.runs import Run, Runs
from lipbench.results.selection import first_seeds

COMBINED = "all attacks"
# A certificate that is this many times smaller than the distance says little: such networks have no panel of tightness.
LOOSE = 5.0
SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)
# Attacks of one step: the axis is as wide as the others need.
WEAK = ("fgm", "fgsm")


def sandwich(results: Runs) -> tuple[Figure, pd.DataFrame] | None:
    """Every attacked image that is labelled right as a point: its certificate against its distance under all
    attacks, a panel per network with axes of its own. The law: no point lies below the line of equality.

    Returns:
        the figure, and columns dataset, experiment, index, certificate, distance (L2).
    """
    drawn = sandwich_of({name: run.table for name, run in first_seeds(results).items()})
    if drawn is None:
        return None
    figure, table = drawn
    table.insert(0, "dataset", results.datasets[0])
    return figure, table


def sandwich_of(networks: Mapping[str, pd.DataFrame]) -> tuple[Figure, pd.DataFrame] | None:
    """`sandwich` of networks that need no folder: name -> the rows of its methods.

    Returns:
        the figure, and columns experiment, index, certificate, distance (L2); None without such images.
    """
    tables = {name: pairs for name, rows in networks.items() if len(pairs := _pairs(rows))}
    if not tables:
        return None
    table = pd.concat([rows.assign(experiment=name) for name, rows in tables.items()], ignore_index=True)
    table = table[["experiment", "index", "certificate", "distance"]]
    columns = min(5, len(tables))
    lines = -(-len(tables) // columns)
    with style():
        side = (TWO_COLUMNS - 0.5) / max(columns, 2)
        figure = Figure(figsize=(0.5 + columns * side, 0.35 + lines * (side + 0.35)))
        axes = figure.subplots(lines, columns, squeeze=False).ravel()
        for axis, (name, rows) in zip(axes, tables.items(), strict=False):
            _points(axis, name, rows, 1.04 * float(rows["distance"].max()))
        for axis in axes[len(tables) :]:
            axis.set_visible(False)
        _outer_labels(axes, columns, len(tables), "certificate (L2)", "distance (L2)")
    return figure, table


def tightness(results: Runs) -> tuple[Figure, pd.DataFrame] | None:
    """How near each attack comes to the certificate: distance / certificate over the images with a certificate, its
    median (upright), quartiles (thick) and the 5 % and 95 % of images (thin), a panel per network. 1 is perfect: no
    nearer image exists. Where an attack fails, its line goes on to the right.

    Returns:
        the figure, and columns dataset, experiment, method, q05, q25, q50, q75, q95, failed (%); None where every
        certificate is loose, or there is one attack alone.
    """
    drawn = tightness_of({name: run.table for name, run in first_seeds(results).items()}, LOOSE)
    if drawn is None or drawn[1]["method"].nunique() < 3:
        return None
    figure, table = drawn
    table.insert(0, "dataset", results.datasets[0])
    return figure, table


def tightness_of(networks: Mapping[str, pd.DataFrame], loose: float) -> tuple[Figure, pd.DataFrame] | None:
    """`tightness` of networks that need no folder: name -> the rows of its methods.

    Args:
        loose: a network whose median ratio under all attacks is larger has no panel.

    Returns:
        the figure, and columns experiment, method, q05, q25, q50, q75, q95, failed (%); None without a panel.
    """
    table = pd.DataFrame([row for name, rows in networks.items() for row in _quantiles(name, rows, loose)])
    if table.empty:
        return None
    names = list(dict.fromkeys(table["experiment"]))
    # The nearest attack comes first.
    methods = list(table.groupby("method", sort=False)["q50"].mean().sort_values(kind="stable").index)
    methods = [COMBINED, *(method for method in methods if method != COMBINED)]
    strong = table[~table["method"].isin(WEAK)] if set(methods) - {*WEAK, COMBINED} else table
    finite = strong["q95"][np.isfinite(strong["q95"])]
    limit = min(LOOSE, 1 + 1.1 * float(finite.max() - 1)) if len(finite) else 2.0
    limit = max(limit, 1.01)
    with style():
        figure = Figure(figsize=(TWO_COLUMNS, 0.9 + 0.2 * len(methods)))
        axes = figure.subplots(1, len(names), sharey=True, sharex=True, squeeze=False)[0]
        for axis, name in zip(axes, names, strict=True):
            _intervals(axis, table[table["experiment"] == name], methods, limit)
            axis.set_title(network_look(name).label)
            axis.set_xlabel("distance / certificate")
    return figure, table


def _outer_labels(axes: np.ndarray, columns: int, count: int, x: str, y: str) -> None:
    """Labels of the axes at the left and of the lowest one in each column, of a grid of which `count` are used."""
    for position, axis in enumerate(axes[:count]):
        if position % columns == 0:
            axis.set_ylabel(y)
        if position + columns >= count:
            axis.set_xlabel(x)
            axis.tick_params(labelbottom=True)


def _pairs(table: pd.DataFrame) -> pd.DataFrame:
    """index, certificate, distance of the attacked images that are labelled right."""
    both = {"certificate": best(table, "lower"), "distance": best(table, "upper")}
    pairs = pd.concat(both, axis=1, join="inner").rename_axis("index").reset_index()
    return pairs[(pairs["distance"] > 0) & np.isfinite(pairs["distance"])]


def _points(axis: Axes, name: str, rows: pd.DataFrame, limit: float) -> None:
    look = network_look(name)
    axis.scatter(
        rows["certificate"], rows["distance"], s=6, color=look.color, alpha=0.5, linewidths=0, label=name, zorder=3
    )
    axis.plot([0, limit], [0, limit], color="black", linewidth=0.8)
    axis.fill_between([0, limit], [0, limit], color="0.5", alpha=0.12, linewidth=0)
    below = int((rows["distance"] < rows["certificate"]).sum())
    axis.text(0.97, 0.04, f"{below} of {len(rows)}\nbelow", transform=axis.transAxes, ha="right", fontsize=7)
    axis.set_title(look.label.replace(", ", "\n"))
    axis.set(xlim=(0, limit), ylim=(0, limit), aspect="equal")
    # The same numbers on both axes.
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))


def _quantiles(name: str, table: pd.DataFrame, loose: float) -> list[dict[str, object]]:
    lower = best(table, "lower")
    lower = lower[lower > 0]
    attacks = table[(table["side"] == "upper") & (table["norm"] == "l2")]
    distances = {str(m): rows.set_index("index")["distance"] for m, rows in attacks.groupby("method", sort=True)}
    distances[COMBINED] = best(table, "upper")
    rows: list[dict[str, object]] = []
    for method, values in distances.items():
        both = pd.concat({"lower": lower, "upper": values}, axis=1, join="inner")
        ratios = np.sort((both["upper"] / both["lower"]).to_numpy())
        if not len(ratios):
            return []
        # Not interpolated: between a number and infinity there is nothing.
        found = {f"q{100 * q:02.0f}": ratios[int(np.ceil(q * len(ratios))) - 1] for q in SHARES}
        failed = 100 * float(np.mean(np.isinf(ratios)))
        rows.append({"experiment": name, "method": method, **found, "failed": failed})
    tight = [row for row in rows if row["method"] == COMBINED and float(str(row["q50"])) <= loose]
    return rows if tight else []


def _intervals(axis: Axes, rows: pd.DataFrame, methods: list[str], limit: float) -> None:
    for row in rows.to_dict("records"):
        y = len(methods) - 1 - methods.index(row["method"])
        color = "black" if row["method"] == COMBINED else method_look(row["method"]).color
        low, first, middle, third, high = (min(row[f"q{100 * q:02.0f}"], 2 * limit) for q in SHARES)
        axis.plot([low, high], [y, y], color=color, linewidth=0.8)
        axis.plot([first, third], [y, y], color=color, linewidth=3.2, solid_capstyle="butt")
        axis.plot([middle], [y], color=color, marker="|", markersize=9, markeredgewidth=1.4, label=row["method"])
        if row["q50"] > limit:  # its median is outside of the picture
            text = f"{row['q50']:.2f} \u2192" if np.isfinite(row["q50"]) else "fails \u2192"
            place: dict[str, Any] = {"transform": axis.get_yaxis_transform(), "ha": "right"}
            # Above its bar, where that reaches into the picture.
            place |= {"y": y, "va": "center"} if low > limit else {"y": y + 0.12, "va": "bottom"}
            axis.text(0.99, s=text, color=color, fontsize=7, **place)
    axis.axvline(1, color="0.3", linewidth=0.8)
    axis.set_yticks(range(len(methods)), [m if m == COMBINED else method_look(m).label for m in reversed(methods)])
    axis.set_ylim(-0.6, len(methods) - 0.4)
    axis.grid(axis="y", visible=False)
    axis.set_xlim(1 - 0.03 * (limit - 1), limit)
    # The perfect ratio 1 is one of the numbers.
    ticks = 1 + np.array(MaxNLocator(4, steps=[1, 2, 5, 10]).tick_values(0, limit - 1))
    ticks = ticks[ticks <= limit]
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])


def attack_costs(results: Runs) -> tuple[Figure, pd.DataFrame] | None:
    """The plane of cost and quality of the attacks, a panel per network: passes of an image through the network against
    the mean of best distance / distance over the images that are labelled right (100 %: none was nearer; a failure
    counts 0). The line goes along the attacks that no other beats in both.

    Returns:
        the figure, and columns dataset, experiment, method, passes (per image), quality (%), front.
    """
    tables = [rows for name, run in first_seeds(results).items() if len(rows := _costs(name, run)) > 1]
    if not tables:
        return None
    table = pd.concat(tables, ignore_index=True)
    table.insert(0, "dataset", results.datasets[0])
    names = list(dict.fromkeys(table["experiment"]))
    with style():
        columns = min(4, len(names))
        lines = -(-len(names) // columns)
        figure = Figure(figsize=(TWO_COLUMNS, 0.7 + 1.9 * lines))
        axes = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).ravel()
        for axis, name in zip(axes, names, strict=False):
            _plane(axis, table[table["experiment"] == name])
            axis.set_title(network_look(name).label.replace(", ", "\n"))
        for axis in axes[len(names) :]:
            axis.set_visible(False)
        _outer_labels(axes, columns, len(names), "passes per image", "closeness to best (%)")
        plain_log(axes[0].xaxis, 20 // columns, (table["passes"].min(), table["passes"].max()))
        axes[0].set_ylim(table["quality"].min() - 4, 103)
        looks = [method_look(method) for method in dict.fromkeys(table["method"])]
        legend_below(
            figure, {look.label: Line2D([], [], color=look.color, marker=look.marker, linestyle="") for look in looks}
        )
    return figure, table


def _costs(name: str, run: Run) -> pd.DataFrame:
    costs = run.measured("costs.csv")
    attacks = run.table[(run.table["side"] == "upper") & (run.table["norm"] == "l2")]
    distances = attacks.pivot_table(index="index", columns="method", values="distance", dropna=False)
    combined = distances.min(axis=1) if len(distances.columns) else pd.Series(dtype=float)
    counted = (combined > 0) & np.isfinite(combined)
    if costs is None or not counted.any():
        return pd.DataFrame()
    passes = costs.set_index("method")["passes"]
    methods = [str(m) for m in distances if m in passes]
    ratios = {m: combined[counted] / distances.loc[counted, m] for m in methods}
    table = pd.DataFrame(
        {
            "experiment": name,
            "method": methods,
            "passes": [float(passes[m]) for m in methods],
            "quality": [100 * float(ratios[m].mean()) for m in methods],
        }
    ).sort_values(["passes", "method"], ignore_index=True)
    return table.assign(front=table["quality"] > table["quality"].cummax().shift(fill_value=-1.0))


def _plane(axis: Axes, rows: pd.DataFrame) -> None:
    front = rows[rows["front"]]
    steps: dict[str, Any] = {"drawstyle": "steps-post", "color": "0.6", "linewidth": 0.9, "zorder": 1}
    axis.plot(front["passes"], front["quality"], label="front", **steps)
    for row in rows.to_dict("records"):
        look = method_look(row["method"])
        axis.scatter(
            [row["passes"]], [row["quality"]], s=26, color=look.color, marker=look.marker, label=look.label, zorder=2
        )


RECIPES = (
    Recipe(
        "sandwich",
        "Certificate against empirical distance, image by image",
        "One panel per network, one point per attacked image: the certified radius to the right, the distance of the "
        "nearest adversarial image upwards. No point may lie below the diagonal (the sandwich law); the closer the "
        "points to it, the tighter the certificate. Each panel has its own scale.",
        sandwich,
    ),
    Recipe(
        "tightness",
        "Tightness by attack: distance over certificate",
        "One row per attack, one panel per network: median (upright), quartiles (thick) and 5 to 95 % (thin) of "
        "distance over certified radius. 1 is perfect. The nearest attack is on top; lines of weak attacks leave the "
        "picture.",
        tightness,
    ),
    Recipe(
        "costs",
        "Cost and quality of the attacks",
        "One panel per network, one point per attack: passes of an image through the network to the right, the mean of "
        "the smallest distance of all attacks over its own upwards. Above the grey steps no attack lies.",
        attack_costs,
    ),
)
