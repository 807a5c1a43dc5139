"""One-class detection: AUROC by its definition, its certificate on hyperplanes, negatives that reach the level set."""

import copy
import sys

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from lipbench.certificate import lipschitz
from lipbench.data import digits, digits_one_class, one_class
from lipbench.layers import Antipodal
from lipbench.measures.one_class import EPSILONS, auroc, score_attack
from lipbench.results import LawViolation
from lipbench.training import level_set_negatives

# The name of the module is also that of the function.
outliers = sys.modules["lipbench.measures.one_class"]
SHAPE = (1, 3, 4)


@pytest.fixture
def hyperplane():
    """f(x) = <w, x - 1/2>, ||w|| = 1."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 1), Antipodal())
    with torch.no_grad():
        weight = torch.randn(1, 12, generator=torch.Generator().manual_seed(5))
        model[1].weight.copy_(weight / weight.norm())
        model[1].bias.copy_(-model[1].weight.sum(1) / 2)
    return model.eval()


@pytest.fixture
def points():
    generator = torch.Generator().manual_seed(6)
    return 0.5 + 0.2 * (torch.rand(200, *SHAPE, generator=generator) - 0.5), torch.arange(200) % 2


def f(model, x):
    with torch.no_grad():
        logits = model(x)
    return (logits[:, 1] - logits[:, 0]).numpy()


@pytest.mark.parametrize("shift", [0.0, 0.5, 2.0])
def test_auroc_is_that_of_scikit_learn(shift):
    generator = np.random.default_rng(0)
    inliers, others = generator.integers(0, 9, 60) / 2 + 0.5, generator.integers(0, 9, 80) / 2  # with ties
    expected = roc_auc_score([1] * 60 + [0] * 80, [*(inliers - shift), *others])
    assert auroc(inliers, others, shift) == pytest.approx(expected, abs=1e-12)


def test_nothing_is_certified_without_float64(hyperplane, points):
    class Single(nn.Module):
        def forward(self, x):
            return x.float()

    x, y = points
    whole = outliers.one_class(hyperplane, x, y, epsilons=(0.0, 0.01))
    assert whole["certified_auroc"].min() > 0
    # Its copy in float64 meets weights of another type, so that the rounding of the scores has no bound.
    model = nn.Sequential(Single(), *hyperplane).eval()
    lipschitz.register(Single)(lambda layer, shape: 1.0)
    table = outliers.one_class(model, x, y, epsilons=(0.0, 0.01))
    assert table["certified_auroc"].tolist() == [0.0, 0.0]
    assert table["attacked_auroc"][0] == pytest.approx(whole["attacked_auroc"][0])
    assert table["attacked_auroc"].min() > 0


def test_auroc_of_no_bound_is_0_and_of_no_image_is_refused():
    assert auroc(np.array([2.0]), np.array([1.0]), np.inf) == 0
    with pytest.raises(ValueError, match="1 and 0"):
        auroc(np.array([2.0]), np.array([]))
    for strange in (np.nan, np.inf):
        with pytest.raises(ValueError, match="are finite"):
            auroc(np.array([strange]), np.array([1.0]))


def test_on_a_hyperplane_the_attack_reaches_the_certificate(hyperplane, points):
    x, y = points
    epsilons = (0.0, 0.02, 0.05, 0.1)
    x = torch.where((y == 1).view(-1, 1, 1, 1), x + 0.1 * hyperplane[1].weight.view(SHAPE), x).detach()
    table = outliers.one_class(hyperplane, x, y, epsilons=epsilons)
    assert table["certified_auroc"].tolist() == sorted(table["certified_auroc"], reverse=True)
    assert table["certified_auroc"].iloc[-1] < 0.5 < table["certified_auroc"].iloc[0] < 1
    assert np.allclose(table["certified_auroc"], table["attacked_auroc"], atol=2e-3)
    assert table["lipschitz"].iloc[0] == pytest.approx(1, abs=1e-6)
    scores, labels = f(hyperplane, x), y.numpy()
    assert table["certified_auroc"].iloc[0] == pytest.approx(roc_auc_score(labels, scores))
    assert table["certified_auroc"].iloc[2] == pytest.approx(roc_auc_score(labels, scores - 0.1 * labels), abs=1e-3)


def test_the_attack_moves_scores_the_wrong_way_and_stays_in_its_ball(hyperplane, points):
    x, y = points
    for epsilon in (0.05, 3.0):  # the second one is stopped by the box
        moved = score_attack(hyperplane, x, y, epsilon=epsilon)
        assert ((moved >= 0) & (moved <= 1)).all()
        lengths = (moved.double() - x.double()).flatten(1).norm(dim=1)
        assert lengths.max() <= epsilon
        gains = (f(hyperplane, moved) - f(hyperplane, x)) * (1 - 2 * y.numpy())
        assert np.allclose(gains, epsilon, rtol=1e-3) if epsilon < 1 else (gains > 0.5).all()


def test_a_bound_that_is_too_small_breaks_the_law(hyperplane, points, monkeypatch):
    monkeypatch.setattr(outliers, "gaps", lambda model, shape: torch.full((2, 2), 0.2))
    with pytest.raises(LawViolation, match="AUROC"):
        outliers.one_class(hyperplane, *points, epsilons=(0.05,))


def test_negatives_reach_the_level_and_inliers_stay(hyperplane, points):
    x, y = points
    before = copy.deepcopy(hyperplane.state_dict())
    torch.manual_seed(0)
    moved = level_set_negatives(hyperplane, x, y, level=0.3, steps=60)
    assert torch.equal(moved[y == 1], x[y == 1])
    assert not torch.equal(moved[y == 0], x[y == 0])
    reached, started = f(hyperplane, moved)[(y == 0).numpy()], f(hyperplane, x)[(y == 0).numpy()]
    assert (reached >= started).all()
    assert reached.max() <= 0.3 + 0.3 * 0.25 + 1e-6, "a step goes beyond the level by a quarter of the way at most"
    assert np.quantile(reached, 0.2) > 0.29
    one = level_set_negatives(hyperplane, x, y, level=0.3, steps=1)
    assert f(hyperplane, one)[(y == 0).numpy()].std() > 0.05, "random lengths: not all at the same place"
    assert ((moved >= 0) & (moved <= 1)).all()
    assert all(torch.equal(value, before[name]) for name, value in hyperplane.state_dict().items())
    assert all(p.grad is None for p in hyperplane.parameters())
    beyond = level_set_negatives(hyperplane, x, y, level=-9.0)
    assert torch.equal(beyond, x), "what lies beyond the level is left there"
    with pytest.raises(ValueError, match="at least one step"):
        level_set_negatives(hyperplane, x, y, steps=0)


def test_the_training_of_one_class_sees_no_outlier():
    data, whole = digits_one_class(3), digits()
    inliers = whole.train.images[whole.train.labels == 3]
    assert torch.equal(data.train.images[data.train.labels == 1], inliers)
    noise = data.train.images[data.train.labels == 0]
    assert len(noise) == len(inliers)
    assert abs(noise.float().mean() - 127.5) < 3
    assert torch.equal(noise, digits_one_class(3).train.images[data.train.labels == 0])
    for part in ("validation", "test"):
        split, original = getattr(data, part), getattr(whole, part)
        assert torch.equal(split.images, original.images)
        assert torch.equal(split.labels, (original.labels == 3).long())
    assert data.name == "digits_oneclass"
    with pytest.raises(ValueError, match=r"0\.\.9"):
        one_class(whole, 10)


def test_the_epsilons_are_those_of_the_configuration():
    from omegaconf import OmegaConf

    from lipbench.commands.suites import CONF

    asked = OmegaConf.load(CONF / "measure" / "one_class.yaml").one_class.epsilons
    assert tuple(asked) == EPSILONS
