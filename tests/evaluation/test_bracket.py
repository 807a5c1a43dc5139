"""Both sides of the distance, each from the other's result."""

import pytest
import torch
from torch import nn

import lipbench
from lipbench import layers
from lipbench.certificate import certify
from lipbench.judge import Judge, distance


def isometry(pixels: int, classes: int) -> nn.Sequential:
    parts = [nn.Linear(pixels, pixels), layers.MaxMin(), nn.Linear(pixels, classes)]
    for dense in parts[::2]:
        nn.init.orthogonal_(dense.weight)
    return nn.Sequential(nn.Flatten(), *parts).eval()


@pytest.mark.parametrize(("classes", "solved"), [(2, 0.7), (5, 0.5)])
def test_it_meets_in_the_middle(classes: int, solved: float) -> None:
    model = isometry(36, classes)
    x = torch.rand(30, 1, 6, 6).mul(1.5).sub(0.25).clamp(0, 1)
    y = model(x).argmax(1)
    found = lipbench.bracket(model, x, y)
    assert (found.lower <= found.upper).all()
    assert (found.lower >= certify(model, x, y)).all()
    assert found.solved(1e-2).float().mean() >= solved
    assert (found.upper <= 1.01 * certify(model, x, y)).float().mean() < solved, "from |f(x)| alone"
    assert (found.solved(1e-2) | ~found.solved(1e-3)).all()
    known = found.upper.isfinite()
    assert known.float().mean() >= 0.9
    assert Judge(model)(found.images, y)[known].all()
    assert torch.equal(distance(x, found.images)[known], found.upper[known])
    assert ((found.images >= 0) & (found.images <= 1)).all()
    assert found.proof is not None
    assert torch.allclose(found.proof.radius(), found.lower, rtol=1e-6)
    assert "% to 0.1%" in str(found)


def test_mistakes_have_the_distance_zero_and_networks_without_a_bound_the_lower_one() -> None:
    model, x = isometry(16, 3), torch.rand(10, 1, 4, 4)
    y = model(x).argmin(1)
    found = lipbench.bracket(model, x, y, rounds=1)
    assert (found.upper == 0).all()
    assert (found.lower == 0).all()
    assert found.solved().all()
    unbounded = nn.Sequential(model, nn.Softmax(1)).eval()
    y = model(x).argmax(1)
    found = lipbench.bracket(unbounded, x, rounds=1)
    assert (found.lower == 0).all()
    assert found.upper.isfinite().any()
    assert not found.solved().any()


@pytest.mark.parametrize("wrong", [{"gap": -0.1}, {"rounds": -1}, {"gap": float("nan")}])
def test_options_that_make_no_sense(wrong: dict) -> None:
    with pytest.raises(ValueError, match="gap and rounds"):
        lipbench.bracket(isometry(4, 2), torch.rand(2, 1, 2, 2), **wrong)
