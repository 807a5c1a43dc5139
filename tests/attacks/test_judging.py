"""Somebody else's modules: judged in float64 where that can be, by the network as deployed where not; left as found."""

import copy
import random
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lipbench
from lipbench.attacks import best_of, chain, deepfool, fgm
from lipbench.evaluation.bounds import attack_images
from lipbench.evaluation.health import HealthWarning
from lipbench.judge import Classifier, Judge, distance
from lipbench.layers import bake
from lipbench.modules import evaluation_mode, undisturbed
from lipbench.randomness import same_random_numbers

SHAPE = (1, 6, 6)
X = torch.rand(12, *SHAPE, generator=torch.Generator().manual_seed(0))


class Plain(nn.Module):
    """Weights as parameters, or as constants that `.double()` does not reach."""

    def __init__(self, constant: bool = False):
        super().__init__()
        weight = torch.randn(3, 36, generator=torch.Generator().manual_seed(1))
        if constant:
            self.weight = weight
        else:
            self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.T


class Uncopyable(Plain):
    def __deepcopy__(self, memo: dict) -> nn.Module:
        raise TypeError("cannot pickle a session")


def scripted(model: nn.Module, freeze: bool = False) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        made = torch.jit.script(model.eval())
        return torch.jit.freeze(made) if freeze else made


def traced(model: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return torch.jit.trace(model.eval(), X[:2])


def exported(model: nn.Module) -> nn.Module:
    batch = torch.export.Dim("batch", min=1)
    return torch.export.export(model.eval(), (X[:2],), dynamic_shapes=({0: batch},)).module()


class Sum(nn.Module):
    """No parameters."""

    def forward(self, x: Tensor) -> Tensor:
        f = x.flatten(1).mean(1) - 0.5
        return torch.stack((-f, f), 1)


RUNS_IN_FLOAT64 = {
    "plain": lambda: Plain().eval(),
    "parameterless": lambda: Sum().eval(),
    "scripted": lambda: scripted(Plain()),
    "scripted parameterless": lambda: scripted(Sum()),
    "traced": lambda: traced(Plain()),
    "exported": lambda: exported(Plain()),
}
DEPLOYED_ALONE = {
    "constants": lambda: Plain(constant=True).eval(),
    "frozen": lambda: scripted(Plain(), freeze=True),
    "traced constants": lambda: traced(Plain(constant=True)),
    "uncopyable": lambda: Uncopyable().eval(),
}


@pytest.mark.parametrize("make", RUNS_IN_FLOAT64.values(), ids=RUNS_IN_FLOAT64)
def test_float64_judges(make):
    model = make()
    classifier = Classifier(model)
    logits = classifier.exact(X)
    assert classifier.why_not == ""
    assert logits.dtype == torch.float64
    assert (logits - model(X)).abs().max() < 1e-4
    assert not torch.equal(logits, model(X).double()), "more digits"


@pytest.mark.parametrize("make", DEPLOYED_ALONE.values(), ids=DEPLOYED_ALONE)
def test_where_float64_cannot_run_the_deployed_network_judges_alone(make):
    model = make()
    judge, labels = Judge(model), model(X).argmax(1)
    assert not judge(X, labels).any()
    assert judge(X, (labels + 1) % 3).all()
    assert judge.model.why_not
    assert judge.model.exact(X) is None
    assert judge.surely(X, (labels + 1) % 3).any()
    assert not judge.surely(X, labels).any()


@pytest.mark.parametrize("make", [*RUNS_IN_FLOAT64.values(), *DEPLOYED_ALONE.values()])
def test_they_are_evaluated_like_any_other(make):
    model = make()
    labels = model(X).argmax(1)
    modes = [module.training for module in model.modules() if hasattr(module, "training")]
    table = lipbench.evaluate(model, X, labels, ["deepfool"], progress=False)
    rows = table[(table["method"] == "deepfool") & (table["norm"] == "l2")]
    assert np.isfinite(rows["distance"]).all()
    assert (rows["distance"] > 0).all()
    flags = {flag["name"] for flag in table.attrs["flags"]}
    assert flags <= {"float64", "never_certified"}
    assert ("float64" in flags) == (make in DEPLOYED_ALONE.values())
    assert [module.training for module in model.modules() if hasattr(module, "training")] == modes
    if model(X).shape[1] == 3:
        expected = distance(X, deepfool(Plain().eval(), X, labels))
        assert np.allclose(rows["distance"], expected, rtol=1e-3)


def test_an_exported_module_without_modes():
    model = exported(Plain())
    with pytest.raises(NotImplementedError):
        model.eval()
    assert not evaluation_mode(model).training
    nested = nn.Sequential(model)
    assert bake(nested) is nested
    assert not any(module.training for module in nested.modules())


def test_a_frozen_module_is_attacked_directly():
    model = scripted(Plain(), freeze=True)
    labels = model(X).argmax(1)
    assert Judge(model)(deepfool(model, X, labels), labels).all()


CPU_MEMORY = (
    "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to ..."
)


class FailsInFloat64(nn.Module):
    """On batches of more than some images."""

    def __init__(self, error: Exception, above: int):
        super().__init__()
        self.error, self.above = [error], above
        self.linear = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == torch.float64 and len(x) > self.above:
            raise self.error[0]
        return self.linear(x.flatten(1))


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("too large"), MemoryError(), RuntimeError(CPU_MEMORY)])
def test_memory_that_runs_out_is_no_matter_of_precision(error):
    classifier = Classifier(FailsInFloat64(error, 0))
    with pytest.raises(type(error)):
        classifier.exact(torch.rand(2, 1, 4, 4))
    assert classifier.why_not == ""


