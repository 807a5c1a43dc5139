"""The table: one row is one bound on one image. This is the only file that defines columns."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from lipbench.files import ResultsError
from lipbench.precision import OUTWARD

COLUMNS = ["index", "label", "prediction", "method", "side", "norm", "distance"]
# Distances to images that only the float32 network misclassifies are "upper_float32": no adversarial examples.
SIDES = ("lower", "upper", "upper_float32")
# They are those of the one method, and bound the certificates that know of rounding; the others do not.
FLOAT32_FALSIFIER = "falsifier_float32"
FLOAT32_CERTIFICATES = ("certificate_float", "certificate_inscribed_float")
NORMS = ("l2", "linf", "l1")


def bounds_table(
    index: Sequence[int] | np.ndarray,
    labels: np.ndarray,
    predictions: np.ndarray,
    method: str,
    side: str,
    distances: np.ndarray,
    norm: str = "l2",
) -> pd.DataFrame:
    """The rows of one method in one norm: one per image.

    Args:
        index: of each image in its test set.
        side: "lower" (a certificate), "upper" (an attack) or "upper_float32" (an attack on the float32 network alone).
        distances: in units of pixels in [0, 1], >= 0; inf where an attack failed.

    Raises:
        ResultsError: an unknown side or norm, or a distance that is negative or NaN.
    """
    distances = np.asarray(distances, dtype=np.float64)
    if side not in SIDES:
        raise ResultsError(f"side is one of {SIDES}, not {side!r}.")
    if norm not in NORMS:
        raise ResultsError(f"norm is one of {NORMS}, not {norm!r}.")
    if np.isnan(distances).any() or (distances < 0).any():
        raise ResultsError(
            f"{method}: distances must be non-negative numbers; {int(np.isnan(distances).sum())} are NaN."
        )
    return pd.DataFrame(
        {
            "index": np.asarray(index, dtype=np.int64),
            "label": np.asarray(labels, dtype=np.int64),
            "prediction": np.asarray(predictions, dtype=np.int64),
            "method": method,
            "side": side,
            "norm": norm,
            "distance": distances,
        }
    )[COLUMNS]


def radii(l2: np.ndarray, pixels: int) -> dict[str, np.ndarray]:
    """Certified radii in every norm, [N] float64 each, of L2 radii [N].

    Rounded down by more than float64 can err in a norm: where a radius is at most an L2 distance as computed, what
    follows from it is at most the other distances as computed.

    Args:
        pixels: numbers in an image, C * H * W.
    """
    return {"l2": l2, "linf": l2 / (math.sqrt(pixels) * OUTWARD), "l1": l2 / OUTWARD}


def best(table: pd.DataFrame, side: str, norm: str = "l2") -> pd.Series:
    """Per image (index), the largest lower bound or the smallest upper bound: for "upper", the combined attack."""
    groups = table[(table["side"] == side) & (table["norm"] == norm)].groupby("index")["distance"]
    return groups.max() if side == "lower" else groups.min()


def survival(distances: np.ndarray | pd.Series, epsilons: np.ndarray | Sequence[float]) -> np.ndarray:
    """mean(distance > eps) for each eps: robust accuracy of upper bounds, certified accuracy of lower bounds."""
    ordered = np.sort(np.asarray(distances, dtype=np.float64))
    above = len(ordered) - np.searchsorted(ordered, np.asarray(epsilons, dtype=np.float64), side="right")
    return above / max(1, len(ordered))


def balanced_survival(distances: pd.Series, labels: pd.Series, epsilons: np.ndarray | Sequence[float]) -> np.ndarray:
    """The mean over the classes of each class's `survival`, as balanced accuracy is that of the recalls.

    Args:
        distances: of some images, indexed as `best` returns them.
        labels: of at least these images, with the same index. Classes without an image are left out.
    """
    groups = distances.groupby(labels.loc[distances.index])
    return np.mean([survival(mine, epsilons) for _, mine in groups], axis=0)
