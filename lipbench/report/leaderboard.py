"""The leaderboard: one row per network, best first."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from lipbench.report.columns import COLUMNS, GROUP, OVER_IMAGES, OVER_SEEDS, split
from lipbench.results.attacked import attacked_numbers, median_error, share_error
from lipbench.results.radii import main_radii, radius_of
from lipbench.results.runs import Problem, Run, Runs, compared
from lipbench.results.words import is_one_class

# The bound of an image that a column is about, and whether the column is of its share beyond a radius or its median.
BOUNDS = {
    **{"cert": "lower", "rob": "upper", "cert f": "certificate"},
    **{"median certificate": "lower", "median distance": "upper"},
}


INSCRIBED = "certificate_inscribed"


def leaderboard(runs: Runs) -> pd.DataFrame:
    """One row per dataset, experiment and variant: means over the seeds. In the order of the data sets; within them the
    largest certified accuracy at the main radius comes first (see `main_radii`).

    Accuracies, medians and tightness of a row are over the attacked images, those with "test" in their name over the
    whole test set. Each number has its uncertainty over the images and over the seeds. Seeds that were attacked by
    other attacks, or on other images, are no part of the row: see `compared`.
    """
    rows = [_row(found) for found in groups(runs)]
    names = [*GROUP, *(name for column in COLUMNS for name in _names(rows, column.name))]
    table = pd.DataFrame(rows).reindex(columns=names)
    if table["lacks"].notna().all():  # nothing to compare with
        table["lacks"] = None
    # A column that no run has a number for, such as the training time of external models, is one of numbers still.
    numbers = [str(name) for name in table if (known := split(str(name))[0]) is None or not known.is_text]
    table = table.astype({name: float for name in numbers if name not in GROUP})
    return pd.concat([_ranked(part) for _, part in table.groupby("dataset", sort=True)], ignore_index=True)


def groups(runs: Runs) -> list[list[Run]]:
    """The runs of each row: those of a data set, experiment and variant that can be compared (`compared`)."""
    return [compared(found)[0] for found in _variants(runs).values()]


def left_aside(runs: Runs) -> list[Problem]:
    """The runs that are in no row, as the other seeds of their row were attacked or certified otherwise; and why."""
    problems = []
    for key, found in _variants(runs).items():
        kept, others = compared(found)
        row = kept[0].attacked
        for run in others:
            own = run.attacked
            lacks = sorted({*row.attacks, *row.certificates} - {*own.attacks, *own.certificates})
            has = sorted({*own.attacks, *own.certificates} - {*row.attacks, *row.certificates})
            why = [f"lacks {', '.join(lacks)}"] if lacks else []
            why += [f"has {', '.join(has)}"] if has else []
            why = why or [f"{len(own.images)} other images"]
            text = f"not in its row, whose seeds share attacks and images: it {'; it '.join(why)}. Run it again."
            problems.append(Problem("/".join(map(str, (*key, run.key[3]))), text))
    return problems


def numbers(run: Run) -> dict[str, Any]:
    """The numbers of a run: its summary, and those over its attacked images, which its tables give."""
    attacked = run.attacked
    own = attacked_numbers(attacked.images, radii(run), balanced=run.balanced)
    # The whole test set counts as the attacked images do.
    test = run.summary.get("balanced_certified_accuracy") if run.balanced else None
    own |= {"attacks": len(attacked.attacks), "lacks": None if INSCRIBED in attacked.certificates else INSCRIBED}
    return {**run.summary, **own, **({"certified_accuracy": test} if test else {})}


def radii(run: Run) -> list[float]:
    """The radii of the accuracies of a run."""
    known = run.summary.get("certified_accuracy") or run.summary.get("robust_accuracy") or {}
    return [radius_of(text) for text in known]


def board_radii(rows: pd.DataFrame) -> list[float]:
    """The one or two radii of the board of one data set: the one at which most pairs of networks differ clearly, the
    largest of several such, and the one before it. Where none differ, the middle ones (`main_radii`). The variants of a
    sweep do not count. Only radii that all rows have do, where there are such.
    """
    known = rows[[name for name in rows if str(name).startswith("test cert @ ")]].notna()
    main = speakers(rows)
    for shared in (known.all(), known.any()):
        found = sorted({float(split(name)[1]) for name in map(str, known) if shared[name]})
        apart = [_apart(main, radius) for radius in found]
        if any(apart):
            place = max(i for i, count in enumerate(apart) if count == max(apart))
            return found[max(0, place - 1) : place + 1]
        if found:
            return main_radii(found)
    return []


def _apart(rows: pd.DataFrame, radius: float) -> int:
    """Of how many pairs of rows the certified, and of how many the robust accuracies differ by more than the
    uncertainties of both together.
    """
    count = 0
    for name in (f"cert @ {radius:g}", f"rob @ {radius:g}"):
        columns = rows.reindex(columns=[name, name + OVER_IMAGES, name + OVER_SEEDS]).astype(float)
        values, margins = columns[name].to_numpy(), columns.iloc[:, 1:].max(axis=1).to_numpy()
        count += int((np.abs(values[:, None] - values) > np.hypot(margins[:, None], margins)).sum()) // 2
    return count


def speakers(rows: pd.DataFrame) -> pd.DataFrame:
    """Of each experiment of one data set the row that speaks for it, in the order of the rows: the variant "default",
    or the first variant where there is none.
    """
    defaults = rows[rows["variant"] == "default"]
    others = rows[~rows["experiment"].isin(defaults["experiment"])].drop_duplicates("experiment")
    return pd.concat([defaults, others]).sort_index()


def _variants(runs: Runs) -> dict[tuple[Any, ...], list[Run]]:
    """Each row's key -> all its runs, by their seeds."""
    found: dict[tuple[Any, ...], list[Run]] = {}
    for run in sorted(runs.finished, key=lambda run: (*map(str, run.key[:3]), str(run.key[3]).zfill(9))):
        found.setdefault(run.key[:3], []).append(run)
    return found


