"""Every figure of a results folder, for whoever writes or shows them all without knowing one."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from lipbench.figures.explanations import explanations
from lipbench.figures.galleries import adversarial_images, counterfactuals, saliency_maps
from lipbench.figures.generalisation import generalisation
from lipbench.figures.one_class import one_class
from lipbench.figures.plane import plane, plane_lambda
from lipbench.figures.robustness import robustness, robustness_of_one
from lipbench.figures.sandwich import attack_costs, sandwich, tightness
from lipbench.figures.spectra import gradient_norms, spectra
from lipbench.figures.tradeoff import tradeoff
from lipbench.figures.transport import transport
from lipbench.results.inputs import BROKEN, Results

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
        "lineup",
        "Accuracy against epsilon",
        "Curves of accuracy that fall as the L2 norm of the perturbation grows, one colour per network: solid under "
        "the combined attack, dashed as certified. A certificate lies below its attack.",
        robustness_of_one,
    ),
    Recipe(
        "adversarial",
        "Nearest adversarial images",
        "Rows of test images: the original, then for each network the nearest adversarial image of any attack with "
        "the label that it gets, and its difference to the original (red: more, blue: less) with the L2 distance.",
        adversarial_images,
    ),
    Recipe(
        "saliency",
        "Saliency maps: gradients of the margin in the image",
        "Rows of test images: the original, then for each network the gradient of the margin of its prediction (red: "
        "more of a pixel speaks for the class, blue: against it), with its L2 norm.",
        saliency_maps,
    ),
    Recipe(
        "counterfactuals",
        "Counterfactuals: x - t f(x) grad f(x) for growing t",
        "Rows of one test image and network that moves against the gradient of its margin f, by more from left to "
        "right; below each image is f, negative once the label has changed.",
        counterfactuals,
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
    Recipe(
        "spectra",
        "Singular values of the layers, and the Lipschitz bound over training",
        "Left, the singular values of each layer as dots, near 1 for constrained networks and spread for the classical "
        "one. Right, the Lipschitz bound over the training: it grows for the classical network and is flat for the "
        "constrained ones.",
        spectra,
    ),
    Recipe(
        "gradients",
        "Norms of the gradient of the margin",
        "A histogram per network of the L2 norm of the margin's gradient at test images; its bound is dashed.",
        gradient_norms,
    ),
    Recipe(
        "transport",
        "Optimal transport between the classes, and the second law",
        "Above, pairs of images that the optimal plan matches. Below, the rise of f over each pair against its length, "
        "and the Kantorovich-Rubinstein estimate over the training, which stays under the exact distance.",
        transport,
    ),
    Recipe(
        "generalisation",
        "Training and test",
        "A row per network: accuracy and certified accuracy on training images and on the test set, joined by a line.",
        generalisation,
    ),
    Recipe(
        "sandwich",
        "Certificate against empirical distance, image by image",
        "A panel per network with a point per test image: its certificate to the right, its distance under the "
        "combined attack upwards. No point may lie below the line of equality; of tight networks they lie just on it.",
        sandwich,
    ),
    Recipe(
        "tightness",
        "Tightness by attack: distance over certificate",
        "A row per attack and a panel per network: median, quartiles and 5 to 95 % of distance over certificate, from "
        "1 (perfect) to the right.",
        tightness,
    ),
    Recipe(
        "costs",
        "Cost and quality of the attacks",
        "A panel per network with a point per attack: seconds per 1000 images to the right, the best distance over its "
        "own upwards. A line joins the attacks that no other beats in both.",
        attack_costs,
    ),
    Recipe(
        "tradeoff",
        "Accuracy against certified accuracy along a parameter of the loss",
        "A panel per parameter: certified accuracy to the right, accuracy upwards, a line through the networks of each "
        "sweep; the Pareto front is ringed.",
        tradeoff,
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
)


def drawings(
    results: Results, recipes: Sequence[Recipe] = FIGURES, failed: Callable[[str, Exception], None] | None = None
) -> Iterator[Drawing]:
    """Draws whatever has its inputs, one after the other: `Results(folders)` of finished runs in, figures out.

    Args:
        failed: is told the name of every figure that cannot be drawn, because a file of a run is broken, and why; the
            others are drawn. Of a figure of all data sets, those are left out whose runs are broken, each by the name
            of the figure and its own. None: the error is raised.
    """
    for recipe in recipes:
        parts = [(f"_{dataset}", results.of(dataset)) for dataset in results.datasets]
        for suffix, part in parts if recipe.each else [("", results)]:
            try:
                drawing = _drawing(recipe, suffix, part)
            except BROKEN as error:
                if failed is None:
                    raise
                drawing = None if recipe.each else _sound(recipe, results, failed)
                if drawing is None:
                    failed(f"{recipe.name}{suffix}", error)
            if drawing is not None:
                yield drawing


def _drawing(recipe: Recipe, suffix: str, results: Results) -> Drawing | None:
    drawn = recipe.draw(results)
    if drawn is None:
        return None
    # An abbreviation (HKR) stays one.
    first = recipe.title[:1] if recipe.title[1:2].isupper() else recipe.title[:1].lower()
    title = f"{suffix[1:]}: {first}{recipe.title[1:]}" if suffix else recipe.title
    return Drawing(f"{recipe.name}{suffix}", title, recipe.alt, *drawn)


def _sound(recipe: Recipe, results: Results, failed: Callable[[str, Exception], None]) -> Drawing | None:
    """The figure of those data sets of which it can be drawn alone; None where there is no such, or too few."""
    sound, broken = [], {}
    for dataset in results.datasets:
        try:
            recipe.draw(results.of(dataset))
            sound.append(dataset)
        except BROKEN as error:
            broken[dataset] = error
    if not sound or not broken:
        return None
    try:
        drawing = _drawing(recipe, "", results.of(*sound))
    except BROKEN:
        return None
    if drawing is not None:
        for dataset, why in broken.items():
            failed(f"{recipe.name}, {dataset}", why)
    return drawing
