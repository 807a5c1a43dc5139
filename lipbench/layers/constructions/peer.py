"""A layer of another library, in training; a plain layer, once baked."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lipbench.layers.constructions.base import Construction


class PeerLayer(Construction):
    """A layer of another library with the plain layer that computes the same.

    While it is trained, the other library's code runs as it is, and nothing is certified. `lipbench.bake` puts in its
    place the plain layer, with the weight and bias that the peer uses in its present mode (training or evaluation),
    and the certificate is computed from those.

    Args:
        layer: of the other library; one without `weight` (an activation, a pooling) has nothing to copy.
        plain: makes the plain layer, with the same options.

    Shapes:
        as `layer`.
    """

    def __init__(self, layer: nn.Module, plain: Callable[[], nn.Module]):
        super().__init__()
        self.layer = layer
        self._plain = plain

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        return y

    @torch.no_grad()
    def bake(self) -> nn.Module:
        """The plain layer.

        Raises:
            ValueError: its weight or bias has another shape than the peer's.
        """
        twin = self._plain()
        for name, mine in list(twin.named_parameters()):
            theirs = getattr(self.layer, name)
            # `copy_` would broadcast a wrong shape.
            if theirs is None or theirs.shape != mine.shape:
                raise ValueError(
                    f"{type(self.layer).__name__} does not bake to {type(twin).__name__}: its {name} is "
                    f"{None if theirs is None else list(theirs.shape)}, not {list(mine.shape)}."
                )
            setattr(twin, name, nn.Parameter(theirs.detach().clone()))
        return twin
