"""Layers that are not what they seem: their certificate is refused, and says why."""

import math

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import lipbench
from lipbench import layers
from lipbench.certificate import certify, layerwise, lipschitz, radius
from lipbench.evaluation.bounds import attack_images
from lipbench.evaluation.evaluate import evaluate
from lipbench.judge import Judge
from lipbench.layers.spectrum import singular_range
from lipbench.margins import margin_and_gradient, predict


def reason(module: nn.Module, shape: tuple[int, ...]) -> str:
    """Why the bound is infinite; "" where it is finite."""
    found = layerwise(module.eval(), shape)
    assert all(math.isinf(layer.bound) == bool(layer.reason) for layer in found)
    assert math.isinf(lipschitz(module, shape)) == any(layer.reason for layer in found)
    return "; ".join(layer.reason for layer in found if layer.reason)


def circular(channels: int = 1) -> nn.Conv2d:
    """Pads by one pixel, whatever its padding is set to afterwards."""
    conv = nn.Conv2d(channels, channels, 3, padding=1, padding_mode="circular")
    nn.init.ones_(conv.weight)
    return conv


def test_a_circular_padding_changed_later_is_not_believed():
    conv = circular()
    assert reason(conv, (1, 3, 3)) == ""
    conv.padding = (0, 0)
    assert conv(torch.zeros(1, 1, 3, 3)).shape[2:] == (3, 3), "torch still pads"
    assert "padding was changed" in reason(conv, (1, 3, 3))
    assert math.isnan(singular_range(conv, (1, 3, 3))[1])


def test_a_weight_of_another_shape_is_not_believed():
    conv = nn.Conv2d(1, 1, 2, stride=2)
    conv.weight = nn.Parameter(torch.ones(1, 1, 1, 4))
    assert conv(torch.zeros(1, 1, 8, 8)).shape[2:] == (4, 3)
    assert "its attributes say [1, 1, 2, 2]" in reason(conv, (1, 8, 8))
    assert math.isnan(singular_range(conv, (1, 8, 8))[1])
    conv.kernel_size = (1, 4)
    assert reason(conv, (1, 8, 8)) == ""


@pytest.mark.parametrize("wrap", [layers.ConvexPotential, layers.SkewExponential])
def test_nor_inside_of_another_layer(wrap):
    layer = wrap(circular(2)).eval()
    assert reason(layer, (2, 5, 5)) == ""
    layer.inner.dilation, layer.inner.padding = (2, 2), (2, 2)  # it keeps the size, and so do its attributes
    assert "padding was changed" in reason(layer, (2, 5, 5))
    layer = wrap(nn.Conv2d(2, 2, 3, padding=1)).eval()
    assert reason(layer, (2, 5, 5)) == ""
    layer.inner.weight = nn.Parameter(torch.ones(2, 2, 1, 5))
    assert "its attributes say" in reason(layer, (2, 5, 5))


def test_an_integer_padding_is_that_of_both_sides():
    conv = nn.Conv2d(1, 1, 3, padding=1)
    bound = lipschitz(conv.eval(), (1, 5, 5))
    conv.padding = 1
    assert lipschitz(conv, (1, 5, 5)) == bound


def test_methods_replaced_on_the_instance():
    cases = {
        "conv_forward": (nn.Conv2d(1, 1, 1), lambda x, weight, bias: 5 * x),
        "call_impl": (nn.Linear(3, 3), lambda x: 5 * x),
        "compiled_call_impl": (nn.ReLU(), lambda x: 5 * x),  # what model.compile() sets
        "forward": (nn.Tanh(), lambda x: 5 * x),
    }
    for name, (module, function) in cases.items():
        shape = (1, 3, 3)
        assert reason(module, shape) == ""
        attribute = name if name == "forward" else f"_{name}"
        setattr(module, attribute, function)
        assert torch.equal(module(torch.ones(1, *shape)), torch.full((1, *shape), 5.0))
        assert f"its {name} was replaced" in reason(nn.Sequential(module), shape)


def changed(module: nn.Module, **options: object) -> nn.Module:
    for name, value in options.items():
        setattr(module, name, value)
    return module


