"""The network and the image that were given are those of the results, in whatever precision they come."""

import copy
import inspect
import itertools
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

import lipbench
from lipbench import attacks, layers
from lipbench.certificate import certify
from lipbench.interop.kinds import ModelError
from lipbench.judge import distance
from lipbench.layers import constraints
from lipbench.layers.baking import BakingError
from lipbench.runs.external import _baked

N, PIXELS, CLASSES = 12, 16, 3
NATIVE = [
    attacks.alma,
    attacks.apgd,
    attacks.carlini_wagner,
    attacks.ddn,
    attacks.deepfool,
    attacks.fgm,
    attacks.fgsm,
    attacks.hop_skip_jump,
    attacks.l2_pgd,
    attacks.lipbench,
    attacks.tangent,
    attacks.transport_path,
]
CONSTRAINTS = [
    kind
    for kind in vars(constraints).values()
    if isinstance(kind, type)
    and issubclass(kind, constraints.Constraint)
    and "forward" in vars(kind)
    and "size" in inspect.signature(kind).parameters
]


def linear(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    """Affine, so that the exact distance of every image is known."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, CLASSES, dtype=torch.float32)).to(dtype).eval()


def pixels(dtype: torch.dtype = torch.float64) -> Tensor:
    x = torch.rand(N, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return (x * 255).round().byte() if dtype == torch.uint8 else x.to(dtype)


def exact_distances(layer: nn.Linear, x: Tensor, y: Tensor) -> Tensor:
    """From x to the nearest image that an affine classifier labels otherwise, the box left aside; 0 for mistakes."""
    weight, bias = layer.weight.detach().double(), layer.bias.detach().double()
    z = x.detach().double().flatten(1) @ weight.T + bias
    ahead = z.gather(1, y[:, None]) - z
    length = (weight[y][:, None] - weight).norm(dim=2)
    return (ahead / length).masked_fill(length == 0, torch.inf).amin(1).clamp_min(0)


def rows(table, side: str) -> Tensor:
    chosen = table[(table["norm"] == "l2") & (table["side"] == side)]
    return torch.from_numpy(
        chosen.groupby("index")["distance"].agg("max" if side == "lower" else "min").to_numpy().copy()
    )


class Tempered(nn.Module):
    """Its first tensor is of another precision than its weights."""

    def __init__(self, inner: nn.Module, dtype: torch.dtype):
        super().__init__()
        self.register_buffer("temperature", torch.tensor(2.0, dtype=dtype))
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) / self.temperature.to(x.dtype)


class Loose(nn.Module):
    """Its weights are no tensors of the module."""

    def __init__(self, dtype: torch.dtype):
        super().__init__()
        layer = linear(dtype)[1]
        self.weights = [layer.weight.detach(), layer.bias.detach()]

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weights
        return x.flatten(1) @ weight.T + bias


@pytest.mark.parametrize("default", [torch.float32, torch.float64])
@pytest.mark.parametrize("weights", [torch.float32, torch.float64])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.uint8])
@pytest.mark.filterwarnings("ignore::lipbench.evaluation.health.HealthWarning")
def test_a_bound_is_of_the_image_that_was_given(dtype, weights, default):
    model, x = linear(weights), pixels(dtype)
    seen = x.float() / 255 if dtype == torch.uint8 else x
    y = model(seen.to(weights)).argmax(1)
    found: dict[str, Tensor] = {}

    def fgm(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        found["images"] = attacks.fgm(network, images, labels)
        return found["images"]

    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(default)
        radii = lipbench.certify(model, x)
        table = lipbench.evaluate(model, x, y, {"mine": fgm}, ["certificate"], progress=False)
    finally:
        torch.set_default_dtype(before)
    truth = exact_distances(model[1], seen, y)
    assert (radii <= truth).all()
    assert torch.allclose(radii, truth, atol=1e-6)
    assert torch.allclose(rows(table, "lower"), radii, rtol=0, atol=0)
    upper, moved = rows(table, "upper"), (found["images"].double() - seen.double()).flatten(1).norm(dim=1)
    assert torch.equal(upper.isfinite(), (found["images"] != seen.to(weights)).flatten(1).any(1))
    assert torch.equal(upper[upper.isfinite()], moved[upper.isfinite()])


def test_images_with_a_graph_are_the_same_images():
    model, x = linear(), pixels(torch.float32)
    y = model(x).argmax(1)
    plain = lipbench.evaluate(model, x, y, ["fgm"], progress=False)
    grown = x.clone().requires_grad_() * 1
    table = lipbench.evaluate(model, grown, y, ["fgm"], progress=False)
    assert table["distance"].equals(plain["distance"])
    assert torch.equal(lipbench.certify(model, grown), lipbench.certify(model, x))
    assert not certify(model, grown, y).requires_grad


@pytest.mark.parametrize("attack", NATIVE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_attack_keeps_the_precision_whatever_the_default_is(attack, dtype):
    model, x = linear(dtype), pixels(dtype)
    y = model(x).argmax(1)
    usual = attack(model, x, y)
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        found = attack(model, x.clone().requires_grad_(), y)
    finally:
        torch.set_default_dtype(before)
    assert found.dtype == dtype
    assert not found.requires_grad
    near, usually = distance(x, found), distance(x, usual)
    assert torch.allclose(near, usually, rtol=1e-3, atol=1e-6)
    assert (near > 0).sum() > N // 2


@pytest.mark.parametrize("attack", NATIVE)
def test_an_attack_says_which_images_it_cannot_take(attack):
    x = pixels(torch.float64)
    with pytest.raises(ValueError, match=r"refuses images of shape \[1, 4, 4\] in torch\.float64"):
        attack(linear(), x, torch.zeros(N, dtype=torch.long))
    with pytest.raises(ValueError, match="too coarse for distances"):
        attack(linear().bfloat16(), x.bfloat16(), torch.zeros(N, dtype=torch.long))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Tempered(linear(), torch.float64),
        lambda: Tempered(linear(torch.float64), torch.float32),
        lambda: Tempered(linear(), torch.float16),
        lambda: Loose(torch.float32),
        lambda: Loose(torch.float64),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.filterwarnings("ignore::lipbench.evaluation.health.HealthWarning")
def test_the_model_itself_says_in_which_precision_it_takes_images(make, dtype):
    model, x = make(), pixels(dtype)
    plain = linear()
    y = plain(x.float()).argmax(1)
    table = lipbench.evaluate(model, x, y, ["deepfool"], progress=False)
    upper, truth = rows(table, "upper"), exact_distances(plain[1], x, y)
    assert (upper >= truth * (1 - 1e-6)).all()
    assert (upper <= truth * 1.01).sum() > N // 2  # the box is in the way of the others
    assert (lipbench.certify(model, x) <= truth).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("images", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.uint8])
def test_coarse_weights_are_refused_by_every_door(dtype, images):
    model, x, y = linear(dtype), pixels(images), torch.zeros(N, dtype=torch.long)
    for call in (
        lambda: lipbench.certify(model, x),
        lambda: lipbench.evaluate(model, x, y, ["fgm"], [], progress=False),
        lambda: lipbench.evaluate(model, x, y, [], ["certificate_float"], progress=False),
    ):
        with pytest.raises(ValueError, match=r"too coarse for distances: judge\s+model\.float\(\)"):
            call()
    with pytest.raises(ValueError, match=r"too coarse|refuses images"):
        certify(model, x, y)


def constrained(kind) -> nn.Sequential:
    torch.manual_seed(0)
    layer = layers.constrain(nn.Linear(PIXELS, CLASSES), kind)
    return nn.Sequential(nn.Flatten(), layer)


@pytest.mark.parametrize("kind", CONSTRAINTS)
def test_the_radius_is_of_the_weights_of_the_forward_pass(kind):
    """Also where an ordinary training loop left a constraint that was not reached."""
    model, x = constrained(kind), pixels(torch.float32)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.mul_(3).add_(0.3 * torch.randn(tensor.shape))
    weight = model[1].weight.detach()
    plain = linear()
    plain[1].load_state_dict({"weight": weight, "bias": model[1].bias.detach()})
    y = plain(x).argmax(1)
    radii, truth = lipbench.certify(model, x), exact_distances(plain[1], x, y)
    assert (radii <= truth).all()
    assert torch.allclose(radii, truth, rtol=1e-3)
    table = lipbench.evaluate(model, x, y, [], ["certificate"], progress=False)
    assert (table["prediction"].to_numpy().reshape(-1, N) == y.numpy()).all()
    external = _baked(copy.deepcopy(model).eval(), SimpleNamespace(test=SimpleNamespace(images=x)))
    assert torch.equal(external(x), plain(x))


class Sum(nn.Module):
    """A parametrization of several tensors."""

    def forward(self, *parts: Tensor) -> Tensor:
        return sum(parts)

    def right_inverse(self, value: Tensor) -> tuple[Tensor, ...]:
        return value / 2, value / 4, value / 4


class Noisy(nn.Module):
    """A parametrization that computes something else in training."""

    def forward(self, value: Tensor) -> Tensor:
        return value + 1 if self.training else value


class Double(nn.Module):
    def forward(self, value: Tensor) -> Tensor:
        return 2 * value


SEVERAL = {
    "weight_norm": parametrizations.weight_norm,
    "sum": lambda layer: parametrize.register_parametrization(layer, "weight", Sum()),
    "bias": lambda layer: parametrize.register_parametrization(layer, "bias", Sum()),
    "both": lambda layer: parametrizations.weight_norm(SEVERAL["bias"](layer)),
    "two steps": lambda layer: parametrize.register_parametrization(SEVERAL["sum"](layer), "weight", Double()),
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "noise": lambda layer: parametrize.register_parametrization(layer, "weight", Noisy()),
    "buffer": lambda layer: parametrize.register_parametrization(buffered(layer), "weight", Sum()),
}


def buffered(layer: nn.Linear) -> nn.Linear:
    weight = layer.weight.detach()
    del layer.weight
    layer.register_buffer("weight", weight)
    return layer


@pytest.mark.parametrize("name", SEVERAL)
@pytest.mark.parametrize("training", [False, True])
def test_parametrizations_of_several_tensors_bake(name, training):
    model, x = linear(), pixels(torch.float32)
    SEVERAL[name](model[1])
    model.eval()
    logits, names = model(x).detach(), {key for key, _ in model[1].named_parameters()}
    model.train(training)
    radii = lipbench.certify(model, x)
    assert [module.training for module in model] == [training] * 2
    assert {key for key, _ in model[1].named_parameters()} == names
    baked = layers.bake(copy.deepcopy(model))
    assert not any(parametrize.is_parametrized(module) for module in baked.modules())
    assert torch.allclose(baked(x), logits, atol=1e-6)
    assert isinstance(baked[1].weight, nn.Parameter) == (name != "buffer")
    truth = exact_distances(baked[1], x, logits.argmax(1))
    assert (radii <= truth).all()
    assert torch.allclose(radii, truth, rtol=1e-3)


class Forgetful(nn.Module):
    """A module whose copy is another one."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = linear()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)

    def __deepcopy__(self, memo: dict) -> "Forgetful":
        other = Forgetful()
        nn.init.constant_(other.inner[1].bias, 1.0)
        nn.init.zeros_(other.inner[1].weight)
        return other


class Wrong(layers.Construction):
    """A construction whose plain layer computes something else."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(PIXELS, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)

    def bake(self) -> nn.Module:
        return nn.Linear(PIXELS, CLASSES)


class Counting(nn.Module):
    """Keeps a state: no two calls agree, and no copy is to blame."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.count = linear(), itertools.count()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + next(self.count)


@pytest.mark.parametrize("make", [Forgetful, lambda: nn.Sequential(nn.Flatten(), Wrong())])
def test_a_copy_that_computes_something_else_is_refused_with_the_cure(make):
    x, y = pixels(torch.float32), torch.zeros(N, dtype=torch.long)
    model = make()
    for call in (
        lambda: lipbench.certify(model, x),
        lambda: lipbench.evaluate(model, x, y, ["fgm"], progress=False),
    ):
        with pytest.raises(BakingError, match=r"gives other logits on 12 of 12 images.*lipbench\.bake"):
            call()


@pytest.mark.filterwarnings("ignore::lipbench.evaluation.health.HealthWarning")
def test_a_model_that_keeps_a_state_is_still_judged():
    table = lipbench.evaluate(
        Counting(), pixels(torch.float32), torch.zeros(N, dtype=torch.long), ["fgm"], progress=False
    )
    assert len(table)


class Iterated(nn.Module):
    """A spectral norm whose every call is a step of the iteration, also in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("u", torch.eye(CLASSES)[0])

    def forward(self, weight: Tensor) -> Tensor:
        v = nn.functional.normalize(weight.detach().T @ self.u, dim=0)
        self.u.copy_(nn.functional.normalize(weight.detach() @ v, dim=0))
        return weight / (self.u @ weight @ v)


class Graded(nn.Module):
    """A parametrization that computes something else for attacks."""

    def forward(self, weight: Tensor) -> Tensor:
        return 3 * weight if torch.is_grad_enabled() else weight


@pytest.mark.parametrize("kind", [Iterated, Graded])
def test_a_parametrization_that_gives_other_weights_at_each_call_is_refused(kind):
    x = pixels(torch.float32)

    def model() -> nn.Sequential:
        network = linear()
        parametrize.register_parametrization(network[1], "weight", kind())
        return network.eval()

    for call in (
        lambda: lipbench.certify(model(), x),
        lambda: lipbench.evaluate(model(), x, torch.zeros(N, dtype=torch.long), ["fgm"], progress=False),
    ):
        with pytest.raises(BakingError, match=r"other logits on .*Freeze it, or pass lipbench\.bake\(model\)"):
            call()
    with pytest.raises(ModelError, match="other logits"):
        _baked(model(), SimpleNamespace(test=SimpleNamespace(images=x)))
    assert lipbench.certify(lipbench.bake(model()), x).isfinite().all()
