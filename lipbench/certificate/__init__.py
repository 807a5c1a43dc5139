"""Certificates: sound lower bounds of the distance to the nearest adversarial image.

They are computed from the weights that a network really has, in float64, rounded outward.
"""

from lipbench.certificate.exactness import Unbounded, number
from lipbench.certificate.float32 import certify_float, float_layerwise, why_not
from lipbench.certificate.inscribed import certify_inscribed, certify_inscribed_float, inscribed_balls
from lipbench.certificate.inscribed_ball import InscribedBalls, ball_radius, best_t
from lipbench.certificate.lipschitz import LayerBound, lipschitz, product
from lipbench.certificate.local import LocalBound, LocalWarning, certify_local, margins_near
from lipbench.certificate.radius import certify, gaps, gaps_of, logit_bounds, radius
from lipbench.certificate.relaxation.crown import CrownWarning, certify_crown
from lipbench.certificate.rounding import Affine, follow, rounding
from lipbench.certificate.rules.linear import convolution_norm, spectral_norm
from lipbench.certificate.table import input_shapes, layer_table
from lipbench.certificate.tracing import read

layerwise = lipschitz.layerwise

__all__ = [
    "Affine",
    "CrownWarning",
    "InscribedBalls",
    "LayerBound",
    "LocalBound",
    "LocalWarning",
    "Unbounded",
    "ball_radius",
    "best_t",
    "certify",
    "certify_crown",
    "certify_float",
    "certify_inscribed",
    "certify_inscribed_float",
    "certify_local",
    "convolution_norm",
    "float_layerwise",
    "follow",
    "gaps",
    "gaps_of",
    "input_shapes",
    "inscribed_balls",
    "layer_table",
    "layerwise",
    "lipschitz",
    "logit_bounds",
    "margins_near",
    "number",
    "product",
    "radius",
    "read",
    "rounding",
    "spectral_norm",
    "why_not",
]
