"""Layers: activations, poolings, constraints on weights, and `bake`, which turns a trained network into plain
layers.
"""

from lipbench.layers.activations import Abs, FullSort, GroupSort, Householder, MaxMin, clamped_prelu
from lipbench.layers.baking import bake
from lipbench.layers.basic import Antipodal, ConvexResidual, Normalize, Residual, Scale, antipodal, k_lipschitz
from lipbench.layers.centering import BatchCentering, LayerCentering
from lipbench.layers.constraints import (
    AOL,
    Bjorck,
    Clip,
    Constraint,
    ConstraintFactory,
    Frobenius,
    Interval,
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
from lipbench.layers.constructions import Construction, ConvexPotential, OrthogonalConv2d, PeerLayer
from lipbench.layers.families import aoc, aol, cpl, liresnet, sll
from lipbench.layers.initialisers import bjorck_, delta_orthogonal_, orthogonal_
from lipbench.layers.operator import fills_torus, is_circular, keeps_size, padding_of, symbols
from lipbench.layers.orthogonalize import bjorck, into_basin, newton_schulz, norm_bound, polar, tangent
from lipbench.layers.pooling import AdaptiveL2Pool2d, AdaptiveScaledAvgPool2d, L2Pool2d, ScaledAvgPool2d

__all__ = [
    "AOL",
    "Abs",
    "AdaptiveL2Pool2d",
    "AdaptiveScaledAvgPool2d",
    "Antipodal",
    "BatchCentering",
    "Bjorck",
    "Clip",
    "Constraint",
    "ConstraintFactory",
    "Construction",
    "ConvexPotential",
    "ConvexResidual",
    "Frobenius",
    "FullSort",
    "GroupSort",
    "Householder",
    "Interval",
    "L2Pool2d",
    "LayerCentering",
    "LinearResidual",
    "MaxMin",
    "Normalize",
    "Orthogonal",
    "OrthogonalConv2d",
    "PeerLayer",
    "Residual",
    "Scale",
    "ScaledAvgPool2d",
    "Spectral",
    "SpectralOperator",
    "UnitRows",
    "antipodal",
    "aoc",
    "aol",
    "bake",
    "bjorck",
    "bjorck_",
    "clamped_prelu",
    "constrain",
    "constrained_weights",
    "cpl",
    "delta_orthogonal_",
    "fills_torus",
    "into_basin",
    "is_circular",
    "is_free",
    "k_lipschitz",
    "keeps_size",
    "liresnet",
    "newton_schulz",
    "norm_bound",
    "orthogonal_",
    "padding_of",
    "patch_factor",
    "polar",
    "retract",
    "sll",
    "symbols",
    "tangent",
]
