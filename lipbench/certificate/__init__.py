"""Certificates: sound lower bounds of the distance to the nearest adversarial image.

They are computed from the weights that a network really has, in float64, rounded outward.
"""

from lipbench.certificate import other as _rules  # noqa: F401  (importing it registers its rules)
from lipbench.certificate.core import LayerBound, Unbounded, lipschitz
from lipbench.certificate.linear import convolution_norm, spectral_norm
from lipbench.certificate.radius import certify, gaps, radius

layerwise = lipschitz.layerwise

__all__ = [
    "LayerBound",
    "Unbounded",
    "certify",
    "convolution_norm",
    "gaps",
    "layerwise",
    "lipschitz",
    "radius",
    "spectral_norm",
]
