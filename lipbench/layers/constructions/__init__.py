"""Constructions: layers with weights of their own, which `bake` turns into plain ones."""

from lipbench.layers.constructions.base import Construction
from lipbench.layers.constructions.convex_potential import ConvexPotential
from lipbench.layers.constructions.orthogonal_conv import OrthogonalConv2d, compose
from lipbench.layers.constructions.peer import PeerLayer

__all__ = ["Construction", "ConvexPotential", "OrthogonalConv2d", "PeerLayer", "compose"]
