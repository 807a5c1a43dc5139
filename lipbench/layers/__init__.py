"""Layers: activations, poolings, constraints on weights, and `bake`, which turns a trained network into plain
layers.
"""

from lipbench.layers.activations import FullSort, GroupSort, MaxMin
from lipbench.layers.baking import bake
from lipbench.layers.basic import Antipodal, Normalize, Residual, antipodal
from lipbench.layers.constraints import (
    Bjorck,
    Clip,
    Constraint,
    ConstraintFactory,
    Frobenius,
    Orthogonal,
    Spectral,
    UnitRows,
    constrain,
    constrained_weights,
    is_free,
    patch_factor,
    retract,
)
from lipbench.layers.constructions import Construction, OrthogonalConv2d
from lipbench.layers.orthogonalize import bjorck, into_basin, newton_schulz, norm_bound, polar, tangent
from lipbench.layers.pooling import L2Pool2d, ScaledAvgPool2d

__all__ = [
    "Antipodal",
    "Bjorck",
    "Clip",
    "Constraint",
    "ConstraintFactory",
    "Construction",
    "Frobenius",
    "FullSort",
    "GroupSort",
    "L2Pool2d",
    "MaxMin",
    "Normalize",
    "Orthogonal",
    "OrthogonalConv2d",
    "Residual",
    "ScaledAvgPool2d",
    "Spectral",
    "UnitRows",
    "antipodal",
    "bake",
    "bjorck",
    "constrain",
    "constrained_weights",
    "into_basin",
    "is_free",
    "newton_schulz",
    "norm_bound",
    "patch_factor",
    "polar",
    "retract",
    "tangent",
]
