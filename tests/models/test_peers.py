"""Networks of other libraries: baked to what they compute, certified from the weights that they really have."""

import copy
import math
import sys
from functools import cache, partial

import pytest
import torch
from helpers.trained import singular_values, train
from torch import nn

import lipbench
from lipbench import layers, losses, models
from lipbench.certificate import lipschitz
from lipbench.layers import PeerLayer, bake
from lipbench.models import peers
from lipbench.runs.network import build, save
from lipbench.training import adam

REASON = "the extra peers is not installed: pip install lipbench[peers]"
pytest.importorskip("deel.torchlip", reason=REASON)
pytest.importorskip("orthogonium", reason=REASON)

BUILDERS = [models.deel_mlp, models.deel_cnn, models.orthogonium_mlp, models.orthogonium_cnn]
SHAPE = (1, 8, 8)
PLAIN = (nn.Sequential, nn.Flatten, nn.PixelUnshuffle, nn.Linear, nn.Conv2d, layers.Antipodal)
PLAIN += (layers.FullSort, layers.GroupSort, layers.MaxMin, layers.L2Pool2d)


def trained(builder, classes: int = 2) -> nn.Module:
    """After some steps of Adam on random images; its logits have changed."""
    return copy.deepcopy(_trained(builder, classes))


@cache
@torch.enable_grad()
def _trained(builder, classes: int) -> nn.Module:
    torch.manual_seed(0)
    model = builder(SHAPE, classes)
    x, y = torch.rand(32, *SHAPE), torch.arange(32) % classes
    with torch.no_grad():
        start = copy.deepcopy(model).eval()(x)
    optimizer = adam(model, lr=1e-2)
    for _ in range(10):
        optimizer.zero_grad()
        losses.hkr(model(x), y).backward()
        optimizer.step()
    with torch.no_grad():
        assert (model.eval()(x) - start).abs().max() > 1e-2
    return model


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("builder", BUILDERS)
@torch.no_grad()
def test_baked_is_what_the_library_computes(builder, classes):
    model = trained(builder, classes)
    x = torch.rand(64, *SHAPE)
    before = model(x)
    baked = bake(copy.deepcopy(model))
    assert {type(m) for m in baked.modules()} <= set(PLAIN)
    assert (baked(x) - before).abs().max() <= 1e-4
    assert before.shape == (64, classes)
    # Evaluated again: the libraries' forward passes may change their own state, the baked network has none.
    assert (model(x) - before).abs().max() <= 1e-4
    assert torch.equal(baked(x), baked(x))


@torch.no_grad()
def test_baked_is_what_deel_torchlip_evaluates():
    """In evaluation mode it has the weight of the last forward pass in training, one step before the newest."""
    model = trained(models.deel_mlp)
    x = torch.rand(64, *SHAPE)
    stale = model.eval()(x)
    fresh = copy.deepcopy(model).train()(x)
    assert (fresh - stale).abs().max() > 1e-3
    assert (bake(copy.deepcopy(model).train())(x) - stale).abs().max() <= 1e-4
    assert (bake(model)(x) - stale).abs().max() <= 1e-4


@pytest.mark.parametrize("builder", BUILDERS)
def test_the_certificate_is_that_of_the_baked_weights(builder):
    model = trained(builder)
    assert lipschitz(model, SHAPE) == math.inf, "a layer of a library is not believed"
    baked = bake(model)
    bound = lipschitz(baked, SHAPE)
    double = copy.deepcopy(baked).double()
    jacobians = [
        torch.autograd.functional.jacobian(lambda x: double(x[None])[0], torch.rand(*SHAPE, dtype=torch.float64))
        for _ in range(5)
    ]
    largest = max(float(torch.linalg.matrix_norm(j.flatten(1), 2)) for j in jacobians)
    assert largest <= bound < math.inf
    product = math.prod(float(torch.linalg.matrix_norm(m.weight.detach(), 2)) for m in double if type(m) is nn.Linear)
    if builder in (models.deel_mlp, models.orthogonium_mlp):
        assert bound == pytest.approx(product * math.sqrt(0.5), rel=1e-6)
    radii = lipbench.certify(baked, torch.rand(16, *SHAPE))
    assert radii.isfinite().all()
    assert (radii > 0).any()


def orthogonium_conv(*arguments, **options) -> PeerLayer:
    conv = peers._orthogonium().AdaptiveOrthoConv2d(*arguments, **options)
    return PeerLayer(conv, partial(nn.Conv2d, *arguments, **options))


