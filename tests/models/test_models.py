"""The networks of conf/model on the images that they are made for: weights, bounds, and the plain twins."""

from itertools import pairwise

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import nn

import lipbench
from lipbench import layers
from lipbench.certificate import layerwise, lipschitz
from lipbench.commands.suites import CONF
from lipbench.models import convnet, resnet
from lipbench.runs.network import build

SHAPE = (3, 32, 32)


def recipe(model: str, constraint: str = "free", shape=SHAPE, classes: int = 10) -> dict:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        # An experiment that changes no other option of its model than the mean.
        chosen = ["experiment=cifar10_jpeg/margin_resnet", "model.mean=[0.0]"]
        chosen += [f"model={model}", f"constraint={constraint}"]
        cfg = compose("config", overrides=chosen)
    plain = {key: OmegaConf.to_container(cfg[key], resolve=True) for key in ("model", "constraint")}
    return {**plain, "shape": list(shape), "classes": classes}


def weights(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("body", ["cnn", "resnet"])
def test_sizes_grow(body):
    # Meta tensors: the large ones have no need of memory here.
    with torch.device("meta"):
        counts = [weights(build(recipe(f"{body}_{size}"))) for size in ("xs", "s", "m", "l")]
    assert all(large > 2 * small for small, large in pairwise(counts))


@pytest.mark.parametrize(
    ("name", "shape", "convolutions", "dense"),
    [
        ("serrurier_cifar10", SHAPE, [128, 256, 512], [512, 512, 10]),
        ("serrurier_celeba", (3, 128, 128), [16, 32, 64, 128, 256], [512, 512, 10]),
    ],
)
def test_the_papers_networks(name, shape, convolutions, dense):
    model = build(recipe(name, shape=shape))
    assert [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)] == convolutions
    assert [m.out_features for m in model.modules() if isinstance(m, nn.Linear)] == dense
    assert sum(isinstance(m, layers.L2Pool2d) for m in model.modules()) == len(convolutions)
    assert next(m for m in model.modules() if isinstance(m, nn.Linear)).in_features == convolutions[-1] * 4 * 4


@pytest.mark.parametrize("constraint", ["sll", "cpl", "liresnet", "aoc"])
def test_a_residual_network_is_1_lipschitz_and_its_twin_is_not(constraint):
    made = {name: build(recipe("resnet_xs", name, (3, 8, 8))) for name in (constraint, "free")}
    for model in made.values():
        model(torch.rand(2, 3, 8, 8)).square().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    baked = layers.bake(made[constraint])
    assert lipschitz(baked, (3, 8, 8)) <= 1 + 1e-5
    twin = layers.bake(made["free"])
    residuals = [layer for layer in twin if isinstance(layer, layers.Residual)]
    assert len(residuals) == 4
    for layer in residuals:
        layer.branch[-1].weight.data.normal_()  # it starts at 0
    assert 1.5 < lipschitz(twin, (3, 8, 8)) < float("inf")
    kinds = [layer.kind for layer in layerwise(baked, (3, 8, 8))]
    assert kinds.count("ConvexPotential") == (4 if constraint in ("sll", "cpl") else 0)
    assert kinds.count("Conv2d") == (2 if constraint in ("sll", "cpl") else 6)


def test_the_plain_twin_starts_as_a_shallow_network():
    torch.manual_seed(0)
    deep = resnet((1, 8, 8), 3, width=4, depth=[5], widths=[6])
    torch.manual_seed(0)
    shallow = nn.Sequential(*(layer for layer in deep if not isinstance(layer, layers.Residual)))
    x = torch.rand(2, 1, 8, 8)
    assert torch.equal(deep(x), shallow(x))
    assert len(shallow) == len(deep) - 5


def test_transitions_have_their_own_constraint():
    made = resnet(
        (1, 8, 8), 3, width=4, depth=[1, 1], widths=[6], constraint=layers.sll, transition=layers.Orthogonal,
        activation=layers.MaxMin,
    )  # fmt: skip
    kinds = [type(constraint) for constraint, _ in layers.constrained_weights(made)]
    assert kinds == [layers.Orthogonal, layers.AOL, layers.Orthogonal, layers.AOL, *[layers.Orthogonal] * 2]
    x = torch.rand(2, 1, 8, 8, requires_grad=True)
    # An orthogonal stem of patches keeps the norm, which a 3x3 kernel divided by its factor does not.
    assert torch.allclose((made[0](x) - made[0](torch.zeros_like(x))).norm(), x.norm(), rtol=1e-5)


