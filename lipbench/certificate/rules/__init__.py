"""Rules of layers: the Lipschitz constant of each and, next to it, its rounding and its steps for linear relaxation.

An import registers them.
"""

from lipbench.certificate.rules import activations, equal, graph, linear, normalization, pooling, residual

__all__ = ["activations", "equal", "graph", "linear", "normalization", "pooling", "residual"]
