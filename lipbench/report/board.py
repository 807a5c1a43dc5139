"""The board: what a reader sees of the leaderboard, in a terminal of 100 columns and in `leaderboard.md`."""

import textwrap
from collections.abc import Sequence
from typing import Any

import pandas as pd

from lipbench.escapes import csv, markdown, printable
from lipbench.files import write_json, write_text
from lipbench.report.columns import (
    COLUMNS,
    MARKED,
    SCHEMA_VERSION,
    heading,
    leader,
    mark,
    split,
    written,
    written_with,
)
from lipbench.report.leaderboard import board_radii, left_aside
from lipbench.report.overview import overview
from lipbench.results import IMBALANCED
from lipbench.results.radii import radius_text
from lipbench.results.runs import Runs
from lipbench.results.words import counted, dataset_name, note, shortened

WIDTH = 100
# Variants of one experiment that are shown one by one.
VARIANTS = 6
# Data sets; of more the terminal shows the main networks alone.
MANY = 4
LEGEND = (
    "acc, cert@r, rob@r: accuracy, certified accuracy and robust accuracy under all attacks at radius r, %. "
    "radius, distance: medians of certified radius and attack distance. tight: median of distance / certified radius, "
    "1 is perfect. All of these are over the n attacked images; L2, pixels in [0, 1]. ±: 95 % interval over the "
    "images, or the standard deviation over the seeds where that is larger. Best first; - is not measured."
)


def columns(rows: pd.DataFrame) -> list[str]:
    """The columns of the board of one data set: at most eleven, at its two main radii."""
    names = []
    for column in COLUMNS:
        if column.place == "board" and not column.is_curve and column.name not in ("seeds", "images", "attacks"):
            names.append(column.name)
        if column.name == "accuracy":
            names += [f"{kind} @ {eps:g}" for eps in board_radii(rows) for kind in ("cert", "rob")]
    violated = ["violations"] if (rows["violations"] > 0).any() else []
    return [name for name in [*names, *violated, "images", "seeds", "attacks"] if name in rows]


def judged(rows: pd.DataFrame) -> str:
    """The radii at which the networks of one data set are judged, and how."""
    known = [split(str(name)) for name in rows.dropna(axis=1, how="all")]
    found = sorted({float(r) for column, r in known if column is not None and column.name == "test cert"})
    said = f"radii {', '.join(map(radius_text, found))}" if found else "no radii"
    unequal = "imbalance" in rows and bool((rows["imbalance"] >= IMBALANCED).any())
    return said + ("; classes of unequal size: accuracies are means over the classes" if unequal else "")


def terminal(table: pd.DataFrame, runs: Runs) -> str:
    """The boards of all data sets in lines of at most 100 letters, best first. Variants of an experiment are folded
    under it, and so are networks whose accuracies are all 100 %. Of many data sets the main networks alone.
    """
    datasets = list(table.groupby("dataset", sort=True))
    few = len(datasets) <= MANY or overview(table).empty
    parts = [_board_of(str(dataset), rows) for dataset, rows in datasets] if few else [_main_networks(table)]
    broken, aside = sum(bool(run.violation) for run in runs.finished), len(left_aside(runs))
    laws = f"A law is VIOLATED in {broken} of" if broken else "The laws hold in"
    laws += " all" if len(runs.finished) > 1 and not broken else ""
    said = [f"{laws} {counted(len(runs.finished), 'run')}. leaderboard.md has every network and every radius."]
    said += [f"It lists {aside} runs that are in no row, as they were attacked otherwise."] if aside else []
    return "\n\n".join([*parts, _wrapped(LEGEND, ""), _wrapped(" ".join(said), "")])


def _board_of(dataset: str, rows: pd.DataFrame) -> str:
    shown, folded = _folded(rows)
    names = columns(rows)
    cells = [["network", *map(heading, names)]]
    cells += [[_name(row), *(_cell(column, row) for column in names)] for row in shown.to_dict("records")]
    said = printable(f"{_title(dataset)}: {judged(rows)}")
    lines = [_wrapped(said, ""), *_aligned(cells), *map(_wrapped, [*folded, *_notes(rows)])]
    return "\n".join(lines)


def _main_networks(table: pd.DataFrame) -> str:
    """The main networks of each data set at its main radius r, a line for the data set above them."""
    shown = overview(table)
    names = [str(name) for name in shown if name not in ("data set", "r")]
    rows = [[str(row[name]) for name in names] for row in shown.to_dict("records")]
    head, *lines = _aligned([names, *([f"  {first}", *others] for first, *others in rows)])
    said = [head]
    for (dataset, radius), part in shown.reset_index().groupby(["data set", "r"], sort=False):
        said += [printable(f"{dataset}, r = {radius}"), *(lines[index] for index in part.index)]
    return "\n".join([*said, *map(_wrapped, marks(table))])


