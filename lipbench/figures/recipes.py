"""Every figure of a results folder, for whoever writes or shows them all without knowing one."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from lipbench.figures.inputs import Results
from lipbench.figures.robustness import robustness

Drawn = tuple[Figure, pd.DataFrame]


@dataclass(frozen=True)
class Recipe:
    """How one kind of figure is drawn.

    Attributes:
        name: of its files.
        title: a caption of one line.
        alt: what it shows, in a sentence or two, for readers who do not see it.
        draw: results -> the figure and the table of what it draws; None where its inputs are missing.
        each: whether there is one figure per data set (`draw` then gets the runs of one), or one of all.
    """

    name: str
    title: str
    alt: str
    draw: Callable[[Results], Drawn | None]
    each: bool = True


@dataclass(frozen=True)
class Drawing:
    """A figure that is drawn, with its words: name, title and alt as in `Recipe`, those of a data set with its name.

    Attributes:
        table: the numbers that it draws.
    """

    name: str
    title: str
    alt: str
    figure: Figure
    table: pd.DataFrame


FIGURES = (
    Recipe(
        "robustness",
        "Accuracy against epsilon",
        "Curves of accuracy that fall as the L2 norm of the perturbation grows, one panel per data set and one colour "
        "per network: solid under the combined attack, dashed as certified. A certificate lies below its attack.",
        robustness,
        each=False,
    ),
)


def drawings(results: Results, recipes: tuple[Recipe, ...] = FIGURES) -> Iterator[Drawing]:
    """Draws whatever has its inputs, one after the other: `Results(folders)` of finished runs in, figures out."""
    for recipe in recipes:
        for dataset in results.datasets if recipe.each else [""]:
            drawn = recipe.draw(results.of(dataset) if dataset else results)
            if drawn is not None:
                name = f"{recipe.name}_{dataset}" if dataset else recipe.name
                title = f"{dataset}: {recipe.title[0].lower()}{recipe.title[1:]}" if dataset else recipe.title
                yield Drawing(name, title, recipe.alt, *drawn)