def test_a_float64_copy_that_fails_on_the_way_is_told_of_every_attack_that_lacks_it(tmp_path):
    model = FailsInFloat64(RuntimeError("no such size"), 100).eval()
    images = torch.rand(120, 1, 4, 4)
    with torch.no_grad():
        labels = model(images).argmax(1)
    with pytest.warns(HealthWarning, match="float64_lost"):
        table = lipbench.evaluate(model, images, labels, ["fgm", "deepfool"], [], progress=False)
    flags = {(flag["name"], flag["method"]) for flag in table.attrs["flags"]}
    assert flags == {("float64_lost", "fgm"), ("float64_lost", "deepfool")}
    assert "no such size" in next(flag["message"] for flag in table.attrs["flags"])


class Copied(Plain):
    """Knows how often it was copied; `gain` is no tensor, so its change is no change of the weights."""

    copies = 0

    def __init__(self):
        super().__init__()
        self.gain = 1.0

    def __deepcopy__(self, memo: dict) -> nn.Module:
        Copied.copies += 1
        other = Copied()
        other.load_state_dict(self.state_dict())
        other.gain = self.gain
        return other

    def forward(self, x: Tensor) -> Tensor:
        return self.gain * super().forward(x)


def test_one_float64_copy_judges_a_whole_run():
    model = Copied().eval()
    Copied.copies = 0
    chosen = ["deepfool", "fgm", "l2_pgd"]
    lipbench.evaluate(model, X, model(X).argmax(1), chosen, [], progress=False, batch_size=5)
    # One is baked, one judges. Certificates, which read the forward pass of copies, are left out.
    assert Copied.copies <= 2


@pytest.mark.parametrize("attack", [deepfool, lipbench.attacks.lipbench, chain(fgm, deepfool), best_of(fgm, deepfool)])
def test_an_attack_called_directly_makes_one_float64_copy(attack):
    model = Copied().eval()
    labels = model(X).argmax(1)
    Copied.copies = 0
    found = attack(model, X, labels)
    assert Copied.copies == 1
    assert Judge(model)(found, labels).all()


