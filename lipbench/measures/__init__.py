"""Explanations of a classifier's decisions, and what they are worth.

Attributions are functions (model, x, y, **options) -> [N, C, H, W]: how much each number of an image counts for the
logit of class y. Metrics judge them; `explanations` is the table of both.
"""

from lipbench.measures.attributions import gradient, integrated_gradients, logit_gradient, smooth_gradient
from lipbench.measures.conformal import conformal
from lipbench.measures.explanations import ATTRIBUTIONS, explanations
from lipbench.measures.metrics import deletion, insertion, mu_fidelity, stability
from lipbench.measures.one_class import one_class
from lipbench.measures.plane import plane

__all__ = [
    "ATTRIBUTIONS",
    "conformal",
    "deletion",
    "explanations",
    "gradient",
    "insertion",
    "integrated_gradients",
    "logit_gradient",
    "mu_fidelity",
    "one_class",
    "plane",
    "smooth_gradient",
    "stability",
]
