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


def crop_flip_cutout(x: Tensor, *, padding: int = 4, flip: bool = True, cutout: int = 0) -> Tensor:
    """Each image moved by up to `padding` pixels, mirrored every other time, and with a square of it blackened.

    A move is a crop of the image's own size out of the image with a black border of `padding` pixels. The square has
    its centre anywhere in the image, so part of it may lie outside. Pixels are copied, never mixed: images stay in
    [0, 1]. Randomness as in `random_affine`; an option that is off changes no draw of the others.

    Args:
        x: images [N, C, H, W] in [0, 1].
        padding: largest move in each direction, in pixels; 0: none.
        flip: whether left and right are exchanged in half of the images, drawn for each.
        cutout: side of the square, in pixels; 0: none.

    Returns:
        images of the same shape.

    Raises:
        ValueError: a negative size.

    Source: crop and flip as in He et al., "Deep residual learning for image recognition", 2016 (section 4.2); the
    square is that of DeVries and Taylor, "Improved regularization of convolutional neural networks with cutout", 2017.
    """
    if min(padding, cutout) < 0:
        raise ValueError(f"padding and cutout are numbers of pixels, not {padding} and {cutout}.")
    count, channels, height, width = x.shape
    draws = torch.rand(5, count, 1).to(x.device)
    rows, columns = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
    # Where in the padded image each row and column is taken from: [N, H] and [N, W].
    moves = (draws[:2] * (2 * padding + 1)).long()
    mirrored = torch.where((draws[2] < 0.5) & flip, columns.flip(0), columns)
    source_rows, source_columns = moves[0] + rows, moves[1] + mirrored
    index = source_rows[:, :, None] * (width + 2 * padding) + source_columns[:, None, :]
    padded = F.pad(x, (padding,) * 4).flatten(2)
    # One gather for move and mirror: the cheapest of the ways without a loop.
    moved = padded.gather(2, index.view(count, 1, -1).expand(-1, channels, -1)).view_as(x)
    if not cutout:
        return moved
    covered = _covered(draws[3], rows, cutout)[:, :, None] & _covered(draws[4], columns, cutout)[:, None, :]
    return moved.mul_(covered.logical_not()[:, None])


def _covered(draw: Tensor, line: Tensor, size: int) -> Tensor:
    """Which of the pixels of a line [L] lie in a stretch of `size` about a centre drawn for each image: [N, L]."""
    start = (draw * len(line)).long() - size // 2
    return (line >= start) & (line < start + size)
