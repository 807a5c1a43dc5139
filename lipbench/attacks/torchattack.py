"""The adapter for torchattacks, and the attacks that go through it: FGSM, its L2 form and L2-PGD."""

import contextlib
import io
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lipbench.attacks.boundary import to_boundary
from lipbench.attacks.judging import margin, undisturbed


class _Cured(nn.Module):
    """The same classifier with logits that torchattacks can read: >= 0, with a spread of 1.

    torchattacks' losses take 0 for the smallest logit and lose their gradient on large ones; a positive scale and a
    shift per image change no decision and, held constant, no direction of the gradient of a two-class network.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return _rescale(self.model(x))


def _rescale(logits: Tensor) -> Tensor:
    low, high = logits.detach().amin(1, keepdim=True), logits.detach().amax(1, keepdim=True)
    return (logits - low) / (high - low).clamp_min(torch.finfo(logits.dtype).tiny)


def torchattack(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    attack: Callable[[nn.Module], Any],
    boundary: bool = True,
) -> Tensor:
    """Runs any attack of torchattacks, with the cures that it needs, and brings its images to the boundary.

    Logits are shifted and rescaled (see `_Cured`), the attack is run through its `forward` (its own call restores
    modes at the root only),
    and its return value is not trusted: an image that is not adversarial is replaced by x.

    Args:
        x: images [N, C, H, W] in [0, 1].
        attack: model -> attack, such as `functools.partial(torchattacks.PGDL2, eps=1.0)`.
        boundary: bisect to the boundary; else return the attack's images as they are.
    """
    with undisturbed(model):
        margin(model(x[:1]), y[:1])  # refuses a network with one logit, by name
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            instance = attack(_Cured(model))
            instance.set_device(x.device)
            images = instance.forward(x, y).detach().clamp(0, 1)
        # An attack that divides by a gradient of zero returns NaN: such an image is a failure.
        images = torch.where(images.isnan(), x, images)
        return to_boundary(model, x, images, y) if boundary else images
