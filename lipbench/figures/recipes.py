"""Every figure of a results folder, for whoever writes or shows them all without knowing one."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from lipbench.figures.explanations import explanations
from lipbench.figures.inputs import Results
from lipbench.figures.one_class import one_class
from lipbench.figures.plane import plane, plane_lambda
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
    Recipe(
        "explanations",
        "What explanations are worth",
        "Dots with intervals, one row per network and one panel per metric (mu-fidelity, deletion, insertion, "
        "stability), a colour per attribution; the last rows are published values of mu-fidelity.",
        explanations,
    ),
    Recipe(
        "one_class",
        "Outlier detection: AUROC against epsilon",
        "Left, curves of AUROC that fall as epsilon grows: solid under attack, dashed as certified, below it. Right, "
        "one line per inlier class from its certified AUROC at the largest epsilon to that at 0.",
        one_class,
    ),
    Recipe(
        "plane",
        "Networks on points of the plane",
        "Squares with points of two classes, the classical network left and the 1-Lipschitz one right: the frontier is "
        "a black line; level lines are evenly spaced around it for the 1-Lipschitz network and crowd for the other.",
        plane,
        each=False,
    ),
    Recipe(
        "plane_lambda",
        "HKR of growing lambda",
        "The same points in several squares: the larger lambda, the closer the frontier follows the points. "
        "For lambda = 0, without the hinge, it is anywhere.",
        plane_lambda,
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
