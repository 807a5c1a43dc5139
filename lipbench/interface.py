"""What `import lipbench` gives: loaded when the first of its names is used, because torch takes seconds."""

from typing import TYPE_CHECKING

from lipbench import attacks, certificate, data, layers, losses, models, training
from lipbench.evaluation.bracket import Bracket, bracket
from lipbench.evaluation.evaluate import certify_model as certify
from lipbench.evaluation.evaluate import evaluate
from lipbench.evaluation.health import HealthWarning
from lipbench.files import ResultsError
from lipbench.interop.load import load_model
from lipbench.layers import antipodal, bake
from lipbench.results import LawViolation, read, survival
from lipbench.runs.network import load
from lipbench.training import fit

if TYPE_CHECKING:
    from lipbench import plot  # loaded when it is first used: matplotlib takes half a second

__all__ = [
    "Bracket",
    "HealthWarning",
    "LawViolation",
    "ResultsError",
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
    "load_model",
    "losses",
    "models",
    "plot",
    "read",
    "survival",
    "training",
]
