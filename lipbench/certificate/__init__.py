"""Certificates: sound lower bounds of the distance to the nearest adversarial image.

They are computed from the weights that a network really has, in float64, rounded outward.
"""

from lipbench.certificate import constants as _constants  # noqa: F401  (importing them registers their rules)
from lipbench.certificate import normalization as _normalization  # noqa: F401
from lipbench.certificate import pooling as _pooling  # noqa: F401
from lipbench.certificate import residual as _residual  # noqa: F401
from lipbench.certificate import rounding_residual as _rounding_residual  # noqa: F401
from lipbench.certificate import rounding_rules as _rounding_rules  # noqa: F401
from lipbench.certificate.core import LayerBound, lipschitz, product
from lipbench.certificate.crown import CrownWarning, certify_crown
from lipbench.certificate.deployed import certify_float, float_layerwise, why_not
from lipbench.certificate.exactness import Unbounded, number
from lipbench.certificate.linear import convolution_norm, spectral_norm
from lipbench.certificate.radius import certify, gaps, gaps_of, radius
from lipbench.certificate.rounding import Affine, follow, rounding
from lipbench.certificate.spectrum import layers_with_matrix, singular_range, singular_values
from lipbench.certificate.table import input_shapes, layer_table

layerwise = lipschitz.layerwise

__all__ = [
    "Affine",
    "CrownWarning",
    "LayerBound",
    "Unbounded",
    "certify",
    "certify_crown",
    "certify_float",
    "convolution_norm",
    "float_layerwise",
    "follow",
    "gaps",
    "gaps_of",
    "input_shapes",
    "layer_table",
    "layers_with_matrix",
    "layerwise",
    "lipschitz",
    "number",
    "product",
    "radius",
    "rounding",
    "singular_range",
    "singular_values",
    "spectral_norm",
    "why_not",
]
