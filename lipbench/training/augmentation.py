"""Augmentation: random changes of a batch of images, as tensor code on whichever device the batch is."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def random_affine(x: Tensor, *, rotation: float = 8.0, shift: float = 0.5, scale: float = 0.05) -> Tensor:
    """Each image rotated, moved and zoomed by its own small random amount, bilinearly, black outside.

    Bilinear weights are convex: images stay in [0, 1]. Randomness comes from torch's generator of the CPU, which `fit`
    seeds for every epoch, so that a resumed training sees the same images on every device.

    Args:
        x: images [N, C, H, W] in [0, 1].
        rotation: largest angle, in degrees.
        shift: largest move in each direction, in pixels.
        scale: largest relative change of the size.

    Returns:
        images of the same shape.
    """
    draws = 2 * torch.rand(4, len(x)) - 1
    angle, zoom = draws[0] * math.radians(rotation), 1 + scale * draws[1]
    cosine, sine = angle.cos() * zoom, angle.sin() * zoom
    height, width = x.shape[2:]
    # Coordinates run from -1 to 1 over the image.
    moves = 2 * shift * draws[2:] / torch.tensor([[width], [height]])
    matrix = torch.stack(
        (torch.stack((cosine, -sine, moves[0]), dim=1), torch.stack((sine, cosine, moves[1]), dim=1)), dim=1
    )
    grid = F.affine_grid(matrix.to(x), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)
