"""Whether the laws hold for a run: recomputed from its tables, never read from its summary."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from lipbench.results.files import ResultsError, read_json
from lipbench.results.manifest import touched
from lipbench.results.tables import LawViolation, read_bounds, violations

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
    known = quick and summary.get("violations") == 0 and not touched(folder)
    pairs = None if known else violations(read_bounds(folder))
    broken = []
    if pairs is not None and len(pairs):
        saved = " and ".join(str(folder / name) for name in ("violations.csv", "violations.npz"))
        broken.append(
            f"THE SANDWICH LAW IS VIOLATED on {pairs['index'].nunique()} images: a certificate is larger than the "
            f"distance of an adversarial example. Check the bound of each layer. {saved} hold the rows and the pairs "
            f"(x, x_adv).\n" + pairs.head().to_string(index=False)
        )
    kr, bound, distance = (summary.get(key) for key in ("kr", "lipschitz", "wasserstein"))
    if not transport_holds(kr, bound, distance) or summary.get("transport_law", True) is False:
        broken.append(
            f"THE OPTIMAL-TRANSPORT LAW IS VIOLATED: KR {kr} / Lipschitz bound {bound} exceeds Wasserstein-1 "
            f"{distance}: the bound is wrong. See {folder / 'summary.json'}."
        )
    broken += _of_measures(folder)
    if broken:
        table = read_bounds(folder)
        raise LawViolation("\n".join(broken), table, violations(table))


def transport_holds(kr: float | None, lipschitz: float | None, wasserstein: float | None) -> bool:
    """Whether kr <= lipschitz * wasserstein. A number that is missing or infinite (None) breaks no law."""
    if kr is None or lipschitz is None or wasserstein is None:
        return True
    # kr and wasserstein are means of many float64 numbers.
    return not kr > lipschitz * wasserstein * (1 + 1e-9)


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
