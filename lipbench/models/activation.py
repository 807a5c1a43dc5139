"""Which activation a builder puts after a layer."""

import inspect
from collections.abc import Callable

from torch import nn

ActivationFactory = Callable[..., nn.Module]


def make_activation(factory: ActivationFactory, channels: int) -> nn.Module:
    """One activation for so many neurons or channels.

    A factory with a parameter `channels` that has no value yet is called with the number (`Householder`,
    `clamped_prelu`: they have parameters per channel); any other without arguments (`nn.ReLU`, `MaxMin`, `partial(
    clamped_prelu, channels=1)`).
    """
    parameter = inspect.signature(factory).parameters.get("channels")
    if parameter is not None and parameter.default is inspect.Parameter.empty:
        return factory(channels=channels)
    return factory()
