"""Attributions and the metrics that judge them, on models where both are known."""

from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import nn

from lipbench import measures as explain
from lipbench.commands.run import experiment_of
from lipbench.commands.suites import CONF
from lipbench.files import ResultsError, read_json

SHAPE = (2, 4, 4)


@pytest.fixture
def linear():
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(32, 3)).eval()


@pytest.fixture
def curved():
    torch.manual_seed(2)
    return nn.Sequential(nn.Flatten(), nn.Linear(32, 24), nn.Tanh(), nn.Linear(24, 3)).eval()


@pytest.fixture
def images():
    return torch.rand(5, *SHAPE, generator=torch.Generator().manual_seed(3))


LABELS = torch.tensor([0, 1, 2, 1, 0])


def test_attributions_of_a_linear_model_are_its_weights(linear, images):
    weights = linear[1].weight.detach()[LABELS].view(-1, *SHAPE)
    assert torch.allclose(explain.gradient(linear, images, LABELS), weights.abs())
    assert torch.allclose(explain.smooth_gradient(linear, images, LABELS), weights.abs(), atol=1e-6)
    assert torch.allclose(explain.integrated_gradients(linear, images, LABELS), images * weights, atol=1e-6)


@pytest.mark.parametrize("baseline", [0.0, 0.4])
def test_integrated_gradients_add_up_to_the_change_of_the_logit(curved, images, baseline):
    with torch.no_grad():
        change = curved(images) - curved(torch.full_like(images, baseline))
    found = explain.integrated_gradients(curved, images, LABELS, steps=64, baseline=baseline)
    assert torch.allclose(found.flatten(1).sum(1), change.gather(1, LABELS[:, None])[:, 0], atol=1e-4)
    one_step = explain.integrated_gradients(curved, images, LABELS, steps=1, baseline=baseline)
    assert not torch.allclose(found, one_step, atol=1e-4), "a curved model needs the whole path"


def test_smooth_gradient_depends_on_the_seed_and_the_image_alone(curved, images):
    together = explain.smooth_gradient(curved, images, LABELS, samples=4)
    alone = explain.smooth_gradient(curved, images[2:3], LABELS[2:3], samples=4)
    assert torch.allclose(together[2:3], alone, atol=1e-6)
    assert not torch.allclose(together, explain.smooth_gradient(curved, images, LABELS, samples=4, seed=1), atol=1e-4)
    assert not torch.allclose(together, explain.gradient(curved, images, LABELS), atol=1e-4)


def test_mu_fidelity_is_1_for_what_a_linear_model_really_does(linear, images):
    exact = explain.integrated_gradients(linear, images, LABELS)
    fidelity = partial(explain.mu_fidelity, linear, images, LABELS, subsets=60)
    assert torch.allclose(fidelity(exact), torch.ones(5, dtype=torch.float64), atol=1e-5)
    assert torch.allclose(fidelity(-7 * exact), -torch.ones(5, dtype=torch.float64), atol=1e-5)
    assert torch.allclose(fidelity(exact, cells=2), torch.ones(5, dtype=torch.float64), atol=1e-5)
    assert fidelity(torch.rand(5, *SHAPE)).abs().max() < 0.8
    assert torch.equal(fidelity(torch.ones(5, *SHAPE)), torch.zeros(5, dtype=torch.float64)), "says nothing: 0"
    other = exact + 0.1 * torch.rand(5, *SHAPE)
    assert not torch.equal(fidelity(other), fidelity(other, seed=1))


def test_mu_fidelity_with_another_baseline(linear, images):
    fidelity = partial(explain.mu_fidelity, linear, images, LABELS, subsets=60, baseline=0.5)
    exact = explain.integrated_gradients(linear, images, LABELS, baseline=0.5)
    assert torch.allclose(fidelity(exact), torch.ones(5, dtype=torch.float64), atol=1e-5)
    assert fidelity(explain.integrated_gradients(linear, images, LABELS)).max() < 0.99


