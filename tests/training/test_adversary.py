"""Adversarial training: what the adversary may do, and what it does to a network."""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lipbench
from lipbench import layers, losses, models
from lipbench.judge import distance
from lipbench.results import best
from lipbench.training import adam, l2_pgd_adversary

EPSILON = 0.8


@pytest.fixture(scope="module")
def digits() -> lipbench.data.Dataset:
    return lipbench.data.digits(keep=(0, 8))


def network(constraint=nn.Identity, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return models.mlp((1, 8, 8), 2, widths=[32, 16], constraint=constraint)


def train(digits, model, epochs=4, **options):
    options = {"loss": losses.cross_entropy, "optimizer": partial(adam, lr=5e-3), "batch_size": 64, **options}
    return lipbench.fit(model, digits, epochs=epochs, progress=False, **options)


def weights(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in layers.bake(model).parameters()])


@pytest.mark.parametrize("random_start", [True, False])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e3])
def test_it_stays_in_ball_and_box_and_raises_the_loss(random_start, scale):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 3), layers.Scale(scale))
    x = torch.rand(50, 1, 8, 8).round(decimals=1).clamp(0, 1)
    y = model(x).argmax(1)
    moved = l2_pgd_adversary(model, x, y, epsilon=EPSILON, random_start=random_start)
    assert moved.min() >= 0
    assert moved.max() <= 1
    lengths = distance(x, moved)
    assert lengths.max() <= EPSILON * (1 + 1e-6)
    assert not moved.requires_grad
    if scale == 1:
        before, after = (F.cross_entropy(model(images), y, reduction="none") for images in (x, moved))
        assert (after > before).all()
        assert lengths.min() > 0.9 * EPSILON, "the loss rises to the edge of the ball"
        random = x + 0.99 * EPSILON * F.normalize(torch.randn(50, 64)).view_as(x)
        noisy = F.cross_entropy(model(random), y)
        assert (after - before).mean() > 3 * (noisy - before.mean()), "noise of that length does less"


@pytest.mark.parametrize("random_start", [True, False])
def test_on_a_hyperplane_it_is_the_worst_image(random_start):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    x = 0.5 + 0.05 * torch.randn(30, 1, 8, 8)
    y = torch.randint(0, 2, (30,))
    normal = (model[1].weight[1] - model[1].weight[0]).detach()
    step = (1 - 2 * y)[:, None] * F.normalize(normal, dim=0)
    moved = l2_pgd_adversary(model, x, y, epsilon=0.4, steps=20, step_size=0.4, random_start=random_start)
    assert torch.allclose(moved, x + 0.4 * step.view_as(x), atol=1e-5)


def test_vanished_gradients_leave_a_point_of_the_ball():
    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack((x.sum((1, 2, 3)) * 0 + 1, x.sum((1, 2, 3)) * 0), 1)

    x = torch.rand(4, 1, 8, 8)
    y = torch.zeros(4, dtype=torch.long)
    assert torch.equal(l2_pgd_adversary(Constant(), x, y, epsilon=1.0, random_start=False), x)
    lengths = distance(x, l2_pgd_adversary(Constant(), x, y, epsilon=1.0))
    assert (lengths > 0).all()
    assert (lengths <= 1 + 1e-6).all()


def test_the_model_is_left_as_it_was():
    model = nn.Sequential(
        layers.constrain(nn.Conv2d(1, 4, 3), layers.Spectral), nn.BatchNorm2d(4), nn.Flatten(), nn.Dropout(),
        layers.constrain(nn.Linear(144, 2), layers.Bjorck),
    ).train()  # fmt: skip
    model[3].eval()
    model[1].weight.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        l2_pgd_adversary(model, torch.rand(6, 1, 8, 8), torch.tensor([0, 1] * 3), epsilon=1.0)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert [m.training for m in model] == [True, True, True, False, True]
    assert not model[1].weight.requires_grad
    assert all(p.requires_grad for name, p in model.named_parameters() if name != "1.weight")
    assert all(p.grad is None for p in model.parameters())
    model(torch.rand(6, 1, 8, 8)).sum().backward()
    assert model[4].parametrizations.weight.original.grad is not None, "no weight of the adversary is kept"


