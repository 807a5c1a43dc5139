"""Randomised smoothing: the vote, its certificate, and the law between them."""

import math
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import binom, binomtest
from torch import nn

import lipbench
from lipbench.attacks import deepfool
from lipbench.certificate.smoothing import SmoothingWarning, certify_smoothed, lower_limit, upper_limit
from lipbench.evaluation.bounds import attack_images, certify_images
from lipbench.figures.galleries import _Shown
from lipbench.judge import Classifier
from lipbench.layers import Antipodal
from lipbench.models import Smoothed, smoothed
from lipbench.results import violations

SIGMA = 0.25


def linear(weight: tuple[float, ...] = (3.0, -4.0), bias: float = 0.5) -> nn.Module:
    """Class 1 where <weight, x> + bias > 0, on images of two pixels: the ideal vote is the same function."""
    layer = nn.Linear(2, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([weight]))
        layer.bias.fill_(bias)
    return nn.Sequential(nn.Flatten(), layer, Antipodal())


def points(count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images [count, 1, 1, 2], the labels that `linear` gives and their distances from its boundary."""
    x = torch.rand(count, 1, 1, 2, generator=torch.Generator().manual_seed(1))
    f = (x.flatten(1).double() @ torch.tensor([3.0, -4.0], dtype=torch.float64) + 0.5) / 5
    return x, (f > 0).long(), f.abs()


@pytest.mark.parametrize(
    ("count", "samples", "alpha"), [(1, 10, 0.05), (7, 10, 0.001), (990, 1000, 0.001), (50, 50, 0.01)]
)
def test_confidence_limits_are_those_of_clopper_and_pearson(count, samples, alpha):
    lower = float(lower_limit(torch.tensor([count]), samples, alpha)[0])
    test = binomtest(count, samples, alternative="greater").proportion_ci(1 - alpha, method="exact")
    assert lower == pytest.approx(test.low, abs=2e-9)
    # Exactly: the limit itself would give so many with a probability of alpha, rounded down.
    assert alpha * (1 - 1e-4) < binom.sf(count - 1, samples, lower) <= alpha
    upper = upper_limit(count, samples, alpha)
    test = binomtest(count, samples, alternative="less").proportion_ci(1 - alpha, method="exact")
    assert upper == pytest.approx(test.high, abs=2e-9)
    assert count == samples or binom.cdf(count, samples, upper) <= alpha


def test_limits_at_the_ends():
    assert lower_limit(torch.tensor([0, 10]), 10, 0.001).tolist() == [0.0, pytest.approx(0.001**0.1, abs=2e-9)]
    assert upper_limit(10, 10, 0.001) == 1.0


def test_a_class_needs_a_significant_majority():
    model = Smoothed(linear(), sigma=SIGMA, votes=100, alpha=0.001)
    assert binom.sf(model.needed - 1, 100, 0.5) <= 0.001 < binom.sf(model.needed - 2, 100, 0.5)
    assert Smoothed(linear(), sigma=SIGMA, votes=100, alpha=0.5).needed == 51
    with pytest.raises(ValueError, match="always abstain"):
        Smoothed(linear(), sigma=SIGMA, votes=9, alpha=0.001)
    with pytest.raises(ValueError, match="sigma > 0"):
        Smoothed(linear(), sigma=0.0)


def test_the_vote_is_that_of_its_noise():
    model = Smoothed(linear(), sigma=SIGMA, votes=2000).eval()
    x, _, _ = points(20)
    expected = torch.special.ndtr((x.flatten(1) @ torch.tensor([3.0, -4.0]) + 0.5) / 5 / SIGMA)
    shares = model.counts(x, 0, 2000)[:, 1] / 2000
    assert (shares - expected).abs().max() < 4 * 0.5 / math.sqrt(2000)
    assert (model(x).argmax(1) == torch.where(shares * 2000 >= model.needed, 1, 0)).float().mean() > 0.8


def test_the_vote_is_a_function_of_the_image_alone():
    model = Smoothed(linear(), sigma=SIGMA, votes=120).eval()
    x, _, _ = points(30)
    logits = model(x)
    torch.manual_seed(5)
    assert torch.equal(model(x), logits)
    assert torch.equal(model(x.flip(0)).flip(0), logits)
    assert torch.equal(torch.cat([model(image[None]) for image in x]), logits)
    assert torch.equal(model(x * 1.0 + 0.0 * -1.0), logits)
    zeros = torch.zeros(1, 1, 1, 2)
    assert torch.equal(model(zeros), model(-zeros))
    exact = Classifier(model).exact(x)
    assert exact is not None
    assert (exact - logits).abs().max() < 0.05  # a sample whose margin is of the order of rounding may differ
    assert not torch.equal(Smoothed(linear(), sigma=SIGMA, votes=120, noise_seed=1).eval()(x), logits)


def test_the_certificate_has_noise_of_its_own():
    model = Smoothed(linear(), sigma=SIGMA, votes=120).eval()
    x, _, _ = points(2)
    noise = torch.cat([*model._noisy(x, 0, 120), *model._noisy(x, model.votes, 120)], dim=1) - x[:, None]
    assert len(noise.flatten().unique()) > 0.99 * noise.numel()
    assert noise.std() == pytest.approx(SIGMA, rel=0.05)


def test_training_adds_noise_and_votes_of_nobody_do_not_count():
    model = Smoothed(linear(), sigma=SIGMA, votes=50)
    x, _, _ = points(4)
    assert model.train()(x).shape == (4, 2)
    assert not torch.equal(model(x), model(x))

    class Broken(nn.Module):
        def forward(self, x):
            return torch.full((len(x), 3), torch.nan)

    logits = Smoothed(Broken(), sigma=SIGMA, votes=50).eval()(x)
    assert logits.isfinite().all()
    assert logits.argmax(1).tolist() == [3] * 4


def test_on_a_linear_network_the_radius_is_below_the_exact_distance_and_tends_to_it():
    x, y, exact = points(60)
    errors = []
    for count in (200, 2000, 20000):
        model = Smoothed(linear(), sigma=SIGMA, votes=count).eval()
        radius = certify_smoothed(model, x, y, samples=count)
        assert (radius <= exact).all()
        # Far away all samples agree, and the radius ends where so many can tell.
        near = exact < 2 * SIGMA
        errors.append(float((exact - radius)[near].max()))
    assert errors[2] < 0.06 < errors[1] < errors[0]
    assert radius.max() <= SIGMA * torch.special.ndtri(lower_limit(torch.tensor([20000]), 20000, 0.0005))[0]


def test_what_the_vote_does_not_say_has_radius_0():
    x, y, exact = points(60)
    model = Smoothed(linear(), sigma=SIGMA, votes=200).eval()
    radius = certify_smoothed(model, x, 1 - y, samples=200)
    assert (radius == 0).all()
    abstains = model(x).argmax(1) == 2
    assert 0 < abstains.sum() < 60
    assert exact[abstains].max() < 0.5 * SIGMA
    assert (certify_smoothed(model, x, model(x).argmax(1), samples=200)[abstains] == 0).all()
    with pytest.raises(ValueError, match="a Sequential"):
        certify_smoothed(linear().eval(), x, y)
    with pytest.raises(ValueError, match="alpha is in"):
        certify_smoothed(model, x, y, alpha=0.0)
    model.register_forward_hook(lambda module, inputs, output: -output)
    with pytest.warns(SmoothingWarning, match="hook"):
        assert (certify_smoothed(model, x, y, samples=200) == 0).all()


def test_rows_abstention_is_a_mistake_and_the_law_holds():
    x, y, _ = points(40)
    model = Smoothed(linear(), sigma=SIGMA, votes=400).eval()
    certificate = certify_images(model, x, y, partial(certify_smoothed, samples=400), "certificate_smoothing").table
    attacked = attack_images(model, x, y, deepfool, "deepfool").table
    rows = certificate[certificate["norm"] == "l2"].sort_values("index").reset_index()
    found = attacked[attacked["norm"] == "l2"].sort_values("index").reset_index()
    abstains = rows["prediction"] == 2
    assert 0 < abstains.sum() < 40
    assert (rows["distance"][abstains] == 0).all()
    assert (found["distance"][abstains] == 0).all()
    assert set(rows["method"]) == {"certificate_smoothing"}
    assert (rows["distance"] > 0).sum() > 10
    assert not len(violations(pd.concat([certificate, attacked])))
    # What the vote needs beyond one half is not for free: the radius of an infinite vote is too large for this one.
    p = lower_limit(model.counts(x, model.votes, 10_000).gather(1, y[:, None])[:, 0], 10_000, 0.0005)
    ideal = SIGMA * torch.special.ndtri(p)
    assert (ideal.numpy()[~abstains] > found["distance"][~abstains]).any()


def test_the_soft_vote_has_a_gradient_and_leads_to_the_boundary():
    x, y, exact = points(30)
    x, y, exact = x[exact > 0.3], y[exact > 0.3], exact[exact > 0.3]
    model = Smoothed(linear(), sigma=SIGMA, votes=1000).eval()
    point = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(point)[:, 1].sum(), point)
    cosine = gradient.flatten(1) @ torch.tensor([0.6, -0.8]) / gradient.flatten(1).norm(dim=1)
    assert (cosine > 0.99).all()
    with torch.no_grad():
        assert model(point).requires_grad is False


def test_the_builder_passes_everything_on():
    base = partial(lipbench.models.mlp, widths=(4,))
    model = smoothed((1, 1, 2), 3, base=base, sigma=0.1, votes=60, alpha=0.01, soft_votes=7, noise_seed=3)
    assert (model.sigma, model.votes, model.alpha, model.soft_votes, model.noise_seed) == (0.1, 60, 0.01, 7, 3)
    assert model.eval()(torch.rand(2, 1, 1, 2)).shape == (2, 4)


def test_figures_have_a_name_for_abstention():
    shown = _Shown("smoothed_cnn", {"classes": np.array(["zero", "eight"])})
    assert [shown.name(label) for label in (0, 1, 2)] == ["zero", "eight", "none"]
