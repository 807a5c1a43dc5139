"""Classes of unequal size: balanced batches, and accuracies of each class alike."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import lipbench
from lipbench import layers, losses
from lipbench.data import Dataset, Split
from lipbench.figures import accuracy_curves
from lipbench.report import find_runs, leaderboard, write_leaderboard
from lipbench.results import (
    bounds_table,
    class_accuracies,
    imbalance,
    summarize,
    write_bounds,
    write_manifest,
    write_summary,
)
from lipbench.training import adam
from lipbench.training.batches import balanced_batches, shuffled_batches
from lipbench.training.monitor import monitor

# 4 %, as moustaches.
RARE = torch.tensor([1] * 8 + [0] * 192)


def shares(batches: list[torch.Tensor], labels: torch.Tensor, classes: int) -> torch.Tensor:
    return torch.stack([torch.bincount(labels[b], minlength=classes) for b in batches])


@pytest.mark.parametrize(("classes", "size"), [(2, 32), (2, 33), (3, 32), (10, 7)])
def test_balanced_batches_have_equal_shares(classes, size):
    labels = torch.randint(0, classes, (300,)) * (torch.rand(300) < 0.3)
    batches = balanced_batches(labels, size, 5, classes)
    assert len(batches) == len(shuffled_batches(labels, size, 5)) == 300 // size
    counts = shares(batches, labels, classes)
    assert (counts.amax(1) - counts.amin(1) <= 1).all()
    assert (counts.sum(1) == size).all()
    # So has the share of each of two processes.
    halves = [half for batch in batches for half in batch[: size // 2 * 2].split(size // 2)]
    counts = shares(halves, labels, classes)
    assert (counts.amax(1) - counts.amin(1) <= 1).all()


def test_balanced_batches_use_every_image_of_a_rare_class_before_any_again():
    used = torch.cat(balanced_batches(RARE, 20, 0, 2))
    times = torch.bincount(used, minlength=200)
    assert set(times[:8].tolist()) == {12, 13}, "100 places for 8 images"
    assert times[8:].max() == 1
    assert times[8:].sum() == 100


def test_batches_depend_on_the_key_alone():
    for make in (shuffled_batches, lambda *a: balanced_batches(*a, 2)):
        one = torch.cat(make(RARE, 20, 3))
        torch.manual_seed(99)
        assert torch.equal(one, torch.cat(make(RARE, 20, 3)))
        assert not torch.equal(one, torch.cat(make(RARE, 20, 4)))
    assert torch.cat(shuffled_batches(RARE, 30, 0)).unique().numel() == 180


def test_a_class_without_images_cannot_be_balanced():
    with pytest.raises(ValueError, match=r"class 2 has none"):
        balanced_batches(RARE, 20, 0, 3)


def rare(count: int = 400) -> Dataset:
    """The fraction 1/25 of class 1: a bright spot on noise, weak enough that "no" is the easy answer."""
    generator = torch.Generator().manual_seed(1)

    def split(count: int) -> Split:
        labels = (torch.arange(count) % 25 == 0).long()
        images = 0.4 * torch.rand(count, 1, 6, 6, generator=generator)
        images[:, 0, 2, 2] += 0.4 * labels
        return Split((255 * images).to(torch.uint8), labels)

    return Dataset("rare", ("no", "yes"), split(count), split(count), split(count))


def train(data: Dataset, epochs: int = 15, **options):
    torch.manual_seed(0)
    model = lipbench.models.mlp(data.shape, 2, widths=[8], constraint=layers.Bjorck, activation=layers.MaxMin)
    chosen = {"loss": losses.cross_entropy, "batch_size": 50, "progress": False, **options}
    return lipbench.fit(model, data, optimizer=lambda m: adam(m, lr=0.02), epochs=epochs, **chosen), model


def test_balanced_training_finds_the_rare_class():
    data = rare()
    plain, _ = train(data)
    even, _ = train(data, balanced=True)
    assert plain[-1]["validation_sensitivity"] < 0.1
    assert plain[-1]["validation_accuracy"] > 0.95
    assert even[-1]["validation_sensitivity"] > 0.6
    assert even[-1]["validation_balanced_accuracy"] > plain[-1]["validation_balanced_accuracy"] + 0.15
    weighted, _ = train(data, loss=lambda z, y: losses.cross_entropy(z, y, balanced=True))
    assert weighted[-1]["validation_sensitivity"] > 0.6


def test_balanced_training_resumes_to_the_same_weights(tmp_path):
    data = rare(200)
    _, whole = train(data, 4, balanced=True)
    train(data, 2, balanced=True, schedule=lambda p: 1.0, checkpoint=tmp_path / "c.pt")
    again, resumed = train(data, 4, balanced=True, schedule=lambda p: 1.0, checkpoint=tmp_path / "c.pt")
    _, constant = train(data, 4, balanced=True, schedule=lambda p: 1.0)
    assert len(again) == 4
    assert all(torch.equal(a, b) for a, b in zip(resumed.parameters(), constant.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(resumed.parameters(), whole.parameters(), strict=True))


def test_kr_of_balanced_batches_is_that_of_the_classes():
    """The mean of class-conditional means over the batches is the difference of the classes' means, which that of the
    plain batches is not: many of them lack a class and have no estimate.
    """
    torch.manual_seed(1)
    f = torch.randn(200)
    logits = torch.stack((-f / 2, f / 2), 1)
    truth = float(f[RARE == 0].mean() - f[RARE == 1].mean())

    def mean(batches: list[torch.Tensor]) -> float:
        return float(torch.stack([losses.kr(logits[b], RARE[b]) for b in batches]).mean())

    even = [mean(balanced_batches(RARE, 10, key, 2)) for key in range(40)]
    plain = [mean(shuffled_batches(RARE, 10, key)) for key in range(40)]
    assert np.mean(even) == pytest.approx(truth, abs=0.05)
    assert abs(np.mean(plain)) < 0.6 * abs(truth)


def test_accuracies_of_classes():
    labels, predictions = np.array([0] * 8 + [1] * 2), np.array([0] * 8 + [0, 1])
    assert class_accuracies(labels, predictions, 2) == {
        "balanced_accuracy": 0.75,
        "sensitivity": 0.5,
        "specificity": 1.0,
    }
    assert class_accuracies(labels, predictions, 3) == {"balanced_accuracy": 0.75}
    alone = class_accuracies(np.zeros(4, int), np.array([0, 0, 0, 1]), 2)
    assert alone["balanced_accuracy"] == alone["specificity"] == 0.75
    assert math.isnan(alone["sensitivity"])
    assert imbalance(labels) == 4
    assert imbalance(np.array([0, 0, 3])) == 2


def run(root, name: str, labels: np.ndarray, predictions: np.ndarray) -> dict:
    folder = root / "data" / name / "default" / "0"
    distances = (labels == predictions).astype(float)
    table = bounds_table(range(len(labels)), labels, predictions, "certificate", "lower", distances)
    write_bounds(folder, table, {})
    summary = write_summary(folder, {"lipschitz": 1.0, "flags": []}, {})
    write_manifest(folder)
    return summary


def test_history_certifies_each_class_alike():
    images = torch.full((5, 1, 1, 2), 255, dtype=torch.uint8)
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
        model[1].bias.zero_()
    row = monitor(model.eval(), Split(images, torch.tensor([0, 0, 0, 0, 1])), losses.hinge, epsilon=0.5)
    assert row["certified_accuracy"] == pytest.approx(0.8)
    assert row["balanced_certified_accuracy"] == 0.5


def test_summary_and_leaderboard_tell_a_rare_class(tmp_path):
    labels = (np.arange(50) % 25 == 0).astype(int)
    summary = run(tmp_path, "says_no", labels, np.zeros(50, int))
    assert summary["accuracy"] == pytest.approx(0.96)
    assert summary["balanced_accuracy"] == 0.5
    assert (summary["sensitivity"], summary["specificity"]) == (0.0, 1.0)
    assert summary["imbalance"] == 24
    # Certified at 0.5 are the 48 images of class 0 and neither of class 1.
    assert summary["certified_accuracy"]["0.5"] == pytest.approx(0.96)
    assert summary["balanced_certified_accuracy"]["0.5"] == 0.5
    assert summary["balanced_robust_accuracy"] is None
    run(tmp_path, "knows", labels, labels)
    runs = find_runs(tmp_path)
    board = leaderboard(runs)
    assert board.set_index("experiment")["test balanced accuracy"].to_dict() == {"knows": 100.0, "says_no": 50.0}
    text = write_leaderboard(board, runs)
    assert "accuracies are means over the classes" in text
    assert board.set_index("experiment")["test cert @ 0.5"].to_dict() == {"knows": 100.0, "says_no": 50.0}
    assert "cert @ 0.5" not in board, "nothing was attacked"
    csv = pd.read_csv(tmp_path / "leaderboard.csv")
    assert csv["test specificity"].tolist() == [100.0, 100.0]


def test_robust_accuracy_of_each_class_alike():
    labels = np.array([0, 0, 0, 0, 1])
    table = bounds_table(range(5), labels, labels, "deepfool", "upper", np.array([0.5, 0.5, 2.0, 2.0, 0.5]))
    summary = summarize(table, [0.25, 1.0])
    assert summary["robust_accuracy"] == {"0.25": 1.0, "1": 0.4}
    assert summary["balanced_robust_accuracy"] == {"0.25": 1.0, "1": 0.25}


def test_curves_of_unequal_classes_count_each_alike():
    labels = np.array([0, 0, 0, 0, 1])
    table = bounds_table(range(5), labels, labels, "deepfool", "upper", np.array([0.5, 0.5, 2.0, 2.0, 0.5]))
    table = table.assign(dataset="data", experiment="network", variant="default", seed=0)
    figure = accuracy_curves(table)
    assert figure.get_supylabel() == "balanced accuracy (%)"
    (line,) = [line for line in figure.axes[0].lines if line.get_label() == "all attacks"]
    x, y = line.get_data()
    assert y[np.searchsorted(x, 1.0)] == pytest.approx(25.0)
    even = accuracy_curves(table[table["index"] > 2])
    assert even.get_supylabel() == "accuracy (%)"


def test_equal_classes_leave_the_leaderboard_as_it_is(tmp_path):
    labels = np.arange(50) % 2
    run(tmp_path, "even", labels, np.zeros(50, int))
    runs = find_runs(tmp_path)
    board = leaderboard(runs)
    assert "means over the classes" not in write_leaderboard(board, runs)
    table = bounds_table(range(3), [0, 1, 2], [0, 1, 1], "certificate", "lower", [1.0, 1.0, 0.0])
    assert "sensitivity" not in summarize(table)
    assert summarize(table)["balanced_accuracy"] == pytest.approx(2 / 3)
