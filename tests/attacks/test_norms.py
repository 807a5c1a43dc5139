"""L-infinity and L1 next to L2: the rows of one image, and a law that holds without tolerance."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lipbench
from lipbench.evaluation.norms import distances, radii
from lipbench.judge import distance

SHAPES = [(1, 8, 8), (1, 28, 28), (3, 32, 32), (1, 5, 7)]


class Mean(nn.Module):
    """Class 1 where the mean pixel exceeds 1/2: the nearest adversarial change is the same in every pixel."""

    def forward(self, x: Tensor) -> Tensor:
        f = x.flatten(1).double().mean(1) - 0.5
        return torch.stack((-f, f), 1)


def across(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """A constant image on the other side of 1/2."""
    return torch.full_like(x, 0.5) + (0.5 - y.to(x))[:, None, None, None] / 50


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equality_is_no_violation(shape):
    """A constant change has ||delta||_inf sqrt d = ||delta||_2, a change of one pixel ||delta||_1 = ||delta||_2."""
    pixels = math.prod(shape)
    x = torch.zeros(200, *shape)
    constant = x + torch.rand(200)[:, None, None, None]
    l2 = distance(x, constant)
    upper, lower = distances(x, constant, l2), radii(l2, pixels)
    if math.isqrt(pixels) ** 2 != pixels:
        assert (l2 / math.sqrt(pixels) > upper["linf"]).any(), "rounded to nearest, the law would break here"
    assert (lower["linf"] <= upper["linf"]).all()
    assert torch.allclose(lower["linf"], upper["linf"], rtol=3e-9, atol=0)
    one = x.clone()
    one[:, 0, 1, 2] = torch.rand(200)
    l2 = distance(x, one)
    upper, lower = distances(x, one, l2), radii(l2, pixels)
    assert (lower["l1"] <= upper["l1"]).all()
    assert torch.allclose(lower["l1"], upper["l1"], rtol=3e-9, atol=0)


def test_norms_are_those_of_the_image_in_float64():
    x, images = torch.rand(5, 3, 4, 4), torch.rand(5, 3, 4, 4)
    l2 = distance(x, images)
    l2[1], l2[2] = 0.0, torch.inf
    images[2, 0, 0, 0] = torch.nan  # an attack that failed
    found = distances(x, images, l2)
    assert list(found) == list(radii(l2, 48)) == ["l2", "linf", "l1"]
    changes = (images.double() - x.double()).flatten(1).abs().numpy()
    for norm, order in (("l2", 2), ("linf", np.inf), ("l1", 1)):
        values = found[norm].numpy()
        assert values.dtype == np.float64
        assert np.allclose(values[[0, 3, 4]], np.linalg.norm(changes[[0, 3, 4]], order, axis=1), rtol=1e-14)
        assert values[1:3].tolist() == [0, np.inf]


def test_evaluate_gives_a_row_per_norm_and_the_law_holds_with_equality():
    x = 0.3 + 0.4 * torch.rand(40, 1, 5, 7)
    x[20:] = torch.rand(20)[:, None, None, None]  # constant images: a constant change
    y = (x.flatten(1).mean(1) > 0.5).long()
    y[:3] = 1 - y[:3]
    failed = torch.arange(40) % 7 == 6

    def attack(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return across(model, images, labels).where(~failed[:, None, None, None], images)

    def exact(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return distance(images, across(model, images, labels))

    options = {"batch_size": 40, "progress": False}
    table = lipbench.evaluate(Mean(), x, y, {"across": attack}, {"exact": exact}, **options)
    assert table.groupby(["method", "norm"]).size().to_dict() == {
        (method, norm): 40 for method in ("across", "exact") for norm in ("l1", "l2", "linf")
    }
    found = table.pivot(index="index", columns=["method", "norm"], values="distance")
    assert (found.iloc[:3] == 0).all(axis=None), "misclassified as it is"
    rest = failed.numpy() & (found.index >= 3)
    assert np.isinf(found["across"][rest]).all(axis=None), "a failure is one in every norm"
    good = ~failed.numpy() & (found.index >= 3)
    changes = (across(Mean(), x, y).double() - x.double()).flatten(1).numpy()[good]
    assert np.allclose(found["across"]["linf"][good], np.abs(changes).max(1), rtol=1e-12)
    assert np.allclose(found["across"]["l1"][good], np.abs(changes).sum(1), rtol=1e-12)
    ratio = (found["across"] / found["exact"])[good]
    assert (ratio >= 1).all(axis=None)
    assert np.allclose(ratio["linf"][ratio.index >= 20], 1, rtol=3e-9)
    assert (ratio["l1"] > 1.5).all(), "every pixel moved: L1 is not tight"

    def claimed(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return 1.00001 * exact(model, images, labels)

    with pytest.raises(lipbench.LawViolation, match=f"on {good.sum()} images") as error:
        lipbench.evaluate(Mean(), x, y, {"across": attack}, {"claimed": claimed}, **options)
    wrong = error.value.pairs.groupby("norm")["index"].apply(set)
    assert wrong["l2"] == set(found.index[good])
    assert wrong["linf"] == set(found.index[good & (found.index >= 20)])
    assert "l1" not in wrong
