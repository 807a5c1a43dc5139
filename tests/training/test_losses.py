"""Losses against their definitions, with imbalance and absent classes."""

from functools import partial

import pytest
import torch
from torch import Tensor

from lipbench import losses


def binary(f: list[float]) -> Tensor:
    z = torch.tensor(f)
    return torch.stack((-z / 2, z / 2), 1)


def test_binary_kr_is_the_difference_of_class_means():
    logits, labels = binary([1.0, 3.0, -2.0, 5.0]), torch.tensor([1, 1, 0, 1])
    assert losses.kr(logits, labels).item() == pytest.approx(-2 - 3)
    # The mean of a class does not depend on how often it is there.
    twice = torch.cat((logits, logits[:2], logits[3:]))
    assert losses.kr(twice, torch.tensor([1, 1, 0, 1, 1, 1, 1])).item() == pytest.approx(-5)


def test_one_vs_all_kr_and_hinge_against_loops():
    torch.manual_seed(0)
    logits, labels = torch.randn(30, 4), torch.randint(0, 4, (30,))
    kr = sum(logits[labels != k, k].mean() - logits[labels == k, k].mean() for k in range(4))
    assert torch.allclose(losses.kr(logits, labels), kr)
    signs = torch.where(labels[:, None] == torch.arange(4), 1.0, -1.0)
    hinge = sum((0.7 - signs[:, k] * logits[:, k]).clamp_min(0).mean() for k in range(4))
    assert torch.allclose(losses.hinge(logits, labels, margin=0.7), hinge)


def test_hinge_is_on_f_and_not_on_half_of_it():
    assert losses.hinge(binary([0.4, -0.4]), torch.tensor([1, 0]), margin=1.0).item() == pytest.approx(0.6)


def test_hkr_interpolates():
    logits, labels = binary([0.2, 1.5, -0.3]), torch.tensor([1, 0, 0])
    kr, hinge = losses.kr(logits, labels), losses.hinge(logits, labels, margin=2.0)
    assert torch.allclose(losses.hkr(logits, labels, margin=2.0, alpha=0.9), 0.9 * hinge + 0.1 * kr)


def test_balanced_hinge_weighs_classes_alike():
    logits, labels = binary([1.0] * 9 + [1.0]), torch.tensor([1] * 9 + [0])
    assert losses.hinge(logits, labels, margin=1.0).item() == pytest.approx(0.2)
    assert losses.hinge(logits, labels, margin=1.0, balanced=True).item() == pytest.approx(1.0)


@pytest.mark.parametrize("classes", [2, 5])
def test_an_absent_class_gives_finite_values_and_gradients(classes):
    logits = torch.randn(6, classes, requires_grad=True)
    labels = torch.ones(6, dtype=torch.long)
    losses.hkr(logits, labels, balanced=True).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    # Nothing to compare with: the transport term must not push f in one direction.
    fresh = logits.detach().clone().requires_grad_()
    losses.kr(fresh, labels).backward()
    assert fresh.grad is not None
    absent = [k for k in range(classes) if k != 1]
    assert torch.equal(fresh.grad[:, absent], torch.zeros(6, len(absent)))


def test_cross_entropies():
    torch.manual_seed(0)
    logits, labels = torch.randn(8, 2), torch.randint(0, 2, (8,))
    assert torch.allclose(losses.cross_entropy(logits, labels), torch.nn.functional.cross_entropy(logits, labels))
    for t in (0.1, 1.0, 10.0):
        expected = torch.nn.functional.cross_entropy(t * logits, labels) / t
        assert torch.allclose(losses.cross_entropy(logits, labels, temperature=t), expected)
        assert torch.allclose(losses.binary_cross_entropy(logits, labels, temperature=t), expected, atol=1e-6)
    with pytest.raises(ValueError, match="two logits"):
        losses.binary_cross_entropy(torch.randn(3, 4), torch.zeros(3, dtype=torch.long))


def test_margin_cross_entropy_asks_for_the_offset():
    logits, labels = torch.tensor([[1.0, 0.0]]), torch.tensor([0])
    even = losses.margin_cross_entropy(logits, labels, offset=1.0, temperature=0.5)
    assert even.item() == pytest.approx(0.5 * torch.tensor(2.0).log().item())
    assert losses.margin_cross_entropy(logits, labels, offset=0.0, temperature=0.5) < even


BALANCED = [
    losses.cross_entropy,
    losses.binary_cross_entropy,
    losses.margin_cross_entropy,
    losses.hinge,
    partial(losses.hkr, alpha=1.0),
    losses.soft_hkr,
]


