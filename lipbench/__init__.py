"""lipbench: how far is the nearest adversarial example?

Certificates bound that distance from below, attacks from above; one table holds both.

    import lipbench
    table = lipbench.evaluate(model, images, labels)
"""

from lipbench import attacks, certificate, data, layers, losses, models, training
from lipbench import mkl as _mkl  # noqa: F401  (before the first product)
from lipbench.evaluation import certify_model as certify
from lipbench.evaluation import evaluate
from lipbench.health import HealthWarning
from lipbench.layers import antipodal, bake
from lipbench.models import load
from lipbench.results import LawViolation, ResultsError, read, survival
from lipbench.training import fit

__all__ = [
    "HealthWarning",
    "LawViolation",
    "ResultsError",
    "antipodal",
    "attacks",
    "bake",
    "certificate",
    "certify",
    "data",
    "evaluate",
    "fit",
    "layers",
    "load",
    "losses",
    "models",
    "read",
    "survival",
    "training",
]
