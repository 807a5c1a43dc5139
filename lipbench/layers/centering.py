"""Centring in the place of normalisation: what is subtracted costs nothing, what is divided by would count in the
certificate.
"""

import torch
from torch import Tensor, nn

# Weight of the newest batch in the running mean, as in torch's batch normalisation.
MOMENTUM = 0.1


class BatchCentering(nn.Module):
    """Batch normalisation without its division: `x - mean + bias` per channel.

    In evaluation the mean is a fixed number, the layer a shift: 1-Lipschitz and norm preserving. In training it is the
    mean of the batch, through which the gradient flows: each output then depends on all images of the batch, so no
    constant per image exists in that mode and the certificate refuses it.

    Args:
        channels: C, or D of dense features.

    Shapes:
        [N, C, ...] -> [N, C, ...].

    Raises:
        ValueError: the input has another number of channels.
    """

    running_mean: Tensor

    def __init__(self, channels: int):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] != len(self.bias):
            raise ValueError(f"This BatchCentering has {len(self.bias)} channels, its input {x.shape[1]}.")
        mean = self.running_mean
        if self.training:
            mean = x.mean([d for d in range(x.ndim) if d != 1])
            with torch.no_grad():
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), MOMENTUM)
        return x + (self.bias - mean).view(-1, *(1,) * (x.ndim - 2))

    def extra_repr(self) -> str:
        return str(len(self.bias))


class LayerCentering(nn.Module):
    """Subtracts from each image the mean of its features: an orthogonal projection, so 1-Lipschitz; it keeps the norm
    of everything that has mean 0.

    Shapes:
        [N, ...], kept.
    """

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(list(range(1, x.ndim)), keepdim=True)
