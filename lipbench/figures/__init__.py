"""Figures: tables in, matplotlib figures out. Nothing here imports torch."""

from lipbench.figures.constructions import best_variants, construction_comparison
from lipbench.figures.curves import accuracy_curves
from lipbench.figures.numbers import drawn
from lipbench.figures.recipes import FIGURES, Drawing, Recipe, drawings
from lipbench.figures.style import save_figure
from lipbench.figures.training import training_comparison, training_curves
from lipbench.results.inputs import BROKEN, Results, Run

__all__ = [
    "BROKEN",
    "FIGURES",
    "Drawing",
    "Recipe",
    "Results",
    "Run",
    "accuracy_curves",
    "best_variants",
    "construction_comparison",
    "drawings",
    "drawn",
    "save_figure",
    "training_comparison",
    "training_curves",
]