@pytest.mark.parametrize(
    ("module", "word"),
    [
        (nn.LeakyReLU(math.nan), "negative_slope is NaN"),
        (changed(nn.LeakyReLU(), negative_slope=torch.tensor(math.nan)), "negative_slope is NaN"),
        (nn.LeakyReLU(math.inf), "not finite"),
        (nn.ELU(math.nan), "alpha is NaN"),
        (nn.ELU(-math.inf), "not finite"),
        (nn.Softplus(threshold=math.nan), "threshold is NaN"),
        (nn.Softplus(threshold=math.inf), "overflows"),
        (nn.Softplus(beta=math.nan, threshold=40), "beta is NaN"),
        (nn.Softplus(beta=0, threshold=40), "divides by beta"),
        (changed(nn.Hardtanh(), max_val=math.nan), "max_val is NaN"),
        (changed(layers.Scale(1.0), factor=math.nan), "factor is NaN"),
        (changed(layers.Scale(1.0), factor=math.inf), "not finite"),
        (layers.Residual(nn.Identity(), math.nan), "scale is NaN"),
        (layers.Residual(nn.Identity(), math.inf), "not finite"),
        (layers.ConvexPotential(nn.Conv2d(1, 1, 1), step=math.nan), "step is NaN"),
        (layers.ConvexPotential(nn.Conv2d(1, 1, 1), step=-1), "step is -1"),
        (layers.ConvexPotential(nn.Conv2d(1, 1, 1), step=math.inf), "not finite"),
        (layers.ConvexPotential(nn.Conv2d(1, 1, 1), activation=nn.LeakyReLU(math.nan)), "negative_slope is NaN"),
        (nn.BatchNorm2d(1, eps=math.nan), "eps is NaN"),
        (nn.BatchNorm2d(1, eps=-2.0), "not finite"),
        (changed(layers.Normalize(), std=torch.full((1, 1, 1), math.nan)), "not finite"),
        (changed(layers.Normalize(), std=torch.zeros(1, 1, 1)), "not finite"),
        (changed(layers.Normalize(), std=torch.ones(1, 1, 4)), "repeat"),
        (changed(nn.PReLU(), weight=nn.Parameter(torch.tensor([math.nan]))), "not finite"),
    ],
    ids=str,
)
def test_options_that_are_not_finite(module, word):
    assert word in reason(module, (1, 4, 4))
    assert word in reason(nn.Sequential(nn.Identity(), module), (1, 4, 4))


def test_finite_options_are_bounded():
    for module in (nn.Softplus(beta=-2, threshold=40), nn.Hardtanh(0, math.inf), layers.Normalize((0.1,), (0.5,))):
        assert reason(module, (1, 4, 4)) == ""


def scaled(module: nn.Module, factor: float) -> nn.Module:
    with torch.no_grad():
        for weight in module.parameters():
            weight.mul_(factor)
    return module.double()


def test_what_cannot_be_computed_is_infinite_and_does_not_crash():
    skew = scaled(layers.SkewExponential(nn.Conv2d(2, 2, 3, padding=1)), 1e38)
    assert "too large" in reason(skew, (2, 4, 4))
    step = scaled(layers.ConvexPotential(nn.Linear(4, 4)).double(), 1e200)
    assert "too large" in reason(step, (4,))
    sandwich = layers.bake(layers.Sandwich(4, 4)).double()
    sandwich.frame.data.mul_(1e200)
    assert "not finite" in reason(sandwich, (4,))
    assert "refuses an input" in reason(nn.Flatten(1, 5), (4,))
    assert "refuses an input" in reason(changed(nn.Conv2d(1, 1, 3), stride=1), (1, 4, 4))


def test_an_unknown_layer_beside_a_zero_one_stays_unknown():
    zero = scaled(nn.Linear(4, 4), 0.0)
    assert reason(nn.Sequential(zero, nn.Hardshrink()), (4,)) != ""


def test_rounding_of_large_numbers_that_cancel_is_not_certified():
    first, second = nn.Linear(1, 1).double(), nn.Linear(1, 1).double()
    with torch.no_grad():
        for layer, bias in ((first, 1e12), (second, -1e12 - 0.5)):
            layer.weight.fill_(1.0)
            layer.bias.fill_(bias)
    x = torch.tensor([[0.50007]], dtype=torch.float64)  # the boundary is at 0.5
    split = layers.antipodal(nn.Sequential(first, second)).eval()
    wrapped = layers.antipodal(nn.Sequential(layers.Residual(nn.Sequential(first, second), 1.0))).eval()
    assert split(x)[0, 1] - split(x)[0, 0] > 1.1e-4, "rounding makes the margin larger than it is"
    assert certify(split, x, split(x).argmax(1))[0] <= 7e-5
    assert certify(wrapped, x, wrapped(x).argmax(1))[0] <= 0.25
    with torch.no_grad():  # the same function without the detour
        first.bias.zero_()
        second.bias.fill_(-0.5)
    assert certify(split, x, split(x).argmax(1))[0].item() == pytest.approx(7e-5, rel=1e-4)


def test_the_slack_of_a_radius():
    logits, labels, gap = torch.tensor([[1.0, 0.0]]).double(), torch.tensor([0]), torch.ones(2, 2).double()
    gap.fill_diagonal_(0)
    assert radius(logits, labels, gap).item() == pytest.approx(1, abs=1e-8)
    assert radius(logits, labels, gap, torch.tensor([0.25])).item() == pytest.approx(0.75, abs=1e-8)
    for slack in (math.inf, math.nan, 2.0):
        assert radius(logits, labels, gap, torch.tensor([slack])).item() == 0


