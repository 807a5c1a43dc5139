"""Activations with and without parameters: their Jacobians, their bake, their certificate, their way through YAML."""

import copy
import math
from functools import partial

import pytest
import torch
from helpers.trained import jacobians, steepest, train
from torch import nn

import lipbench
from lipbench import layers, losses
from lipbench.certificate import gaps, layerwise, lipschitz
from lipbench.layers import bake
from lipbench.models import mlp
from lipbench.models.heads import make_activation
from lipbench.runs.network import build, load, save
from lipbench.training import adam, spectral

SHAPES = [(8,), (8, 3, 3)]


def random_householder(channels: int = 8) -> layers.Householder:
    layer = layers.Householder(channels)
    nn.init.uniform_(layer.angle, -7.0, 7.0)
    return layer


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("make", [layers.Abs, random_householder, lambda: layers.Householder(8)])
def test_gradients_keep_their_norm(make, shape):
    layer = make().eval()
    moved = 0
    for jacobian in jacobians(layer, shape):
        values = torch.linalg.svdvals(jacobian)
        assert torch.allclose(values, torch.ones_like(values), atol=1e-12)
        moved += not torch.equal(jacobian, torch.eye(len(jacobian), dtype=torch.float64))
    assert moved, "the identity keeps the norm as well"
    assert 1 <= lipschitz(layer, shape) <= 1 + 1e-6


