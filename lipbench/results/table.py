"""The table: one row is one bound on one image. This is the only file that defines columns.

Tables of a run lie in `<root>/<dataset>/<experiment>/<variant>/<seed>/bounds/`.
"""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lipbench.files import ResultsError, write_json, write_text
from lipbench.results.layout import run_folders, run_key
from lipbench.results.manifest import MANIFEST, verify_tables

COLUMNS = ["index", "label", "prediction", "method", "side", "norm", "distance"]
# Distances to images that only the float32 network misclassifies are "upper_float32": no adversarial examples.
SIDES = ("lower", "upper", "upper_float32")
# They are those of the one method, and bound the one certificate that knows of rounding; the others do not.
FLOAT32_FALSIFIER, FLOAT32_CERTIFICATE = "falsifier_float32", "certificate_float"
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


def write_bounds(folder: Path, table: pd.DataFrame, identity: Mapping[str, Any]) -> Path:
    """Writes `bounds/<method>.csv` and, before it, `bounds/<method>.json` with what the table depends on."""
    (method,) = table["method"].unique()
    path = folder / "bounds" / f"{method}.csv"
    write_json(path.with_suffix(".json"), dict(identity))
    # 17 significant digits: a float64 survives the round trip, and the law is checked on the exact numbers.
    write_text(path, table.to_csv(index=False, float_format="%.17g", lineterminator="\n"))
    return path


def read_bounds(folder: Path) -> pd.DataFrame:
    """All tables of one run, in the order of their methods' names.

    Raises:
        ResultsError: no table, or one with other columns or values.
    """
    paths = sorted((folder / "bounds").glob("*.csv"))
    if not paths:
        raise ResultsError(f"{folder} holds no tables: nothing matches bounds/*.csv. Run the experiment first.")
    return pd.concat([_read_table(path) for path in paths], ignore_index=True)


def _read_table(path: Path) -> pd.DataFrame:
    try:
        # Python's float() returns the very number that was written; pandas' own parser may miss the last bit.
        table = pd.read_csv(path, dtype={"distance": object}, keep_default_na=False)
        if list(table.columns) != COLUMNS:
            raise ResultsError(f"{path} has columns {list(table.columns)}; expected {COLUMNS}.")
        table["distance"] = table["distance"].to_numpy().astype(float)
    except (OSError, ResultsError):
        raise
    except Exception as error:  # of pandas' parser, in many ways
        raise ResultsError(f"{path} is damaged ({error}). Delete it and run the experiment again.") from error
    problems = {
        "an index, label or prediction that is no whole number": not all(
            pd.api.types.is_integer_dtype(table[column]) for column in COLUMNS[:3]
        ),
        f"a side that is none of {SIDES}": not set(table["side"].unique()).issubset(SIDES),
        f"a norm that is none of {NORMS}": not set(table["norm"].unique()).issubset(NORMS),
        "a distance that is negative or NaN": not (table["distance"] >= 0).all(),
    }
    if len(table) and any(problems.values()):
        found = next(problem for problem, is_there in problems.items() if is_there)
        raise ResultsError(f"{path} is damaged: it has {found}. Delete it and run the experiment again.")
    return table


def read(root: str | Path) -> pd.DataFrame:
    """All tables under a folder, with the columns dataset, experiment, variant, seed, then those of a table.

    A run that is not finished is left out, with a warning.

    Args:
        root: a results folder such as `results/runs`, any folder inside it, or one run.

    Raises:
        ResultsError: there is no table of a finished run under it.
        Damaged: a table of a finished run was changed, removed or added after the run.
    """
    folders = run_folders(Path(root))
    if not folders:
        raise ResultsError(f"{root} holds no results: no <dataset>/<experiment>/<variant>/<seed>/bounds/*.csv in it.")
    tables = []
    for folder in folders:
        if verify_tables(folder) is None:
            warnings.warn(f"{folder} is left out: it has no {MANIFEST}, so the run is unfinished.", stacklevel=2)
            continue
        table = read_bounds(folder)
        for position, (column, value) in enumerate(run_key(folder).items()):
            table.insert(position, column, value)
        tables.append(table)
    if not tables:
        raise ResultsError(f"{root} holds no finished run. Run the experiments again: they go on where they stopped.")
    return pd.concat(tables, ignore_index=True)


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
