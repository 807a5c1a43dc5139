"""Bounds near an image: below all images of their region, tight where they can be, and never used outside of it."""

import math
from functools import partial

import pytest
import torch
from helpers.traced_cases import SHAPE as RANDOM_SHAPE
from helpers.traced_cases import network
from torch import Tensor, nn

import lipbench
import lipbench.certificate.local.relaxed as relaxed_file
from lipbench.attacks import deepfool
from lipbench.certificate import LocalWarning, certify, certify_inscribed, certify_local, gaps_of, margins_near
from lipbench.certificate.lipschitz import lipschitz
from lipbench.certificate.local.program import program
from lipbench.certificate.local.ranges import Ranges, Region
from lipbench.certificate.local.relaxed import Relaxed, prepared
from lipbench.certificate.radius import read_exactly
from lipbench.layers import Abs, FullSort, GroupSort, L2Pool2d, LayerCentering, MaxMin, Normalize

SHAPE = (1, 4, 4)


class Attention(nn.Module):
    """Two heads over four tokens, with layer normalisation and a residual sum."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, 6, batch_first=True, activation="gelu")
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x.squeeze(1)).mean(1))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(4, 3, batch_first=True), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x.squeeze(1))[0][:, -1])


def chain(*layers: nn.Module, outputs: int) -> nn.Module:
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(outputs, 3))


conv = partial(nn.Conv2d, kernel_size=3, padding=1)
NETWORKS = {
    "relu": lambda: chain(nn.PixelUnshuffle(2), conv(4, 3), nn.ReLU(), conv(3, 2), nn.ReLU(), outputs=8),
    "max_pool": lambda: chain(conv(1, 3), nn.MaxPool2d(3, 2, padding=1), nn.BatchNorm2d(3), outputs=12),
    "sorts": lambda: chain(conv(1, 4), MaxMin(), conv(4, 4), GroupSort(4), nn.AvgPool2d(2), FullSort(), outputs=16),
    "curves": lambda: chain(
        *(Normalize((0.5,), (0.3,)), conv(1, 2), nn.Tanh(), conv(2, 2), nn.GELU(), conv(2, 2), nn.SiLU()),
        *(conv(2, 2), nn.Sigmoid(), conv(2, 2), nn.ELU(1.5), conv(2, 2), nn.Softplus(2.0, 40.0)),
        *(Abs(), nn.LeakyReLU(0.2), nn.Hardtanh(-0.3, 0.4)),
        outputs=32,
    ),
    "norms": lambda: chain(conv(1, 4), nn.GroupNorm(2, 4), nn.ReLU(), nn.InstanceNorm2d(4), outputs=64),
    "by constant": lambda: chain(conv(1, 2), L2Pool2d(2), LayerCentering(), outputs=8),
    "attention": Attention,
    "recurrent": Recurrent,
}


def case(name: str, seed: int = 0) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(seed)
    model = NETWORKS[name]().double().eval()
    for part in model.modules():
        if isinstance(part, nn.LayerNorm | nn.GroupNorm):
            nn.init.normal_(part.weight)
    x = torch.rand(2, *SHAPE, dtype=torch.float64)
    return model, x, model(x).argmax(1)


def worst(model: nn.Module, x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    """The smallest differences of logits that are found on the region, [N, K]: at random, and by descent for each."""
    lowest = torch.full((len(x), 3), torch.inf, dtype=torch.float64)
    for k in range(3):
        point = (x + 0.1 * torch.randn_like(x)).clamp(0, 1)
        for step in range(16):
            point = point.detach().requires_grad_()
            logits = model(point)
            margins = logits.gather(1, y[:, None]) - logits
            if step:  # inside of the region
                lowest = torch.minimum(lowest, margins.detach())
            (slope,) = torch.autograd.grad(margins[:, k].sum(), point)
            move = (
                point
                - x
                - slope
                / slope.flatten(1).norm(dim=1).clamp_min(1e-30)[:, None, None, None]
                * (radius[:, None, None, None] / (1 + step % 4))
            )
            length = move.flatten(1).norm(dim=1).clamp_min(1e-30)
            point = (x + move * (radius / length).clamp(max=1)[:, None, None, None]).clamp(0, 1)
    return lowest


@pytest.mark.parametrize("name", NETWORKS)
def test_bounds_are_below_every_image_of_the_region_and_the_first_order_at_its_centre(name):
    model, x, y = case(name)
    x = 0.1 + 0.8 * x
    y = model(x).argmax(1)
    for size in (0.05, 0.5):
        radius = torch.full((2,), size, dtype=torch.float64)
        bound = margins_near(model, x, y, radius).margins
        assert (worst(model, x, y, radius) >= bound)[bound < math.inf].all()
    if name == "by constant":
        return
    small = 1e-5
    bound = margins_near(model, x, y, torch.full((2,), small, dtype=torch.float64)).margins
    jacobian = torch.autograd.functional.jacobian(lambda z: model(z).sum(0), x).flatten(2).transpose(0, 1)  # [N, K, n]
    slopes = (jacobian[torch.arange(2), y][:, None] - jacobian).norm(dim=2)
    logits = model(x)
    fall = (logits.gather(1, y[:, None]) - logits - bound) / small
    own = nn.functional.one_hot(y, 3).bool()
    assert (fall >= slopes * (1 - 1e-4))[~own].all()
    assert (fall <= slopes * 1.02 + 1e-4)[~own].all(), "a region that small has one slope"


@pytest.mark.parametrize("name", ["relu", "sorts", "curves", "norms", "attention", "recurrent"])
def test_no_attack_beats_the_radii_which_are_never_below_the_global_ones(name):
    model, x, y = case(name, seed=1)
    radii = certify_local(model, x, y)
    assert (radii >= certify(model, x, y)).all()
    assert (radii > 0).all()
    adversarial = deepfool(model, x, y)
    other = model(adversarial).argmax(1) != y
    assert ((adversarial - x).flatten(1).norm(dim=1) >= radii)[other].all()
    assert (certify_local(model, x, (y + 1) % 3) == 0).all()


def test_random_networks_have_no_attack_within_their_radii():
    for seed in range(6):
        model = network(seed).double()
        x = torch.rand(1, *RANDOM_SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        y = model(x).argmax(1)
        radius = certify_local(model, x, y, rounds=3)
        adversarial = deepfool(model, x, y)
        assert model(adversarial).argmax(1) == y or (adversarial - x).norm() >= radius


def activations(ops: list, x: Tensor) -> list[Tensor]:
    values = [x]
    for op in ops:
        values.append(op.step(*(values[i] for i in op.inputs)))
    return values


def escapes(model: nn.Module, x: Tensor, radius: float) -> int:
    """How many activations leave their ranges, at the images that move the first layer the farthest."""
    with torch.no_grad():
        ops = program(read_exactly(model, SHAPE, x), SHAPE)
        ranges = Relaxed(*prepared(ops), Region(x, torch.full((1,), radius, dtype=torch.float64))).ranges
        weight = model[1].weight
        moves = radius * torch.cat((weight, -weight)) / weight.norm(dim=1).repeat(2)[:, None]
        values = activations(ops, x + moves.view(-1, *SHAPE))
        return sum(int(((v < r.low) | (v > r.high)).sum()) for v, r in zip(values[1:], ranges[1:], strict=True))


def test_a_range_that_is_one_percent_too_small_is_caught(monkeypatch):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3)).double().eval()
    x = torch.full((1, *SHAPE), 0.5, dtype=torch.float64)
    assert escapes(model, x, 0.3) == 0
    monkeypatch.setattr(Relaxed, "_tightened", lambda self, place: shrunk(self.ranges[place]))
    assert escapes(model, x, 0.3) >= 8


def shrunk(r: Ranges) -> Ranges:
    return Ranges(r.at, r.at + 0.99 * (r.low - r.at), r.at + 0.99 * (r.high - r.at), r.radius)


def hinged(slope: float, bias: float) -> nn.Module:
    """Logits 0 and 1 - x_0 + relu(slope x_1 + bias)."""
    first, last = nn.Linear(16, 2), nn.Linear(2, 2)
    for parameter in (*first.parameters(), *last.parameters()):
        nn.init.zeros_(parameter)
    with torch.no_grad():
        first.weight[0, 0], first.weight[1, 1] = 1.0, slope
        first.bias[1] = bias
        last.weight[1], last.bias[1] = torch.tensor([-1.0, 1.0]), 1.0
    return nn.Sequential(nn.Flatten(), first, nn.ReLU(), last).double().eval()


def test_a_dead_relu_costs_nothing_and_the_box_keeps_it_dead():
    model, y = hinged(-30.0, -0.1), torch.tensor([1])  # it is alive where x_1 < -1 / 300, outside of the box
    x = torch.full((1, *SHAPE), 0.5, dtype=torch.float64)
    x[0, 0, 0, 1] = 0.0
    exact = 0.5  # 1 - x_0 reaches 0 at x_0 = 1
    assert float(certify(model, x, y)) < exact / 20
    assert float(certify_local(model, x, y, rounds=20)) == pytest.approx(exact, rel=1e-3)


def test_what_holds_on_the_box_is_refused_where_centres_leave_it(monkeypatch):
    model, x, y = case("relu")
    bound = margins_near(model, x, y, torch.full((2,), 0.1))
    with pytest.raises(TypeError, match="LayerBound"):
        gaps_of(model, SHAPE, [bound])
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        Region(x - 2, torch.ones(2))
    before = certify_inscribed(model, x, y, steps=5)

    def used(*args: object) -> None:
        raise AssertionError("a local bound is used")

    monkeypatch.setattr(relaxed_file.Relaxed, "__init__", used)
    assert torch.equal(certify_inscribed(model, x, y, steps=5), before)
    assert all(
        bound.bound == lipschitz(layer, (1, 4, 4))
        for bound, layer in zip(lipschitz.layerwise(model, SHAPE)[:1], model, strict=False)
    )
    with pytest.raises(AssertionError):
        certify_local(model, x, y)


def test_what_has_no_local_bound_is_said():
    class Quotient(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x / x.sum((1, 2, 3), keepdim=True)).flatten(1)[:, :3]

    x, y = torch.rand(2, *SHAPE), torch.zeros(2, dtype=torch.long)
    with pytest.warns(LocalWarning, match="divides by an activation"):
        assert (certify_local(Quotient().eval(), x, y) == 0).all()
    with pytest.raises(ValueError, match="rounds"):
        certify_local(Quotient().eval(), x, y, rounds=0)


def test_it_takes_the_models_and_images_that_certify_takes() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Dropout(0.9), nn.Linear(8, 3)).eval()
    images = torch.randint(0, 256, (5, *SHAPE), dtype=torch.uint8)
    y = model(images.float() / 255).argmax(1)
    expected = certify_local(model, images.float() / 255, y)
    assert (expected >= lipbench.certify(model, images, y)).all()
    assert (expected > 0).all()
    assert torch.equal(certify_local(model, images, y.int()), expected)
    model.train()
    assert torch.equal(certify_local(model, images, y), expected), "in evaluation mode"
    assert all(part.training for part in model.modules()), "and left as it was"
