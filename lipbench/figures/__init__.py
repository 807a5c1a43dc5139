"""Figures: tables in, matplotlib figures out. Nothing here knows torch."""

from lipbench.figures.curves import accuracy_curves
from lipbench.figures.style import save_figure, style

__all__ = ["accuracy_curves", "save_figure", "style"]
