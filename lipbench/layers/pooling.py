"""Poolings with a Lipschitz constant of 1. Max pooling without overlap and `nn.PixelUnshuffle` are torch's own.

The adaptive ones cut an image into blocks that do not overlap, whose sizes differ by a pixel where the output's size
does not divide the input's: block i of n pixels in m blocks is [floor(i n / m), floor((i + 1) n / m)). (Torch's blocks
end at the ceiling, so that they overlap there and the norm exceeds 1; else they are the same.)
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ScaledAvgPool2d(nn.Module):
    """Average of each k x k block times k, so that its operator norm is exactly 1 (an average alone has 1/k).

    The scaled pooling of deel-lip (Serrurier et al., CVPR 2021, section 4). Blocks do not overlap.

    Shapes:
        [N, C, H, W] -> [N, C, H // k, W // k].
    """

    def __init__(self, kernel_size: int = 2):
        super().__init__()
        self.kernel_size = kernel_size

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, self.kernel_size) * self.kernel_size

    def extra_repr(self) -> str:
        return str(self.kernel_size)


class L2Pool2d(nn.Module):
    """Euclidean norm of each k x k block: 1-Lipschitz, and norm preserving where nothing is cropped.

    Blocks do not overlap. The gradient at a block of zeros is defined as zero: torch's own gives NaN.

    Shapes:
        [N, C, H, W] -> [N, C, H // k, W // k].
    """

    def __init__(self, kernel_size: int = 2):
        super().__init__()
        self.kernel_size = kernel_size

    def forward(self, x: Tensor) -> Tensor:
        return _root(F.avg_pool2d(x.square(), self.kernel_size) * self.kernel_size**2)

    def extra_repr(self) -> str:
        return str(self.kernel_size)


class AdaptiveScaledAvgPool2d(nn.Module):
    """Sum of each block divided by the root of its size, to a fixed output size: its operator norm is exactly 1.

    With an output size of 1, the global average times sqrt(H W).

    Args:
        output_size: (height, width), or one number for both.

    Shapes:
        [N, C, H, W] -> [N, C, *output_size].

    Raises:
        ValueError: the image is smaller than the output.
    """

    def __init__(self, output_size: int | tuple[int, int] = 1):
        super().__init__()
        self.output_size = _pair(output_size)

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = (_blocks(n, m, x) for n, m in zip(x.shape[2:], self.output_size, strict=True))
        return _unit_rows(rows) @ x @ _unit_rows(columns).mT

    def extra_repr(self) -> str:
        return str(self.output_size)


class AdaptiveL2Pool2d(nn.Module):
    """Euclidean norm of each block, to a fixed output size: 1-Lipschitz and norm preserving.

    The gradient at a block of zeros is defined as zero, as in `L2Pool2d`.

    Args:
        output_size: (height, width), or one number for both.

    Shapes:
        [N, C, H, W] -> [N, C, *output_size].

    Raises:
        ValueError: the image is smaller than the output.
    """

    def __init__(self, output_size: int | tuple[int, int] = 1):
        super().__init__()
        self.output_size = _pair(output_size)

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = (_blocks(n, m, x) for n, m in zip(x.shape[2:], self.output_size, strict=True))
        return _root(rows @ x.square() @ columns.mT)

    def extra_repr(self) -> str:
        return str(self.output_size)


def _root(energy: Tensor) -> Tensor:
    """Square root with the gradient 0 at 0, where its slope is infinite: a constant is sent through it there."""
    empty = energy == 0
    return energy.masked_fill(empty, 1.0).sqrt().masked_fill(empty, 0.0)


def _blocks(pixels: int, blocks: int, like: Tensor) -> Tensor:
    """[blocks, pixels]: 1 where the pixel is in the block, else 0."""
    if not 1 <= blocks <= pixels:
        raise ValueError(
            f"An image of {pixels} pixels cannot be cut into {blocks} blocks: use an output_size up to it."
        )
    edges = torch.arange(blocks + 1, device=like.device) * pixels // blocks
    position = torch.arange(pixels, device=like.device)
    return ((edges[:-1, None] <= position) & (position < edges[1:, None])).to(like.dtype)


def _unit_rows(blocks: Tensor) -> Tensor:
    return blocks / blocks.sum(1, keepdim=True).sqrt()


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])
