"""Rules of layers: the Lipschitz constant of each and, next to it, its rounding and its steps for linear relaxation.

An import registers them.
"""

from lipbench.certificate.rules import activations, linear, normalization, pooling, residual

__all__ = ["activations", "linear", "normalization", "pooling", "residual"]
