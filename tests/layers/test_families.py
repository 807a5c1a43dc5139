"""Every family on every kind of layer: norms after training, the baked weight, the certificate."""

import copy

import pytest
import torch
from helpers.trained import largest_jacobian_norm, singular_values, train
from torch import nn

from lipbench import layers
from lipbench.certificate import lipschitz
from lipbench.layers import bake, constrain
from lipbench.training import adam, spectral

FAMILIES = [layers.aoc, layers.soc, layers.cayley, layers.aol, layers.cpl, layers.sll, layers.liresnet, layers.sandwich]
ORTHOGONAL = [layers.aoc, layers.soc, layers.cayley]
LAYERS = {
    "tall": (lambda: nn.Linear(12, 30), (12,)),
    "square": (lambda: nn.Linear(20, 20), (20,)),
    "wide": (lambda: nn.Linear(30, 12), (30,)),
    "stem": (lambda: nn.Conv2d(3, 8, 3, padding=1), (3, 8, 8)),
    "same": (lambda: nn.Conv2d(6, 6, 3, padding=1), (6, 7, 7)),
    "circular": (lambda: nn.Conv2d(6, 6, 3, padding=1, padding_mode="circular"), (6, 7, 7)),
    "patches": (lambda: nn.Conv2d(4, 16, 2, stride=2), (4, 8, 8)),
    "strided": (lambda: nn.Conv2d(4, 16, 3, stride=2, padding=1, padding_mode="circular"), (4, 8, 8)),
    "grouped": (lambda: nn.Conv2d(6, 6, 3, padding=1, groups=2), (6, 6, 6)),
    "dilated": (lambda: nn.Conv2d(4, 4, 3, padding=2, dilation=2, padding_mode="circular"), (4, 7, 7)),
}
EXACT = ("tall", "square", "wide", "circular", "patches", "strided", "dilated")


def made(family, kind: str) -> tuple[nn.Module, tuple[int, ...]]:
    torch.manual_seed(0)
    make, shape = LAYERS[kind]
    return nn.Sequential(constrain(make(), family, size=shape[1:] if len(shape) == 3 else None)), shape


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_norms_after_adam(family, kind):
    layer, shape = made(family, kind)
    start = copy.deepcopy(layer)
    train(layer, shape, lambda m: adam(m, lr=1e-2), steps=60)
    x = torch.rand(8, *shape)
    trained = layer(x)
    assert (trained - start(x)).abs().max() > 1e-3, "a constraint that freezes its weight proves nothing"
    baked = bake(layer)
    assert (baked(x) - trained).abs().max() <= 1e-3
    values = singular_values(baked, shape)
    assert values.max() <= 1 + 1e-5
    if family in ORTHOGONAL and kind in EXACT:
        assert values.min() >= 0.99
    bound = lipschitz(baked, shape)
    assert bound <= 1 + 1e-5
    assert largest_jacobian_norm(baked, shape) <= bound <= 1.05 * largest_jacobian_norm(baked, shape)


