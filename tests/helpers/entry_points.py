"""Every function that judges images, and small inputs for it."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

import lipbench
from lipbench.attacks import fgm
from lipbench.certificate import certify, certify_float, certify_inscribed, certify_inscribed_float
from lipbench.evaluation.bounds import attack_images, certify_images
from lipbench.evaluation.evaluate import health

ENTRIES: dict[str, Callable[[nn.Module, Tensor, Tensor], object]] = {
    "lipbench.certify": lipbench.certify,
    "evaluate": lambda model, x, y: lipbench.evaluate(model, x, y, ["fgm"], progress=False),
    "certify_images": lambda model, x, y: certify_images(model, x, y, certify),
    "attack_images": lambda model, x, y: attack_images(model, x, y, fgm, "fgm"),
    "attack": fgm,
    "health": health,
    "certificate": certify,
    "certificate_float": certify_float,
    "certificate_inscribed": certify_inscribed,
    "certificate_inscribed_float": certify_inscribed_float,
}


# They judge what a network computes anywhere, not in [0, 1] alone, in the network's own precision.
INSIDE = ("certificate", "certificate_float", "certificate_inscribed", "certificate_inscribed_float")


PIXELS = [name for name in ENTRIES if name not in INSIDE]


def classifier(outputs: int = 3) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, outputs)).eval()


def images(count: int = 4) -> Tensor:
    return torch.rand(count, 1, 4, 4)


def labels(count: int = 4) -> Tensor:
    return torch.arange(count) % 3
