"""Adaptive poolings, centring, scaling, the convex residual, initialisers: each reaches its constant and no more."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from helpers.trained import jacobians, singular_values, steepest, train
from torch import nn

from lipbench import layers
from lipbench.certificate import certify, gaps, layerwise, lipschitz
from lipbench.layers import bake, constrain
from lipbench.training import adam, spectral

ADAPTIVE = [(6, 6, 3), (6, 6, 1), (7, 5, (3, 2)), (5, 8, (5, 3)), (4, 4, 4)]


def reason(module: nn.Module, shape: tuple[int, ...]) -> str:
    assert math.isinf(lipschitz(module, shape))
    return layerwise(module, shape)[0].reason


# Poolings


@pytest.mark.parametrize(("h", "w", "size"), ADAPTIVE)
@pytest.mark.parametrize("kind", [layers.AdaptiveScaledAvgPool2d, layers.AdaptiveL2Pool2d])
def test_adaptive_blocks_do_not_overlap_so_every_singular_value_is_one(kind, h, w, size):
    layer = kind(size).eval()
    for jacobian in jacobians(layer, (2, h, w), 5):
        values = torch.linalg.svdvals(jacobian)
        assert len(values) == 2 * (size**2 if isinstance(size, int) else math.prod(size))
        assert torch.allclose(values, torch.ones_like(values))
    assert 1 <= lipschitz(layer, (2, h, w)) <= 1 + 1e-8
    x = torch.randn(3, 2, h, w)
    if kind is layers.AdaptiveL2Pool2d:
        assert torch.allclose(layer(x).flatten(1).norm(dim=1), x.flatten(1).norm(dim=1))


@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_adaptive_poolings_are_the_fixed_ones_where_the_size_divides(size):
    x, k = torch.randn(2, 3, 6, 6), 6 // size
    assert torch.allclose(layers.AdaptiveScaledAvgPool2d(size)(x), layers.ScaledAvgPool2d(k)(x), atol=1e-6)
    assert torch.allclose(layers.AdaptiveScaledAvgPool2d(size)(x), F.adaptive_avg_pool2d(x, size) * k, atol=1e-6)
    assert torch.allclose(layers.AdaptiveL2Pool2d(size)(x), layers.L2Pool2d(k)(x), atol=1e-6)


def test_adaptive_poolings_refuse_small_images_and_bear_zeros():
    for kind in (layers.AdaptiveScaledAvgPool2d, layers.AdaptiveL2Pool2d):
        with pytest.raises(ValueError, match="4 blocks"):
            kind(4)(torch.zeros(1, 1, 3, 3))
        assert "4 blocks" in reason(kind(4).eval(), (1, 3, 3))
        x = torch.zeros(1, 1, 5, 5, requires_grad=True)
        kind(2)(x).sum().backward()
        assert x.grad.isfinite().all()


@pytest.mark.parametrize(("h", "w", "size"), [*ADAPTIVE, (5, 5, 3), (3, 4, 5), (7, 7, (None, 2)), (7, 8, (5, 5))])
@pytest.mark.parametrize("kind", [nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d])
def test_torch_s_adaptive_poolings_are_bounded_with_their_overlap(kind, h, w, size):
    layer = kind(size).eval()
    bound = lipschitz(layer, (1, h, w))
    if kind is nn.AdaptiveAvgPool2d:
        found = steepest(layer, (1, h, w), 1)
    else:  # the pixel in most windows is the largest one of all
        found = max(
            float(torch.linalg.matrix_norm(_jacobian_at_a_peak(layer, h, w, i, j), 2))
            for i in range(h)
            for j in range(w)
        )
    assert found <= bound * (1 + 1e-12)
    assert bound <= 1.0001 * found


def _jacobian_at_a_peak(layer: nn.Module, h: int, w: int, i: int, j: int) -> torch.Tensor:
    x = torch.rand(1, h, w, dtype=torch.float64)
    x[0, i, j] = 2.0
    return torch.autograd.functional.jacobian(lambda x: layer(x[None])[0].flatten(), x).flatten(1)


def test_overlap_exceeds_one():
    assert steepest(nn.Sequential(nn.AdaptiveAvgPool2d(3), layers.Scale(2.0)), (1, 5, 5), 1) > 1.1
    assert lipschitz(nn.AdaptiveMaxPool2d(3).eval(), (1, 5, 5)) == pytest.approx(2)


# Scaling


def orthogonal_stack() -> nn.Sequential:
    square = [constrain(nn.Linear(6, 6), layers.Orthogonal) for _ in range(3)]
    return nn.Sequential(square[0], layers.MaxMin(), square[1], layers.Abs(), square[2])


@pytest.mark.parametrize("k", [0.1, 1.0, 4.0])
def test_k_is_reached_and_certified(k):
    model = layers.k_lipschitz(orthogonal_stack(), k)
    train(model, (6,), lambda m: spectral(m, lr=0.1), steps=5)
    bake(model)
    found = steepest(model, (6,), 5)
    assert found == pytest.approx(k, rel=1e-5)
    assert found <= lipschitz(model, (6,)) * (1 + 1e-12) <= k * (1 + 1e-5)


def test_scaling_changes_no_certificate():
    torch.manual_seed(3)
    networks = {
        "head": nn.Sequential(nn.Flatten(), nn.Linear(9, 5), nn.ReLU(), nn.Linear(5, 3)),
        "antipodal": layers.antipodal(nn.Sequential(nn.Flatten(), nn.Linear(9, 1))),
        "opaque": nn.Sequential(nn.Flatten(), nn.Linear(9, 3), nn.Tanh()),
    }
    x = torch.rand(20, 1, 3, 3)
    for name, network in networks.items():
        scaled = layers.k_lipschitz(network, 10.0).eval()
        y = network(x).argmax(1)
        radii = certify(network, x, y)
        assert radii.max() > 0, name
        assert torch.allclose(certify(scaled, x, y), radii, rtol=1e-6), name
        assert torch.allclose(gaps(scaled, (1, 3, 3)), 10 * gaps(network, (1, 3, 3)), rtol=1e-6), name
        assert (gaps(scaled, (1, 3, 3)).diagonal() == 0).all()
        scaled[1].train()
        assert (certify(scaled, x, y) == 0).all(), name
    assert (gaps(nn.Sequential(nn.LayerNorm(4), layers.Scale(2.0)).eval(), (4,)) > 0).sum() == 12
    for factor in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="positive"):
            layers.Scale(factor)


# The convex residual


def reflection(features: int) -> nn.Linear:
    """Symmetric and orthogonal: it has eigenvalues 1 and -1."""
    layer = nn.Linear(features, features)
    with torch.no_grad():
        v = F.normalize(torch.randn(features, 1), dim=0)
        layer.weight.copy_(torch.eye(features) - 2 * v @ v.T)
    return layer


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_convex_residual_is_one_lipschitz(share):
    layer = bake(layers.ConvexResidual(reflection(6), share))
    assert type(layer) is layers.ConvexResidual
    found = steepest(layer, (6,), 1)
    assert found == pytest.approx(1, abs=1e-6)
    assert found <= lipschitz(layer, (6,)) <= 1 + 1e-6


@pytest.mark.parametrize("share", [-0.5, 1.4])
def test_a_convex_residual_is_bounded_by_its_real_number(share):
    layer = bake(layers.ConvexResidual(reflection(6)))
    with torch.no_grad():
        layer.share.fill_(share)
    found = steepest(layer, (6,), 1)  # |share| + |1 - share| at the eigenvalue -1
    assert found <= lipschitz(layer, (6,)) <= 1.001 * found
    assert found > 1.5


def test_the_share_is_learned_and_stays_in_range():
    model = nn.Sequential(layers.ConvexResidual(constrain(nn.Linear(6, 6), layers.Orthogonal)))
    assert "bake" in reason(copy.deepcopy(model).eval()[0], (6,))
    chosen = spectral(model, other_lr=0.3)
    for _ in range(10):
        x = torch.randn(16, 6)
        chosen.zero_grad()
        (model(x) - 3 * x).square().mean().backward()  # only x itself helps: the share goes to its end
        chosen.step()
        assert 0 <= model[0].share <= 1
    assert model[0].share == 1
    x = torch.randn(4, 6)
    trained = model(x)
    bake(model)
    assert torch.allclose(model(x), trained, atol=1e-5)
    assert {"0.share", "0.branch.weight"} <= set(model.state_dict())
    other = bake(nn.Sequential(layers.ConvexResidual(constrain(nn.Linear(6, 6), layers.Orthogonal))))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(x), model(x))
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        layers.ConvexResidual(nn.Identity(), 1.5)


@pytest.mark.parametrize("kind", [layers.Residual, layers.ConvexResidual])
def test_a_branch_must_not_overwrite_the_input(kind):
    """x + branch(x) with a slope of 3 in place is 6 x at negative x, where 1 + 3 would be believed."""
    branch = nn.Sequential(nn.LeakyReLU(3.0, inplace=True))
    layer = bake(kind(branch))
    x = -torch.ones(1, 4)
    assert "inplace" in reason(layer, (4,))
    if kind is layers.Residual:
        assert (layer(x.clone()) == -6).all()
    assert math.isfinite(lipschitz(bake(kind(nn.Sequential(nn.LeakyReLU(3.0)))), (4,)))
    assert "repeat" in reason(bake(kind(nn.Linear(4, 1))), (4,))


# Centring and normalisation


@pytest.mark.parametrize("shape", [(5,), (5, 3, 2)])
def test_batch_centering(shape):
    layer, x = layers.BatchCentering(5), 3 + torch.randn(64, *shape)
    dims = [d for d in range(x.ndim) if d != 1]
    assert layer(x).mean(dims).abs().max() < 1e-5
    assert torch.allclose(layer.running_mean, 0.1 * x.mean(dims), atol=1e-5)
    assert torch.allclose(layer(x).std(0), x.std(0), atol=1e-5), "nothing is divided"
    assert "training mode" in reason(layer, shape)
    for _ in range(200):
        layer(x)
    trained = layer(x)
    bake(layer)
    held = layer.running_mean.clone()
    assert torch.allclose(layer(x), trained, atol=1e-4)
    assert torch.equal(layer.running_mean, held), "nothing moves in evaluation"
    assert steepest(layer, shape, 2) == pytest.approx(1)
    assert lipschitz(layer, shape) == 1
    other = layers.BatchCentering(5).eval()
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x), layer(x))
    with pytest.raises(ValueError, match="5 channels"):
        layer(x[:, :1])
    assert "for 1 channels" in reason(layer, (1, *shape[1:])), "a mean is not repeated"


def test_batch_centering_sends_the_gradient_through_the_mean():
    layer, x = layers.BatchCentering(3), torch.randn(8, 3, requires_grad=True)
    layer(x)[0].sum().backward()
    assert torch.allclose(x.grad[1:], torch.full((7, 3), -1 / 8))
    assert torch.allclose(x.grad[0], torch.full((3,), 7 / 8))


@pytest.mark.parametrize("shape", [(5,), (5, 3, 2), (1, 4, 4)])
def test_layer_centering_is_a_projection(shape):
    layer, x = layers.LayerCentering().eval(), 3 + torch.randn(4, *shape)
    assert layer(x).flatten(1).mean(1).abs().max() < 1e-5
    (jacobian,) = jacobians(layer, shape, 1)
    assert torch.allclose(jacobian @ jacobian, jacobian)
    assert torch.allclose(jacobian, jacobian.T)
    assert int(torch.linalg.svdvals(jacobian).round().sum()) == math.prod(shape) - 1
    assert 1 <= lipschitz(layer, shape) <= 1 + 1e-8
    assert "training mode" in reason(layers.LayerCentering(), shape)


@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d])
@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_is_bounded_by_its_running_variance(kind, affine):
    shape = {nn.BatchNorm1d: (3,), nn.BatchNorm2d: (3, 2, 2), nn.BatchNorm3d: (3, 2, 2, 2)}[kind]
    layer = kind(3, affine=affine)
    with torch.no_grad():
        layer.running_var.copy_(torch.tensor([1e-7, 0.3, 4.0]))
        if affine:
            layer.weight.copy_(torch.tensor([1e-3, -7.0, 2.0]))
    assert "training mode" in reason(layer, shape)
    layer.eval()
    found = steepest(layer, shape, 1)
    assert found > 5
    assert found <= lipschitz(layer, shape) * (1 + 1e-12)
    assert lipschitz(layer, shape) <= found * (1 + 1e-8)


def test_dropout_is_the_identity_in_evaluation_only():
    for kind in (nn.Dropout, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout):
        assert lipschitz(kind().eval(), (4, 3, 3)) == 1
        assert "training mode" in reason(kind(), (4, 3, 3))


# Initialisers

WEIGHTS = {"tall": ((30, 12), 1), "wide": ((12, 30), 1), "kernel": ((16, 3, 3, 3), 1), "grouped": ((8, 2, 3, 3), 2)}


def matrices(weight: torch.Tensor, groups: int) -> torch.Tensor:
    return weight.double().reshape(groups, len(weight) // groups, -1)


@pytest.mark.parametrize("kind", WEIGHTS)
def test_orthogonal_initialisers(kind):
    shape, groups = WEIGHTS[kind]
    weight = nn.init.normal_(nn.Parameter(torch.empty(shape)))
    polar = layers.polar(matrices(weight.detach(), groups))
    assert layers.orthogonal_(weight, groups=groups) is weight
    assert weight.requires_grad
    values = torch.linalg.svdvals(matrices(weight.detach(), groups))
    assert (values - 1).abs().max() < 1e-6
    assert torch.allclose(matrices(weight.detach(), groups), polar, atol=1e-6), "the nearest one"
    nn.init.normal_(weight)
    polar = layers.polar(matrices(weight.detach(), groups))
    early = layers.bjorck_(weight.detach().clone(), steps=1, groups=groups)
    assert torch.linalg.svdvals(matrices(early, groups)).max() <= 1 + 1e-6
    assert torch.linalg.svdvals(matrices(early, groups)).min() < 0.9
    layers.bjorck_(weight, groups=groups)
    assert torch.allclose(matrices(weight.detach(), groups), polar, atol=1e-5)


def test_initialisers_bear_zeros():
    assert torch.allclose(torch.linalg.svdvals(layers.orthogonal_(torch.zeros(3, 5))), torch.ones(3))
    assert torch.equal(layers.bjorck_(torch.zeros(3, 5)), torch.zeros(3, 5))


@pytest.mark.parametrize("channels", [(4, 4), (3, 8), (8, 4)])
@pytest.mark.parametrize(("kernel", "groups"), [(3, 1), (5, 1), (4, 1), (3, 2)])
def test_delta_orthogonal_keeps_the_norm_where_a_reshaped_kernel_does_not(channels, kernel, groups):
    if channels[0] % groups:
        channels = (4, 8)
    mode = "zeros" if kernel % 2 else "circular"  # torch warns of even kernels with padded zeros
    conv = nn.Conv2d(*channels, kernel, padding="same", groups=groups, bias=False, padding_mode=mode)
    layers.orthogonal_(conv.weight, groups=groups)
    reshaped = singular_values(conv, (channels[0], 6, 6))
    assert reshaped.max() > 1.05
    nn.init.normal_(conv.weight)
    layers.delta_orthogonal_(conv.weight, groups=groups)
    values = singular_values(conv, (channels[0], 6, 6))
    kept = 36 * min(channels)
    assert (values[:kept] - 1).abs().max() < 1e-5
    assert lipschitz(conv.eval(), (channels[0], 6, 6)) <= 1 + 1e-5
    with pytest.raises(ValueError, match="kernel"):
        layers.delta_orthogonal_(torch.zeros(3, 3))


def test_a_network_of_all_parts_learns_is_certified_and_sound():
    torch.manual_seed(0)
    conv = nn.Conv2d(1, 8, 3, padding=1, padding_mode="circular")
    body = nn.Sequential(
        constrain(conv, layers.aoc, size=(8, 8)),
        layers.BatchCentering(8),
        layers.Householder(8),
        layers.AdaptiveL2Pool2d(3),
        layers.LayerCentering(),
        nn.Flatten(),
        layers.ConvexResidual(nn.Sequential(constrain(nn.Linear(72, 72), layers.Orthogonal), layers.clamped_prelu(72))),
        constrain(nn.Linear(72, 3), layers.Orthogonal),
    )
    model = layers.k_lipschitz(body, 4.0)
    start = copy.deepcopy(model)
    train(model, (1, 8, 8), lambda m: adam(m, lr=1e-2), steps=10)
    assert all(not torch.equal(a, b) for a, b in zip(model.parameters(), start.parameters(), strict=True))
    x = torch.rand(4, 1, 8, 8)
    trained = model.eval()(x)
    baked = bake(model)
    assert torch.allclose(baked(x), trained, atol=1e-3)
    assert steepest(baked, (1, 8, 8), 5) <= lipschitz(baked, (1, 8, 8)) <= 4 * (1 + 1e-4)
