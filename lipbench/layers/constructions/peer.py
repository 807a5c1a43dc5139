"""A layer of another library, in training; a plain layer, once baked."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lipbench.layers.constructions.base import Construction
from lipbench.precision import own_precision


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
        with own_precision(x):
            y: Tensor = self.layer(x.float() if x.dtype == torch.bfloat16 else x)
        return y

    @torch.no_grad()
    def bake(self) -> nn.Module:
        """The plain layer.

        Raises:
            ValueError: one of the two has a weight or a bias that the other has not, or of another shape.
        """
        twin = self._plain()
        for name in ("weight", "bias"):
            mine, theirs = getattr(twin, name, None), getattr(self.layer, name, None)
            # `copy_` would broadcast a wrong shape.
            if _shape(mine) != _shape(theirs):
                raise ValueError(
                    f"{type(self.layer).__name__} does not bake to {type(twin).__name__}: its {name} is "
                    f"{_shape(theirs)}, the plain layer's {_shape(mine)}."
                )
            if theirs is not None:
                setattr(twin, name, nn.Parameter(theirs.detach().clone()))
        return twin


def _shape(tensor: Tensor | None) -> list[int] | None:
    return None if tensor is None else list(tensor.shape)
