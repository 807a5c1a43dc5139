"""Certificates: sound lower bounds of the distance to the nearest adversarial image, from the weights a network really has."""

from lipbench.certificate.core import LayerBound, Unbounded, lipschitz
from lipbench.certificate.linear import convolution_norm, spectral_norm
from lipbench.certificate import other as _rules  # noqa: F401  (importing it registers its rules)
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
