"""Figures: tables in, matplotlib figures out. Nothing here imports torch."""

from lipbench.figures import (
    anytime,
    conformal,
    constructions,
    curves,
    explanations,
    galleries,
    gap,
    one_class,
    plane,
    robustness,
    sandwich,
    shapes,
    spectra,
    tradeoff,
    training,
    transport,
)
from lipbench.figures.constructions import best_variants, construction_comparison
from lipbench.figures.curves import accuracy_curves
from lipbench.figures.numbers import drawn
from lipbench.figures.recipes import Drawing, Recipe, drawings
from lipbench.figures.style import save_figure
from lipbench.figures.training import training_comparison, training_curves

# In the order of the report's page.
RECIPES = (
    *robustness.RECIPES,
    *galleries.RECIPES,
    *plane.RECIPES,
    *shapes.RECIPES,
    *spectra.RECIPES,
    *transport.RECIPES,
    *sandwich.RECIPES,
    *gap.RECIPES,
    *tradeoff.RECIPES,
    *explanations.RECIPES,
    *one_class.RECIPES,
    *anytime.RECIPES,
    *conformal.RECIPES,
    *curves.RECIPES,
    *training.RECIPES,
    *constructions.RECIPES,
)

__all__ = [
    "RECIPES",
    "Drawing",
    "Recipe",
    "accuracy_curves",
    "best_variants",
    "construction_comparison",
    "drawings",
    "drawn",
    "save_figure",
    "training_comparison",
    "training_curves",
]
