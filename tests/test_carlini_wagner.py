"""Carlini and Wagner's attack where its implementations lose: the search over c, and pixels at their bounds."""

import pytest
import torch
from torch import nn

from lipbench.attacks import carlini_wagner, distance, strongest


def curved(hidden: int = 24) -> nn.Module:
    torch.manual_seed(3)
    layers = [nn.Linear(36, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 3)]
    return nn.Sequential(nn.Flatten(), *layers).eval()


# With a c that counts as a success because the search began at one: 1.068 and 1.038 on average. With pixels that stop
# once they have left the box: 1.010 and 1.019.
@pytest.mark.parametrize(("binary", "most"), [(False, 1.006), (True, 1.015)])
def test_it_is_nearly_as_near_as_the_strongest(binary, most):
    model, x = curved(), torch.rand(40, 1, 6, 6)
    x = x.round() if binary else x
    y = model(x).argmax(1)
    ratio = distance(x, carlini_wagner(model, x, y)) / distance(x, strongest(model, x, y))
    assert ratio.isfinite().all()
    assert ratio.mean() <= most