def test_deletion_and_insertion_by_hand():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.tensor([[0.0] * 4, [4.0, 3.0, 2.0, 1.0]]))
        model[1].bias.zero_()
    x, y = torch.ones(1, 1, 2, 2), torch.tensor([1])
    scores = torch.tensor([4.0, 3.0, 2.0, 1.0]).view(1, 1, 2, 2)
    curve = 1 / (1 + np.exp(-np.array([10.0, 6.0, 3.0, 1.0, 0.0])))
    expected = np.trapezoid(curve, dx=0.25)
    assert explain.deletion(model, x, y, scores, steps=4).item() == pytest.approx(expected, abs=1e-6)
    rising = 1 / (1 + np.exp(-np.array([0.0, 4.0, 7.0, 9.0, 10.0])))
    assert explain.insertion(model, x, y, scores, steps=4).item() == pytest.approx(np.trapezoid(rising, dx=0.25))


def test_deletion_in_one_order_is_insertion_in_the_other(curved, images):
    scores = torch.randn(5, *SHAPE)
    deleted = explain.deletion(curved, images, LABELS, scores, steps=8, baseline=0.3)
    inserted = explain.insertion(curved, images, LABELS, -scores, steps=8, baseline=0.3)
    assert torch.allclose(deleted, inserted, atol=1e-6)


def test_stability_is_0_where_the_gradient_is_constant(linear, curved, images):
    def judged(model, explained, **options):
        own = explained(model, images, LABELS)
        return explain.stability(model, images, LABELS, own, explained, **options)

    assert judged(linear, explain.gradient).max() < 1e-6
    near, far = (judged(curved, explain.gradient, radius=radius) for radius in (0.1, 1.0))
    assert (near > 0).all()
    assert near.mean() < far.mean() < 2
    scaled = judged(curved, lambda *given: 9 * explain.gradient(*given), radius=0.1)
    assert torch.allclose(scaled, near, atol=1e-6)


def test_the_table_leaves_the_network_as_it_was(curved, images):
    curved.train()
    table = explain.explanations(curved, images, LABELS, number=3, subsets=10, samples=2)
    assert curved.training
    assert all(p.grad is None and p.requires_grad for p in curved.parameters())
    assert list(table.columns) == ["index", "label", "prediction", "attribution", "metric", "baseline", "value"]
    assert len(table) == 3 * 3 * (2 * 3 + 1)
    assert set(table["index"]) == {0, 1, 2}
    assert np.isfinite(table["value"]).all()
    # Integrated gradients start from the baseline of the metric.
    by_baseline = table[(table["metric"] == "mu_fidelity") & (table["attribution"] == "integrated_gradients")]
    for baseline, rows in by_baseline.groupby("baseline"):
        y = curved(images[:3]).argmax(1)
        own = explain.integrated_gradients(curved, images[:3], y, baseline=baseline)
        expected = explain.mu_fidelity(curved, images[:3], y, own, subsets=10, baseline=baseline)
        assert np.allclose(rows["value"], expected)
    with torch.no_grad():
        assert table.groupby("index")["prediction"].first().tolist() == curved(images[:3]).argmax(1).tolist()
    same = explain.explanations(curved, images, LABELS, number=3, subsets=10, samples=2)
    assert same.equals(table)
    assert not explain.explanations(curved, images, LABELS, number=3, subsets=10, samples=2, seed=1).equals(table)


def test_a_run_writes_its_measures_once(tmp_path):
    def asked(*overrides):
        options = ["images=6", "training.epochs=1", "progress=false", "attack=[fgsm]", "measure=[explanations]"]
        own = [f"measure.explanations.{option}" for option in ("number=3", "subsets=9", "samples=1")]
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose(
                "config", overrides=["experiment=digits08/hkr_mlp", f"results={tmp_path}", *options, *own, *overrides]
            )
        return experiment_of(cfg, "digits08/hkr_mlp", [])

    job = asked()
    job.run()
    path = job.folder / "explanations.csv"
    table = pd.read_csv(path)
    assert set(table["attribution"]) == {"gradient", "smooth_gradient", "integrated_gradients"}
    assert read_json(path.with_suffix(".json"))["options"]["subsets"] == 9
    stamp = path.stat().st_mtime_ns
    job.run()
    assert path.stat().st_mtime_ns == stamp, "what is there is kept"
    with pytest.raises(ResultsError, match=r"options\.seed: 0 -> 1"):
        asked("measure.explanations.seed=1").run()
    assert path.stat().st_mtime_ns == stamp

    def fails(model, x, y):
        raise ValueError("no explanation")

    path.unlink()
    with pytest.raises(ValueError, match="no explanation"):
        replace(job, measures={"explanations": fails}).run()
    assert not path.exists()
    assert (job.folder / "bounds" / "fgsm.parquet").exists()
