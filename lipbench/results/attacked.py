"""The attacked images of a run: both bounds of each image. All numbers of a row of the leaderboard are over them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from lipbench.results.optimality import optimality
from lipbench.results.table import FLOAT32_CERTIFICATES, balanced_survival, survival

# Its images are those of a row, where it was run.
MAIN_ATTACK = "lipbench"
CERTIFICATE = "certificate"
# Half the width of a 95 % interval, in standard errors.
NORMAL = 1.96


@dataclass(frozen=True)
class Attacked:
    """The attacked images of a run.

    Attributes:
        images: index -> label, prediction, certificate (the method of this name), lower (the largest lower bound) and
            upper (the smallest distance of the attacks), L2; NaN where there is none. Empty without attacks.
        attacks: names of the attacks that were given all of these images.
        certificates: names of the certificates, without those of float32, which are never the largest ones.
        optimality: of each attack, as `lipbench.results.optimality.optimality` returns it.
    """

    images: pd.DataFrame
    attacks: tuple[str, ...]
    certificates: tuple[str, ...]
    optimality: pd.DataFrame


def attacked_images(table: pd.DataFrame) -> Attacked:
    """The L2 bounds of the images that were attacked: those of the attack `lipbench`; without it, those of the attack
    with the most images. Attacks that were given only some of these images are left out, so that every image
    has the same attacks.

    Args:
        table: the rows of one run.
    """
    l2 = table[table["norm"] == "l2"]
    # Rows of each method, by its name; the side of a method is that of its rows.
    methods = {str(method): rows for method, rows in l2.groupby("method", observed=True)}
    sides = {name: str(rows["side"].iloc[0]) for name, rows in methods.items()}
    given = {name: frozenset(rows["index"]) for name, rows in methods.items() if sides[name] == "upper"}
    images = given[MAIN_ATTACK] if MAIN_ATTACK in given else max(given.values(), key=len, default=frozenset())
    attacks = tuple(sorted(name for name, known in given.items() if images and known >= images))
    index = pd.Index(sorted(images), name="index", dtype="int64")
    held = {name: rows.set_index("index") for name, rows in methods.items()}
    facts = pd.DataFrame(index=index, columns=["label", "prediction"], dtype="int64")
    facts = held[attacks[0]].loc[index, list(facts)] if attacks else facts
    lower = [name for name in held if sides[name] == "lower"]
    distances = {name: held[name]["distance"].reindex(index) for name in (*lower, *attacks)}

    def extreme(names: Sequence[str], kind: str) -> pd.Series:
        chosen = pd.DataFrame({name: distances[name] for name in names}, index=index, dtype=float)
        return chosen.max(axis=1) if kind == "max" else chosen.min(axis=1)

    bounds = {
        "certificate": extreme([CERTIFICATE] if CERTIFICATE in lower else [], "max"),
        "lower": extreme(lower, "max"),
        "upper": extreme(attacks, "min"),
    }
    own = pd.DataFrame({name: distances[name] for name in attacks}, index=index, dtype=float)
    right = facts["label"] == facts["prediction"]
    known = tuple(sorted(set(lower) - set(FLOAT32_CERTIFICATES)))
    return Attacked(facts.assign(**bounds), attacks, known, optimality(own, bounds["upper"], bounds["lower"], right))


def attacked_numbers(images: pd.DataFrame, epsilons: Sequence[float], *, balanced: bool = False) -> dict[str, Any]:
    """Accuracies, medians and tightness over the attacked images.

    Args:
        images: those of `Attacked`.
        epsilons: radii, L2, pixels in [0, 1].
        balanced: accuracies are means over the classes of those of each class.

    Returns:
        attacked_images, and attacked_accuracy, attacked_certified_accuracy (of the largest lower bound),
        attacked_certificate_accuracy (of the method `certificate`), robust_accuracy, median_certificate,
        median_distance, tightness: shares in [0, 1], curves with the radii as text. None where it cannot be told.
    """
    if not len(images):
        names = ("attacked_accuracy", *(f"attacked_{kind}_accuracy" for kind in ("certified", "certificate")))
        nothing = dict.fromkeys([*names, "robust_accuracy", "median_certificate", "median_distance", "tightness"])
        return {"attacked_images": 0, **nothing}

    def curve(name: str) -> dict[str, float] | None:
        if images[name].isna().any():
            return None
        if balanced:
            values = balanced_survival(images[name], images["label"], epsilons)
        else:
            values = survival(images[name], epsilons)
        return {f"{eps:g}": float(value) for eps, value in zip(epsilons, values, strict=True)}

    lower, upper = images["lower"], images["upper"]
    right = (images["label"] == images["prediction"]).astype(float)
    both = (lower > 0) & np.isfinite(upper)
    return {
        "attacked_images": len(images),
        "attacked_accuracy": float(right.groupby(images["label"]).mean().mean() if balanced else right.mean()),
        "attacked_certified_accuracy": curve("lower"),
        "attacked_certificate_accuracy": curve("certificate"),
        "robust_accuracy": curve("upper"),
        "median_certificate": None if lower.isna().any() else float(lower.median()),
        "median_distance": float(upper.median()),
        "tightness": float((upper[both] / lower[both]).median()) if both.any() else None,
    }


def share_error(values: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
    """Half the width of the 95 % interval of a mean of shares, over the choice of the images.

    The standard error of a mean under a bootstrap has a closed form: nothing is resampled. Two images with the share 0
    and two with 1 are added (Agresti and Coull, 1998), so that 500 of 500 are not certain: 100 +- 0.5 %.

    Args:
        values: of each image in [0, 1], the mean over the seeds: [N], or [N, K] for K shares of each.
        labels: of the images, where the mean is that of the classes' means; each class is then an own sample.

    Returns:
        [] or [K].
    """
    added = np.array([0.0, 0.0, 1.0, 1.0]).reshape(-1, *[1] * (values.ndim - 1))
    added = np.broadcast_to(added, (4, *values.shape[1:]))
    groups = [values] if labels is None else [values[labels == label] for label in np.unique(labels)]
    samples = [np.concatenate([group, added]) for group in groups]
    variance = sum((sample.var(axis=0) / len(sample) for sample in samples), np.zeros(values.shape[1:]))
    return NORMAL * np.sqrt(variance) / len(samples)


def median_error(values: np.ndarray) -> float:
    """Half the width of the 95 % interval of a median, over the choice of the images: between the two order statistics
    that a bootstrap of the median gives.

    Args:
        values: of each image, [N], at least one; inf where an attack failed.
    """
    ordered, count = np.sort(values), len(values)
    reach = NORMAL * np.sqrt(count) / 2
    low, high = (ordered[int(np.clip(count / 2 + sign * reach, 0, count - 1))] for sign in (-1, 1))
    return float((high - low) / 2) if np.isfinite(high) else float("inf")
