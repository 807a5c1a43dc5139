"""What every construction has."""

from torch import nn


class Construction(nn.Module):
    """Base of the layers that are not an `nn.Linear` or `nn.Conv2d` while they are trained."""

    def bake(self) -> nn.Module:
        """The plain layer, or the module with fixed weights, that computes the same. Called by `lipbench.bake` once
        the parametrizations of the construction itself are fixed.
        """
        raise NotImplementedError
