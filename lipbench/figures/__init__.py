"""Figures: tables in, matplotlib figures out. Nothing here knows torch."""

from lipbench.figures.curves import accuracy_curves
from lipbench.figures.style import save_figure, style
from lipbench.figures.training import training_comparison, training_curves

__all__ = ["accuracy_curves", "save_figure", "style", "training_comparison", "training_curves"]