def test_an_attack_is_given_a_classifier_with_the_parameters_of_the_model_alone():
    model, given = Plain().eval(), []

    def attack(classifier: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        given.append(classifier)
        assert torch.equal(classifier(x), model(x))
        return x

    with pytest.warns(HealthWarning, match="never_succeeded"):
        lipbench.evaluate(model, X, model(X).argmax(1), {"first": attack, "second": attack}, [], progress=False)
    first, second = given
    assert type(first) is Classifier
    assert first is not second
    assert first.model is second.model
    assert Classifier.of(first) is first
    assert [parameter.shape for parameter in first.parameters()] == [model.weight.shape]
    assert not first.training


class Other(nn.Module):
    """Another decision on every image."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return -self.model(x)


def swapped(classifier: Classifier) -> None:
    classifier.model = Other(classifier.model)
    classifier._float64[:] = [Other(copied) for copied in classifier._float64]


def hooked(classifier: Classifier) -> None:
    classifier.register_forward_hook(lambda module, given, logits: -logits)


def without_float64(classifier: Classifier) -> None:
    classifier._float64.clear()
    classifier.why_not = "no reason"


@pytest.mark.parametrize("change", [swapped, hooked, without_float64])
def test_what_an_attack_sets_on_its_classifier_does_not_reach_the_judge(change):
    def attack(classifier: Classifier, x: Tensor, y: Tensor) -> Tensor:
        change(classifier)
        return (x + 1e-3).clamp(0, 1)

    model = Plain().eval()
    judged = attack_images(model, X, model(X).argmax(1), attack, "mine")
    assert np.isinf(judged.table["distance"]).all()
    assert judged.why_not_float64 == ""


def test_the_images_that_an_attack_passes_are_counted_in_both_precisions():
    def attack(classifier: Classifier, x: Tensor, y: Tensor) -> Tensor:
        classifier(x)
        classifier(x[:3])
        classifier.exact(x[:2])
        return x

    model = Plain().eval()
    judged = attack_images(model, X, model(X).argmax(1), attack, "mine", batch_size=4)
    assert judged.passes == (4 + 3 + 2) / 4
    with_judge = attack_images(model, X, model(X).argmax(1), lambda m, x, y: x, "nothing")
    assert with_judge.passes == 0, "the judgement itself does not count"


@torch.no_grad()
def scaled(model: nn.Module) -> None:
    model.weight.mul_(-1)


def scaled_in_hiding(model: nn.Module) -> None:
    model.weight.data.mul_(-1)


def replaced(model: nn.Module) -> None:
    model.weight = nn.Parameter(-model.weight.detach())


def other_attribute(model: nn.Module) -> None:
    model.gain = -1.0


@pytest.mark.parametrize("change", [scaled, scaled_in_hiding, replaced, other_attribute])
def test_a_model_that_changed_between_two_calls_gets_another_copy(change):
    model = Copied().eval()
    labels = model(X).argmax(1)
    assert not Judge(model)(X, labels).any()
    before = Classifier(model)
    change(model)
    assert Judge(model)(X, labels).any()
    assert torch.allclose(Classifier.of(model).exact(X).float(), model(X), atol=1e-5)
    assert torch.equal(before.exact(X).argmax(1), labels), "the copy is of the old one"
    attacked = deepfool(model, X, model(X).argmax(1))
    assert Judge(model)(attacked, model(X).argmax(1)).all()


def draws() -> tuple:
    return random.random(), float(np.random.normal()), float(torch.rand(()))  # noqa: NPY002


def test_random_numbers_go_on_as_if_nothing_had_been_drawn():
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)
    expected = draws()
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)
    with same_random_numbers():
        draws()
    with pytest.raises(TypeError), same_random_numbers():
        sum(draws(), start=None)

    def drawing(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        draws()
        return x

    model = Plain().eval()
    with undisturbed(model):
        draws()
    lipbench.evaluate(model, X, (model(X).argmax(1) + 1) % 3, {"drawing": drawing}, progress=False)
    lipbench.certify(model, X)
    assert draws() == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_and_those_of_the_gpu():
    device = torch.device("cuda")
    torch.manual_seed(0)
    expected = float(torch.rand((), device=device))
    torch.manual_seed(0)
    with undisturbed(Plain().to(device)):
        torch.rand(3, device=device)
    assert float(torch.rand((), device=device)) == expected


@pytest.mark.parametrize("make", [Plain, lambda: scripted(Plain()), lambda: exported(Plain())])
def test_evaluate_leaves_the_model_as_it_was_also_under_no_grad(make):
    model = make()
    parameter = next(model.parameters())
    parameter.grad = torch.ones_like(parameter)
    if not isinstance(model, torch.fx.GraphModule):
        model.train()
    before, training = copy.deepcopy(model.state_dict()), model.training
    with torch.no_grad():
        table = lipbench.evaluate(model, X, model(X).argmax(1), ["deepfool", "fgm"], progress=False)
        assert not torch.is_grad_enabled()
    assert np.isfinite(table.loc[table["side"] == "upper", "distance"]).all()
    assert model.training == training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(parameter.grad, torch.ones_like(parameter))
    assert parameter.requires_grad


def test_an_uncopyable_model_is_left_as_it_was():
    model = Uncopyable().train()
    model.weight.grad = torch.ones(3, 36)
    lipbench.evaluate(model, X, model(X).argmax(1), ["deepfool"], progress=False)
    assert model.training
    assert model.weight.requires_grad
    assert torch.equal(model.weight.grad, torch.ones(3, 36))
