"""The falsifier finds what a wrong certificate excludes, and nothing that a right one does."""

import copy
import importlib
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import lipbench
from lipbench import layers
from lipbench.attacks import falsifier, falsifier_float32
from lipbench.certificate import certify, certify_float
from lipbench.evaluation.bounds import attack_images, certify_images
from lipbench.judge import Judge, distance
from lipbench.results import LawViolation, violations


def linear(classes: int = 2, pixels: int = 36) -> nn.Module:
    layer = nn.Linear(pixels, classes)
    with torch.no_grad():  # a tie at grey
        layer.bias.copy_(-0.5 * layer.weight.sum(1))
    return nn.Sequential(nn.Flatten(), layer).eval()


def deep() -> nn.Module:
    torch.manual_seed(1)
    layer = partial(layers.constrain, constraint=layers.Orthogonal)
    return layers.bake(
        nn.Sequential(
            nn.Flatten(), layer(nn.Linear(36, 36)), layers.MaxMin(), layer(nn.Linear(36, 1)), layers.Antipodal()
        )
    )


def labelled(model: nn.Module, images: int = 40) -> tuple[Tensor, Tensor]:
    """Images far enough from the border of the box that it matters little."""
    x = 0.4 + 0.2 * torch.rand(images, 1, 6, 6)
    with torch.no_grad():
        return x, model(x).argmax(1)


def far(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Whose certificate is no matter of rounding, and so small that the nearest adversarial image is inside the box."""
    radius = certify_float(model, x, y)
    return (radius > 0.02) & (radius < 0.3)


@pytest.mark.parametrize("make", [linear, deep, partial(linear, 5)], ids=["linear", "deep", "five classes"])
@pytest.mark.parametrize("attack", [falsifier, falsifier_float32])
def test_a_right_certificate_survives(make, attack):
    model = make()
    x, y = labelled(model)
    images = attack(model, x, y, rounds=40)
    found = distance(x, images)
    judge = Judge(model)
    wrong = judge(images, y) if attack is falsifier else judge.deployed(images, y)
    assert wrong.any()
    lower = certify(model, x, y) if attack is falsifier else certify_float(model, x, y)
    assert (found[wrong] >= lower[wrong]).all()
    assert ((images >= 0) & (images <= 1)).all()


@pytest.mark.parametrize("make", [linear, partial(linear, 5)], ids=["two classes", "five classes"])
def test_a_certificate_that_is_a_millionth_too_long_is_falsified(make):
    model = make()
    x, y = labelled(model)
    inside = far(model, x, y)
    assert inside.sum() > 5
    images = falsifier(model, x, y)
    assert Judge(model)(images, y)[inside].all()
    excess = distance(x, images)[inside] / certify(model, x, y)[inside] - 1
    assert (excess > 0).all()
    assert (excess < 1e-6).double().mean() > 0.8


def test_a_layer_that_claims_another_constant_is_falsified():
    model = deep()
    with torch.no_grad():
        model[1].weight.mul_(1.05)  # type: ignore[index, operator, union-attr]
    x, y = labelled(model)

    def claimed(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return certify(model, x, y) * 1.05  # as if the constant were 1

    with pytest.raises(LawViolation):
        lipbench.evaluate(
            model, x, y, attacks={"falsifier": falsifier}, certificates={"claimed": claimed}, progress=False
        )


def cancelling() -> nn.Module:
    """Two classes; in exact arithmetic x_0 - x_1 decides, in float32 what is left of it next to a thousand."""
    first, last = nn.Linear(36, 36), nn.Linear(36, 2)
    with torch.no_grad():
        first.weight.copy_(torch.eye(36))
        first.bias.fill_(1e3)
        last.weight.zero_()
        last.weight[0, 0] = last.weight[1, 1] = 1
        last.bias.zero_()
    return nn.Sequential(nn.Flatten(), first, last).eval()


def test_what_float32_loses_is_inside_the_certificate_of_exact_arithmetic_alone():
    model = cancelling()
    x, y = labelled(model)
    methods = {"certificate": certify, "certificate_float": certify_float}
    tables = [certify_images(model, x, y, function, name).table for name, function in methods.items()]
    tables.append(attack_images(model, x, y, falsifier_float32, "falsifier_float32").table)
    tables.append(attack_images(model, x, y, falsifier, "falsifier").table)
    rows = {table["method"].iloc[0]: table.loc[table["norm"] == "l2", "distance"].to_numpy() for table in tables}
    certified = rows["certificate_float"] > 0
    assert certified.sum() > 5
    inside = rows["falsifier_float32"] < rows["certificate"]
    assert (inside & certified).any(), "the network of float32 is wrong inside the radius of exact arithmetic"
    assert (rows["falsifier_float32"] >= rows["certificate_float"]).all()
    assert (rows["falsifier"] >= rows["certificate"]).all()
    assert violations(pd.concat(tables)).empty


def test_the_model_and_the_images_are_left_as_they_were():
    model = deep().train()
    x, y = labelled(copy.deepcopy(model).eval(), 4)
    before, weights = x.clone(), copy.deepcopy(model.state_dict())
    falsifier(model, x, y, rounds=4)
    assert torch.equal(before, x)
    assert model.training
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())


def test_images_that_are_misclassified_come_back():
    model = linear()
    x, y = labelled(model, 3)
    assert torch.equal(falsifier(model, x, 1 - y), x)


@pytest.mark.parametrize("fault", ["none", "constant", "slack", "ray"])
def test_searches_within_inscribed_radii_find_planted_faults_and_nothing_else(fault, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    breaches = importlib.import_module("breaches")
    monkeypatch.setattr(breaches, "SEARCHES", 1)
    monkeypatch.setattr(breaches, "OTHERS", 1)
    model = layers.bake(breaches.networks(2)["one dense layer"]()).eval().requires_grad_(False)
    x = torch.rand(20, 1, 8, 8)
    if fault == "slack":  # large numbers that cancel: there rounding counts
        model, x = nn.Sequential(breaches.Shift(1e7), *model).double().eval(), x.double()
    scores = model(x)
    model[-2].bias.sub_((scores[:, 1] - scores[:, 0]).mean())  # a tie among these images
    trial = breaches.Trial(model, x)
    with breaches.FAULTS[fault]():
        trial.run()
    assert sum(trial.pairs.values()) >= 200
    assert (trial.breaches == 0) == (fault == "none")
