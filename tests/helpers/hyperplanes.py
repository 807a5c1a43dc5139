"""Exact hyperplanes, to which distances are known."""

import copy

import torch
from torch import Tensor, nn

from lipbench.attacks import (
    alma,
    apgd,
    carlini_wagner,
    ddn,
    deepfool,
    fgm,
    fgsm,
    hop_skip_jump,
    l2_pgd,
    lipbench,
    tangent,
    transport_path,
)
from lipbench.geometry import onto_halfspace, unit
from lipbench.judge import Judge, distance

ITERATIVE = [l2_pgd, apgd, deepfool, carlini_wagner, ddn, alma, tangent, lipbench]


ONE_STEP = [fgsm, fgm, transport_path]


ALL = [*ITERATIVE, *ONE_STEP, hop_skip_jump]


SHAPE = (1, 6, 6)


class Hyperplane(nn.Module):
    """Two (or ten) logits that are linear in the image, times `scale`, plus `shift`."""

    def __init__(self, classes: int = 2, scale: float = 1.0, shift: float = 0.0):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.weight = nn.Parameter(torch.randn(classes, 36, generator=generator))
        self.scale, self.shift = scale, shift

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * ((x - 0.5).flatten(1) @ self.weight.T) + self.shift


def cross(x: Tensor, gradient: Tensor, descent: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest image at which a linear function of this gradient has fallen by so much; and whether it can."""
    normal_, norm = unit(gradient.detach().double().view_as(x))
    level = (x.double() * normal_).flatten(1).sum(1) - descent.double() / norm
    moved = onto_halfspace(x.double(), normal_, level)
    return moved, (moved * normal_).flatten(1).sum(1) <= level + 1e-6 * descent / norm


def exact(model: Hyperplane, x: Tensor, y: Tensor) -> Tensor:
    """The distance in the box to the nearest other class: the smallest over classes of the shortest clamp(x - t w)."""
    # Of an image at the frontier a float32 margin has few true digits, and so has its distance.
    logits = copy.deepcopy(model).double()(x.double()).detach()
    shortest = torch.full((len(x),), torch.inf, dtype=torch.float64)
    for k in range(logits.shape[1]):
        other = (k != y).nonzero()[:, 0]
        gap = (logits.gather(1, y[:, None])[:, 0] - logits[:, k])[other]
        moved, reached = cross(x[other], (model.weight[y] - model.weight[k])[other] * model.scale, gap)
        length = distance(x[other], moved).where(reached, torch.inf)
        shortest[other] = torch.minimum(shortest[other], length)
    return shortest


def interior(count: int = 40) -> Tensor:
    return 0.5 + 0.1 * torch.randn(count, *SHAPE).clamp(-2, 2)


def corners(count: int = 40) -> Tensor:
    return torch.randint(0, 2, (count, *SHAPE)).float()


def judged(model: nn.Module, x: Tensor, images: Tensor, y: Tensor) -> Tensor:
    assert ((images >= 0) & (images <= 1)).all(), "left the box"
    return distance(x, images).where(Judge(model)(images, y), torch.inf)
