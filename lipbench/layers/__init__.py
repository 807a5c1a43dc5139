"""Layers: activations, poolings, constraints on weights, and `bake`, which turns a trained network into plain
layers.
"""

from lipbench.layers.activations import FullSort, GroupSort, MaxMin
from lipbench.layers.baking import bake
from lipbench.layers.basic import Antipodal, Normalize, Residual, antipodal
from lipbench.layers.constraints import (
    AOL,
    Bjorck,
    Clip,
    Constraint,
    ConstraintFactory,
    Frobenius,
    LinearResidual,
    Orthogonal,
    Spectral,
    SpectralOperator,
    UnitRows,
    constrain,
    constrained_weights,
    is_free,
    patch_factor,
    retract,
)
from lipbench.layers.constructions import Construction, ConvexPotential, OrthogonalConv2d
from lipbench.layers.families import aoc, aol, cpl, liresnet, sll
from lipbench.layers.operator import fills_torus, is_circular, keeps_size, padding_of, symbols
from lipbench.layers.orthogonalize import bjorck, into_basin, newton_schulz, norm_bound, polar, tangent
from lipbench.layers.pooling import L2Pool2d, ScaledAvgPool2d

__all__ = [
    "AOL",
    "Antipodal",
    "Bjorck",
    "Clip",
    "Constraint",
    "ConstraintFactory",
    "Construction",
    "ConvexPotential",
    "Frobenius",
    "FullSort",
    "GroupSort",
    "L2Pool2d",
    "LinearResidual",
    "MaxMin",
    "Normalize",
    "Orthogonal",
    "OrthogonalConv2d",
    "Residual",
    "ScaledAvgPool2d",
    "Spectral",
    "SpectralOperator",
    "UnitRows",
    "antipodal",
    "aoc",
    "aol",
    "bake",
    "bjorck",
    "constrain",
    "constrained_weights",
    "cpl",
    "fills_torus",
    "into_basin",
    "is_circular",
    "is_free",
    "keeps_size",
    "liresnet",
    "newton_schulz",
    "norm_bound",
    "padding_of",
    "patch_factor",
    "polar",
    "retract",
    "sll",
    "symbols",
    "tangent",
]
