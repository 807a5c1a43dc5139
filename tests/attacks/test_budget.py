"""A budget of propagations per image, which the classifier counts and enforces."""

from typing import ClassVar

import pytest
import torch
from helpers.hyperplanes import SHAPE, Hyperplane, interior, judged
from torch import nn

from lipbench import attacks
from lipbench.judge import BudgetSpent, Classifier, Judge, Meter, distance
from lipbench.margins import margin_and_gradient
from lipbench.modules import duplicate


class Counting(nn.Module):
    """Counts by itself what goes through it forwards and backwards."""

    def __init__(self, model):
        super().__init__()
        self.model, self.counts = model, [0, 0]

    def forward(self, x):
        self.counts[0] += len(x)
        logits = self.model(x)
        if logits.requires_grad and x.requires_grad:
            logits.register_hook(self._backward)
        return logits

    def _backward(self, gradient):
        self.counts[1] += len(gradient)


def test_passes_are_counted_in_both_directions():
    classifier, x = Classifier(Hyperplane(classes=10)), interior(5)
    margin_and_gradient(classifier, x, torch.zeros(5, dtype=torch.long))
    assert (classifier.passes, classifier.backward_passes) == (5, 5)


class Everywhere(nn.Module):
    """Counts in all of its copies what goes through it, in either direction."""

    counts: ClassVar[list[int]] = []

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        self.counts.append(len(x))
        logits = self.model(x)
        if logits.requires_grad:
            logits.register_hook(lambda gradient: self.counts.append(len(gradient)))
        return logits


@pytest.mark.parametrize(
    "attack", [attacks.ddn, attacks.deepfool, attacks.carlini_wagner, attacks.hop_skip_jump, attacks.falsifier]
)
def test_no_attack_spends_more(attack):
    model, x = Everywhere(Hyperplane(classes=10)), interior(3)
    y = model(x).argmax(1)
    for row in range(3):
        classifier, meter = Classifier(model), Meter(x[row : row + 1], y[row : row + 1], 30)
        model.counts.clear()
        with pytest.raises(BudgetSpent), meter.watching(classifier):
            attack(classifier, x[row : row + 1], y[row : row + 1])
        # A call that is refused leaves no trace in the network, and one of the gradient leaves it at its end.
        assert sum(model.counts) <= 30 + 1
        assert 20 <= meter.spent <= 30


def sneaky(model, x, y):
    """Goes to the network past the classifier, by keyword too, to its float64 copy, and to a copy of its own."""
    inner, moved = model.model, (x + 0.4).clamp(0, 1)
    for _ in range(50):
        inner(moved)
        inner(x=moved)
        model._float64[0](moved.double())
        duplicate(inner)(moved)
        torch.autograd.grad(inner(moved.requires_grad_()).sum(), moved)
    return moved.detach()


@pytest.mark.parametrize("budget", [1, 5, 120, 10_000])
def test_who_goes_past_the_classifier_is_counted_and_refused_too(budget):
    model, x = Everywhere(Hyperplane()), interior(2)
    y, classifier = model(x).argmax(1), Classifier(model)
    model.counts.clear()
    attacks.within(sneaky, budget)(classifier, x, y)
    spent = classifier.passes + classifier.backward_passes
    assert spent == 2 * min(budget, 50 * 6)
    # The checks of the result come on top, and are the judge's.
    assert spent <= sum(model.counts) <= spent + 2 * (1 + 4)
    assert not model._forward_hooks
    assert not model._forward_pre_hooks
    assert not classifier._float64[0]._forward_pre_hooks


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_a_scripted_network_is_counted():
    model = torch.jit.trace(Hyperplane().eval(), torch.rand(1, *SHAPE), check_trace=False)
    x = interior(2)
    y, classifier = model(x).argmax(1), Classifier(model)

    def greedy(model, x, y):
        for _ in range(100):
            model.model(x)

    attacks.within(greedy, 7)(classifier, x, y)
    assert classifier.passes == 2 * 7


def test_what_is_reported_keeps_to_the_budget():
    model, x = Hyperplane(), interior(4)
    y, classifier = model(x).argmax(1), Classifier(model)
    attacks.within(attacks.ddn, 120)(classifier, x, y)
    assert 4 * 100 < classifier.passes + classifier.backward_passes <= 4 * 120


