"""Layers of deel-torchlip and of orthogonium, as their libraries make them: they are bounded as layers of ours that
compute the same, before and after the export, and no Jacobian exceeds the bound.
"""

import copy
import warnings

import pytest
import torch
from helpers.traced_cases import jacobian_norm
from torch import nn

from lipbench.certificate import certify, certify_float, gaps, layer_table, lipschitz, read
from lipbench.layers import FullSort, GroupSort, L2Pool2d, bake
from lipbench.models.peers import _deel, _orthogonium, deel_cnn, deel_mlp, orthogonium_cnn
from lipbench.modules import duplicate

deel, orthogonium = _deel(), _orthogonium()
SHAPE = (4, 8, 8)
# Name -> how it is made, and its constant where that is known.
LAYERS = {
    "SpectralConv2d": (lambda: deel.SpectralConv2d(4, 6, 3, padding=1), None),
    "circular": (lambda: deel.SpectralConv2d(4, 6, 3, padding=1, padding_mode="circular"), None),
    "FrobeniusConv2d": (lambda: deel.FrobeniusConv2d(4, 1, 3), None),
    "GroupSort": (lambda: deel.GroupSort(4, k_coef_lip=2.0), 2.0),
    "GroupSort2": (deel.GroupSort2, 1.0),
    "FullSort": (deel.FullSort, 1.0),
    "MaxMin": (deel.MaxMin, 1.0),
    "HouseHolder": (lambda: deel.HouseHolder(4, theta_initializer="normal"), 1.0),
    "LPReLU": (lambda: deel.LPReLU(4, init=-3.0), 1.0),
    "ScaledAvgPool2d": (lambda: deel.ScaledAvgPool2d(2), 1.0),
    "ScaledAvgPool2d of rectangles": (lambda: deel.ScaledAvgPool2d((2, 4), k_coef_lip=3.0), 3.0),
    "ScaledAdaptiveAvgPool2d": (lambda: deel.ScaledAdaptiveAvgPool2d((1, 1)), 1.0),
    "ScaledL2NormPool2d": (lambda: deel.ScaledL2NormPool2d(2), 1.0),
    "ScaledAdaptativeL2NormPool2d": (lambda: deel.ScaledAdaptativeL2NormPool2d((1, 1)), 1.0),
    "LPPool2d": (lambda: nn.LPPool2d(2, 2), 1.0),
    "InvertibleDownSampling": (lambda: deel.InvertibleDownSampling(2), 1.0),
    "InvertibleUpSampling": (lambda: deel.InvertibleUpSampling(2), 1.0),
    "LayerCentering": (lambda: deel.LayerCentering(4), 1.0),
    "BatchCentering": (lambda: deel.BatchCentering(4), 1.0),
    "BatchLipNorm": (lambda: deel.BatchLipNorm(4, factory=deel.SharedLipFactory()), None),
    "AOC": (lambda: orthogonium.AdaptiveOrthoConv2d(4, 8, 3, padding=1), 1.0),
    "AOC, strided": (lambda: orthogonium.AdaptiveOrthoConv2d(4, 8, 4, stride=2, padding=1), 1.0),
    "AOC, zeros": (lambda: orthogonium.AdaptiveOrthoConv2d(4, 4, 3, padding=1, padding_mode="zeros"), 1.0),
    "Abs": (orthogonium.Abs, 1.0),
    "orthogonium's MaxMin": (orthogonium.MaxMin, 1.0),
    "orthogonium's HouseHolder": (lambda: orthogonium.HouseHolder(4), 0.5**0.5),
    "BatchCentering2D": (lambda: orthogonium.BatchCentering2D(4), 1.0),
    "LayerCentering2D": (lambda: orthogonium.LayerCentering2D(4), 1.0),
    "ChannelShuffle": (lambda: orthogonium.ChannelShuffle(2, 2), 1.0),
}


def trained(layer: nn.Module) -> nn.Module:
    """After a few batches, with other biases, baked."""
    torch.manual_seed(0)
    layer.train()
    for name, parameter in layer.named_parameters():
        if "bias" in name:
            nn.init.normal_(parameter)
    for _ in range(3):
        layer(2 * torch.randn(16, *SHAPE) + 0.3)
    return bake(layer, finish=False)


