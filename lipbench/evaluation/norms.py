"""Distances and certificates in L-infinity and L1 next to those in L2.

Certificates and most attacks work in L2; the other norms follow from what they found. For a change delta of d pixels

    ||delta||_2 / sqrt d  <=  ||delta||_inf      and      ||delta||_2  <=  ||delta||_1,

so an L2 radius r certifies r / sqrt d in L-infinity and r in L1, and any adversarial image has a distance in each norm.
An attack seeks its image in one norm, L2 unless its name says another: its distances in other norms are upper bounds
that are not tight.
"""

import torch
from torch import Tensor

from lipbench.results import table


def radii(l2: Tensor, pixels: int) -> dict[str, Tensor]:
    """Certified radii in every norm, [N] float64 each on the CPU, of L2 radii [N]: see `lipbench.results.table.radii`.

    Args:
        pixels: numbers in an image, C * H * W.
    """
    found = table.radii(l2.double().cpu().numpy(), pixels)
    return {norm: torch.from_numpy(values) for norm, values in found.items()}


def distances(x: Tensor, images: Tensor, l2: Tensor) -> dict[str, Tensor]:
    """Distances of adversarial images in every norm, [N] float64 each.

    Args:
        x, images: [N, C, H, W], on one device.
        l2: distances as judged: 0 (misclassified as it is) and inf (the attack failed) hold in every norm.
    """
    l2 = l2.double()
    linf, l1 = l2.clone(), l2.clone()
    for i in ((l2 > 0) & l2.isfinite()).nonzero()[:, 0].tolist():  # one by one: float64 copies of all take much memory
        change = (images[i].double() - x[i].double()).abs()
        linf[i], l1[i] = change.max(), change.sum()
    return {"l2": l2, "linf": linf, "l1": l1}
