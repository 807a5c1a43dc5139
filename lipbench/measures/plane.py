"""A network on images of two pixels: its function over the unit square, for the picture of it."""

import pandas as pd
import torch
from torch import Tensor, nn

from lipbench.images import as_pixels, to_device
from lipbench.losses import binary_function
from lipbench.modules import undisturbed
from lipbench.precision import float32_products


@float32_products()
def plane(model: nn.Module, images: Tensor, labels: Tensor, *, cells: int = 50) -> pd.DataFrame:
    """f = z_1 - z_0 and its gradient on a grid over the unit square, and at the images; the network is left as it was.

    Args:
        model: baked, in evaluation mode, two logits.
        images: [N, 1, 1, 2], see `lipbench.data.two_moons`.
        cells: of the grid per side; it has one point more.

    Returns:
        the columns kind ("grid" or "point"), x, y, label (of points; -1), f, gradient_x, gradient_y.

    Raises:
        ValueError: images of more than two pixels.
    """
    if tuple(images.shape[1:]) != (1, 1, 2):
        raise ValueError(
            f"measure=[plane] is for images of two pixels, [1, 1, 2] (dataset=two_moons); these are "
            f"{list(images.shape[1:])}."
        )
    ticks = torch.linspace(0, 1, cells + 1)
    grid = torch.cartesian_prod(ticks, ticks)
    points = as_pixels(images).view(-1, 2)
    place = to_device(model, torch.cat([grid, points])).requires_grad_()
    with undisturbed(model):
        f = binary_function(model(place.clone().view(-1, 1, 1, 2)))
        (slope,) = torch.autograd.grad(f.sum(), place)
    table = pd.DataFrame({"kind": ["grid"] * len(grid) + ["point"] * len(points)})
    table[["x", "y"]] = place.detach().cpu().numpy()
    table["label"] = [-1] * len(grid) + labels.tolist()
    table["f"] = f.detach().cpu().numpy()
    table[["gradient_x", "gradient_y"]] = slope.cpu().numpy()
    return table.round(5)  # a picture shows no more