class Between(nn.Module):
    """The layer in a forward of Python code, with a head."""

    def __init__(self, layer: nn.Module, features: int):
        super().__init__()
        self.layer, self.head = layer, nn.Linear(features, 3)

    def forward(self, x):
        return self.head(self.layer(x - 0.1).flatten(1))


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name):
    make, constant = LAYERS[name]
    layer = trained(make())
    x = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(1))
    exact = copy.deepcopy(layer).double()
    bound = lipschitz(exact, SHAPE)  # BatchLipNorm computes its scale in the precision of its buffers
    assert jacobian_norm(exact, x.double()) <= bound * (1 + 1e-12)
    assert torch.allclose(read(layer, SHAPE)(x), layer(x), atol=1e-6)
    if constant is not None:
        assert bound == pytest.approx(constant, rel=1e-5 if "AOC" in name else 1e-8)
    model = Between(layer, layer(x)[0].numel()).eval()
    labels = model(x.sigmoid()).argmax(1)
    radii, rounded = certify(model, x.sigmoid(), labels), certify_float(model, x.sigmoid(), labels)
    assert (radii > 0).all()
    assert (rounded > 0.95 * radii).all()
    first, second = layer_table(model, SHAPE)["layer"][:2]
    assert first == "sub"
    assert second.startswith("layer") or name == "ChannelShuffle", "of that one the code is read"


def test_blocks_of_sdp_based_lipschitz_layers():
    blocks = pytest.importorskip("orthogonium.layers.conv.SLL.sll_layer")
    torch.manual_seed(0)
    for block, shape in (
        (blocks.SDPBasedLipschitzDense(6, 6, 10), (6,)),
        (blocks.SDPBasedLipschitzResBlock(4, 2), SHAPE),
    ):
        exact = copy.deepcopy(bake(block, finish=False)).double()
        x = torch.randn(8, *shape, dtype=torch.float64)
        assert jacobian_norm(exact, x) <= lipschitz(exact, shape) <= 1 + 1e-6


def test_a_network_of_deel_torchlip_before_and_after_its_export():
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its layers that it does not know to be 1-Lipschitz
        model = deel.Sequential(
            deel.SpectralConv2d(1, 8, 3, padding=1),
            deel.BatchCentering(8),
            deel.GroupSort2(),
            deel.ScaledL2NormPool2d(2),
            nn.Flatten(),
            deel.SpectralLinear(128, 32),
            deel.FullSort(),
            deel.FrobeniusLinear(32, 3, disjoint_neurons=False),
        )
    x = torch.rand(6, 1, 8, 8)
    model.train()
    model(x)  # which leaves a tensor with a gradient in it
    model.eval()
    exported = duplicate(model).vanilla_export().eval()
    layers = [exported[0], nn.Identity(), GroupSort(2), L2Pool2d(2), nn.Flatten(), exported[5], FullSort(), exported[7]]
    ours = nn.Sequential(*layers).eval()
    labels = model(x).argmax(1)
    found = certify(bake(duplicate(model), finish=False), x, labels)
    assert (found > 0).all()
    assert torch.allclose(certify(exported, x, labels), found, rtol=1e-9)
    assert torch.allclose(gaps(exported, (1, 8, 8)), gaps(ours, (1, 8, 8)), rtol=1e-8)
    assert lipschitz(model, (1, 8, 8)) == float("inf"), "its weights are parametrized"
    model.train()
    table = layer_table(model, (1, 8, 8))
    assert table["bound"].max() < 1.001, "the table is that of a baked copy, as the certificate"
    assert model.training
    assert lipschitz(model, (1, 8, 8)) == float("inf"), "the model itself is as it was"


@pytest.mark.parametrize("build", [deel_mlp, deel_cnn, orthogonium_cnn])
def test_our_own_builders_give_the_same_as_foreign_models(build):
    torch.manual_seed(0)
    peer = build((1, 16, 16), 2).eval()
    x = torch.rand(5, 1, 16, 16)
    labels = peer(x).argmax(1)
    expected = certify(bake(copy.deepcopy(peer), finish=False), x, labels)
    foreign = nn.Sequential(*(layer.layer if hasattr(layer, "_plain") else layer for layer in peer)).eval()
    found = certify(bake(copy.deepcopy(foreign), finish=False), x, labels)
    assert (expected > 0).all()
    assert torch.allclose(found, expected, rtol=1e-9, atol=0)
