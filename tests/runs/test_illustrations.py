"""What a run stores for figures: right on a linear network, kept until something changes."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.experiments import experiment
from torch import nn

import lipbench
from lipbench.data import Dataset, Split
from lipbench.results import bounds_table, read_table
from lipbench.runs.illustrations import IMAGES, STEPS, illustrate, nearest_images
from lipbench.transport import equal_samples, matching, wasserstein


def made(shape: tuple[int, int, int] = (1, 4, 4), count: int = 40) -> Dataset:
    generator = torch.Generator().manual_seed(0)

    def split(count: int) -> Split:
        images = torch.randint(100, 150, (count, *shape), generator=generator, dtype=torch.uint8)
        return Split(images, torch.arange(count) % 2)

    return Dataset("made", ("0", "8"), split(count), split(count), split(count))


@pytest.fixture(scope="module")
def linear() -> tuple[nn.Module, torch.Tensor]:
    """f(x) = w x + b, near 0 on `made`, and w."""
    torch.manual_seed(0)
    layer = nn.Linear(16, 1)
    with torch.no_grad():
        layer.bias.fill_(-float(layer.weight.sum()) * 0.49)
    return lipbench.antipodal(nn.Sequential(nn.Flatten(), layer)).eval(), layer.weight.detach()[0]


def test_everything_of_a_linear_network_is_known(linear):
    model, w = linear
    dataset = made()
    found = illustrate(model, dataset, attacked=30)
    norm = float(w.norm())
    x = dataset.test.images.float() / 255
    with torch.no_grad():
        logits = model(x)
        f = logits[:, 1] - logits[:, 0]
    shown = f[:IMAGES].numpy()
    assert np.array_equal(found["images"], dataset.test.images[:IMAGES].numpy())
    assert np.allclose(found["margins"], np.abs(shown), atol=1e-6)
    assert np.array_equal(found["predictions"], shown > 0)
    assert np.array_equal(found["rivals"], shown <= 0)
    assert np.allclose(found["gradient_norms"], norm)
    direction = np.sign(shown)[:, None] * w.numpy() / norm
    assert np.allclose(found["gradients"].reshape(IMAGES, -1), direction, atol=1e-3)
    # No pixel leaves [0, 1] on these paths, which reach the boundary at t = 1.
    assert np.allclose(found["path_margins"], np.abs(shown)[:, None] * (1 - STEPS), atol=1e-5)
    assert np.allclose(found["norms"], np.full(30, norm))
    assert np.allclose(found["norm_bounds"], norm)
    assert found["singular/0.1"].tolist() == pytest.approx([norm])
    with torch.no_grad():
        right = model(dataset.train.images.float() / 255).argmax(1) == dataset.train.labels
    assert np.array_equal(found["train_correct"], right.numpy())
    assert ((found["train_radii"] > 0) <= right.numpy()).all()


def test_the_optimal_plan_and_the_rise_along_it(linear):
    model, _ = linear
    dataset = made()
    found = illustrate(model, dataset, attacked=4)
    assert np.isclose(found["pair_distances"].mean(), found["wasserstein"])
    pixels = dataset.test.images.flatten(1).numpy() / 255
    assert np.isclose(found["wasserstein"], wasserstein(pixels[::2], pixels[1::2]))
    assert (found["pair_rises"] <= found["f_bound"] * found["pair_distances"] * (1 + 1e-6)).all()
    pairs = found["pair_images"].astype(float).reshape(2, 8, -1) / 255
    assert np.allclose(np.linalg.norm(pairs[0] - pairs[1], axis=1), found["pair_distances"][:8])


def test_matching_is_the_best_of_all():
    a, b = np.array([[0.0], [1.0]]), np.array([[1.5], [0.5]])
    partners, distances = matching(a, b)
    assert partners.tolist() == [1, 0]
    assert distances.tolist() == [0.5, 0.5]
    assert equal_samples(np.array([1, 0, 1, 1]))[1].tolist() == [0]
    assert equal_samples(np.array([0, 0])) is None
    assert equal_samples(np.array([0, 1, 2])) is None


def test_more_classes_have_no_plan_and_large_images_are_few():
    class Constant(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tensor([1.0, 2.0, 0.0]).expand(len(x), 3)

    large = made((3, 128, 128), 6)
    three = Split(large.test.images, torch.arange(6) % 3)
    found = illustrate(Constant().eval(), Dataset("large", ("0", "1", "2"), three, three, three), attacked=6)
    assert len(found["images"]) == 5
    assert "pair_images" not in found
    assert not any(name.startswith("singular/") for name in found)
    assert (found["gradient_norms"] == 0).all()
    assert np.isfinite(found["path_margins"]).all()
    assert (found["train_radii"] == 0).all()


def test_the_nearest_image_of_any_attack(linear):
    model, _ = linear
    images = made().test.images[:3]
    gallery = {"images": images.numpy(), "labels": np.array([0, 1, 0])}
    distances = {"a": [0.5, 2.0, np.inf], "b": [0.7, 1.0, np.inf]}
    for number, name in enumerate(distances):
        gallery[name] = np.full(images.shape, 0.25 * (1 + number), dtype=np.float32)
    rows = [bounds_table(range(3), np.zeros(3), np.zeros(3), m, "upper", np.array(d)) for m, d in distances.items()]
    found = nearest_images(gallery, pd.concat(rows), model)
    assert found["adversarial_distances"].tolist() == [0.5, 1.0, np.inf]
    assert (found["adversarial"][0] == 0.25).all()
    assert (found["adversarial"][1] == 0.5).all()
    assert np.allclose(found["adversarial"][2], images[2].numpy() / 255, atol=1e-3)
    assert nearest_images({"images": gallery["images"]}, pd.concat(rows), model) == {}


def test_a_run_keeps_its_illustrations_until_something_changes(tmp_path):
    job = experiment("digits08/hkr_mlp", tmp_path, "attack=[fgm,carlini_wagner]")
    job.run()
    path = job.folder / "illustrations.npz"
    first = path.read_bytes()
    arrays = dict(np.load(path))
    assert len(arrays["adversarial"]) == 6
    history = pd.read_csv(job.folder / "history.csv")
    assert 0 < history["wasserstein_bound"].iloc[-1] <= arrays["validation_wasserstein"]

    written = path.stat().st_mtime_ns
    experiment("digits08/hkr_mlp", tmp_path, "attack=[fgm,carlini_wagner]").run()
    assert path.stat().st_mtime_ns == written

    for damaged in (b"", first[:200], b"text"):
        path.write_bytes(damaged)
        experiment("digits08/hkr_mlp", tmp_path, "attack=[fgm,carlini_wagner]").run()
        assert path.read_bytes() == first

    changed = replace(job, attacks={"fgm": job.attacks["fgm"]})
    (job.folder / "bounds" / "carlini_wagner.parquet").unlink()
    changed.run()
    assert path.read_bytes() != first
    fgm = read_table(job.folder / "bounds" / "fgm.parquet").query("norm == 'l2'")["distance"]
    assert np.allclose(np.load(path)["adversarial_distances"], fgm[:6])