def _row(found: Sequence[Run]) -> dict[str, Any]:
    known = [numbers(run) for run in found]
    row: dict[str, Any] = dict(zip(GROUP, found[0].key[:3], strict=True))
    for column in COLUMNS:
        values = pd.DataFrame([column.values(each) for each in known])
        for name in map(str, values):
            # A number that one seed lacks is not the mean of the others.
            whole = values[name].notna().all() or column.is_text
            row[name] = values[name].agg(column.combine) if whole else None
            if (column.name in BOUNDS or column.name == "accuracy") and whole:
                row[name + OVER_IMAGES] = _over_images(name, found)
                row[name + OVER_SEEDS] = _over_seeds(values[name]) if len(found) > 1 else None
    return row


def _over_seeds(values: pd.Series) -> float:
    """The standard deviation; inf where a seed's value is (the median distance, if half of the images resisted)."""
    return float(values.std()) if np.isfinite(values).all() else float("inf")


def _over_images(name: str, found: Sequence[Run]) -> float:
    """Half the width of the 95 % interval over the images."""
    column, radius = split(name)
    assert column is not None
    images = [run.attacked.images for run in found]
    labels = images[0]["label"].to_numpy() if found[0].balanced else None
    if column.name == "accuracy":
        right = [(each["label"] == each["prediction"]).to_numpy() for each in images]
        return 100 * float(share_error(np.mean(right, axis=0), labels))
    bounds = [each[BOUNDS[column.name]].to_numpy() for each in images]
    if radius:
        beyond = np.mean([each > radius_of(radius) for each in bounds], axis=0)
        return 100 * float(share_error(beyond, labels))
    return float(np.mean([median_error(each) for each in bounds]))


def _names(rows: Sequence[dict[str, Any]], kind: str) -> list[str]:
    """The names of a column, of a curve one for each radius, in their order, whichever run came first; each before its
    uncertainties.
    """
    known = dict.fromkeys(name for row in rows for name in row)
    own = [name for name in known if (column := split(name)[0]) is not None and column.name == kind]
    ordered = sorted(own, key=lambda name: float(split(name)[1] or 0))
    return [name + end for name in ordered for end in ("", OVER_IMAGES, OVER_SEEDS) if name + end in known]


def _ranked(rows: pd.DataFrame) -> pd.DataFrame:
    """Best first; what has no number comes last, and equals by name. By name alone where each row is another task."""
    if is_one_class(str(rows["dataset"].iloc[0])):
        return rows.sort_values(GROUP)
    radius = next((f"{eps:g}" for eps in reversed(board_radii(rows))), "")
    by = [name for name in (f"cert @ {radius}", f"rob @ {radius}", f"test cert @ {radius}", "accuracy") if name in rows]
    return rows.sort_values(GROUP).sort_values(by, ascending=False, kind="stable", na_position="last")