@pytest.mark.parametrize("loss", BALANCED)
def test_balanced_is_the_mean_of_the_classes_means(loss):
    classes = 2 if loss in (losses.binary_cross_entropy, losses.hinge) else 4
    logits, labels = torch.randn(40, classes), torch.randint(0, classes - 1, (40,))
    labels[:30] = 0
    if loss is losses.soft_hkr:  # its sharpness is of the batch
        loss = partial(loss, temperature=0.0)
    parts = [loss(logits[labels == k], labels[labels == k]) for k in labels.unique()]
    assert torch.allclose(loss(logits, labels, balanced=True), torch.stack(parts).mean())
    if len(parts) > 1:
        assert not torch.allclose(loss(logits, labels), torch.stack(parts).mean())


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize(
    ("loss", "name"),
    [
        (losses.hinge, "margin"),
        (losses.hkr, "margin"),
        (losses.soft_hkr, "margin"),
        (losses.margin_cross_entropy, "offset"),
    ],
)
def test_margins_per_class_are_those_of_the_images_of_the_class(loss, name, classes):
    logits = torch.randn(12, classes)
    margins = [0.5 + k for k in range(classes)]
    for k in range(classes):
        labels = torch.full((12,), k)
        assert torch.equal(loss(logits, labels, **{name: margins}), loss(logits, labels, **{name: margins[k]}))
    labels = torch.arange(12) % classes
    assert not torch.allclose(loss(logits, labels, **{name: margins}), loss(logits, labels, **{name: margins[0]}))
    with pytest.raises(ValueError, match=f"all {classes} classes"):
        loss(logits, labels, **{name: [*margins, 1.0]})


def test_soft_hkr_against_its_formula():
    logits, labels = torch.randn(20, 5), torch.randint(0, 5, (20,))
    m, alpha, temperature = 0.7, 0.9, 1.3
    sharpness = temperature * 2 * m / logits.abs().mean()
    total = 0.0
    for z, y in zip(logits, labels, strict=True):
        rivals = torch.cat((z[:y], z[y + 1 :]))
        weights = torch.softmax(sharpness * rivals, 0)
        wrong = weights * (alpha * (m + rivals).clamp_min(0) + (1 - alpha) * rivals)
        total += alpha * (m - z[y]).clamp_min(0) - (1 - alpha) * z[y] + wrong.sum()
    value = losses.soft_hkr(logits, labels, margin=m, alpha=alpha, temperature=temperature)
    assert torch.allclose(value, total / 20)


def test_soft_hkr_of_two_classes_and_of_logits_of_zero():
    logits, labels = torch.randn(9, 2), torch.arange(9) % 2
    assert torch.equal(losses.soft_hkr(logits, labels), losses.hkr(logits, labels))
    zero = torch.zeros(6, 3, requires_grad=True)
    losses.soft_hkr(zero, torch.arange(6) % 3).backward()
    assert zero.grad is not None
    assert zero.grad.isfinite().all()
    assert (zero.grad != 0).all()


def test_soft_hkr_carries_no_gradient_through_its_weights():
    logits, labels = torch.randn(7, 3, requires_grad=True), torch.arange(7) % 3
    losses.soft_hkr(logits, labels, margin=1e-3, alpha=0.0).backward()
    # Pure transport: minus the true logit plus the weighted rivals, whose weights add up to 1.
    assert logits.grad is not None
    assert torch.allclose(logits.grad.sum(1), torch.zeros(7), atol=1e-6)
    assert torch.allclose(logits.grad.gather(1, labels[:, None]), torch.full((7, 1), -1 / 7))


@pytest.mark.parametrize(
    ("loss", "options"),
    [
        (losses.hkr, {"margin": -1.0}),
        (losses.hkr, {"alpha": 1.1}),
        (losses.hinge, {"margin": [1.0, -0.1]}),
        (losses.soft_hkr, {"alpha": -0.1}),
        (losses.margin_cross_entropy, {"offset": -1.0}),
        (losses.cross_entropy, {"temperature": 0.0}),
        (losses.binary_cross_entropy, {"temperature": -2.0}),
    ],
)
def test_options_that_ask_for_mistakes_are_refused(loss, options):
    (value,) = options.values()
    with pytest.raises(ValueError, match=f"got {value}".replace("[", r"\[")):
        loss(torch.randn(4, 2), torch.tensor([0, 1, 1, 0]), **options)
