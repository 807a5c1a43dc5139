"""Attacks: pure functions (model, x, y, *, start=None, lower=None, **options) -> images. Each looks for the nearest
image that is not labelled y.

x: [N, C, H, W] float in [0, 1]; y: [N]; the images returned are in [0, 1], and are x itself where nothing was found.
The model is left as it was: modes, gradients and flags. The caller checks every image that an attack returns
(`lipbench.evaluation`). `start` and `lower` are explained in `minimum_distance`, which makes an attack of a search.
"""

from lipbench import configuration
from lipbench.attacks.alma import alma
from lipbench.attacks.auto_pgd import apgd, apgd_l1, apgd_linf
from lipbench.attacks.carlini_wagner import carlini_wagner
from lipbench.attacks.ddn import ddn
from lipbench.attacks.deepfool import deepfool
from lipbench.attacks.engine import anytime, best_of, chain, minimum_distance, within
from lipbench.attacks.engine.boundary import nearest, shoot, to_boundary
from lipbench.attacks.falsifier import falsifier, falsifier_float32
from lipbench.attacks.fast_gradient import fgm, fgsm, transport_path
from lipbench.attacks.hop_skip_jump import hop_skip_jump
from lipbench.attacks.lipbench import lipbench
from lipbench.attacks.passes import distance_by_passes
from lipbench.attacks.projected_gradient import l2_pgd
from lipbench.attacks.tangent import tangent

__all__ = [
    "alma",
    "anytime",
    "apgd",
    "apgd_l1",
    "apgd_linf",
    "best_of",
    "carlini_wagner",
    "chain",
    "ddn",
    "deepfool",
    "distance_by_passes",
    "falsifier",
    "falsifier_float32",
    "fgm",
    "fgsm",
    "hop_skip_jump",
    "l2_pgd",
    "lipbench",
    "minimum_distance",
    "names",
    "nearest",
    "shoot",
    "tangent",
    "to_boundary",
    "transport_path",
    "within",
]


def names() -> list[str]:
    """All attacks that `lipbench.evaluate` and the option `attack` know by name, sorted. Names such as `foolbox_cw`
    belong to other libraries, which may not be installed.
    """
    return configuration.names("attack")
