"""Constraints on exact singular values, layers on their Jacobians."""

import copy

import pytest
import torch
from helpers.trained import singular_values, train
from torch import nn

from lipbench import layers
from lipbench.data import digits
from lipbench.files import ResultsError
from lipbench.interop import load as bring
from lipbench.layers import bake, constrain, constrained_weights, retract
from lipbench.runs import external
from lipbench.runs import trained as experiment
from lipbench.training import SpectralDescent, adam, sgd, spectral

CONSTRAINTS = [layers.Orthogonal, layers.Bjorck, layers.Spectral, layers.Frobenius, layers.Clip]
ORTHOGONAL = [layers.Orthogonal, layers.Bjorck]


LAYERS = {
    "tall": (lambda: nn.Linear(12, 30), (12,)),
    "wide": (lambda: nn.Linear(30, 12), (30,)),
    "patches": (lambda: nn.Conv2d(3, 8, 2, stride=2), (3, 8, 8)),
    "same": (lambda: nn.Conv2d(3, 8, 3, padding=1), (3, 6, 6)),
    "circular": (lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), (3, 6, 6)),
    "strided": (lambda: nn.Conv2d(3, 8, 3, stride=2, padding=1), (3, 7, 7)),
    "dilated": (lambda: nn.Conv2d(3, 8, 3, stride=2, dilation=2, padding=2), (3, 8, 8)),
    "grouped": (lambda: nn.Conv2d(4, 8, 2, stride=2, groups=2), (4, 6, 6)),
}


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_norm_is_at_most_one_after_training(constraint, kind):
    make, shape = LAYERS[kind]
    layer = constrain(make(), constraint)
    start = layer.weight.detach().clone()
    train(layer, shape, lambda m: sgd(m, lr=0.5))
    assert not torch.equal(layer.weight, start), "a constraint that freezes its weight proves nothing"
    for _, weight in constrained_weights(layer):
        weight.data.mul_(4)  # one large step, after which the norm exceeds 1 without a constraint
    retract(layer)
    training = layer.weight.detach().clone()
    x = torch.rand(4, *shape)
    before = layer(x)
    bake(layer)
    assert type(layer) in (nn.Linear, nn.Conv2d)
    assert (layer(x) - before).abs().max() <= 1e-3
    assert (layer.weight - training).abs().max() <= 1e-3
    values = singular_values(layer, shape)
    assert values.max() <= 1 + 1e-5
    if constraint in ORTHOGONAL and kind in ("tall", "wide", "patches", "grouped"):
        assert values.min() >= 0.99


@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_without_the_constraint_the_norm_exceeds_one(constraint):
    free, held = nn.Linear(12, 30), constrain(nn.Linear(12, 30), constraint)
    for layer in (free, held):
        train(layer, (12,), lambda m: sgd(m, lr=5.0), steps=60)
    assert singular_values(free, (12,)).max() > 1.5
    assert singular_values(bake(held), (12,)).max() <= 1 + 1e-5


@pytest.mark.parametrize("constraint", ORTHOGONAL)
@pytest.mark.parametrize("jump", [5.0, 50.0])
def test_a_jump_of_the_weight_is_survived(constraint, jump):
    layer = constrain(nn.Linear(30, 12), constraint)
    ((_, weight),) = constrained_weights(layer)
    with torch.no_grad():
        weight.mul_(jump)
    retract(layer)
    assert layer.weight.isfinite().all()
    values = singular_values(bake(layer), (30,))
    assert values.max() <= 1 + 1e-5
    assert values.min() >= 0.99


def test_frobenius_and_spectral_reach_their_norm():
    frobenius, spectral_ = constrain(nn.Linear(9, 7), layers.Frobenius), constrain(nn.Linear(9, 7), layers.Spectral)
    assert frobenius.weight.norm().item() == pytest.approx(1)
    assert singular_values(spectral_, (9,)).max().item() == pytest.approx(1, abs=1e-5)


def test_spectral_gradient_is_that_of_the_norm():
    weight = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    constraint = layers.Spectral(nn.Linear(7, 5))
    torch.autograd.gradcheck(constraint, weight)


