"""Linear relaxation: its steps are the network, its radii are sound, tight where they can be, and of use."""

from functools import partial

import pandas as pd
import pytest
import torch
from torch import nn

import lipbench
from lipbench.attacks import deepfool, l2_pgd
from lipbench.certificate import CrownWarning, certify, certify_crown
from lipbench.certificate.lipschitz import Unbounded
from lipbench.certificate.relaxation.crown import Relaxed
from lipbench.certificate.relaxation.piecewise import Affine, Kinks, steps_of
from lipbench.evaluation.bounds import attack_images, certify_images
from lipbench.layers import Abs, Antipodal, FullSort, GroupSort, MaxMin, Normalize, Scale, ScaledAvgPool2d
from lipbench.results import violations
from lipbench.training import adam, fit

SHAPE = (2, 6, 6)


def networks() -> dict[str, nn.Module]:
    torch.manual_seed(3)
    conv, flat = partial(nn.Conv2d, kernel_size=3, padding=1), nn.Flatten()
    return {
        "relu": nn.Sequential(flat, nn.Linear(72, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3)),
        "max_pool": nn.Sequential(conv(2, 3), nn.ReLU(), nn.MaxPool2d(2), flat, nn.Linear(27, 3)),
        "odd_pool": nn.Sequential(conv(2, 3), nn.MaxPool2d(3, stride=2), flat, nn.Linear(12, 3)),
        "max_min": nn.Sequential(conv(2, 4), MaxMin(), ScaledAvgPool2d(2), flat, nn.Linear(36, 3)),
        "group_sort": nn.Sequential(conv(2, 4), GroupSort(2), nn.Sequential(flat, nn.Linear(144, 3))),
        "slopes": nn.Sequential(conv(2, 2), Abs(), flat, nn.Linear(72, 6), nn.LeakyReLU(0.2), nn.Linear(6, 3)),
        "sorts": nn.Sequential(flat, nn.Linear(72, 9), GroupSort(3), nn.Linear(9, 5), FullSort(), nn.Linear(5, 3)),
        "binary": nn.Sequential(
            *(Normalize((0.1, 0.2), (0.5, 2.0)), nn.PixelUnshuffle(2), conv(8, 2), nn.ReLU(), nn.AvgPool2d(3)),
            *(flat, nn.Linear(2, 1), Antipodal(), Scale(3.0)),
        ),
    }


NAMES = list(networks())


def walked(steps: list, x: torch.Tensor) -> torch.Tensor:
    """The steps one after another, as they are defined."""
    for step in steps:
        if isinstance(step, Affine):
            x = x @ step.weight.T + step.bias
            continue
        inner = x if step.inner is None else x @ step.inner.T
        risen = inner.relu() if step.rise is None else inner.relu() @ step.rise.T
        x = risen if step.direct is None else x @ step.direct.T + risen
    return x


@pytest.mark.parametrize("name", NAMES)
def test_the_steps_are_the_network(name):
    model, x = networks()[name].double().eval(), torch.randn(20, *SHAPE, dtype=torch.float64)
    assert torch.allclose(walked(steps_of(model, SHAPE), x.flatten(1)), model(x), rtol=1e-12, atol=1e-12)


def test_of_a_pooled_window_one_relu_is_left():
    torch.manual_seed(0)
    conv, relu, pool = nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)
    head = (nn.Flatten(), nn.Linear(27, 3))
    nested = nn.Sequential(nn.Sequential(conv, relu), pool, *head).double().eval()
    x = torch.rand(20, *SHAPE, dtype=torch.float64)
    steps = steps_of(nested, SHAPE)
    assert torch.allclose(walked(steps, x.flatten(1)), nested(x), rtol=1e-12, atol=1e-12)
    kinks = [step for step in steps if isinstance(step, Kinks)]
    # Of 27 windows of 4 pixels: 54 and 27 differences, and a relu each.
    assert [len(step.inner) for step in kinks[:-1]] == [54, 27]
    assert kinks[-1].inner is None
    swapped = nn.Sequential(conv, pool, relu, *head).eval()
    assert torch.equal(certify_crown(nested, x, nested(x).argmax(1)), certify_crown(swapped, x, nested(x).argmax(1)))


@pytest.mark.parametrize("name", NAMES)
def test_bounds_are_below_every_image_of_the_ball_and_tight_at_radius_0(name):
    model = networks()[name].double().eval()
    x, radius = torch.rand(4, *SHAPE, dtype=torch.float64), torch.tensor([0.0, 0.1, 0.5, 2.0], dtype=torch.float64)
    steps = steps_of(model, SHAPE)
    classes = model(x).shape[1]
    objective = torch.randn(4, 5, classes, dtype=torch.float64)
    lower, slope = Relaxed(steps, x.flatten(1), radius).lower(objective)
    values = (objective @ model(x)[:, :, None])[:, :, 0]
    assert (lower <= values).all()
    assert torch.allclose(lower[0], values[0], rtol=0, atol=1e-8)
    assert (slope > 0).all()
    lowest = values.detach().clone()
    for _ in range(30):
        # Random points of the sphere, and steps of steepest descent for each objective on its own.
        for k in range(5):
            move = torch.randn_like(x)
            for _ in range(4):
                point = (x + radius[:, None, None, None] * unit(move)).requires_grad_()
                value = (objective[:, k] * model(point)).sum(1)
                lowest[:, k] = torch.minimum(lowest[:, k], value.detach())
                move = unit(move) - 0.5 * unit(torch.autograd.grad(value.sum(), point)[0])
    assert (lower <= lowest + 1e-12).all()
    # Not by far: on the small ball less than the interval that the logits move in.
    assert ((values - lower)[1] <= 3 * (values - lowest)[1] + 1e-9).all()