@pytest.mark.parametrize("kind", ["square", "same", "circular", "strided"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_jump_of_the_weights_is_survived(family, kind):
    layer, shape = made(family, kind)
    optimizer = adam(layer, lr=1e-3)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.mul_(5)
    layer(torch.rand(4, *shape)).square().mean().backward()
    optimizer.step()
    x = torch.rand(8, *shape)
    trained = layer(x)
    baked = bake(layer)
    assert trained.isfinite().all()
    assert singular_values(baked, shape).max() <= 1 + 1e-5
    assert (baked(x) - trained).abs().max() <= 1e-3
    if family in ORTHOGONAL and kind in EXACT:
        assert singular_values(baked, shape).min() >= 0.99


@pytest.mark.parametrize("family", FAMILIES)
def test_no_seed_gives_a_nan(family):
    for seed in range(50):
        torch.manual_seed(seed)
        conv = constrain(nn.Conv2d(4, 4, 3, padding=1), family, size=(5, 5))
        dense = constrain(nn.Linear(100, 3), family)
        model = nn.Sequential(conv, layers.MaxMin(), nn.Flatten(), dense)
        optimizer = adam(model, lr=1e-2)
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.rand(4, 4, 5, 5)).square().mean().backward()
            optimizer.step()
        assert bake(model)(torch.rand(4, 4, 5, 5)).isfinite().all()


def test_convex_potential_is_bounded_by_its_own_inequality():
    torch.manual_seed(0)
    layer = layers.ConvexPotential(nn.Linear(10, 10)).eval()
    norm = torch.linalg.matrix_norm(layer.inner.weight.detach().double(), 2).item()
    with torch.no_grad():
        layer.inner.weight.mul_(1.5 / norm)
    bound = lipschitz(layer, (10,))
    assert bound == pytest.approx(2 * 1.5**2 - 1)
    with torch.no_grad():
        layer.inner.bias.fill_(10.0)  # every neuron is on near 0: the Jacobian is I - 2 V^T V
    assert bound / 1.05 <= largest_jacobian_norm(layer, (10,)) <= bound
    layer.activation = layers.MaxMin()
    assert lipschitz(layer, (10,)) == float("inf")
    layer.activation = nn.LeakyReLU(-0.5)
    assert lipschitz(layer, (10,)) == float("inf")


@pytest.mark.parametrize("mode", ["zeros", "circular"])
@pytest.mark.parametrize("dilation", [1, 2])
def test_the_second_half_of_a_convex_potential_is_the_adjoint_of_the_first(mode, dilation):
    torch.manual_seed(0)
    inner = nn.Conv2d(3, 3, 3, padding=dilation, dilation=dilation, padding_mode=mode, bias=False)
    layer = layers.ConvexPotential(inner, activation=nn.Identity()).double()
    jacobian = torch.autograd.functional.jacobian(
        lambda x: layer(x[None])[0].flatten(), torch.zeros(3, 6, 6, dtype=torch.float64)
    ).flatten(1)
    matrix = torch.autograd.functional.jacobian(
        lambda x: inner(x[None])[0].flatten(), torch.zeros(3, 6, 6, dtype=torch.float64)
    ).flatten(1)
    assert torch.allclose(jacobian, torch.eye(108, dtype=torch.float64) - 2 * matrix.T @ matrix)


def test_a_strided_aol_separates_the_phases():
    torch.manual_seed(0)
    conv = constrain(nn.Conv2d(3, 24, 3, stride=2, padding=1, padding_mode="circular"), layers.aol)
    assert 0.6 < singular_values(bake(conv), (3, 8, 8)).max() <= 1 + 1e-6
    with pytest.raises(ValueError, match="dilation"):
        layers.AOL(nn.Conv2d(3, 4, 3, stride=2, dilation=2))


def test_a_deep_almost_orthogonal_network_starts_without_shrinking_its_input():
    torch.manual_seed(0)
    convolutions = [constrain(nn.Conv2d(4, 4, 3, padding=1, bias=False), layers.aol) for _ in range(6)]
    model = nn.Sequential(*convolutions)
    values = singular_values(bake(model), (4, 6, 6))
    assert values.min() >= 0.99, "from random weights each layer would halve it"
    assert values.max() <= 1 + 1e-5


def test_lin_residual_starts_near_the_identity():
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 4, 3, padding=1)
    nn.init.normal_(conv.weight, std=1e-3)
    x = torch.rand(2, 4, 6, 6)
    baked = bake(constrain(conv, layers.liresnet, size=(6, 6)))
    assert torch.allclose(baked(x) - baked.bias[:, None, None], x, atol=0.05)


def test_orthogonal_convolutions_refuse_what_cannot_be_orthogonal():
    with pytest.raises(ValueError, match="skips pixels"):
        layers.OrthogonalConv2d(3, 4, 2, stride=3)
    with pytest.raises(ValueError, match="common factor"):
        layers.OrthogonalConv2d(3, 4, 3, stride=2, dilation=2)
    with pytest.raises(ValueError, match="groups"):
        layers.OrthogonalConv2d(3, 4, 3, groups=2)