def test_lambda_is_smaller_than_the_strict_factor_and_not_a_bound():
    """A correction of the paper: 1 -> 16 channels, orthonormal columns, 14x14, kernel 3: norm about 1.05."""
    torch.manual_seed(0)
    conv = constrain(
        nn.Conv2d(1, 16, 3, padding=1, bias=False),
        lambda layer, size: layers.Orthogonal(layer, size, "lambda"),
        (14, 14),
    )
    strict = layers.patch_factor(nn.Conv2d(1, 16, 3, padding=1), (14, 14), "strict")
    averaged = layers.patch_factor(nn.Conv2d(1, 16, 3, padding=1), (14, 14), "lambda")
    assert averaged < strict == pytest.approx(3)
    assert 1.03 < singular_values(bake(conv), (1, 14, 14)).max() < 1.08


def test_lambda_is_refused_where_the_paper_does_not_define_it():
    with pytest.raises(ValueError, match="strict"):
        layers.patch_factor(nn.Conv2d(1, 4, 2, stride=2), (8, 8), "lambda")


@pytest.mark.parametrize("shape", [(20, 8), (8, 20), (8, 8)])
def test_norm_bound_is_above_and_near(shape):
    for seed in range(20):
        matrix = torch.randn(3, *shape, generator=torch.Generator().manual_seed(seed))
        norm = torch.linalg.matrix_norm(matrix, 2)
        bound = layers.norm_bound(matrix)
        assert (bound >= norm * (1 - 1e-6)).all()
        assert (bound <= norm * 1.1).all()
    assert layers.norm_bound(torch.zeros(4, 4)).item() == pytest.approx(0, abs=1e-15)


def test_spectral_descent_keeps_matrices_orthonormal_and_learns():
    torch.manual_seed(0)
    target = layers.polar(torch.randn(6, 10))
    weight = nn.Parameter(layers.polar(torch.randn(6, 10)))
    bias = nn.Parameter(torch.zeros(6))
    optimizer = SpectralDescent([weight], [bias], lr=0.1)
    losses = []
    for step in range(200):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / 200)
        loss = (weight - target).square().sum() + (bias - 0.1).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        assert torch.linalg.svdvals(weight.detach()).max() <= 1 + 1e-3
        assert torch.linalg.svdvals(weight.detach()).min() >= 0.999
    assert losses[-1] < 0.05 * losses[0]
    assert (bias - 0.1).abs().max() < 0.02


@pytest.mark.parametrize("lr", [0.05, 0.5])
@pytest.mark.parametrize("make", [lambda: nn.Linear(30, 12), lambda: nn.Conv2d(4, 8, 3, padding=1)])
def test_spectral_descent_stays_orthonormal_at_every_rate_that_it_takes(make, lr):
    torch.manual_seed(0)
    plain = make()
    shape = (30,) if isinstance(plain, nn.Linear) else (4, 6, 6)
    layer = constrain(plain, layers.aoc)
    optimizer = spectral(layer, lr=lr)
    worst = 0.0
    for _ in range(100):
        optimizer.zero_grad()
        (layer(torch.rand(16, *shape)).square().mean() - layer(torch.rand(16, *shape)).mean()).backward()
        optimizer.step()
        for constraint, weight in constrained_weights(layer):
            worst = max(worst, float((torch.linalg.svdvals(constraint.matrix(weight.detach())) - 1).abs().max()))
    assert worst < (1e-5 if lr == 0.05 else 0.1)
    assert singular_values(bake(layer), shape).max() <= 1 + 1e-5


@pytest.mark.parametrize("constraint", ORTHOGONAL)
@pytest.mark.parametrize("features", [(784, 256), (256, 784), (256, 256)])
def test_large_steps_of_adam_leave_orthonormal_weights(constraint, features):
    """One step of Adam at 1e-2 moves a matrix of this size by more than its norm."""
    torch.manual_seed(0)
    layer = constrain(nn.Linear(*features), constraint)
    optimizer = adam(layer, lr=1e-2)
    x, y = torch.rand(64, features[0]), torch.rand(64, features[1])
    for _ in range(8):
        before = layer.weight.detach().clone()
        optimizer.zero_grad()
        (layer(x) - y).square().mean().backward()
        optimizer.step()
        assert (layer.weight - before).norm() > 0.05
        values = torch.linalg.svdvals(layer.weight.detach())
        assert values.max() <= 1 + 1e-5
        assert values.min() >= 0.99
        trained = layer(x)
        assert (bake(copy.deepcopy(layer))(x) - trained).abs().max() <= 1e-3


def test_spectral_refuses_a_model_without_orthogonal_weights():
    with pytest.raises(ValueError, match="optimizer=adam"):
        spectral(nn.Linear(3, 3))