def test_images_that_are_too_small_and_even_kernels_are_refused():
    with pytest.raises(ValueError, match="halved 3 times"):
        resnet((1, 4, 4), 2, depth=[1, 1, 1])
    with pytest.raises(ValueError, match="odd kernel_size"):
        resnet((1, 8, 8), 2, kernel_size=2)
    with pytest.raises(ValueError, match="too small"):
        convnet((3, 4, 4), 2, channels=[4, 4, 4, 4], kernel_size=3, padding=0)


def test_a_residual_network_is_stored_and_certified(tmp_path):
    parts = recipe("resnet_xs", "sll", (1, 8, 8), 3)
    model = layers.bake(build(parts))
    lipbench.runs.network.save(model, parts, tmp_path)
    loaded, x = lipbench.load(tmp_path), torch.rand(4, 1, 8, 8)
    assert torch.equal(loaded(x), model(x))
    radii = lipbench.certificate.certify(loaded, x, model(x).argmax(1))
    assert (radii > 0).all()


def composed(experiment: str, *overrides: str) -> dict:
    """The recipe of an experiment's network."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", overrides=[f"experiment={experiment}", *overrides])
    return {key: OmegaConf.to_container(cfg[key], resolve=True) for key in ("model", "constraint")}


def margin_gradient_norms(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """||grad (z_1 - z_0)|| / gap per point, [N]: 1 where the body and the head keep the norm of the gradient."""
    gap = float(lipbench.certificate.gaps(model, x.shape[1:])[1, 0])
    x = x.clone().requires_grad_()
    logits = model(x)
    (gradient,) = torch.autograd.grad((logits[:, 1] - logits[:, 0]).sum(), x)
    return gradient.flatten(1).norm(dim=1) / gap


GRADIENT_KEEPING = [
    ("digits08/hkr_cnn", (1, 8, 8), 2),
    ("digits/ce_cnn", (1, 8, 8), 10),
    ("mnist08/hkr_cnn", (1, 28, 28), 2),
    ("mnist/hkr_cnn", (1, 28, 28), 10),
    ("mnist/margin_cnn", (1, 28, 28), 10),
    ("celeba_drawn_eyeglasses/hkr_cnn", (3, 64, 64), 2),
]


@pytest.mark.parametrize(("experiment", "shape", "classes"), GRADIENT_KEEPING)
def test_the_networks_for_inscribed_balls_keep_the_norm_of_the_gradient(experiment, shape, classes):
    check_gradient_norm(composed(experiment), shape, classes)


def check_gradient_norm(parts: dict, shape: tuple[int, int, int], classes: int) -> None:
    torch.manual_seed(0)
    model = layers.bake(build({**parts, "shape": list(shape), "classes": classes})).eval()
    assert lipschitz(model, shape) <= 1 + 1e-5
    # The certificate's centres lie outside of the box, so points there count as well.
    points = 3 * torch.rand(8, *shape, dtype=torch.float64) - 1
    norms = margin_gradient_norms(model.double(), points)
    assert torch.allclose(norms, torch.ones_like(norms), atol=1e-5)


@pytest.mark.parametrize(
    ("experiment", "overrides"),
    [("mnist08/hkr_cnn", ["model.channels=[32]"]), ("mnist/margin_cnn", ["model.padding_mode=zeros"])],
)
def test_a_layer_that_widens_or_pads_with_zeros_shortens_the_gradient(experiment, overrides):
    torch.manual_seed(0)
    parts = {**composed(experiment, *overrides), "shape": [1, 28, 28], "classes": 2}
    model = layers.bake(build(parts)).eval().double()
    norms = margin_gradient_norms(model, torch.rand(8, 1, 28, 28, dtype=torch.float64))
    assert norms.max() < 0.99