def deel_conv(*arguments, **options) -> PeerLayer:
    conv = peers._deel().SpectralConv2d(*arguments, **options)
    return PeerLayer(conv, partial(nn.Conv2d, *arguments, **options))


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (orthogonium_conv, {"stride": 1, "padding": "same", "padding_mode": "circular"}),
        (orthogonium_conv, {"stride": 2, "padding": 1, "padding_mode": "circular"}),
        (orthogonium_conv, {"stride": 3, "padding": 0, "padding_mode": "zeros"}),
        (orthogonium_conv, {"groups": 2, "padding": 1, "padding_mode": "zeros", "bias": False}),
        (deel_conv, {"padding": "same"}),
        (deel_conv, {"stride": 2, "padding": 1, "padding_mode": "circular"}),
    ],
)
def test_convolutions_of_any_options(make, options):
    torch.manual_seed(0)
    layer = nn.Sequential(make(4, 8, 3, **options))
    train(layer, (4, 6, 6), adam, steps=10)
    x = torch.rand(8, 4, 6, 6)
    with torch.no_grad():
        before = layer.eval()(x)
        baked = bake(layer)
        assert (baked(x) - before).abs().max() <= 1e-4
    assert type(baked[0]) is nn.Conv2d
    exact = float(singular_values(baked, (4, 6, 6)).max())
    assert exact <= lipschitz(baked, (4, 6, 6)) <= 1.1 * exact


def test_a_norm_above_one_shows():
    """Without Björck, one power iteration per training step lags behind a jump of the weight."""
    torch.manual_seed(0)
    dense = PeerLayer(peers._deel().SpectralLinear(20, 20, eps_bjorck=None), partial(nn.Linear, 20, 20))
    with torch.no_grad():
        dense.layer.parametrizations.weight.original.normal_()
    baked = bake(nn.Sequential(dense.eval()))
    exact = float(singular_values(baked, (20,)).max())
    assert exact > 1.1
    assert lipschitz(baked, (20,)) == pytest.approx(exact)


def test_a_padding_without_a_bound_stays_without():
    conv = bake(nn.Sequential(deel_conv(2, 4, 3, padding=1, padding_mode="reflect")))
    assert lipschitz(conv, (2, 6, 6)) == math.inf


@pytest.mark.parametrize(
    "plain", [partial(nn.Linear, 4, 3), partial(nn.Linear, 4, 1, bias=False), partial(nn.Conv2d, 4, 1, 1), nn.Identity]
)
def test_another_plain_layer_is_refused(plain):
    layer = PeerLayer(peers._deel().SpectralLinear(4, 1), plain)
    with pytest.raises(ValueError, match="SpectralLinear does not bake to"):
        bake(layer)


def recipe(builder, classes: int = 2) -> dict:
    return {
        "model": {"_target_": f"lipbench.models.{builder.__name__}"},
        "constraint": {"_target_": "torch.nn.Identity", "_partial_": True},
        "shape": list(SHAPE),
        "classes": classes,
    }


@pytest.mark.parametrize("builder", BUILDERS)
def test_a_baked_network_loads_without_the_library(builder, tmp_path, monkeypatch):
    model = bake(trained(builder))
    save(model, recipe(builder), tmp_path)
    x = torch.rand(16, *SHAPE)

    for library in ("deel.torchlip", "orthogonium.layers"):
        monkeypatch.setitem(sys.modules, library, None)  # an import of it fails
    loaded = lipbench.runs.network.load(tmp_path)
    assert torch.equal(loaded(x), model(x))
    assert lipschitz(loaded, SHAPE) == lipschitz(model, SHAPE)
    with pytest.raises(ImportError, match=r"pip install lipbench\[peers\]"):
        build(recipe(builder))


@pytest.mark.parametrize("builder", BUILDERS)
def test_a_second_constraint_is_refused(builder):
    with pytest.raises(ValueError, match=f"{builder.__name__} bring their own constraint, so Orthogonal"):
        builder(SHAPE, 2, constraint=partial(layers.Orthogonal, factor="strict"))


def test_images_too_small_are_refused():
    with pytest.raises(ValueError, match="too small for 4 stages"):
        models.deel_cnn(SHAPE, 2, channels=[4] * 4)
    with pytest.raises(ValueError, match="multiples of 4, not 6x8"):
        models.orthogonium_cnn((1, 6, 8), 2)
