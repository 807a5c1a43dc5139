"""Whether the laws hold for a run: recomputed from its tables, never read from its summary."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lipbench.files import ResultsError, read_json
from lipbench.results.manifest import touched
from lipbench.results.storage import read_bounds
from lipbench.results.table import FLOAT32_CERTIFICATES

# Columns of a measure that bound each other: the first is at least the second.
AUROCS = ("attacked_auroc", "certified_auroc")


def check_laws(folder: Path, summary: Mapping[str, Any], *, quick: bool = False) -> None:
    """Checks the sandwich law, the law of optimal transport and the laws of the measures.

    Args:
        folder: of a run, with its tables.
        summary: of the run: the numbers kr, lipschitz and wasserstein, which no table holds.
        quick: the tables of bounds are not read where no file was written, copied or moved since the manifest was
            written: the run itself then found the violations of these tables, and the summary says how many.

    Raises:
        LawViolation: a law does not hold; the message names each of them.
        ResultsError: a table is damaged.
    """
    others = [*_of_transport(folder, summary), *_of_measures(folder)]
    if quick and not others and summary.get("violations") == 0 and not touched(folder):
        return
    check(read_bounds(folder), others, folder)


def check(table: pd.DataFrame, others: Sequence[str] = (), folder: Path | None = None) -> None:
    """The sandwich law over all rows of one network.

    Args:
        others: what is known to break the other laws, a sentence each.
        folder: where the pairs that break the law are saved, if anywhere.

    Raises:
        LawViolation: with the table and the offending pairs.
    """
    pairs, said = violations(table), []
    if len(pairs):
        names = ("violations.csv", "violations.npz")
        saved = "" if folder is None else f"Rows and images: {' and '.join(str(folder / name) for name in names)}. "
        said = [
            f"THE SANDWICH LAW IS VIOLATED on {pairs['index'].nunique()} images: a certificate is larger than the "
            f"distance of an adversarial example. Check the bound of each layer. {saved}First pairs:\n"
            + pairs.head().to_string(index=False)
        ]
    if said or others:
        raise LawViolation("\n".join([*said, *others]), table, pairs)


def transport_holds(kr: float | None, lipschitz: float | None, wasserstein: float | None) -> bool:
    """Whether kr <= lipschitz * wasserstein. A number that is missing or infinite (None) breaks no law."""
    if kr is None or lipschitz is None or wasserstein is None:
        return True
    # kr and wasserstein are means of many float64 numbers.
    return not kr > lipschitz * wasserstein * (1 + 1e-9)


def _of_transport(folder: Path, summary: Mapping[str, Any]) -> Iterator[str]:
    kr, bound, distance = (summary.get(key) for key in ("kr", "lipschitz", "wasserstein"))
    if not transport_holds(kr, bound, distance) or summary.get("transport_law", True) is False:
        yield (
            f"THE OPTIMAL-TRANSPORT LAW IS VIOLATED: KR {kr} / Lipschitz bound {bound} exceeds Wasserstein-1 "
            f"{distance}: the bound is wrong. See {folder / 'summary.json'}."
        )


def _of_measures(folder: Path) -> Iterator[str]:
    for path in sorted(folder.glob("*.json")):
        table = path.with_suffix(".csv")
        if not table.exists():
            continue
        said = read_json(path)
        if isinstance(said, dict) and said.get("violation"):
            yield str(said["violation"])
            continue
        try:
            columns = pd.read_csv(table, usecols=lambda name: name in AUROCS)
            broken = set(AUROCS) <= set(columns) and bool((columns[AUROCS[0]] < columns[AUROCS[1]]).any())
        except Exception as error:  # of pandas' parser, in many ways
            raise ResultsError(f"{table} is damaged ({error}). Delete it and run the experiment again.") from error
        if broken:
            yield f"THE LAW OF CERTIFIED AUROC IS VIOLATED: an attack leaves less than what is certified. See {table}."


class LawViolation(RuntimeError):
    """A lower bound exceeds an upper bound, or a Kantorovich-Rubinstein estimate a Wasserstein distance.

    Attributes:
        table: all rows; nothing is dropped.
        pairs: the offending pairs, as `violations` returns them.
    """

    def __init__(self, message: str, table: pd.DataFrame, pairs: pd.DataFrame):
        super().__init__(message)
        self.table = table
        self.pairs = pairs


def violations(table: pd.DataFrame) -> pd.DataFrame:
    """The sandwich law: pairs of rows, of one image and norm, whose lower bound exceeds the upper one. Empty if the
    law holds.

    Every lower bound is held against the adversarial images ("upper"); the certificates of the float32 network
    (`FLOAT32_CERTIFICATES`) alone against those that only that network misclassifies ("upper_float32").

    Returns:
        columns index, norm, lower_method, lower, upper_method, upper.
    """
    lower = table[table["side"] == "lower"]
    deployed = lower[lower["method"].isin(FLOAT32_CERTIFICATES)]
    found = [
        _exceeding(lower, table[table["side"] == "upper"]),
        _exceeding(deployed, table[table["side"] == "upper_float32"]),
    ]
    return pd.concat([pairs for pairs in found if len(pairs)] or found[:1], ignore_index=True)


def _exceeding(lower: pd.DataFrame, upper: pd.DataFrame) -> pd.DataFrame:
    columns = ["index", "norm", "lower_method", "lower", "upper_method", "upper"]
    parts = []
    for side, given, pick in (("lower", lower, "idxmax"), ("upper", upper, "idxmin")):
        rows = given.reset_index(drop=True)  # tables put together may repeat a row's name
        chosen = rows.loc[rows.groupby(["index", "norm"])["distance"].agg(pick)] if len(rows) else rows
        parts.append(
            chosen[["index", "norm", "method", "distance"]].rename(
                columns={"method": f"{side}_method", "distance": side}
            )
        )
    pairs = parts[0].merge(parts[1], on=["index", "norm"])
    return pairs[pairs["lower"] > pairs["upper"]][columns].reset_index(drop=True)
