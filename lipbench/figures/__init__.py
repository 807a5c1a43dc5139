"""Figures: tables in, matplotlib figures out. Nothing here imports torch."""

from lipbench.figures.constructions import best_variants, construction_comparison
from lipbench.figures.curves import accuracy_curves
from lipbench.figures.style import save_figure

__all__ = ["accuracy_curves", "best_variants", "construction_comparison", "save_figure"]
