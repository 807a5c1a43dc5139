"""What a history row says of the network, measured on the validation set, baked as it would be if training ended
there.
"""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from lipbench.certificate import gaps, lipschitz, radius
from lipbench.data import Split
from lipbench.layers import bake
from lipbench.losses import kr

BATCH = 1000


def pixels(images: Tensor, device: torch.device | str = "cpu") -> Tensor:
    """uint8 images -> float32 in [0, 1] on the device."""
    return images.to(device).float() / 255


def monitor(
    model: nn.Module, validation: Split, loss: Callable[[Tensor, Tensor], Tensor], epsilon: float
) -> dict[str, float]:
    """One history row's validation part.

    Returns:
        validation_loss, validation_accuracy; kr: the Kantorovich-Rubinstein estimate of the logits (summed over
        classes one-vs-all);
        mean_certificate: mean certified radius (0 for mistakes); certified_accuracy at `epsilon`; lipschitz: bound of
            the whole network;
        gradient_norm: mean L2 norm of the input gradient of the margin z_y - max_k z_k over the first 256 images.
    """
    baked = bake(copy.deepcopy(model))
    device = next(baked.parameters()).device
    labels = validation.labels.to(device)
    with torch.no_grad():
        logits = torch.cat([baked(pixels(batch, device)) for batch in validation.images.split(BATCH)])
    shape = tuple(validation.images.shape[1:])
    radii = radius(logits.double(), labels, gaps(baked, shape).to(device))
    return {
        "validation_loss": float(loss(logits, labels)),
        "validation_accuracy": float((logits.argmax(1) == labels).float().mean()),
        "kr": -float(kr(logits, labels)),
        "mean_certificate": float(radii.mean()),
        "certified_accuracy": float((radii > epsilon).double().mean()),
        "lipschitz": lipschitz(baked, shape),
        "gradient_norm": _gradient_norm(baked, pixels(validation.images[:256], device), labels[:256]),
    }


def _gradient_norm(model: nn.Module, x: Tensor, y: Tensor) -> float:
    with torch.enable_grad():
        x = x.clone().requires_grad_()
        logits = model(x)
        true = logits.gather(1, y[:, None])[:, 0]
        others = logits.scatter(1, y[:, None], -torch.inf).amax(1)
        (gradient,) = torch.autograd.grad((true - others).sum(), x)
    return float(gradient.flatten(1).norm(dim=1).mean())