def test_householder_is_the_paper_s():
    layer = random_householder(2).double()
    theta = layer.angle.detach()
    for seed in range(20):
        z = torch.randn(2, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        reflection = torch.tensor([[theta.cos(), theta.sin()], [theta.sin(), -theta.cos()]])
        stays = z[0] * (theta / 2).sin() - z[1] * (theta / 2).cos() > 0
        assert torch.allclose(layer(z.T), (z if stays else reflection @ z).T)
    x = torch.randn(5, 8, 2)
    assert torch.allclose(layers.Householder(8)(x), layers.MaxMin()(x), atol=1e-6), "it starts as MaxMin"


def test_householder_learns_any_angle_and_stays_certified():
    layer = nn.Sequential(layers.Householder(8))
    train(layer, (8,), lambda m: adam(m, lr=0.5), steps=20)
    assert (layer[0].angle - math.pi / 2).abs().max() > 0.5
    x = torch.randn(4, 8)
    before = layer(x)
    assert torch.equal(bake(layer)(x), before)
    assert steepest(layer, (8,)) <= lipschitz(layer, (8,)) * (1 + 1e-12) <= 1 + 1e-6
    with torch.no_grad():
        layer[0].angle[0] = math.nan
    assert math.isinf(lipschitz(layer, (8,)))


@pytest.mark.parametrize("make", [layers.Abs, lambda: layers.Householder(8), lambda: layers.clamped_prelu(8)])
def test_gradients_at_zero_are_finite(make):
    layer, x = make(), torch.zeros(2, 8, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize("channels", [1, 8])
def test_a_clamped_prelu_stays_in_range_and_is_plain_once_baked(channels):
    model = nn.Sequential(layers.clamped_prelu(channels))
    assert "lipbench.bake" in layerwise(copy.deepcopy(model).eval(), (8,))[0].reason
    free = nn.Sequential(nn.PReLU(channels))
    for layer in (model, free):
        chosen = adam(layer, lr=0.5)
        for _ in range(20):  # the loss pulls every slope far above 1
            chosen.zero_grad()
            layer(-torch.rand(16, 8) - 0.1).sum().backward()
            chosen.step()
    assert steepest(free.eval(), (8,)) > 2
    assert (model[0].weight == 1).all()
    chosen = adam(model, lr=0.5)
    for _ in range(3):  # and can come back
        chosen.zero_grad()
        (-model(-torch.rand(16, 8))).sum().backward()
        chosen.step()
    assert (model[0].weight < 0.5).all()
    x = torch.randn(4, 8)
    before = model(x)
    bake(model)
    assert type(model[0]) is nn.PReLU
    assert torch.equal(model(x), before)
    assert lipschitz(model, (8,)) == 1
    assert steepest(model, (8,)) == pytest.approx(1)
    with torch.no_grad():
        model[0].weight.fill_(-1.5)
    assert lipschitz(model, (8,)) == 1.5, "measured, not believed"


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="even"):
        layers.Householder(3)
    with pytest.raises(ValueError, match="pairs 8"):
        layers.Householder(8)(torch.zeros(1, 2))
    with pytest.raises(ValueError, match=r"\[-1, 1\]"):
        layers.clamped_prelu(3, slope=1.5)
    assert "not [4]" in layerwise(layers.Householder(2).eval(), (8,))[0].reason, "angles are not repeated"
    assert "training mode" in layerwise(layers.Householder(8).train(), (8,))[0].reason


def test_a_convex_potential_takes_slopes_in_the_unit_interval_only():
    layer = layers.ConvexPotential(nn.Linear(4, 4), activation=nn.PReLU(4)).eval()
    assert math.isfinite(lipschitz(layer, (4,)))
    assert steepest(layer, (4,)) <= lipschitz(layer, (4,))
    with torch.no_grad():
        layer.activation.weight[1] = -0.1
    assert math.isinf(lipschitz(layer, (4,)))


def test_builders_pass_the_channels_to_who_wants_them():
    assert make_activation(layers.Householder, 6).angle.shape == (3,)
    assert make_activation(layers.clamped_prelu, 6).weight.shape == (6,)
    assert make_activation(partial(layers.clamped_prelu, channels=1), 6).weight.shape == (1,)
    assert make_activation(partial(layers.GroupSort, size=3), 6).size == 3
    assert type(make_activation(nn.ReLU, 6)) is nn.ReLU


ACTIVATIONS = [
    {"_target_": "lipbench.layers.Householder"},
    {"_target_": "lipbench.layers.clamped_prelu"},
    {"_target_": "lipbench.layers.clamped_prelu", "channels": 1},
    {"_target_": "lipbench.layers.Abs"},
    {"_target_": "lipbench.layers.GroupSort", "size": 4},
    {"_target_": "torch.nn.LeakyReLU", "negative_slope": 0.1},
    {"_target_": "torch.nn.Tanh"},
]


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: "-".join(map(str, a.values())))
@pytest.mark.parametrize("builder", ["mlp", "convnet"])
def test_a_recipe_chooses_the_activation_and_survives_the_disk(activation, builder, tmp_path):
    sizes = {"mlp": {"widths": [8]}, "convnet": {"channels": [8], "kernel_size": 2, "stride": 2, "widths": [4]}}
    recipe = {
        "model": {
            "_target_": f"lipbench.models.{builder}",
            **sizes[builder],
            "activation": {**activation, "_partial_": True},
        },
        "constraint": {"_target_": "lipbench.layers.Orthogonal", "_partial_": True},
        "shape": [1, 4, 4],
        "classes": 3,
    }
    model = build(recipe)
    start = [p.clone() for p in model.parameters()]
    train(model, (1, 4, 4), lambda m: spectral(m, lr=0.1), steps=10)
    assert all(not torch.equal(a, b) for a, b in zip(model.parameters(), start, strict=True)), "every number is learned"
    x = torch.rand(5, 1, 4, 4)
    before = model.eval()(x)
    bake(model)
    assert (model(x) - before).abs().max() <= 1e-3
    save(model, recipe, tmp_path)
    same = load(tmp_path)
    assert torch.equal(same(x), model(x))
    assert torch.equal(gaps(same, (1, 4, 4)), gaps(model, (1, 4, 4)))
    assert steepest(model, (1, 4, 4), 5) <= lipschitz(model, (1, 4, 4)) <= 1 + 1e-5


def test_training_with_householder_activations_on_digits():
    digits = lipbench.data.digits(keep=(0, 8))
    model = mlp(digits.shape, 2, widths=[16], constraint=layers.Orthogonal, activation=layers.Householder)
    loss = partial(losses.hkr, margin=1.0)
    history = lipbench.fit(model, digits, loss, spectral, epochs=5, batch_size=16, progress=False)
    assert history[-1]["validation_accuracy"] > 0.9
    assert history[-1]["lipschitz"] <= 1 + 1e-5
    assert history[-1]["gradient_norm"] == pytest.approx(1, abs=1e-3)