@pytest.mark.parametrize("channels", [(3, 8), (8, 3), (4, 4), (1, 1)])
@pytest.mark.parametrize(("kernel", "stride", "groups"), [(3, 1, 1), (4, 2, 1), (5, 2, 1), (2, 1, 1)])
def test_orthogonal_convolutions_of_any_shape(channels, kernel, stride, groups):
    torch.manual_seed(0)
    conv = layers.OrthogonalConv2d(
        *channels, kernel, stride, padding=(kernel - 1) // 2, groups=groups, padding_mode="circular", bias=False
    )
    train(conv, (channels[0], 8, 8), lambda m: spectral(m, lr=0.1), steps=20)
    x = torch.rand(2, channels[0], 8, 8)
    before = conv(x)
    baked = bake(conv)
    assert type(baked) is nn.Conv2d
    assert (baked(x) - before).abs().max() <= 1e-3
    if kernel % 2:  # an even kernel shortens the image by one: no longer the whole torus
        values = singular_values(baked, (channels[0], 8, 8))
        assert values.max() <= 1 + 1e-5
        assert values.min() >= 0.99


@pytest.mark.parametrize("family", [layers.aoc, layers.cayley])
def test_baking_leaves_the_construction_itself_alone(family):
    construction = made(family, "circular")[0][0]
    bake(nn.Sequential(construction))
    assert {tensor.dtype for tensor in construction.state_dict().values()} == {torch.float32}


@pytest.mark.parametrize("family", [layers.aoc, layers.cayley])
@pytest.mark.parametrize("register", ["register_forward_hook", "register_forward_pre_hook"])
def test_baking_refuses_to_drop_a_hook(family, register):
    model, _ = made(family, "circular")
    getattr(model[0], register)(lambda *_: None)
    with pytest.raises(ValueError, match="has forward hooks"):
        bake(model)


@pytest.mark.parametrize("family", [layers.soc, layers.cpl])
def test_a_hook_of_what_bakes_to_itself_stays(family):
    model, shape = made(family, "same")
    model[0].register_forward_hook(lambda module, inputs, output: 2 * output)
    x = torch.rand(2, *shape)
    expected = model(x)
    assert torch.allclose(bake(model)(x), expected, atol=1e-3)


def linear_cases() -> list[tuple[object, str]]:
    """Where an image of one pixel shows the weight: no activation inside, no series of products."""
    kept = {"square", "same", "circular", "grouped", "dilated"}
    inside = {layers.cpl: kept, layers.sll: kept, layers.sandwich: {"tall", "square", "wide"}}
    inside[layers.soc] = {"stem", "same", "grouped"}
    return [(family, kind) for family in FAMILIES for kind in LAYERS if kind not in inside.get(family, ())]


@pytest.mark.parametrize(("family", "kind"), linear_cases())
def test_weights_are_made_in_their_own_precision_under_autocast(family, kind):
    layer, shape = made(family, kind)
    train(layer, shape, lambda m: adam(m, lr=1e-2), steps=3)
    with torch.no_grad():
        layer[0].bias.zero_()
    pixels = torch.eye(torch.Size(shape).numel()).unflatten(1, shape)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(pixels).float()
    # One pixel meets one weight: all that bfloat16 may change is the last rounding of that weight.
    torch.testing.assert_close(found, layer(pixels), rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_in_bfloat16_gives_gradients_to_every_weight(family, kind):
    layer, shape = made(family, kind)
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(torch.rand(4, *shape))
    (out.float() ** 3).sum().backward()
    grads = {name: p.grad for name, p in layer.named_parameters()}
    assert all(g is not None and g.dtype == torch.float32 and g.isfinite().all() for g in grads.values())
    weights = [g for name, g in grads.items() if not name.endswith(("bias", "log_q", "log_psi"))]
    assert weights
    assert all(g.abs().max() > 0 for g in weights)