def _folded(rows: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The rows that the terminal shows, and a sentence for each group of others."""
    said = []
    defaults = set(rows["experiment"][rows["variant"] == "default"])
    counts = rows["experiment"].value_counts()
    many = {name for name, count in counts.items() if name in defaults or count > VARIANTS}
    variant = (rows["variant"] != "default") & rows["experiment"].isin(many)
    if variant.all():  # nothing else is there
        variant[:] = False
    for name, count in rows["experiment"][variant].value_counts(sort=False).items():
        variants = "1 variant is" if count == 1 else f"{count} variants are"
        said.append(f"{printable(str(name))}: {variants} in leaderboard.md.")
    shown = rows[~variant]
    shares = [name for name in columns(rows) if "@" in name or name == "accuracy"]
    saturated = (shown[shares] == 100).all(axis=1)
    if len(shown) - saturated.sum() > 0 and saturated.sum() > 1:
        names = ", ".join(_name(row) for row in shown[saturated].to_dict("records")[1:])
        said.append(f"Also 100 % in each of these accuracies: {names}.")
        saturated &= saturated.cumsum() > 1
        shown = shown[~saturated]
    return shown, said


def _notes(rows: pd.DataFrame) -> list[str]:
    said = [printable(note(name)) for name in dict.fromkeys(rows["experiment"]) if note(name)]
    return said + marks(rows)


def marks(rows: pd.DataFrame) -> list[str]:
    """What the mark of a row means, where there is one."""
    return [MARKED] if rows["lacks"].notna().any() else []


def _name(row: dict[Any, Any]) -> str:
    variant = "" if row["variant"] == "default" else f", {row['variant']}"
    return printable(f"{row['experiment']}{variant}") + mark(row)


def _aligned(cells: list[list[str]]) -> list[str]:
    """Lines of a table: names to the left, numbers to the right. A name that has no room loses its middle."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    gap = "  " if sum(widths) + 2 * len(widths) <= WIDTH else " "
    room = min(widths[0], WIDTH - sum(widths[1:]) - len(gap) * len(widths))
    lines = []
    for name, *numbers in cells:
        right = [text.rjust(width) for text, width in zip(numbers, widths[1:], strict=True)]
        lines.append(gap.join([shortened(name, room).ljust(room), *right]).rstrip())
    return lines


def _cell(name: str, row: dict[Any, Any]) -> str:
    """Accuracies at a radius have their uncertainty; the medians' stand in the other files."""
    return written_with(name, row) if "@" in name else written(name, row.get(name))


def _wrapped(text: str, indent: str = "  ") -> str:
    return textwrap.fill(text, WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)


def write_leaderboard(table: pd.DataFrame, runs: Runs) -> str:
    """`leaderboard.csv` and `leaderboard.json` with all digits, and `leaderboard.md` for readers, whose text is
    returned. Each of them names the version of its schema.
    """
    text = "\n\n".join([*_markdown(table), *_flags(runs), *_left_out(runs)])
    root = runs.root
    write_text(root / "leaderboard.csv", csv(table.copy().assign(schema_version=SCHEMA_VERSION)))
    rows = [{str(k): None if pd.isna(v) else v for k, v in row.items()} for row in table.to_dict("records")]
    write_json(root / "leaderboard.json", {"schema_version": SCHEMA_VERSION, "rows": rows})
    write_text(root / "leaderboard.md", text + "\n")
    return text


def _left_out(runs: Runs) -> list[str]:
    problems = [*runs.problems, *left_aside(runs)]
    return ["## Left out", "\n".join(f"* {markdown(str(problem))}" for problem in problems)] if problems else []


def _flags(runs: Runs) -> list[str]:
    lines = [markdown(f"{'/'.join(map(str, run.key))}: {flag}") for run in runs.finished for flag in run.flags]
    explained = (
        "Signs that a number says less than it seems to. A warning: distances may be too large, or mean something else."
    )
    return ["## Flags", f"{explained}\n\n" + "\n".join(f"* {line}" for line in lines) if lines else "None."]


def _markdown(table: pd.DataFrame) -> list[str]:
    parts = ["# Leaderboard", markdown(LEGEND) + " Bold: the lead is larger than the uncertainties of both together."]
    datasets = list(table.groupby("dataset", sort=True))
    if len(datasets) > 1:
        parts += ["## All data sets", "The main networks of each data set at its main radius.", _overview(table)]
        parts += [f"* {markdown(line)}" for line in marks(table)]
    for dataset, rows in datasets:
        said = judged(rows)
        parts += [f"## {markdown(_title(str(dataset)))}", markdown(said[0].upper() + said[1:]) + "."]
        parts += [_table(rows, columns(rows), bold=True)]
        parts += [f"* {markdown(line)}" for line in _notes(rows)]
        known = {str(name): split(str(name))[0] for name in rows}
        details = [name for name, column in known.items() if column is not None and column.place == "details"]
        parts += ["Details:", _table(rows, details)]
    parts += [
        "## Columns",
        "\n".join(f"* {markdown(c.short or c.name)}: {markdown(c.meaning)}." for c in COLUMNS if c.place != "file"),
    ]
    return [*parts, f"Schema version {SCHEMA_VERSION}."]


def _title(dataset: str) -> str:
    """Its name in words, and as it is called on the command line."""
    name = dataset_name(dataset)
    return name if name == dataset else f"{name} ({dataset})"


def _overview(table: pd.DataFrame) -> str:
    shown = overview(table).map(str).map(markdown)
    right = ["left" if name in ("data set", "network") else "right" for name in shown]
    return shown.to_markdown(index=False, disable_numparse=True, colalign=right)


def _table(rows: pd.DataFrame, names: Sequence[str], bold: bool = False) -> str:
    """A Markdown table, rounded for readers; columns that are empty are left out."""
    known = [name for name in names if rows[name].notna().any()]
    best = {name: leader(rows, name) for name in known} if bold else {}
    plain = set(rows["variant"]) == {"default"}
    cells = []
    for index, row in zip(rows.index, rows.to_dict("records"), strict=True):
        line = {"network": markdown(str(row["experiment"])) + mark(row)}
        line |= {} if plain else {"variant": markdown(str(row["variant"]))}
        for name in known:
            text = markdown(_cell(name, row) if bold else written(name, row[name]))
            line[heading(name)] = f"**{text}**" if best.get(name) is not None and best[name] == index else text
        cells.append(line)
    shown = pd.DataFrame(cells).rename(columns=markdown)
    right = ["left" if name in ("network", "variant") else "right" for name in shown]
    return shown.to_markdown(index=False, disable_numparse=True, colalign=right)
