"""Poolings with a Lipschitz constant of 1. Max pooling without overlap and `nn.PixelUnshuffle` are torch's own."""

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
        energy = F.avg_pool2d(x.square(), self.kernel_size) * self.kernel_size**2
        # The square root has an infinite slope at 0. Where the block is zero, send a constant through it.
        empty = energy == 0
        return energy.masked_fill(empty, 1.0).sqrt().masked_fill(empty, 0.0)

    def extra_repr(self) -> str:
        return str(self.kernel_size)
