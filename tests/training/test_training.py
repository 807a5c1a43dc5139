"""`fit`: determinism, exact resume, honest history, errors for people."""

from functools import partial

import pytest
import torch
from torch import nn

import lipbench
from lipbench import layers, losses
from lipbench.training import (
    CheckpointError,
    TrainingDiverged,
    adam,
    constant,
    cosine,
    quadratic,
    random_affine,
    spectral,
)

LOSS = partial(losses.hkr, margin=1.0)


@pytest.fixture(scope="module")
def digits() -> lipbench.data.Dataset:
    return lipbench.data.digits(keep=(0, 8))


def network(constraint=layers.Orthogonal, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return lipbench.models.mlp((1, 8, 8), 2, widths=[16, 8], constraint=constraint, activation=layers.MaxMin)


def train(digits, model, epochs=4, **options):
    options = {"loss": LOSS, "optimizer": spectral, "batch_size": 32, "progress": False, **options}
    return lipbench.fit(model, digits, epochs=epochs, **options)


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in layers.bake(model).parameters()])


def test_same_seed_same_weights_and_another_seed_others(digits):
    runs = []
    for seed in (0, 0, 1):
        model = network()
        train(digits, model, seed=seed)
        runs.append(weights(model))
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


@pytest.mark.parametrize(("optimizer", "constraint"), [(spectral, layers.Orthogonal), (adam, layers.Bjorck)])
def test_a_killed_run_resumes_to_the_same_weights(digits, tmp_path, optimizer, constraint):
    whole = network(constraint)
    history = train(digits, whole, 5, optimizer=optimizer)

    calls = 0

    def failing(logits, labels):
        nonlocal calls
        calls += 1
        if calls > 22:  # in the third epoch
            raise KeyboardInterrupt
        return LOSS(logits, labels)

    path = tmp_path / "checkpoint.pt"
    with pytest.raises(KeyboardInterrupt):
        train(digits, network(constraint), 5, loss=failing, optimizer=optimizer, checkpoint=path)
    resumed = network(constraint, seed=7)  # another start: everything must come from the checkpoint
    again = train(digits, resumed, 5, optimizer=optimizer, checkpoint=path)
    assert torch.equal(weights(whole), weights(resumed))
    assert [{k: v for k, v in r.items() if k != "seconds"} for r in history] == [
        {k: v for k, v in r.items() if k != "seconds"} for r in again
    ]


def test_a_foreign_checkpoint_is_refused(digits, tmp_path):
    path = tmp_path / "checkpoint.pt"
    train(digits, network(), 1, checkpoint=path)
    other = lipbench.models.mlp((1, 8, 8), 2, widths=[4], constraint=layers.Orthogonal, activation=layers.MaxMin)
    with pytest.raises(CheckpointError, match="Delete it"):
        train(digits, other, 2, checkpoint=path)
    path.write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt"):
        train(digits, network(), 2, checkpoint=path)


def test_nan_stops_with_a_clear_error(digits):
    with pytest.raises(TrainingDiverged, match="epoch 1"):
        train(digits, network(), 2, loss=lambda logits, labels: logits.sum() * torch.nan)


def test_history_says_what_the_network_does(digits):
    model = network()
    history = train(digits, model, 30)
    last = history[-1]
    assert set(last) == {
        "epoch", "steps", "train_loss", "train_accuracy", "validation_loss", "validation_accuracy", "kr",
        "wasserstein_bound", "validation_balanced_accuracy", "validation_sensitivity", "validation_specificity",
        "mean_certificate", "certified_accuracy", "balanced_certified_accuracy", "lipschitz", "gradient_norm",
        "seconds",
        *(f"{layer}.{column}" for layer in (1, 3, 5) for column in ("sigma_min", "sigma_max", "lipschitz", "gradient")),
    }  # fmt: skip
    assert [row["epoch"] for row in history] == list(range(1, 31))
    assert last["validation_accuracy"] >= 0.95
    assert history[0]["train_loss"] > last["train_loss"]
    # The whole map to two logits (-f/2, f/2) has sqrt 1/2 of f's constant, and f's gradient has norm 1.
    assert last["lipschitz"] == pytest.approx(0.5**0.5, abs=1e-4)
    assert 0.9 <= last["gradient_norm"] <= 1 + 1e-5
    assert 0 < last["mean_certificate"] <= last["kr"]


def test_the_test_set_is_never_touched(digits):
    blind = lipbench.data.Dataset(digits.name, digits.classes, digits.train, digits.validation, digits.validation)
    one, two = network(), network()
    train(digits, one, 2)
    train(blind, two, 2)
    assert torch.equal(weights(one), weights(two))


def test_global_randomness_is_left_alone(digits):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    model = network(layers.Frobenius)
    torch.manual_seed(5)
    train(digits, model, 1, optimizer=adam)
    assert torch.equal(torch.rand(3), expected)


def test_schedules():
    assert [constant(p) for p in (0, 0.5, 1)] == [1, 1, 1]
    assert cosine(0) == 1
    assert cosine(0.5) == pytest.approx(0.5)
    assert cosine(1) == pytest.approx(0)
    assert (quadratic(0), quadratic(0.5), quadratic(1)) == (1, 0.25, 0)


def test_minutes_stop_the_training_and_bring_the_rate_to_zero(digits, monkeypatch):
    seconds = iter(range(10**6))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(seconds)))
    rates = []

    def schedule(progress: float) -> float:
        rates.append(progress)
        return cosine(progress)

    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    history = lipbench.fit(
        model, digits, losses.cross_entropy, adam, epochs=1000, minutes=2.0, schedule=schedule, progress=False
    )
    assert 1 < len(history) < 1000
    assert 120 <= sum(row["seconds"] for row in history) <= 130
    assert rates == sorted(rates)
    assert rates[-1] > 0.95


def test_augmentation_changes_each_image_a_little_and_resumes_alike(digits):
    torch.manual_seed(0)
    x = torch.zeros(64, 1, 28, 28)
    x[:, :, 8:20, 8:20] = 1.0
    moved = random_affine(x, rotation=10, shift=1.0, scale=0.05)
    assert moved.shape == x.shape
    assert moved.min() >= 0
    assert moved.max() <= 1
    changes = (moved - x).flatten(1).norm(dim=1)
    assert changes.min() > 0.1
    assert changes.unique().numel() > 60, "each image has its own amount"
    assert torch.allclose(random_affine(x, rotation=0, shift=0, scale=0), x, atol=1e-5)
    ends = []
    for augment in (None, random_affine, random_affine):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        lipbench.fit(model, digits, losses.cross_entropy, adam, epochs=2, augment=augment, progress=False)
        ends.append(model[1].weight.detach())
    assert torch.equal(ends[1], ends[2])
    assert not torch.equal(ends[0], ends[1])


@pytest.mark.parametrize(("rotation", "shift"), [(90.0, 0.0), (0.0, 2.0)])
def test_augmentation_is_in_degrees_and_pixels(rotation, shift, monkeypatch):
    monkeypatch.setattr("torch.rand", torch.ones)  # the largest amount of each
    x = torch.zeros(1, 1, 9, 9)
    x[0, 0, 4, 7] = 1.0
    moved = random_affine(x, rotation=rotation, shift=shift, scale=0.0)
    row, column = divmod(int(moved.argmax()), 9)
    assert moved.max() == pytest.approx(1, abs=1e-4)
    assert (row - 4, column - 4) == ((-2, 1) if shift else (-3, 0))
