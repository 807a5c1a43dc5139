"""Accuracy against epsilon, network by network: under attack, and certified."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import StrMethodFormatter

from lipbench.figures.recipes import Recipe
from lipbench.figures.style import NETWORKS, TWO_COLUMNS, legend_below, network_look, style
from lipbench.results import balanced_survival, survival
from lipbench.results.attacked import share_error
from lipbench.results.runs import Run, Runs, compared
from lipbench.results.selection import main_networks
from lipbench.results.words import dataset_name

# Panels in a row; more data sets go on in the next one.
PANELS = 3
EPSILONS = 200
# %: where the best curve is below it, the picture ends.
END = 2.0
# Curve -> the bound of its images. The last one is drawn where all certificates together, as that of inscribed balls,
# prove more than the margin over the Lipschitz bound.
CURVES = {"under attack": "upper", "certified": "lower", "margin / L": "certificate"}
# Wide and pale, so that a certified curve that lies on it is seen.
ATTACKED: dict[str, Any] = {"linewidth": 4.0, "alpha": 0.35}
BEST: dict[str, Any] = {"linewidth": 1.1}
MARGIN: dict[str, Any] = {"linewidth": 1.2, "linestyle": (0, (4, 1.5))}
# Of the samples of lines in the legend: no network has this colour.
SAMPLE = "#7F4F24"
CAPTION = (
    "Wide, pale: under all attacks. Dashed: certified by the margin over the Lipschitz bound alone. Thin: certified by "
    "all certificates, where they prove more."
)
# Points of the plane have figures of their own.
TOYS = ("two_moons", "two_circles", "two_spirals", "shapes")


def robustness(results: Runs) -> tuple[Figure, pd.DataFrame] | None:
    """`robustness_of_one`, one panel per data set of images.

    Returns:
        the same; None where networks of fewer than two data sets were attacked.
    """
    known = [dataset for dataset in results.datasets if dataset not in TOYS]
    curves = [curve for dataset in known for curve in _curves(results.of([dataset]))]
    table = pd.concat(curves, ignore_index=True) if curves else pd.DataFrame(columns=["dataset"])
    datasets = list(dict.fromkeys(table["dataset"]))
    if len(datasets) < 2:
        return None
    columns = min(PANELS, len(datasets))
    rows = -(-len(datasets) // columns)
    with style():
        figure = Figure(figsize=(TWO_COLUMNS, 2.0 * rows + 0.6))
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for axis, dataset in zip(axes, datasets, strict=False):
            _panel(axis, table[table["dataset"] == dataset])
            axis.set_title(dataset_name(dataset))
        for axis in axes[len(datasets) :]:
            axis.set_axis_off()
        figure.supylabel("accuracy (%)", fontsize=8)
        if len(axes) > len(datasets):  # the legend fills the place of a panel
            handles = _handles(table)
            axes[len(datasets)].legend(handles.values(), handles.keys(), loc="center left")
        else:
            legend_below(figure, _handles(table))
    return figure, table


def robustness_of_one(results: Runs) -> tuple[Figure, pd.DataFrame] | None:
    """Accuracy under all attacks (wide) and certified accuracy (dashed) against epsilon on one data set, one colour
    per main network (see `lipbench.results.selection`), with a band: the 95 % interval over the images, or the standard
    deviation over the seeds where that is larger. Where all certificates together prove more than `certificate`, the
    margin over the Lipschitz bound, they are a thin line, and `certificate` is the dashed one.

    Both are of the attacked images alone, so that the two curves of a network can be compared; where their classes are
    of unequal size, each counts alike. Seeds that were attacked otherwise are left out, as on the leaderboard.

    Returns:
        the figure, and columns dataset, experiment, curve, epsilon, accuracy, uncertainty (%); None where no network
        was attacked.
    """
    curves = _curves(results)
    if not curves:
        return None
    table = pd.concat(curves, ignore_index=True)
    with style():
        figure = Figure(figsize=(TWO_COLUMNS, 3.1))
        axis = figure.subplots()
        _panel(axis, table)
        axis.set_ylabel("accuracy (%)")
        legend_below(figure, _handles(table))
    return figure, table


def _handles(table: pd.DataFrame) -> dict[str, Line2D | Patch]:
    """Colours are networks, styles of lines are bounds."""
    # In the order of the legend, whichever data set came first.
    known = [*NETWORKS.values()]
    looks = [network_look(name) for name in sorted(set(table["experiment"]))]
    looks.sort(key=lambda look: known.index(look) if look in known else len(known))
    handles: dict[str, Line2D | Patch] = {look.label: Patch(facecolor=look.color) for look in looks}
    handles["under all attacks"] = Line2D([], [], color=SAMPLE, **ATTACKED)
    if "margin / L" in set(table["curve"]):
        handles["certified, all certificates"] = Line2D([], [], color=SAMPLE, **BEST)
        handles["certified, margin / L"] = Line2D([], [], color=SAMPLE, **MARGIN)
    else:
        handles["certified"] = Line2D([], [], color=SAMPLE, **MARGIN)
    return handles


def _curves(results: Runs) -> list[pd.DataFrame]:
    """The curves of one data set."""
    found = {name: compared(runs)[0] for name, runs in main_networks(results).items()}
    attacked = {name: runs for name, runs in found.items() if len(runs[0].attacked.images)}
    if not attacked:
        return []
    epsilons = np.linspace(0, max(map(_reach, attacked.values())), EPSILONS)
    return [
        pd.DataFrame(
            {
                "dataset": results.datasets[0],
                "experiment": name,
                "curve": curve,
                "epsilon": epsilons,
                **_shares(runs, side, epsilons),
            }
        )
        for name, runs in attacked.items()
        for curve, side in CURVES.items()
        if all(run.attacked.images[side].notna().all() for run in runs) and (side != "certificate" or _gained(runs))
    ]


def _gained(runs: Sequence[Run]) -> bool:
    """Whether all certificates together prove more than `certificate` does."""
    return any((run.attacked.images["lower"] > run.attacked.images["certificate"]).any() for run in runs)


def _reach(runs: Sequence[Run]) -> float:
    """The radius beyond which fewer than `END` percent of the images withstand all attacks."""
    distances = np.concatenate([run.attacked.images["upper"].to_numpy() for run in runs])
    finite = distances[np.isfinite(distances) & (distances > 0)]
    if not len(finite):
        return 1.0
    place = np.sort(distances)[int(np.ceil((1 - END / 100) * len(distances))) - 1]
    return float(place) if 0 < place < np.inf else float(finite.max())


def _shares(runs: Sequence[Run], side: str, epsilons: np.ndarray) -> dict[str, np.ndarray]:
    """accuracy (%) at each radius, the mean over the seeds, and its uncertainty."""
    labels = runs[0].attacked.images["label"]
    balanced = runs[0].balanced
    bounds = [run.attacked.images[side] for run in runs]
    seeds = [balanced_survival(b, labels, epsilons) if balanced else survival(b, epsilons) for b in bounds]
    beyond = np.mean([b.to_numpy()[:, None] > epsilons for b in bounds], axis=0)
    error = share_error(beyond, labels.to_numpy() if balanced else None)
    spread = np.std(seeds, axis=0, ddof=1) if len(seeds) > 1 else np.zeros(len(epsilons))
    return {"accuracy": 100 * np.mean(seeds, axis=0), "uncertainty": 100 * np.maximum(error, spread)}


def _panel(axis: Axes, table: pd.DataFrame) -> None:
    both = set(table["experiment"][table["curve"] == "margin / L"])
    for (experiment, curve), rows in table.groupby(["experiment", "curve"], sort=False):
        color = network_look(str(experiment)).color
        certified = BEST if curve == "certified" and experiment in both else MARGIN
        line = ATTACKED if curve == "under attack" else certified
        low, high = (rows["accuracy"] + sign * rows["uncertainty"] for sign in (-1, 1))
        # Where nothing is left there is no band along the axis.
        shown: dict[str, Any] = {"where": rows["accuracy"] > 0, "color": color, "alpha": 0.15, "linewidth": 0}
        if curve != "margin / L":
            axis.fill_between(rows["epsilon"], low.clip(0), high.clip(upper=100), **shown)
        axis.plot(rows["epsilon"], rows["accuracy"], color=color, label=f"{experiment} {curve}", **line)
    axis.set_xlim(0, table["epsilon"].max())
    axis.set_ylim(0, 102)
    axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_xlabel("epsilon (L2, pixels in [0, 1])")


RECIPES = (
    Recipe(
        "robustness",
        "Accuracy against epsilon",
        "One panel per data set, one colour per network. Accuracy falls as the L2 norm of the perturbation grows. "
        f"{CAPTION} The narrower the gap between the curves of a network, the more is known. Bands are 95 % intervals.",
        robustness,
        each="all",
    ),
    Recipe(
        "overview",
        "Accuracy against epsilon",
        f"One colour per network. Accuracy falls as the L2 norm of the perturbation grows. {CAPTION} The truth lies "
        "between the curves of a network. Bands are 95 % intervals over the images, or the standard deviation over the "
        "seeds where that is larger.",
        robustness_of_one,
    ),
)
