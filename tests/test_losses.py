"""Losses against their definitions, with imbalance and absent classes."""

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
