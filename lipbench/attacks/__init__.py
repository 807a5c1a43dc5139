"""Attacks: pure functions (model, x, y, **options) -> images. Each looks for the nearest image that is not labelled y.

x: [N, C, H, W] float in [0, 1]; y: [N]; the images returned are in [0, 1], and are x itself where nothing was found.
The model is left as it was: modes, gradients and flags. Nothing an attack returns is believed: `lipbench.evaluate`
judges it again.
"""

from lipbench.attacks.boundary import nearest, to_boundary
from lipbench.attacks.carlini_wagner import carlini_wagner
from lipbench.attacks.deepfool import deepfool
from lipbench.attacks.judging import Float64, Judge, NoGradient, distance, margin, undisturbed
from lipbench.attacks.torchattack import fgm, fgsm, l2_pgd, torchattack

__all__ = [
    "Float64",
    "Judge",
    "NoGradient",
    "carlini_wagner",
    "deepfool",
    "distance",
    "fgm",
    "fgsm",
    "l2_pgd",
    "margin",
    "nearest",
    "to_boundary",
    "torchattack",
    "undisturbed",
]
