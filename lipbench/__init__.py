"""lipbench: how far is the nearest adversarial example?

Certificates bound that distance from below, attacks from above; one table holds both.

    import lipbench
    table = lipbench.evaluate(model, images, labels)
"""

from importlib import import_module
from typing import Any

from lipbench import attacks, certificate, data, layers, losses, models, training
from lipbench import precision as _precision  # noqa: F401  (before the first product)
from lipbench.configuration import VERSION
from lipbench.evaluation.bracket import Bracket, bracket
from lipbench.evaluation.evaluate import certify_model as certify
from lipbench.evaluation.evaluate import evaluate
from lipbench.evaluation.health import HealthWarning
from lipbench.files import ResultsError
from lipbench.layers import antipodal, bake
from lipbench.results import LawViolation, read, survival
from lipbench.runs.network import load
from lipbench.training import fit

__version__ = VERSION

__all__ = [
    "Bracket",
    "HealthWarning",
    "LawViolation",
    "ResultsError",
    "__version__",
    "antipodal",
    "attacks",
    "bake",
    "bracket",
    "certificate",
    "certify",
    "data",
    "evaluate",
    "fit",
    "layers",
    "load",
    "losses",
    "models",
    "plot",
    "read",
    "survival",
    "training",
]


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    if name == "plot":  # loaded when it is first used: matplotlib takes half a second
        return import_module("lipbench.plot")
    raise AttributeError(f"module 'lipbench' has no attribute {name!r}")
