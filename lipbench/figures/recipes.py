"""How figures are drawn from the runs of a results folder. The recipes of each figure lie at the foot of its file."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import pandas as pd
from matplotlib.figure import Figure

from lipbench.results.looks import distinct
from lipbench.results.runs import BROKEN, Runs
from lipbench.results.words import dataset_name

Drawn = tuple[Figure, pd.DataFrame]
# How many words of the key of a run name a figure, and what joins them in its title.
WORDS = {"all": (0, ""), "dataset": (1, ""), "experiment": (2, "/"), "run": (4, " ")}


@dataclass(frozen=True)
class Recipe:
    """How one kind of figure is drawn.

    Attributes:
        name: of its files.
        title: a caption of one line.
        alt: what it shows, in a sentence or two, for readers who do not see it; or gives it for the table.
        draw: runs -> the figure and the table of what it draws; None where its inputs are missing.
        each: there is one figure per data set, experiment or run (`draw` gets its runs alone), or one of all.
    """

    name: str
    title: str
    alt: str | Callable[[pd.DataFrame], str]
    draw: Callable[[Runs], Drawn | None]
    each: Literal["dataset", "experiment", "run", "all"] = "dataset"

    def parts(self, runs: Runs) -> dict[tuple[str, ...], Runs]:
        """The words that name each figure -> its runs."""
        count, _ = WORDS[self.each]
        groups = {tuple(map(str, run.key[:count])): replace(runs, finished=[]) for run in runs.finished}
        for run in runs.finished:
            groups[tuple(map(str, run.key[:count]))].finished.append(run)
        return groups


@dataclass(frozen=True)
class Drawing:
    """A figure that is drawn, with its words: name, title and alt as in `Recipe`, with the words of its part.

    Attributes:
        table: the numbers that it draws.
    """

    name: str
    title: str
    alt: str
    figure: Figure
    table: pd.DataFrame


def drawings(
    runs: Runs, recipes: Sequence[Recipe], failed: Callable[[str, Exception], None] | None = None
) -> Iterator[Drawing]:
    """Draws the figures whose inputs exist, one after the other.

    Args:
        failed: is told the name of every figure that cannot be drawn, because a file of a run is broken, and why; the
            others are drawn. Of a figure of all data sets, those are left out whose runs are broken, each by the name
            of the figure and its own. None: the error is raised.
    """
    for recipe in recipes:
        for words, part in recipe.parts(runs).items():
            try:
                drawing = _drawing(recipe, words, part)
            except BROKEN as error:
                if failed is None:
                    raise
                drawing = _sound(recipe, runs, failed) if recipe.each == "all" else None
                if drawing is None:
                    failed("_".join((recipe.name, *words)), error)
            if drawing is not None:
                yield drawing


def _drawing(recipe: Recipe, words: Sequence[str], runs: Runs) -> Drawing | None:
    with distinct(str(run.key[1]) for run in runs.finished):
        drawn = recipe.draw(runs)
    if drawn is None:
        return None
    figure, table = drawn
    # An abbreviation (HKR) stays one.
    first = recipe.title[:1] if recipe.title[1:2].isupper() else recipe.title[:1].lower()
    _, between = WORDS[recipe.each]
    shown = between.join([*map(dataset_name, words[:1]), *words[1:]])
    title = f"{shown}: {first}{recipe.title[1:]}" if words else recipe.title
    alt = recipe.alt if isinstance(recipe.alt, str) else recipe.alt(table)
    return Drawing("_".join((recipe.name, *words)), title, alt, figure, table)


def _sound(recipe: Recipe, runs: Runs, failed: Callable[[str, Exception], None]) -> Drawing | None:
    """The figure of those data sets of which it can be drawn alone; None where there is no such, or too few."""
    sound, broken = [], {}
    for dataset in runs.datasets:
        try:
            recipe.draw(runs.of([dataset]))
            sound.append(dataset)
        except BROKEN as error:
            broken[dataset] = error
    if not sound or not broken:
        return None
    try:
        drawing = _drawing(recipe, (), runs.of(sound))
    except BROKEN:
        return None
    if drawing is not None:
        for dataset, why in broken.items():
            failed(f"{recipe.name}, {dataset}", why)
    return drawing
