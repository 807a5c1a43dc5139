"""Two results folders compared image by image: differences with confidence intervals, and their spread over seeds."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import bootstrap

from lipbench.escapes import printable
from lipbench.files import ResultsError, differences, read_json
from lipbench.results.layout import RUN_COLUMNS
from lipbench.results.storage import read_bounds
from lipbench.results.summary import EPSILONS

COLUMNS = [
    *RUN_COLUMNS[:3],
    "method",
    "side",
    "metric",
    "epsilon",
    "seeds",
    "images",
    "first",
    "second",
    "difference",
    "low",
    "high",
    "spread",
]
COMBINED = "combined attack"
RESAMPLES = 2000
CONFIDENCE = 0.95
# Resampled at once: bounds the memory to some tens of MB for the 10 000 images of a test set.
BATCH = 50


@dataclass(frozen=True)
class Comparison:
    """What two results folders have in common, and how it differs.

    Attributes:
        table: columns dataset, experiment, variant, method, side, metric, epsilon, seeds, images, first, second,
            difference, low, high, spread. The metric is "accuracy" (in percent, certified for a certificate and robust
            for an attack, at epsilon) or "mean distance"; first and second are the two means, difference is first -
            second, low and high its confidence interval, spread its standard deviation over the seeds (NaN for one).
        notes: what was not compared, or not checked, and why.
        first, second: what the two folders are called.
    """

    table: pd.DataFrame
    notes: list[str] = field(default_factory=list)
    first: str = "the first folder"
    second: str = "the second folder"


def compare(
    first: Sequence[Path], second: Sequence[Path], epsilons: Sequence[float] = EPSILONS, seed: int = 0
) -> Comparison:
    """Compares the runs of the same data set, experiment, variant and seed, by the methods and images that both have.

    An image counts once however many seeds there are: the seeds' mean difference of each image is resampled (percentile
    bootstrap, Efron, 1979), so an interval says how much the choice of images matters, `spread` how much the seed does.
    A mean distance is over the images on which both are finite.

    Args:
        first, second: folders of runs.
        epsilons: radii of the accuracies, L2, pixels in [0, 1].
        seed: of the resampling: the same folders give the same numbers.

    Raises:
        ResultsError: no run of one folder has its like in the other, or none with the same images.
    """
    one, two = ({_key(folder): folder for folder in folders} for folders in (first, second))
    notes = [f"{'/'.join(key)}: only in one of the two folders" for key in sorted({*one} ^ {*two})]
    groups: dict[tuple[str, ...], list[pd.DataFrame]] = {}
    for key in sorted({*one} & {*two}):
        try:
            paired, note = _paired(one[key], two[key])
        except (ResultsError, OSError) as error:
            notes.append(f"{'/'.join(key)}: {error}")
            continue
        notes += [f"{'/'.join(key)}: {note}"] if note else []
        groups.setdefault(key[:3], []).append(paired.assign(seed=key[3]))
    if not groups:
        raise ResultsError(
            "Nothing to compare: no run of one folder has the data set, experiment, variant, seed and images of one of "
            "the other.\n  " + "\n  ".join(notes)
        )
    rows = [
        {**dict(zip(RUN_COLUMNS, key, strict=False)), "method": method, "side": side, **row}
        for key, tables in groups.items()
        for (side, method), table in pd.concat(tables).groupby(["side", "method"], sort=True)
        for row in _rows(table.reset_index(drop=True), epsilons, seed)
    ]
    return Comparison(pd.DataFrame(rows, columns=COLUMNS), notes)


def _key(folder: Path) -> tuple[str, ...]:
    return tuple(map(printable, folder.resolve().parts[-4:]))


def _paired(first: Path, second: Path) -> tuple[pd.DataFrame, str]:
    """The L2 distances of one run and its like: columns method, index, first, second; and what could not be checked.

    Raises:
        ResultsError: they are of other images, or have no method and image in common.
    """
    note = _same_images(first, second)
    sides = []
    for folder in (first, second):
        table = read_bounds(folder)
        sides.append(table[table["norm"] == "l2"])
    labels = [side.drop_duplicates("index").set_index("index")["label"] for side in sides]
    common = labels[0].index.intersection(labels[1].index)
    wrong = int((labels[0][common] != labels[1][common]).sum())
    if wrong:
        raise ResultsError(f"the images differ: {wrong} of {len(common)} have another label in the other folder.")
    keys = ["method", "side", "index"]
    both = sides[0].merge(sides[1], on=keys, suffixes=("_first", "_second"))
    both = both.rename(columns={"distance_first": "first", "distance_second": "second"})[[*keys, "first", "second"]]
    if not len(both):
        raise ResultsError("no method was run on the same images in both folders.")
    attacks = both[both["side"] == "upper"]
    if attacks["method"].nunique() > 1:
        # Of the attacks that both have: more attacks alone would make one side look weaker.
        nearest = attacks.groupby("index")[["first", "second"]].min().reset_index()
        both = pd.concat([both, nearest.assign(method=COMBINED, side="upper")])
    return both, note


def _same_images(first: Path, second: Path) -> str:
    """
    Returns:
        what could not be checked.

    Raises:
        ResultsError: `data.json` says that the images of the test set are others.
    """
    paths = [folder / "data.json" for folder in (first, second)]
    if not all(path.exists() for path in paths):
        return (
            "one of the two has no data.json (it is older than that file): only the labels show that the images agree"
        )
    try:
        held = [{key: read_json(path)[key] for key in ("shape", "test")} for path in paths]
    except (KeyError, TypeError):
        raise ResultsError(
            f"{paths[0]} or {paths[1]} does not say the shape and the hash of the test images."
        ) from None
    lines = differences(held[0], held[1])
    if lines:
        raise ResultsError(f"the images differ ({'; '.join(lines)}).")
    return ""


def _rows(table: pd.DataFrame, epsilons: Sequence[float], seed: int) -> list[dict[str, Any]]:
    """One method of one network: a row per epsilon and one of the mean distance.

    Args:
        table: columns index, seed, first, second.
    """
    metrics = [{"metric": "accuracy", "epsilon": eps} for eps in epsilons]
    radii = np.asarray(epsilons)
    first, second = (table[side].to_numpy()[:, None] for side in ("first", "second"))
    rows = _differences(table, 100.0 * (first > radii), 100.0 * (second > radii), seed)
    finite = (np.isfinite(first) & np.isfinite(second))[:, 0]
    if finite.any():
        metrics.append({"metric": "mean distance", "epsilon": np.nan})
        rows += _differences(table[finite], first[finite], second[finite], seed)
    return [{**metric, **row} for metric, row in zip(metrics, rows, strict=True)]


def _differences(table: pd.DataFrame, first: np.ndarray, second: np.ndarray, seed: int) -> list[dict[str, Any]]:
    """One row per metric.

    Args:
        table: columns index and seed, N rows.
        first, second: values [N, M] of M metrics.
    """
    changes = pd.DataFrame(first - second)
    of_images = changes.groupby(table["index"].to_numpy()).mean()
    of_seeds = changes.groupby(table["seed"].to_numpy()).mean()
    low, high = _interval(of_images.to_numpy(), seed)
    return [
        {
            "seeds": len(of_seeds),
            "images": len(of_images),
            "first": first[:, i].mean(),
            "second": second[:, i].mean(),
            "difference": changes[i].mean(),
            "low": low[i],
            "high": high[i],
            "spread": of_seeds[i].std(ddof=1),
        }
        for i in range(first.shape[1])
    ]


def _interval(values: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Confidence intervals [M], [M] of the means of values [N, M]; NaN for one image."""
    if len(values) < 2:
        return np.full(values.shape[1], np.nan), np.full(values.shape[1], np.nan)
    found = bootstrap(
        (values.T,),
        np.mean,
        axis=-1,
        n_resamples=RESAMPLES,
        batch=BATCH,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return found.low, found.high
