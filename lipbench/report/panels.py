"""What the page shows of one data set: its answer, its board, its figures, its networks."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pandas as pd

from lipbench.report.answers import answer
from lipbench.report.board import judged, marks
from lipbench.report.cards import Card
from lipbench.report.columns import GROUP, leader, mark, written, written_with
from lipbench.report.leaderboard import board_radii, speakers
from lipbench.report.pictures import MAIN, Picture
from lipbench.results.radii import radius_text
from lipbench.results.words import dataset_name, note


@dataclass(frozen=True)
class Cell:
    """What is shown, by what it is sorted ("" where there is none), and whether it is bold."""

    text: str
    value: str
    bold: bool = False
    alarm: bool = False


@dataclass(frozen=True)
class Line:
    """A row of the board. Its mark stands at its name, "" where there is none."""

    card: Card
    name: str
    mark: str
    cells: list[Cell]


@dataclass(frozen=True)
class Group:
    """An experiment on the board: its row, and its variants folded under it. Without a row of its own, its name."""

    name: str
    line: Line | None
    variants: list[Line]


@dataclass(frozen=True)
class Panel:
    """A data set on the page.

    Attributes:
        anchor: its place.
        headings: of the board, with their meanings; the first is that of the networks.
        notes: what has to be said of some networks.
        cards, variants: of the networks that speak for their experiment, and of the others.
        figures, diagnostics: its pictures.
    """

    dataset: str
    name: str
    anchor: str
    answer: str
    judged: str
    headings: list[tuple[str, str]]
    groups: list[Group]
    notes: list[str]
    cards: list[Card]
    variants: list[Card]
    figures: list[Picture]
    diagnostics: list[Picture]


def panels(table: pd.DataFrame, cards: Sequence[Card], pictures: Mapping[str, Sequence[Picture]]) -> list[Panel]:
    """One per data set; the one with the most networks first.

    Args:
        table: as `lipbench.report.leaderboard` returns it.
        pictures: data set -> its pictures.
    """
    known = {(card.dataset, card.experiment, card.variant): card for card in cards}
    found = []
    for dataset, rows in table.groupby("dataset", sort=True):
        own = list(pictures.get(str(dataset), []))
        main = [picture for word in MAIN for picture in own if picture.kind == word]
        found.append(
            Panel(
                dataset=str(dataset),
                name=dataset_name(str(dataset)),
                anchor=f"data-{quote(str(dataset))}",
                answer=answer(rows),
                judged=judged(rows),
                headings=_headings(rows),
                groups=_groups(rows, known),
                notes=[*filter(None, map(note, dict.fromkeys(map(str, rows["experiment"])))), *marks(rows)],
                cards=[known[_key(row)] for row in speakers(rows).to_dict("records")],
                variants=[known[_key(row)] for row in rows.drop(index=speakers(rows).index).to_dict("records")],
                figures=main,
                diagnostics=[picture for picture in own if picture not in main],
            )
        )
    return sorted(found, key=lambda panel: -len(panel.cards) - len(panel.variants))


def by_dataset(pictures: Sequence[Picture], datasets: Sequence[str]) -> dict[str, list[Picture]]:
    """Data set -> its pictures, by their names "<kind>_<dataset>..."; "": those of no data set or of several."""
    found: dict[str, list[Picture]] = {"": []}
    for picture in pictures:
        # In a C locale names of files are not text.
        name = os.fsencode(picture.name).decode("utf-8", "replace")
        rest = name.removeprefix(f"{picture.kind}_")
        fitting = [name for name in datasets if rest == name or rest.startswith(f"{name}_")]
        found.setdefault(max(fitting, key=len, default="") if picture.kind else "", []).append(picture)
    return found


def _key(row: Mapping[Any, Any]) -> Any:
    return tuple(str(row[name]) for name in GROUP)


def _names(rows: pd.DataFrame) -> tuple[str, str, str]:
    """The curves of the board at the main radius."""
    radius = next((f"{eps:g}" for eps in reversed(board_radii(rows))), "-")
    return f"cert @ {radius}", f"rob @ {radius}", f"test cert @ {radius}"


def _headings(rows: pd.DataFrame) -> list[tuple[str, str]]:
    radius = next((radius_text(eps) for eps in reversed(board_radii(rows))), "-")
    where = f"L2 radius {radius}, pixels in [0, 1]"
    return [
        ("network", "variants of a sweep are folded under their experiment"),
        ("accuracy", "%, of the attacked images"),
        (f"certified at {radius}", f"%, of the attacked images: the certified radius exceeds {where}"),
        (f"robust at {radius}", f"%, of the attacked images: no attack succeeds within {where}"),
        ("gap", "robust minus certified accuracy, in points: what is neither proven nor attacked"),
        ("tightness", "median of distance / certified radius over the attacked images; 1 is perfect"),
        ("certified, whole test set", f"%, of all test images: the certified radius exceeds {where}"),
        ("images / seeds / attacks", "attacked images, seeds of the mean, attacks whose best counts"),
    ]


def _groups(rows: pd.DataFrame, known: Mapping[Any, Card]) -> list[Group]:
    groups = []
    names = _names(rows)
    bold = {name: leader(rows, name) for name in names[:2] if name in rows}
    for name in speakers(rows)["experiment"]:
        own = rows[rows["experiment"] == name]
        lines = {
            row["variant"]: _line(index, row, names, known, bold)
            for index, row in zip(own.index, own.to_dict("records"), strict=True)
        }
        default = lines.pop("default", None)
        if default is None and len(lines) == 1:
            default = lines.popitem()[1]
        groups.append(Group(str(name), default, list(lines.values())))
    return groups


def _line(
    index: Any, row: dict[Any, Any], names: Sequence[str], known: Mapping[Any, Card], bold: Mapping[str, Any]
) -> Line:
    cert, rob, test = names
    both = not (pd.isna(row.get(cert)) or pd.isna(row.get(rob)))
    gap = row[rob] - row[cert] if both else None
    cells = [_cell("accuracy", row), *(_cell(name, row, bold.get(name) == index) for name in (cert, rob))]
    cells += [Cell("-" if gap is None else f"{gap:.1f}", "" if gap is None else repr(float(gap)))]
    cells += [_cell("tightness", row), _cell(test, row)]
    counts = " / ".join(written(name, row[name]) for name in ("images", "seeds", "attacks"))
    cells.append(Cell(counts, repr(float(row["images"]))))
    if row["violations"] > 0:
        cells[1] = Cell(f"{cells[1].text} VIOLATED", cells[1].value, alarm=True)
    return Line(known[_key(row)], str(row["variant"]), mark(row), cells)


def _cell(name: str, row: Mapping[Any, Any], bold: bool = False) -> Cell:
    value: Any = row.get(name)
    missing = value is None or bool(pd.isna(value))
    return Cell(written_with(name, row), "" if missing else repr(float(value)), bold and not missing)
