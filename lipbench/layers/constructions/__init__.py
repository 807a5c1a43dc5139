"""Constructions: layers with weights of their own, which `bake` turns into plain ones."""

from lipbench.layers.constructions.base import Construction
from lipbench.layers.constructions.convex_potential import ConvexPotential
from lipbench.layers.constructions.fourier import FourierConv2d, FourierOrthogonalConv2d
from lipbench.layers.constructions.orthogonal_conv import OrthogonalConv2d, compose
from lipbench.layers.constructions.peer import PeerLayer
from lipbench.layers.constructions.sandwich import Sandwich
from lipbench.layers.constructions.skew_exponential import TERMS, BoundedSkew, SkewExponential, skew_kernel

__all__ = [
    "TERMS",
    "BoundedSkew",
    "Construction",
    "ConvexPotential",
    "FourierConv2d",
    "FourierOrthogonalConv2d",
    "OrthogonalConv2d",
    "PeerLayer",
    "Sandwich",
    "SkewExponential",
    "compose",
    "skew_kernel",
]