def test_nonsense_is_refused():
    x, y = torch.rand(2, 1, 8, 8), torch.tensor([0, 1])
    for options in ({"epsilon": 0.0}, {"epsilon": 1.0, "steps": 0}):
        with pytest.raises(ValueError, match=r"training\.adversary=null"):
            l2_pgd_adversary(network(), x, y, **options)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_training_against_it_gives_a_robust_network(digits, precision):
    robust = []
    adversary = partial(l2_pgd_adversary, epsilon=EPSILON)
    for chosen in (None, adversary):
        model = network()
        history = train(digits, model, 25, adversary=chosen, precision=precision)
        # Judged by attacks that search the distance: not by the one that it was trained against.
        table = lipbench.evaluate(
            model, digits.test.images, digits.test.labels, ["l2_pgd", "deepfool"], [], progress=False
        )
        robust.append(float((best(table, "upper") > EPSILON).mean()))
        assert (table["label"] == table["prediction"]).mean() >= 0.95
    assert robust[1] >= robust[0] + 0.15, robust
    assert history[-1]["train_accuracy"] >= 0.8, "of adversarial images"
    assert history[0]["train_loss"] > history[-1]["train_loss"]


def test_a_killed_run_resumes_to_the_same_weights_and_the_seed_matters(digits, tmp_path):
    adversary = partial(l2_pgd_adversary, epsilon=EPSILON, steps=3)
    ends = []
    for seed in (0, 0, 1):
        model = network()
        train(digits, model, adversary=adversary, seed=seed)
        ends.append(weights(model))
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])

    calls = 0

    def dies(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls > 2 * (len(digits.train.labels) // 64) + 1:  # in the third epoch
            raise KeyboardInterrupt
        return adversary(model, x, y)

    path = tmp_path / "checkpoint.pt"
    with pytest.raises(KeyboardInterrupt):
        train(digits, network(), adversary=dies, checkpoint=path)
    resumed = network(seed=7)
    train(digits, resumed, adversary=adversary, checkpoint=path)
    assert torch.equal(ends[0], weights(resumed))


def test_it_follows_augmentation_and_sees_the_labels(digits):
    seen = []

    def whitened(x: Tensor) -> Tensor:
        return torch.full_like(x, 0.25)

    def spy(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        seen.append((float(x.min()), float(x.max()), set(y.tolist()), model.training))
        return x

    train(digits, network(), 1, augment=whitened, adversary=spy)
    assert seen == [(0.25, 0.25, {0, 1}, True)] * (len(digits.train.labels) // 64)


def test_saturated_logits_do_not_blind_it():
    torch.manual_seed(1)
    body = nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 3))
    x = torch.rand(50, 1, 8, 8)
    y = body(x).argmax(1)
    fooled = []
    for scale in (1e2, 1e4, 1e6):
        model = nn.Sequential(body, layers.Scale(scale))
        moved = l2_pgd_adversary(model, x, y, epsilon=3.0, random_start=False)
        fooled.append(int((model(moved).argmax(1) != y).sum()))
    assert fooled[0] > 10
    assert fooled[1] == fooled[2] == fooled[0]


@pytest.mark.parametrize(
    "options", [{"epsilon": torch.nan}, {"epsilon": torch.inf}, {"step_size": -1.0}, {"step_size": torch.nan}]
)
def test_senseless_options_are_refused(options):
    x = torch.rand(2, 1, 8, 8)
    with pytest.raises(ValueError, match="finite radius > 0"):
        l2_pgd_adversary(network(), x, torch.zeros(2, dtype=torch.long), **{"epsilon": 1.0, **options})


def test_an_unknown_precision_is_refused(digits):
    with pytest.raises(ValueError, match="float32, tf32 or bfloat16, not 'bf16'"):
        train(digits, network(), precision="bf16")
