"""Explanations of a classifier's decisions, and what they are worth.

Attributions are functions (model, x, y, **options) -> [N, C, H, W]: how much each number of an image counts for the
logit of class y. Metrics judge them; `explanations` is the table of both.
"""

from lipbench.explain.attributions import gradient, integrated_gradients, logit_gradient, smooth_gradient
from lipbench.explain.metrics import deletion, insertion, mu_fidelity, stability
from lipbench.explain.plane import plane
from lipbench.explain.table import ATTRIBUTIONS, explanations

__all__ = [
    "ATTRIBUTIONS",
    "deletion",
    "explanations",
    "gradient",
    "insertion",
    "integrated_gradients",
    "logit_gradient",
    "mu_fidelity",
    "plane",
    "smooth_gradient",
    "stability",
]
