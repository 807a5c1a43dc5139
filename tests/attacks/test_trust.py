"""Nothing is trusted: what attacks, starts and callers do cannot make a distance too short, nor lose one."""

import copy

import pytest
import torch
from helpers.hyperplanes import ALL, ITERATIVE, Hyperplane, exact, interior, judged
from torch import Tensor, nn

import lipbench
from lipbench import attacks
from lipbench.attacks import alma, carlini_wagner, chain, ddn, deepfool, hop_skip_jump, l2_pgd, tangent
from lipbench.evaluation import transport_law as law
from lipbench.evaluation.health import model_flags

SHAPE = (1, 6, 6)


def network(*first: nn.Module) -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(*first, nn.Flatten(), nn.Linear(36, 24), nn.ReLU(), nn.Linear(24, 3)).eval()


def medians(table) -> dict[str, float]:
    rows = table[(table["norm"] == "l2") & (table["side"] == "upper") & (table["label"] == table["prediction"])]
    return rows.groupby("method")["distance"].median().to_dict()


def test_an_attack_may_overwrite_what_it_gets():
    def blank(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        y.fill_(0)
        return x.zero_()

    model, x = network(), torch.rand(12, *SHAPE)
    y = model(x).argmax(1)
    images, labels = x.clone(), y.clone()
    table = lipbench.evaluate(model, x, y, {"blank": blank, "deepfool": deepfool}, [], progress=False)
    assert torch.equal(x, images)
    assert torch.equal(y, labels)
    alone = lipbench.evaluate(model, x, y, {"deepfool": deepfool}, [], progress=False)
    assert medians(table)["deepfool"] == medians(alone)["deepfool"] > 0


def negated(model: nn.Module) -> None:
    next(model.parameters()).mul_(-1)


def permuted(model: nn.Module) -> None:
    weight = next(model.parameters())
    weight.copy_(weight.flip(0).clone())


def hidden(model: nn.Module) -> None:
    next(model.parameters()).data.mul_(-1)


@pytest.mark.parametrize("change", [negated, permuted, hidden])
def test_an_attack_that_changes_the_weights_is_refused(change):
    def spoil(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            change(model)
        return x

    model, x = network(), torch.rand(4, *SHAPE)
    with pytest.raises(ValueError, match="spoil changed the weights"):
        lipbench.evaluate(model, x, model(x).argmax(1), {"spoil": spoil}, [], progress=False)


class Scaled(nn.Module):
    """Its factor is no weight; it counts its calls."""

    def __init__(self, noise: float = 0.0):
        super().__init__()
        self.factor, self.calls, self.noise = 1.0, 0, noise

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.factor * x + self.noise * torch.randn_like(x)


def turned(part: Scaled) -> None:
    part.factor = -1.0


def hooked(part: Scaled) -> None:
    part.register_forward_hook(lambda module, arguments, result: 0.9 * result)


def replaced(part: Scaled) -> None:
    part.forward = lambda x: 0.5 * x


@pytest.mark.parametrize("change", [turned, hooked, replaced])
def test_an_attack_that_changes_the_model_besides_its_weights_is_refused(change):
    def spoil(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        change(next(m for m in model.modules() if isinstance(m, Scaled)))
        return x

    model, x = network(Scaled()), torch.rand(4, *SHAPE)
    with pytest.raises(ValueError, match="spoil changed the model: the logits of the same images"):
        lipbench.evaluate(model, x, model(x).argmax(1), {"spoil": spoil}, [], progress=False)


@pytest.mark.filterwarnings("ignore::lipbench.evaluation.health.HealthWarning")
@pytest.mark.parametrize("noise", [0.0, 1e-3])
def test_a_model_may_count_its_calls_and_draw_random_numbers(noise):
    seen = []

    def looks(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        part = next(m for m in model.modules() if isinstance(m, Scaled))
        model(x)
        part.calls += 100
        seen.append(part.calls)
        return x

    model, x = network(Scaled(noise)), torch.rand(4, *SHAPE)
    table = lipbench.evaluate(model, x, model(x).argmax(1), {"looks": looks}, [], progress=False)
    assert seen[0] > 100
    assert set(table["method"]) == {"looks"}


@pytest.mark.parametrize("batch_size", [1, 3, 500])
def test_no_more_images_at_once_than_the_batch_size(batch_size):
    sizes = set()

    class Noted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            sizes.add(len(x))
            return x

    model, x = network(Noted()), torch.rand(11, *SHAPE)
    y = network()(x).argmax(1)
    table = lipbench.evaluate(model, x, y, {"deepfool": deepfool}, [], batch_size=batch_size, progress=False)
    assert len(table[table["norm"] == "l2"]) == 11
    assert max(sizes) == min(11, batch_size)


@pytest.mark.parametrize("returned", [None, (1, 2), "images"])
def test_an_attack_that_returns_no_tensor_is_named(returned):
    model, x = network(), torch.rand(4, *SHAPE)
    with pytest.raises(ValueError, match="mine returned a"):
        lipbench.evaluate(model, x, model(x).argmax(1), {"mine": lambda *_: returned}, [], progress=False)


@pytest.mark.filterwarnings("ignore::lipbench.evaluation.health.HealthWarning")
def test_inference_mode_changes_nothing():
    model, x = network(), torch.rand(12, *SHAPE)
    y = model(x).argmax(1)
    chosen = ["deepfool", "carlini_wagner", "lipbench"]
    usual = medians(lipbench.evaluate(model, x, y, chosen, [], progress=False))
    with torch.inference_mode():
        made = x + 0
        inside = medians(lipbench.evaluate(model, made, y, chosen, [], progress=False))
    outside = medians(lipbench.evaluate(model, made, y, chosen, [], progress=False))
    for found in (inside, outside):
        assert found == pytest.approx(usual, rel=1e-4)


@pytest.mark.parametrize("attack", [attacks.lipbench, chain(deepfool, ddn), attacks.best_of(deepfool, ddn)])
def test_combinations_leave_a_training_model_as_it_was(attack):
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Dropout(0.5), *network()).train()
    x, before, generator = torch.rand(6, *SHAPE), copy.deepcopy(model.state_dict()), torch.get_rng_state()
    attack(model, x, torch.zeros(6, dtype=torch.long))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("start", ["noise", "outside", "nan"])
@pytest.mark.parametrize("attack", [l2_pgd, ddn, alma, tangent, carlini_wagner, hop_skip_jump, attacks.lipbench])
def test_a_useless_start_is_no_start(attack, start):
    model, x = network(), torch.rand(12, *SHAPE)
    y = model(x).argmax(1)
    noise = torch.randn_like(x)
    first = {"noise": x + 1e-3 * noise, "outside": x + 3 * noise, "nan": x + torch.nan * noise}[start]
    assert judged(model, x, attack(model, x, y, start=first), y).isfinite().all()


def test_a_start_of_another_shape_is_refused():
    model, x = network(), torch.rand(3, *SHAPE)
    with pytest.raises(ValueError, match="start= holds images of shape"):
        alma(model, x, model(x).argmax(1), start=x[:2])


@pytest.mark.parametrize("gap", [1e-3, 1e-5])
@pytest.mark.parametrize("attack", ITERATIVE)
def test_images_almost_on_the_boundary(attack, gap):
    model, x = Hyperplane(), interior()
    y = model(x).argmax(1)
    foot = attacks.deepfool(copy.deepcopy(model).double(), x.double(), y).float()
    ray = (x - foot) / (x - foot).flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    near = (foot + gap * ray).clamp(0, 1)
    y = model(near).argmax(1)
    ratio = judged(model, near, attack(model, near, y), y) / exact(model, near, y)
    assert ratio.isfinite().all(), "an attack failed"
    # In float32 the distance itself is of the order of the rounding of the margin.
    assert ratio.median() <= 1.2


@pytest.mark.parametrize("gap", [1e-4, 1e-6])
def test_carlini_wagner_follows_small_gradients(gap):
    model, x = Hyperplane().double(), interior().double()
    y = model(x).argmax(1)
    foot = deepfool(model, x, y)
    ray = (x - foot) / (x - foot).flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    near = foot + gap * ray
    y = model(near).argmax(1)
    ratio = judged(model, near, carlini_wagner(model, near, y), y) / exact(model, near, y)
    assert ratio.max() <= 1.01


@pytest.mark.parametrize("shift", [1e3, 1e4])
@pytest.mark.parametrize("attack", [deepfool, l2_pgd, attacks.lipbench])
def test_logits_shifted_by_far_more_than_they_differ(attack, shift):
    class Shifted(nn.Module):
        def __init__(self, model: nn.Module):
            super().__init__()
            self.model = model

        def forward(self, x: Tensor) -> Tensor:
            return self.model(x) + shift

    model, x = network(), torch.rand(12, *SHAPE)
    y = model(x).argmax(1)
    usual = judged(model, x, attack(model, x, y), y)
    moved = Shifted(model)
    found = judged(moved, x, attack(moved, x, y), y)
    assert found.isfinite().all()
    assert found.median() <= 1.1 * usual.median()


class InPlace(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sub_(0.5).mul_(3)


class Pure(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x - 0.5) * 3


@pytest.mark.parametrize("attack", ALL)
def test_a_first_layer_that_works_in_place_weakens_nothing(attack):
    model, twin, x = network(InPlace()), network(Pure()), torch.rand(12, *SHAPE)
    y = twin(x).argmax(1)
    found, usual = (judged(twin, x, attack(m, x, y), y) for m in (model, twin))
    assert torch.equal(found.isfinite(), usual.isfinite())
    assert found.median() <= 1.01 * usual.median()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_coarse_precisions_are_refused_with_the_remedy(dtype):
    x = torch.rand(4, *SHAPE)
    with pytest.raises(ValueError, match=r"too coarse for distances: judge model.float\(\)"):
        lipbench.evaluate(network().to(dtype), x, torch.zeros(4, dtype=torch.long), ["fgm"], [], progress=False)


def test_what_is_no_module_and_what_are_no_labels():
    model, x = network(), torch.rand(4, *SHAPE)
    with pytest.raises(TypeError, match=r"not a torch.nn.Module"):
        lipbench.evaluate(model.forward, x, torch.zeros(4, dtype=torch.long))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="Labels are a tensor of integers"):
        lipbench.evaluate(model, x, torch.zeros(4))
    with pytest.raises(ValueError, match="batch_size"):
        lipbench.evaluate(model, x, torch.zeros(4, dtype=torch.long), batch_size=0)


class _Backwards(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return torch.ones_like(gradient)


class Lying(nn.Module):
    """The identity, whose backward pass says something else."""

    def forward(self, x: Tensor) -> Tensor:
        return _Backwards.apply(x)


@pytest.mark.parametrize(("first", "flagged"), [((Lying(),), True), ((), False), ((Pure(),), False)])
def test_gradients_that_do_not_say_what_the_margin_does(first, flagged):
    model, x = network(*first), torch.rand(40, *SHAPE)
    flags = {flag.name: flag for flag in model_flags(model, x, model(x).argmax(1))}
    assert ("wrong_gradients" in flags) == flagged
    if flagged:
        assert "hop_skip_jump" in flags["wrong_gradients"].message


class Coarse(nn.Module):
    """Ten levels, as a defence that quantises: no gradient passes."""

    def forward(self, x: Tensor) -> Tensor:
        return (x * 10).round() / 10


@pytest.mark.filterwarnings("ignore::lipbench.evaluation.health.HealthWarning")
@pytest.mark.parametrize(("first", "flagged"), [((Lying(),), True), ((Coarse(),), True), ((), False)])
def test_by_default_decisions_alone_check_the_headline(first, flagged):
    model, x = network(*first), torch.rand(14, *SHAPE)
    table = lipbench.evaluate(model, x, model(x).argmax(1), ["lipbench"], [], progress=False)
    assert set(table["method"]) == {"lipbench"}, "a check, no row of its own"
    flags = [flag for flag in table.attrs["flags"] if flag["name"] == "black_box_wins"]
    assert [flag["method"] for flag in flags] == ["lipbench"] * flagged
    assert all("of 10 images" in flag["message"] for flag in flags), "on the first ten"


def test_two_starts_find_the_nearer_class():
    """From x itself ALMA follows the class of the largest logit, which a steep other one can be nearer than."""
    torch.manual_seed(0)
    model, x = Hyperplane(10), interior(60)
    with torch.no_grad():
        model.weight.mul_(torch.linspace(0.3, 3, 10)[:, None])
    y = model(x).argmax(1)
    ratio = judged(model, x, attacks.lipbench(model, x, y), y) / exact(model, x, y)
    assert ratio.mean() <= 1.01


def test_the_transport_law_at_a_bound_of_0(monkeypatch):
    images, labels = torch.rand(8, *SHAPE), torch.arange(8) % 2
    constant = nn.Sequential(nn.Flatten(), nn.Linear(36, 2)).eval()
    with torch.no_grad():
        constant[1].weight.zero_()
    told = law.transport_law(constant, images, labels)
    assert (told["kr"], told["lipschitz"], told["transport_law"]) == (0, 0, True)
    # A network that differs between the classes has no bound of 0.
    with torch.no_grad():
        constant[1].weight[1] = images[labels == 1].mean(0).flatten() - images[labels == 0].mean(0).flatten()
    monkeypatch.setattr(law, "gaps", lambda model, shape: torch.zeros(2, 2))
    told = law.transport_law(constant, images, labels)
    assert told["kr"] > 0
    assert not told["transport_law"]