def unit(x: torch.Tensor) -> torch.Tensor:
    return x / x.flatten(1).norm(dim=1)[:, None, None, None].clamp_min(1e-300)


def test_on_a_linear_network_the_radius_is_the_distance():
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, 5), nn.Linear(5, 3)).eval()
    x = torch.rand(30, *SHAPE)
    logits = model.double()(x.double())
    y = logits.argmax(1)
    rows = model[2].weight @ model[1].weight
    gaps = (rows[y][:, None] - rows[None]).norm(dim=2)
    margins = logits.gather(1, y[:, None]) - logits
    exact = (margins / gaps).masked_fill(nn.functional.one_hot(y, 3).bool(), torch.inf).amin(1).detach()
    radius = certify_crown(model.float(), x, y)
    assert (radius <= exact).all()
    assert (radius >= 0.999 * exact).all()
    assert (certify_crown(model, x, (y + 1) % 3) == 0).all()


def test_cancellation_is_subtracted():
    """Two shifts that cancel: the larger they are, the less of the margin is known."""
    x, found = torch.rand(10, *SHAPE), []
    for shift in (1e3, 1e6, 1e16):
        torch.manual_seed(0)
        first, second = nn.Linear(72, 4).double(), nn.Linear(4, 2).double()
        with torch.no_grad():
            first.bias += shift
            second.bias -= second.weight.sum(1) * shift
        model = nn.Sequential(nn.Flatten(), first, nn.ReLU(), second).eval()
        found.append(certify_crown(model, x.double(), model(x.double()).argmax(1)))
    assert (found[0] > 0).all()
    assert torch.allclose(found[0], found[1], rtol=1e-3)
    assert (found[2] == 0).all()


def test_the_rounding_of_a_sort_does_not_grow_with_its_length():
    """A sort of 40 numbers is 40 steps of max(a, b) = b + relu(a - b). Its outputs are its inputs with their errors."""
    x, radius = torch.rand(1, 40, dtype=torch.float64), torch.tensor([1.0], dtype=torch.float64)
    for layer in (FullSort(), MaxMin(), Abs(), nn.ReLU()):
        error = Relaxed(steps_of(nn.Sequential(nn.Flatten(), layer).eval(), (1, 1, 40)), x, radius).error
        assert (error > 0).all()
        assert (error < 1e-10).all()
    # A slope of 3 does triple the errors of its inputs.
    steep = nn.Sequential(nn.Flatten(), *(nn.LeakyReLU(3.0) for _ in range(20))).eval()
    assert (Relaxed(steps_of(steep, (1, 1, 40)), x, radius).error > 3.0**20 * 1e-15).all()


def test_on_digits_it_certifies_what_the_product_of_norms_does_not():
    data = lipbench.data.digits(keep=(0, 8))
    model = lipbench.models.mlp((1, 8, 8), 2, widths=(32, 16))
    fit(model, data, lipbench.losses.cross_entropy, adam, epochs=15, batch_size=32, progress=False)
    x, y = data.test.images[:20], data.test.labels[:20]
    tables = {
        name: certify_images(model, x, y, function, name).table
        for name, function in (("certificate", certify), ("certificate_crown", certify_crown))
    }
    attacked = [attack_images(model, x, y, attack, attack.__name__).table for attack in (deepfool, l2_pgd)]
    assert not len(violations(pd.concat([*tables.values(), *attacked])))
    medians = {name: t[t["norm"] == "l2"]["distance"].median() for name, t in tables.items()}
    upper = min(t[t["norm"] == "l2"]["distance"].median() for t in attacked)
    assert 1.1 * medians["certificate"] < medians["certificate_crown"] < upper
    # Twice the radius would be found out: the law has something to say of this method.
    doubled = tables["certificate_crown"].assign(distance=lambda t: 2 * t["distance"])
    assert len(violations(pd.concat([doubled, *attacked])))


@pytest.mark.parametrize(
    ("layer", "why"),
    [
        (nn.Sigmoid(), "no rule"),
        (nn.MaxPool2d(2, padding=1), "padding is 1"),
        (nn.Sequential(nn.Conv2d(2, 700, 3, padding=1), nn.ReLU()), "inputs"),
        (nn.Flatten(0), "image|batch|matrix|mixes"),
    ],
)
def test_what_it_cannot_relax_has_radius_0_and_a_reason(layer, why):
    model = nn.Sequential(nn.Identity(), layer, nn.Flatten()).eval()
    with pytest.raises(Unbounded, match=why):
        steps_of(model, SHAPE)
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, 4), nn.Sigmoid()).eval()
    with pytest.warns(CrownWarning, match=r"certificate_crown is 0: 2 \(Sigmoid\)"):
        assert certify_crown(model, torch.rand(3, *SHAPE), torch.zeros(3).long()).tolist() == [0.0] * 3
    with pytest.raises(ValueError, match="at least once"):
        certify_crown(model, torch.rand(3, *SHAPE), torch.zeros(3).long(), rounds=0)


def test_what_is_not_its_type_is_refused():
    model = networks()["relu"].eval()
    model[2].register_forward_hook(lambda module, inputs, output: 2 * output)
    with pytest.raises(Unbounded, match="hook"):
        steps_of(model, SHAPE)
    with pytest.raises(Unbounded, match="training mode"):
        steps_of(networks()["relu"].train(), SHAPE)
