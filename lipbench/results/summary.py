"""The summary of a run: numbers derived from its tables and network facts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lipbench.files import ResultsError, file_hash, read_json, write_json
from lipbench.results.classwise import class_accuracies, imbalance
from lipbench.results.laws import violations
from lipbench.results.layout import run_key, table_paths
from lipbench.results.manifest import verify
from lipbench.results.storage import read_bounds
from lipbench.results.table import NORMS, balanced_survival, best, survival

EPSILONS = (0.25, 0.5, 1.0, 1.58, 2.0, 3.0)


def summarize(table: pd.DataFrame, epsilons: Sequence[float] = EPSILONS) -> dict[str, Any]:
    """Accuracies and medians of one run's rows, in L2 unless a key names another norm.

    accuracy and certified accuracy are over all images with a certificate (the whole test set). Robust accuracy, the
    medians and tightness are over the attacked images, so that they can be compared; without attacks the median
    certificate is over all images. balanced_accuracy, and for two classes sensitivity and specificity: see
    `lipbench.results.class_accuracies`; balanced robust and certified accuracy are the means over the classes of those
    of each class; imbalance: images of the largest class per image of the smallest. tightness is the median of combined
    distance / certificate over attacked images whose certificate is positive: 1 is perfect. linf and l1 hold the
    medians in these norms, None where the table lacks them; violations are the images on which the sandwich law is
    broken in any norm.
    """
    lower, upper = best(table, "lower"), best(table, "upper")
    compared = table[table["index"].isin(upper.index)] if len(upper) else table
    images = table.drop_duplicates("index")
    both = pd.concat({"lower": lower, "upper": upper}, axis=1, join="inner")
    both = both[(both["lower"] > 0) & np.isfinite(both["upper"])]
    ratio = both["upper"] / both["lower"]
    label_of = images.set_index("index")["label"]
    labels, predictions = images["label"].to_numpy(), images["prediction"].to_numpy()
    by_class = class_accuracies(labels, predictions, 1 + int(max(labels.max(), predictions.max(), 1)))
    return {
        "accuracy": float((labels == predictions).mean()),
        **{name: None if np.isnan(value) else value for name, value in by_class.items()},
        "imbalance": imbalance(labels),
        "test_images": len(images),
        "attacked_images": len(upper),
        "robust_accuracy": _curve(upper, epsilons),
        "certified_accuracy": _curve(lower, epsilons),
        "balanced_robust_accuracy": _curve(upper, epsilons, label_of),
        "balanced_certified_accuracy": _curve(lower, epsilons, label_of),
        **_medians(compared, "l2"),
        "mean_distance": float(upper.mean()) if len(upper) else None,
        "tightness": _median(ratio),
        **{norm: _medians(compared, norm) for norm in NORMS if norm != "l2"},
        "violations": violations(table)["index"].nunique(),
    }


def write_summary(
    folder: Path,
    network: Mapping[str, Any],
    seconds: Mapping[str, float],
    epsilons: Sequence[float] = EPSILONS,
) -> dict[str, Any]:
    """Writes `summary.json` of a run and returns it.

    Args:
        network: facts that tables do not hold: lipschitz, kr, wasserstein, law_holds, bake_change (see
            `lipbench.evaluation.evaluate`).
        seconds: of training and of each method.
    """
    table = read_bounds(folder)
    no_attack = {"training", *table["method"][table["side"] == "lower"]}
    summary = {
        **run_key(folder),
        **summarize(table, epsilons),
        **network,
        "training_seconds": seconds.get("training"),
        "attack_seconds": sum(v for k, v in seconds.items() if k not in no_attack),
    }
    path = folder / "summary.json"
    write_json(path, summary)
    written: dict[str, Any] = read_json(path)  # infinite numbers are null in it
    return written


def read_summary(folder: Path) -> dict[str, Any] | None:
    """The summary of a finished run; None where the run is unfinished.

    Of thousands of runs no table is read: files that were not written, copied or moved since the manifest was written
    are checked by their sizes.

    Raises:
        Damaged: a file of the run differs from its manifest.
        ResultsError: it is no summary.
    """
    if verify(folder, quick=True) is None:
        return None
    summary = read_json(folder / "summary.json") if (folder / "summary.json").exists() else None
    if not isinstance(summary, dict):
        raise ResultsError(f"{folder / 'summary.json'} is no summary. Delete it and run the experiment again.")
    return summary


def table_hashes(folder: Path) -> dict[str, str]:
    """Method -> hash of its table."""
    return {path.stem: file_hash(path) for path in table_paths(folder)}


def _curve(distances: pd.Series, epsilons: Sequence[float], labels: pd.Series | None = None) -> dict[str, float] | None:
    """Radius -> share of the images that are farther; with labels, of each class alike."""
    if not len(distances):
        return None
    values = survival(distances, epsilons) if labels is None else balanced_survival(distances, labels, epsilons)
    return {f"{eps:g}": float(value) for eps, value in zip(epsilons, values, strict=True)}


def _medians(table: pd.DataFrame, norm: str) -> dict[str, float | None]:
    return {
        "median_certificate": _median(best(table, "lower", norm)),
        "median_distance": _median(best(table, "upper", norm)),
    }


def _median(values: pd.Series) -> float | None:
    return float(values.median()) if len(values) else None
