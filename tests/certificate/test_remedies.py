"""Every refusal of a certificate says why, and what would make the layer certifiable."""

import math

import numpy as np
import pytest
from torch import nn

from lipbench.certificate import layer_table, lipschitz


class Branching(nn.Module):
    """A network whose code looks at its numbers, with a list of layers."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 2, 3)
        self.blocks = nn.ModuleList([nn.Conv2d(2, 2, 3), nn.Hardshrink()])
        self.unused = nn.Linear(5, 5)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(32, 3))

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        if x.sum() < 0:
            return -self.head(x)
        return self.head(x)


def test_the_layer_table_lists_what_is_inside_of_a_module_that_is_not_read():
    model = Branching().eval()
    table = layer_table(nn.Sequential(model, nn.Hardshrink()).eval(), (1, 8, 8)).set_index("layer")
    shrunk = ("0.blocks.1.hardshrink", "1.hardshrink")
    assert table.index.tolist() == ["", "0", "0.stem", "0.blocks.0", shrunk[0], "0.head.0", "0.head.1", shrunk[1]]
    assert np.isinf(table["bound"]).tolist() == [True, True, False, False, True, False, False, True]
    assert table.loc["0.blocks.0", "bound"] == lipschitz(model.blocks[0], (2, 6, 6)), "on its own input"
    assert "torch.maximum" in table.loc["0", "remedy"]
    assert "docs/your_model.md" in table.loc[shrunk[1], "remedy"]
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert layer_table(model, (3, 8, 8))["layer"].tolist()[0] == "", "an image that it refuses is no error"


@pytest.mark.parametrize(
    ("module", "remedy"),
    [
        (nn.Sequential(nn.Linear(4, 4), nn.Softmax(0)), "each image by itself"),
        (nn.Threshold(0.1, 20.0), "docs/your_model.md"),
        (nn.Bilinear(4, 4, 4), "docs/layers.md"),
        (nn.LayerNorm(4), "LayerCentering"),
        (nn.Flatten(0), "start_dim >= 1"),
        (nn.Linear(4, 4).train(), "eval()"),
        (nn.LazyLinear(4), "run one batch"),
        (nn.Softplus(), "threshold=40"),
        (nn.utils.parametrizations.orthogonal(nn.Linear(4, 4)), "lipbench.bake"),
        (Branching(), "torch.maximum"),
        (nn.MultiheadAttention(4, 1), "attention"),
        (nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect"), "zero padding"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_every_refusal_says_what_would_help(module, remedy):
    if remedy != "eval()":
        module.eval()
    shape = (1, 8, 8) if isinstance(module, nn.Conv2d | Branching) else (4,)
    layer = lipschitz.layerwise(module, shape)[0]
    assert math.isinf(layer.bound)
    assert remedy in layer.remedy
    assert layer.reason == f"{layer.why}: {layer.remedy}"
