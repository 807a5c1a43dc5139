"""What rounding adds to logits in float64 is below what `certify` takes off, against rational arithmetic."""

from fractions import Fraction

import pytest
import torch
from helpers.rational import LARGE, cancelling, exact
from torch import Tensor, nn

from lipbench import layers
from lipbench.certificate import Affine, certify, certify_inscribed, inscribed_balls, lipschitz, rounding
from lipbench.certificate.float64 import LOGIT_SLACK, Passes, _share
from lipbench.certificate.rounding import Step

NETWORKS = {
    "plain": lambda: nn.Sequential(nn.Flatten(), nn.Linear(9, 9), nn.ReLU(), nn.Linear(9, 3)),
    "cancels": lambda: nn.Sequential(nn.Flatten(), cancelling(9), nn.Linear(9, 3)),
    "cancels inside of a residual layer": lambda: nn.Sequential(
        nn.Flatten(), layers.Residual(cancelling(9)), layers.Residual(cancelling(9)), nn.Linear(9, 3)
    ),
}


def errors(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Of each image the largest error of a difference of two float64 logits, and what is taken off for it."""
    double = model.double()
    logits, slack = Passes(double, tuple(x.shape[1:]), lipschitz.layerwise(model, tuple(x.shape[1:])))(x.double())
    found = []
    for row, image in zip(logits.tolist(), x.flatten(1).tolist(), strict=True):
        true = exact(double, [Fraction(value) for value in image])
        off = [Fraction(a) - b for a, b in zip(row, true, strict=True)]
        found.append(float(max(off) - min(off)))
    return torch.tensor(found, dtype=torch.float64), slack


@pytest.mark.parametrize("name", NETWORKS)
def test_rounding_is_below_the_slack(name):
    torch.manual_seed(0)
    model = NETWORKS[name]().eval()
    found, slack = errors(model, torch.rand(8, 1, 3, 3))
    assert (found > 0).any()
    assert (found <= slack).all()
    if "cancels" in name:
        assert found.max() > 1e-6, "the test would show nothing"
        assert slack.max() < 1e9 * found.max()


def test_a_part_without_a_rule_is_estimated(monkeypatch):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Flatten(), layers.Residual(nn.Sequential(nn.Linear(9, 9), nn.Tanh())), nn.Linear(9, 3)
    ).eval()
    x = torch.rand(4, 1, 3, 3).double()
    _, slack = Passes(model.double(), (1, 3, 3), lipschitz.layerwise(model, (1, 3, 3)))(x)
    assert (slack < 1e-6).all()
    monkeypatch.setattr("lipbench.certificate.float64._recorder", lambda norms, count: lambda *_: None)
    _, without = Passes(model.double(), (1, 3, 3), lipschitz.layerwise(model, (1, 3, 3)))(x)
    assert (slack > 1.1 * without).all(), "its parts count"


def test_a_very_large_layer_has_room_for_its_roundings():
    assert _share(nn.Linear(784, 256), (784,)) == LOGIT_SLACK
    layer = nn.Conv2d(64, 16, 5)
    assert _share(layer, (64, 300, 300)) == pytest.approx(2.0**-52 * 1601 * (16 * 296**2) ** 0.5)


class Inner(nn.Module):
    """Is called by keyword, folds positions into the batch, and returns more than a tensor."""

    def forward(self, input: Tensor) -> tuple[Tensor, str]:
        return input * 0.5, "half"


class Mine(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Inner()

    def forward(self, x: Tensor) -> Tensor:
        halved, _ = self.inner(input=x.reshape(-1, 1))
        return halved.reshape(x.shape)


class Far(nn.Module):
    """Adds a large number and takes it away: a leaf of one's own, whose rounding nobody knows."""

    def forward(self, x: Tensor) -> Tensor:
        return (x + LARGE) - LARGE


def test_layers_of_ones_own_are_estimated_whatever_is_in_them(monkeypatch):
    monkeypatch.setattr(lipschitz, "_rules", {**lipschitz._rules, Mine: lambda layer, shape: 0.5})
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), Mine(), nn.Linear(9, 3)).eval()
    x = torch.rand(4, 1, 3, 3)
    assert (certify(model, x, model(x).argmax(1)) > 0).all()


def test_a_leaf_of_ones_own_with_a_rounding_rule_is_bounded_by_it(monkeypatch):
    def rule(layer: nn.Module, shape: tuple[int, ...], constant: float) -> Step:
        def step(u: Tensor, reach: Affine) -> tuple[Tensor, Affine]:
            return layer(u), (reach * 0.0).plus(2.0**-23 * LARGE * 9)

        return step

    monkeypatch.setattr(lipschitz, "_rules", {**lipschitz._rules, Far: lambda layer, shape: 1.0})
    model, x = nn.Sequential(nn.Flatten(), Far()).eval(), torch.rand(4, 1, 3, 3).double()
    bounds = lipschitz.layerwise(model, (1, 3, 3))
    logits, estimated = Passes(model, (1, 3, 3), bounds)(x)
    off = (logits - x.flatten(1)).norm(dim=1)
    assert (estimated < off).any(), "without a rule it is an estimate, as its docstring says"
    monkeypatch.setattr(rounding, "_rules", {**rounding._rules, Far: rule})
    _, bounded = Passes(model, (1, 3, 3), bounds)(x)
    assert (bounded >= off).all()


ESTIMATED = {
    "a leaf of one's own": Mine,
    "a layer of torch by a rule of one's own": nn.Softsign,
    "a tanh inside of a residual layer": lambda: layers.Residual(nn.Sequential(nn.Linear(9, 9), nn.Tanh())),
}


@pytest.mark.parametrize("name", ESTIMATED)
def test_an_estimate_proves_no_ball(name, monkeypatch):
    """An estimate is of images, and a centre may lie anywhere."""
    rules = {Mine: lambda layer, shape: 0.5, nn.Softsign: lambda layer, shape: 1.0}
    monkeypatch.setattr(lipschitz, "_rules", {**lipschitz._rules, **rules})
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), ESTIMATED[name](), nn.Linear(9, 3)).eval()
    x = torch.rand(20, 1, 3, 3).round()
    y = model(x).argmax(1)
    double = model.double()
    assert Passes(double, (1, 3, 3), lipschitz.layerwise(double, (1, 3, 3))).is_estimate
    model, flat = model.float(), certify(model.float(), x, y)
    assert (flat > 0).all()
    counts = []
    assert torch.equal(certify_inscribed(model, x, y, count=lambda *numbers: counts.append(numbers)), flat)
    assert counts == [(40, 0)]
    balls = inscribed_balls(model, x, y)
    assert not len(balls.image)
    assert (balls.radius() == 0).all()
    # With a rounding rule there are balls: it was the estimate that kept them back.
    known = nn.Sequential(nn.Flatten(), nn.Linear(9, 3)).eval()
    assert (certify_inscribed(known, x, known(x).argmax(1)) > 1.01 * certify(known, x, known(x).argmax(1))).any()
