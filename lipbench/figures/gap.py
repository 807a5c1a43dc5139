"""The gap between certificate and attack, image by image: what the inscribed ball closes, and what is left."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lipbench.figures.recipes import Recipe
from lipbench.figures.style import TWO_COLUMNS, legend_below, network_look, style
from lipbench.results import best
from lipbench.results.looks import BLUE, GREEN, ORANGE
from lipbench.results.runs import Runs
from lipbench.results.selection import first_seeds

# Column of the table -> how it is drawn. The two certificates are these methods.
CERTIFICATES = {"certificate": "|f(x)| / L", "certificate_inscribed": "inscribed ball"}
COLORS = {"certificate": "0.45", "certificate_inscribed": BLUE, "distance": "black"}
LINES = {"certificate": "--", "certificate_inscribed": "-"}
# A network is loose, and left out, if its median distance is more than this many times the inscribed radius.
LOOSE = 1.5
# The share of images whose |f(x)| / L may lie below the upper picture.
LOWEST = 0.01
# Gaps below are drawn here.
SMALLEST = 1e-4
COLUMNS = 4
# Of the table of the measure `bracket`: what lies between one distance and the next, and its colour.
DISTANCES = ("certificate", "inscribed", "rival", "distance")
PARTS = {"the box": BLUE, "other rivals": GREEN, "layers, kinks, searches": ORANGE}


def gap(results: Runs) -> tuple[Figure, pd.DataFrame] | None:
    """Both certificates of every attacked image that is labelled right, in percent of its distance and sorted by it, a
    panel per network; below each, the share of images whose gap (distance / certificate - 1) is at most so large. The
    numbers say how much of the median gap the inscribed ball closes, which is the part of the box, and how much is
    left: layers that do not keep the norm of gradients, kinks, rivals, and the attack.

    Returns:
        the figure, and columns dataset, experiment, index, certificate, certificate_inscribed, distance (L2); None
        where no network has both certificates, or every certificate is loose.
    """
    drawn = gap_of({name: run.table for name, run in first_seeds(results, every_body=True).items()})
    if drawn is None:
        return None
    figure, table = drawn
    table.insert(0, "dataset", results.datasets[0])
    return figure, table


def gap_of(networks: Mapping[str, pd.DataFrame]) -> tuple[Figure, pd.DataFrame] | None:
    """`gap` of networks that need no folder: name -> the rows of its methods."""
    tables = {name: found for name, rows in networks.items() if (found := _bounds(rows)) is not None}
    if not tables:
        return None
    columns, lines = min(COLUMNS, len(tables)), -(-len(tables) // COLUMNS)
    # A few images whose certificate is far smaller are below the picture.
    low = min(99.0, *(float(_certified(rows, "certificate").quantile(LOWEST)) for rows in tables.values()))
    with style():
        figure = Figure(figsize=(TWO_COLUMNS, 0.5 + 3.3 * lines))
        axes = figure.subplots(2 * lines, columns, sharey="row", squeeze=False)
        upper, lower = axes[::2].ravel(), axes[1::2].ravel()
        for above, below, (name, rows) in zip(upper, lower, tables.items(), strict=False):
            _bracket(above, rows, low)
            _shares(below, rows)
            above.set_title(f"{network_look(name).label}\n({name})")
        for axis in (*upper[len(tables) :], *lower[len(tables) :]):
            axis.set_visible(False)
        for first, second in zip(axes[::2, 0], axes[1::2, 0], strict=True):
            first.set_ylabel("% of the distance")
            second.set_ylabel("images (%)")
        legend_below(figure, {line.get_label(): line for line in (upper[0].get_lines()[0], *lower[0].get_lines())})
    return figure, pd.concat([rows.assign(experiment=name) for name, rows in tables.items()])[
        ["experiment", "index", *CERTIFICATES, "distance"]
    ]


def _bounds(table: pd.DataFrame) -> pd.DataFrame | None:
    """index, both certificates and the distance, sorted by the distance; None where there is nothing to compare."""
    found = {name: best(table[table["method"] == name], "lower") for name in CERTIFICATES}
    both = pd.concat({**found, "distance": best(table, "upper")}, axis=1, join="inner")
    rows = both.rename_axis("index").reset_index().sort_values(["distance", "index"], ignore_index=True)
    rows = rows[(rows["distance"] > 0) & np.isfinite(rows["distance"])]
    if rows.empty or _median_gap(rows, "certificate_inscribed") > LOOSE - 1:
        return None
    return rows.reset_index(drop=True)


def _gaps(rows: pd.DataFrame, certificate: str) -> np.ndarray:
    """distance / certificate - 1, sorted; inf where nothing is certified."""
    lower = rows[certificate].to_numpy()
    return np.sort(np.divide(rows["distance"], lower, out=np.full(len(rows), np.inf), where=lower > 0) - 1)


def _median_gap(rows: pd.DataFrame, certificate: str) -> float:
    gaps = _gaps(rows, certificate)
    return float(gaps[(len(gaps) - 1) // 2])


def _certified(rows: pd.DataFrame, certificate: str) -> pd.Series:
    """Of each image the certificate in percent of the distance."""
    return 100 * rows[certificate] / rows["distance"]


def _bracket(axis: Axes, rows: pd.DataFrame, low: float) -> None:
    """Both certificates of each image as points, in percent of its distance, from `low` on."""
    share = 100 * (np.arange(len(rows)) + 0.5) / len(rows)
    axis.axhline(100, color=COLORS["distance"], linewidth=1.1, label="attack")
    for name, label in CERTIFICATES.items():
        points: dict[str, Any] = {"color": COLORS[name], "marker": ".", "markersize": 2.5, "markeredgewidth": 0}
        axis.plot(share, _certified(rows, name), linestyle="", label=label, **points)
    axis.set(xlim=(0, 100), ylim=(low, 100 + 0.05 * (100 - low)), xlabel="images, by distance (%)")
    axis.set_xticks([0, 50, 100])


def _shares(axis: Axes, rows: pd.DataFrame) -> None:
    """Of each certificate the share of images by gap, and the two median gaps in words."""
    for name, label in CERTIFICATES.items():
        gaps = np.maximum(_gaps(rows, name), SMALLEST)
        share = 100 * np.arange(1, len(gaps) + 1) / len(gaps)
        axis.step([SMALLEST, *gaps], [0, *share], LINES[name], where="post", color=COLORS[name], label=label)
    flat, ball = (f"{100 * _median_gap(rows, name):.2g} %" for name in CERTIFICATES)
    axis.set_title(f"median: |f| {flat}, ball {ball}", fontsize=6.5)
    axis.set_xscale("log")
    axis.set(xlim=(SMALLEST, 1), ylim=(0, 102), xlabel="distance / certificate - 1 (%)")
    axis.set_xticks([0.0001, 0.001, 0.01, 0.1, 1], ["0.01", "", "1", "", "100"])
    axis.minorticks_off()


def gap_parts(results: Runs) -> tuple[Figure, pd.DataFrame] | None:
    """Where the gap between abs(f(x)) / L and the adversarial image comes from, a bar per network: means over the
    images, in percent of the distance. Networks whose certificates are loose are left out: it is all due to layers.

    Returns:
        the figure, and columns dataset, experiment, images and one per part; None where no network with certificates
        that are not loose has the measure `bracket`.
    """
    found = {name: run.measured("bracket.csv") for name, run in first_seeds(results, every_body=True).items()}
    records = {name: table for name, table in found.items() if table is not None and len(table)}
    tight = {name: table for name, table in records.items() if (table.distance / table.inscribed).median() <= LOOSE}
    if not tight:
        return None
    figure, table = gap_parts_of(tight)
    table.insert(0, "dataset", results.datasets[0])
    return figure, table


def gap_parts_of(networks: Mapping[str, pd.DataFrame]) -> tuple[Figure, pd.DataFrame]:
    """`gap_parts` of networks that need no folder: name -> the table of `parts_of_the_gap`."""
    rows = []
    for name, table in networks.items():
        shares = table[list(DISTANCES)].diff(axis=1).iloc[:, 1:].div(table["distance"], axis=0)
        rows.append([name, len(table), *(100 * shares.mean())])
    table = pd.DataFrame(rows, columns=["experiment", "images", *PARTS])
    with style():
        figure = Figure(figsize=(TWO_COLUMNS, 0.9 + 0.28 * len(table)))
        axis = figure.subplots()
        left = np.zeros(len(table))
        for part, color in PARTS.items():
            axis.barh(np.arange(len(table)), table[part], left=left, color=color, label=part)
            left = left + table[part].to_numpy()
        for y, row in enumerate(table.to_dict("records")):
            numbers = " + ".join(f"{row[part]:.2g}" for part in PARTS)
            axis.text(left[y], y, f" {numbers} %", va="center", fontsize=7)
        axis.set_yticks(np.arange(len(table)), [f"{network_look(name).label} ({name})" for name in table["experiment"]])
        axis.invert_yaxis()
        axis.set_xlim(0, 1.3 * max(left.max(), SMALLEST))
        axis.set_xlabel("distance not certified by |f(x)| / L (% of the distance)")
        legend_below(figure, dict(zip(PARTS, axis.containers, strict=True)))
    return figure, table


RECIPES = (
    Recipe(
        "gap",
        "The gap between certificate and attack",
        "The main networks in a row. Above, the test images sorted by their distance under the combined attack: the "
        "certificate |f(x)| / L and the inscribed ball, in percent of this distance. Below, the share of images whose "
        "gap is at most so large, a line per certificate.",
        gap,
    ),
    Recipe(
        "gap_parts",
        "Where the gap comes from",
        "A bar per network: how much of the distance abs(f(x)) / L leaves uncertified, mean over the images. The parts "
        "are what the inscribed balls gain beyond the box, what other rivals with smaller balls take, and what is left "
        "to layers, kinks and the searches. The numbers at the end of a bar are its parts, in the order of the legend.",
        gap_parts,
    ),
)
