"""Layers that are not what they seem: their certificate is refused, and says why."""

import math

import pytest
import torch
from torch import nn

from lipbench import layers
from lipbench.certificate import layerwise, lipschitz, singular_range


def reason(module: nn.Module, shape: tuple[int, ...]) -> str:
    """Why the bound is infinite; "" where it is finite."""
    found = layerwise(module.eval(), shape)
    assert all(math.isinf(layer.bound) == bool(layer.reason) for layer in found)
    assert math.isinf(lipschitz(module, shape)) == any(layer.reason for layer in found)
    return "; ".join(layer.reason for layer in found if layer.reason)


def circular(channels: int = 1) -> nn.Conv2d:
    """Pads by one pixel, whatever its padding is set to afterwards."""
    conv = nn.Conv2d(channels, channels, 3, padding=1, padding_mode="circular")
    nn.init.ones_(conv.weight)
    return conv


def test_a_circular_padding_changed_later_is_not_believed():
    conv = circular()
    assert reason(conv, (1, 3, 3)) == ""
    conv.padding = (0, 0)
    assert conv(torch.zeros(1, 1, 3, 3)).shape[2:] == (3, 3), "torch still pads"
    assert "padding was changed" in reason(conv, (1, 3, 3))
    assert math.isnan(singular_range(conv, (1, 3, 3))[1])


def test_a_weight_of_another_shape_is_not_believed():
    conv = nn.Conv2d(1, 1, 2, stride=2)
    conv.weight = nn.Parameter(torch.ones(1, 1, 1, 4))
    assert conv(torch.zeros(1, 1, 8, 8)).shape[2:] == (4, 3)
    assert "its attributes say [1, 1, 2, 2]" in reason(conv, (1, 8, 8))
    assert math.isnan(singular_range(conv, (1, 8, 8))[1])
    conv.kernel_size = (1, 4)
    assert reason(conv, (1, 8, 8)) == ""


@pytest.mark.parametrize("wrap", [layers.ConvexPotential, layers.SkewExponential])
def test_nor_inside_of_another_layer(wrap):
    layer = wrap(circular(2)).eval()
    assert reason(layer, (2, 5, 5)) == ""
    layer.inner.dilation, layer.inner.padding = (2, 2), (2, 2)  # it keeps the size, and so do its attributes
    assert "padding was changed" in reason(layer, (2, 5, 5))
    layer = wrap(nn.Conv2d(2, 2, 3, padding=1)).eval()
    assert reason(layer, (2, 5, 5)) == ""
    layer.inner.weight = nn.Parameter(torch.ones(2, 2, 1, 5))
    assert "its attributes say" in reason(layer, (2, 5, 5))


def test_an_integer_padding_is_that_of_both_sides():
    conv = nn.Conv2d(1, 1, 3, padding=1)
    bound = lipschitz(conv.eval(), (1, 5, 5))
    conv.padding = 1
    assert lipschitz(conv, (1, 5, 5)) == bound