def test_an_attack_that_catches_everything_is_stopped_too():
    model, x = Hyperplane(), interior(2)
    y = model(x).argmax(1)

    def stubborn(model, x, y):
        for _ in range(10**6):
            try:
                model((x + 0.4).clamp(0, 1))
            except Exception:
                continue
        return x

    found = attacks.within(stubborn, 20)(model, x, y)
    assert found.shape == x.shape


def test_the_best_image_passed_is_returned_when_the_budget_is_spent():
    model, x = Hyperplane(), interior(8)
    y = model(x).argmax(1)
    passed = attacks.within(attacks.ddn, 120)(model, x, y)
    whole = judged(model, x, attacks.ddn(model, x, y), y)
    short = judged(model, x, passed, y)
    found = short.isfinite()
    assert found.sum() >= 6
    assert (short[found] >= 0.999 * whole[found]).all()
    assert (short[found] <= 1.5 * whole[found]).all()


def test_a_larger_budget_is_never_worse_and_enough_changes_nothing():
    model, x = Hyperplane(classes=10), interior(6)
    y = model(x).argmax(1)
    lengths = [distance(x, attacks.within(attacks.ddn, budget)(model, x, y)) for budget in (120, 200, 10_000)]
    lengths = [length.where(length > 0, torch.inf) for length in lengths]
    assert (lengths[1] <= lengths[0]).all()
    assert (lengths[2] <= lengths[1]).all()
    assert torch.allclose(lengths[2], distance(x, attacks.ddn(model, x, y)), rtol=1e-3)


def test_anytime_falls_and_ends_at_the_result():
    model, x = Hyperplane(), interior(3)
    y = model(x).argmax(1)
    for trace, image, label in zip(attacks.anytime(attacks.ddn, model, x, y), x, y, strict=True):
        costs, lengths = zip(*trace, strict=True)
        assert list(costs) == sorted(costs)
        assert list(lengths) == sorted(lengths, reverse=True)
        found = attacks.ddn(model, image[None], label[None])
        assert lengths[-1] == pytest.approx(float(distance(image[None], found)), rel=1e-4)


def test_what_the_classifier_counts_is_what_the_model_sees():
    model = Counting(Hyperplane(classes=10))
    x = torch.rand(1, *SHAPE)
    y = model(x).argmax(1)
    model.counts = [0, 0]
    classifier = Classifier(model)
    attacks.deepfool(classifier, x, y)
    exact = classifier._float64[0].counts
    assert classifier.passes == model.counts[0] + exact[0]
    assert classifier.backward_passes == model.counts[1]
    assert classifier.backward_passes > 0


def test_misclassified_images_cost_nothing():
    model, x = Hyperplane(), interior(4)
    y = 1 - model(x).argmax(1)
    assert torch.equal(attacks.within(attacks.ddn, 10)(model, x, y), x)
    assert Judge(model)(x, y).all()


def test_a_budget_of_nothing_is_refused():
    with pytest.raises(ValueError, match="budget=0"):
        attacks.within(attacks.ddn, 0)


def test_an_image_that_is_adversarial_by_rounding_alone_is_not_the_result() -> None:
    """It is not adversarial in the next batch, and the image would count as never broken."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 2)).eval()
    x = 0.2 + 0.6 * torch.rand(1, 1, 28, 28)
    y, judge = net(x).argmax(1), Judge(net)
    way = attacks.l2_pgd(net, x, y) - x
    far = x + 1.02 * way
    path = x + torch.linspace(0.9999, 1.0001, 2001).view(-1, 1, 1, 1) * way
    unsure = judge(path, y.expand(len(path))) & ~judge.surely(path, y.expand(len(path)))
    assert unsure.any(), "the test needs one"
    near = path[unsure.nonzero()[0]]

    def own(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        model(far)
        model(near)
        model(x.expand(9, *x.shape[1:]))
        return x

    assert distance(x, near) < distance(x, far)
    found = attacks.within(own, 5)(net, x, y)
    assert torch.equal(found, far)