@pytest.mark.filterwarnings("ignore:.*zero_gradients:lipbench.HealthWarning")  # where all pixels are clipped
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_layer_that_overwrites_its_input_leaves_the_images(dtype):
    flat = nn.Sequential(nn.Hardtanh(0.4, 0.6, inplace=True), nn.Flatten(), nn.Linear(4, 2))
    model = flat.to(dtype).eval()
    images = torch.rand(6, 1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=dtype)
    before, labels = images.clone(), torch.zeros(6, dtype=torch.long)
    judge = Judge(model)
    with torch.no_grad():
        expected = model(images.clone()).argmax(1)
    for look in (
        lambda: certify(model, images, labels),
        lambda: judge(images, labels),
        lambda: judge.surely(images, labels),
        lambda: predict(model, images),
        lambda: margin_and_gradient(model, images, labels),
        lambda: attack_images(model, images, labels, lambda net, x, y: (net(x), x)[1], "look"),
        lambda: evaluate(model, images, labels, attacks=["l2_pgd", "deepfool"], progress=False),
    ):
        look()
        assert torch.equal(images, before)
    assert torch.equal(predict(model, images), expected)


def test_an_empty_container_is_the_identity():
    model = nn.Sequential(nn.Flatten(), nn.Sequential(), nn.Linear(4, 2), nn.Sequential()).eval()
    x = torch.rand(3, 1, 2, 2)
    y = model(x).argmax(1)
    assert torch.equal(certify(model, x, y), certify(nn.Sequential(model[0], model[2]).eval(), x, y))
    assert (certify(model, x, y) > 0).all()


def _householder():
    layer = lipbench.layers.Householder(2)
    layer.angle = nn.Parameter(torch.rand(1, 5))
    return layer


def _centering():
    layer = lipbench.layers.BatchCentering(1)
    layer.running_mean = torch.zeros(5)
    return layer


def _centering_bias():
    layer = lipbench.layers.BatchCentering(1)
    layer.bias = nn.Parameter(torch.zeros(1, 5))
    return layer


@pytest.mark.parametrize(("make", "channels"), [(_householder, 2), (_centering, 1), (_centering_bias, 1)])
def test_stored_tensors_that_would_repeat_the_image_are_refused(make, channels):
    layer = make().eval()
    (found,) = lipbench.certificate.layerwise(layer, (channels, 4, 4))
    assert found.bound == torch.inf, "its output is five times the image"


@pytest.mark.parametrize("family", ["cayley", "soc"])
def test_a_bias_that_would_repeat_the_image_is_refused(family):
    mode = "circular" if family == "cayley" else "zeros"
    conv = nn.Conv2d(1, 1, 3, padding=1, padding_mode=mode)
    layer = lipbench.bake(lipbench.layers.constrain(conv, getattr(lipbench.layers, family), size=(4, 4))).eval()
    (before,) = lipbench.certificate.layerwise(layer, (1, 4, 4))
    assert before.bound < torch.inf
    owner = layer.inner if hasattr(layer, "inner") else layer
    owner.bias = nn.Parameter(torch.zeros(5))
    (found,) = lipbench.certificate.layerwise(layer, (1, 4, 4))
    assert found.bound == torch.inf


def test_numbers_that_underflow_certify_nothing():
    head = nn.Linear(4, 2).double()
    with torch.no_grad():
        head.weight.zero_()
        head.weight[0, 0] = 1e-200
        head.bias.copy_(torch.tensor([0.0, 0.5]))
    model = nn.Sequential(nn.Flatten(), lipbench.layers.Scale(1e200), head).eval()
    x = torch.zeros(1, 1, 2, 2, dtype=torch.float64)
    assert lipbench.certify(model, x) <= 0.5 * (1 + 1e-6), "at x = 1 the other logit wins"
    chain = nn.Sequential(*[lipbench.layers.Scale(v) for v in (1e-200, 1e-200, 1e300)]).eval()
    assert lipbench.certificate.lipschitz(chain, (1, 2, 2)) > 0


class Tenfold(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        return 10 * found if func is nn.functional.linear else found


class Below(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("mode", [Tenfold, Below])
def test_a_mode_of_torch_functions_is_seen(mode):
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).eval()
    with mode():
        assert f"a mode of torch functions is active: {mode.__name__}" in reason(model, (1, 4, 4))
    assert reason(model, (1, 4, 4)) == ""
    with torch.device("cpu"):
        assert reason(model, (1, 4, 4)) == ""
