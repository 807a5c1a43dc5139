"""Constraints: what a parametrization of one weight, or a retraction of it, makes of a plain layer."""

from lipbench.layers.constraints.aol import AOL
from lipbench.layers.constraints.base import (
    Constraint,
    ConstraintFactory,
    Factor,
    constrain,
    constrained_weights,
    is_free,
    patch_factor,
    retract,
)
from lipbench.layers.constraints.classic import Clip, Frobenius, Spectral, UnitRows
from lipbench.layers.constraints.interval import Interval
from lipbench.layers.constraints.operator_norm import LinearResidual, SpectralOperator
from lipbench.layers.constraints.orthogonal import Bjorck, Cayley, Exponential, Orthogonal

__all__ = [
    "AOL",
    "Bjorck",
    "Cayley",
    "Clip",
    "Constraint",
    "ConstraintFactory",
    "Exponential",
    "Factor",
    "Frobenius",
    "Interval",
    "LinearResidual",
    "Orthogonal",
    "Spectral",
    "SpectralOperator",
    "UnitRows",
    "constrain",
    "constrained_weights",
    "is_free",
    "patch_factor",
    "retract",
]