@pytest.mark.parametrize("constraint", CONSTRAINTS)
def test_bake_of_a_copy_leaves_the_original_trainable(constraint):
    layer = constrain(nn.Linear(6, 4), constraint)
    bake(copy.deepcopy(layer))
    before = layer.weight.detach().clone()
    train(layer, (6,), lambda m: adam(m, lr=0.1), steps=2)
    assert not torch.equal(layer.weight, before)


@pytest.mark.parametrize(
    "module",
    [
        layers.MaxMin(),
        layers.GroupSort(4),
        layers.FullSort(),
        layers.ScaledAvgPool2d(2),
        layers.L2Pool2d(2),
        layers.Antipodal(),
    ],
    ids=lambda m: type(m).__name__,
)
def test_layers_are_one_lipschitz_and_reach_it(module):
    shape = (1,) if isinstance(module, layers.Antipodal) else (8, 4, 4)
    reached = 0.0
    for seed in range(10):
        x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        jacobian = torch.autograd.functional.jacobian(lambda x: module(x[None])[0].flatten(), x)
        values = torch.linalg.svdvals(jacobian.reshape(jacobian.shape[0], -1))
        reached = max(reached, values.max().item())
        if isinstance(module, layers.MaxMin | layers.GroupSort | layers.FullSort):
            assert torch.allclose(values, torch.ones_like(values)), "a sort keeps every gradient's norm"
    assert reached == pytest.approx(0.5**0.5 if isinstance(module, layers.Antipodal) else 1, abs=1e-9)


def test_sorts_sort():
    x = torch.tensor([[3.0, 1.0, 2.0, 0.0]])
    assert layers.MaxMin()(x).tolist() == [[3, 1, 2, 0]]
    assert layers.MaxMin()(torch.tensor([[0.0, 2.0, 1.0, 3.0]])).tolist() == [[1, 3, 0, 2]]
    assert layers.GroupSort(2)(x).tolist() == [[1, 3, 0, 2]]
    assert layers.FullSort()(x).tolist() == [[0, 1, 2, 3]]
    with pytest.raises(ValueError, match="even"):
        layers.MaxMin()(torch.zeros(1, 3))
    with pytest.raises(ValueError, match="multiple of 4"):
        layers.GroupSort(4)(torch.zeros(1, 6))


def test_l2_pooling_has_a_finite_gradient_at_zero():
    x = torch.zeros(1, 1, 4, 4, requires_grad=True)
    layers.L2Pool2d(2)(x).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, torch.zeros_like(x))


def test_normalize_and_residual():
    x = torch.rand(2, 3, 4, 4)
    normal = layers.Normalize((0.1, 0.2, 0.3), (0.5, 1.0, 2.0))
    assert torch.allclose(normal(x)[:, 2], (x[:, 2] - 0.3) / 2)
    with pytest.raises(ValueError, match="positive"):
        layers.Normalize((0.0,), (0.0,))
    assert torch.allclose(layers.Residual(nn.Identity(), 0.5)(x), x)


@pytest.mark.parametrize(("change", "is_close"), [(0.0, True), (9e-4, True), (2e-3, False), (float("nan"), False)])
def test_a_network_that_baking_changes_is_refused(change, is_close):
    said = iter([torch.zeros(3, 2), torch.tensor([0.0, change]).expand(3, 2)])
    model = constrain(nn.Linear(4, 2), layers.Orthogonal)
    if is_close:
        baked, found = layers.bake_closely(model, lambda network: next(said))
        assert found == pytest.approx(change)
        assert not nn.utils.parametrize.is_parametrized(baked)
    else:
        with pytest.raises(layers.BakingError, match=r"changes a logit by .*, more than 0\.001"):
            layers.bake_closely(model, lambda network: next(said))


def test_trained_and_external_networks_are_compared_with_their_baked_ones(monkeypatch):
    monkeypatch.setattr("lipbench.layers.baking.BAKE_TOLERANCE", -1.0)
    monkeypatch.setattr("lipbench.layers.baking.ROUNDING", -1.0)
    data = digits(keep=(0, 8))

    def network() -> nn.Module:
        return nn.Sequential(nn.Flatten(), constrain(nn.Linear(64, 2), layers.Orthogonal))

    with pytest.raises(ResultsError, match=r"Baking changes a logit by 0\b.*Lower optimizer\.lr"):
        experiment._bake(network(), data.validation)
    with pytest.raises(bring.ModelError, match=r"gives other logits on 70 of 70 images, by up to 0:.*lipbench\.bake"):
        external._baked(network(), data)
