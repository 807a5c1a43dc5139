"""Linear relaxation (CROWN): a second kind of certificate, for small networks."""

from lipbench.certificate.relaxation.piecewise import Affine, Kinks, affine, relaxation

__all__ = ["Affine", "Kinks", "affine", "relaxation"]
