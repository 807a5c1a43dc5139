"""A layer whose code, tensors or type are not what its rule was written for has no bound, whatever it computes."""

import copy
import functools
import math
import random
import sys
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from types import BuiltinFunctionType, FunctionType

import pytest
import torch
import torch.nn.functional as F
from helpers import linear_cases, nonlinear_cases
from helpers.layer_cases import MAKERS, Case
from torch import Tensor, nn

from lipbench import layers
from lipbench.certificate import certify, certify_crown, certify_float, gaps, layerwise, lipschitz
from lipbench.certificate.exactness import watch
from lipbench.layers.spectrum import singular_range

assert linear_cases
assert nonlinear_cases

KINDS = {kind: maker for maker, kind in MAKERS.values() if kind is not None}


def bounded(kind: type) -> Case:
    """A random layer of this type that has a bound."""
    cases = (KINDS[kind](random.Random(seed)) for seed in range(200))
    return next(case for case in cases if math.isfinite(lipschitz(case.layer, case.shape)))


BOUNDED = [
    kind for kind in KINDS if not issubclass(kind, (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.LocalResponseNorm))
]
BOUNDED = [kind for kind in BOUNDED if not kind.__name__.startswith("InstanceNorm")]


def reasons(module: nn.Module, shape: tuple[int, ...]) -> str:
    found = layerwise(module, shape)
    assert all(math.isinf(layer.bound) == bool(layer.why and layer.remedy) for layer in found)
    return "; ".join(layer.reason for layer in found if layer.why)


# --- code -------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def call(module: nn.Module, shape: tuple[int, ...]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module(torch.ones(2, *shape, dtype=torch.float64))


def executed(module: nn.Module, shape: tuple[int, ...]) -> Iterator[tuple[object, str, object]]:
    """The functions that a forward pass calls from the files of layers, where they lie and their names."""
    seen: list[tuple[object, dict]] = []

    def note(frame, event, argument):
        if event == "call":
            seen.append((frame.f_code, frame.f_globals))
        elif event == "c_call":
            seen.append((argument, frame.f_globals))

    call(module, shape)  # what torch imports at the first call
    sys.setprofile(note)
    try:
        call(module, shape)
    finally:
        sys.setprofile(None)
    types = {parent for part in module.modules() for parent in type(part).__mro__} - {object}
    for ran, names in seen:
        home = str(names.get("__name__"))
        if not home.startswith(("torch.nn.", "lipbench.layers")):
            continue
        for place in (*types, F, torch, torch.fft, sys.modules[home]):
            for name, value in list(vars(place).items()):
                is_python = isinstance(value, FunctionType) and value.__code__ is ran
                if is_python or (isinstance(ran, BuiltinFunctionType) and value is ran):
                    yield place, name, value


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
@pytest.mark.parametrize("kind", BOUNDED, ids=lambda kind: kind.__name__)
def test_every_function_that_runs_is_watched(kind, monkeypatch):
    case = bounded(kind)
    case.layer.double()
    ran = {
        (getattr(place, "__name__", ""), name): (place, value)
        for place, name, value in executed(case.layer, case.shape)
    }
    assert {(kind.__name__, "forward"), ("Module", "_call_impl")} & set(ran)
    for (_, name), (place, value) in ran.items():
        if name == "_wrapped_call_impl":  # another name of `__call__`, by which nobody calls it
            continue
        with monkeypatch.context() as patch:
            calls: list[str] = []

            def wrapper(*args, value=value, calls=calls, name=name, **options):
                calls.append(name)
                return value(*args, **options)

            patch.setattr(place, name, wrapper)
            call(case.layer, case.shape)
            # Some are looked up where they were imported, not where they were written.
            assert not calls or "was replaced" in reasons(case.layer, case.shape), (place, name)
        assert not reasons(case.layer, case.shape)


@pytest.mark.parametrize("kind", BOUNDED, ids=lambda kind: kind.__name__)
def test_what_is_added_to_a_class_is_seen(kind, monkeypatch):
    case = bounded(kind)
    for name in ("__call__", "_call_impl", "forward", "__getattr__", "__getattribute__"):
        original = getattr(kind, name, None) or nn.Module.__getattr__
        with monkeypatch.context() as patch:
            patch.setattr(kind, name, lambda *args, value=original, **options: value(*args, **options), raising=False)
            assert "was replaced" in reasons(case.layer, case.shape), name
    for name in case.layer._parameters:
        with monkeypatch.context() as patch:
            patch.setattr(kind, name, property(lambda self: None), raising=False)
            assert "was replaced" in reasons(case.layer, case.shape), name
    assert not reasons(case.layer, case.shape)


@pytest.mark.parametrize(
    "other", [lambda *args: 5 * args[-1], functools.partial(torch.mul, 5)], ids=["function", "object"]
)
def test_what_was_replaced_before_the_import_is_seen(other, monkeypatch):
    layer = nn.ReLU().eval()
    for place, name in ((nn.ReLU, "forward"), (F, "relu")):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, other)
            watch(nn.ReLU)  # as lipbench does when it is imported
            assert "was replaced" in reasons(layer, (3,))
            assert "was replaced" in reasons(nn.Sequential(layer).eval(), (3,))
        watch(nn.ReLU)
        assert not reasons(layer, (3,))


def test_code_that_is_exchanged_inside_of_a_function_is_seen(monkeypatch):
    def other(self, x):
        return 5 * x

    monkeypatch.setattr(nn.ReLU.forward, "__code__", other.__code__)
    assert nn.ReLU()(torch.ones(1)) == 5
    assert "ReLU.forward was replaced" in reasons(nn.Sequential(nn.ReLU()).eval(), (3,))


def test_containers_parts_and_hooks_of_all_modules_are_watched(monkeypatch):
    model = nn.Sequential(nn.Flatten(), layers.Residual(nn.Linear(4, 4)), nn.Linear(4, 2)).eval()
    x = torch.rand(3, 1, 2, 2)
    y = model(x).argmax(1)
    assert (certify(model, x, y) > 0).all()
    for place, name in ((nn.Sequential, "forward"), (nn.Sequential, "__iter__"), (nn.Linear, "forward")):
        with monkeypatch.context() as patch:
            original = getattr(place, name)
            patch.setattr(place, name, lambda *args, value=original: value(*args))
            assert (gaps(model, (1, 2, 2)).fill_diagonal_(math.inf) == math.inf).all()
            assert (certify(model, x, y) == 0).all()
            assert (certify_float(model, x, y) == 0).all()
    for register in (
        nn.modules.module.register_module_forward_hook,
        nn.modules.module.register_module_forward_pre_hook,
    ):
        handle = register(lambda *_: None)
        assert (certify(model, x, y) == 0).all()
        handle.remove()
    assert (certify(model, x, y) > 0).all()


class Mine(nn.Module):
    """A layer with a rule of its own and a part."""

    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.scaled(self.part(x))

    def scaled(self, x: Tensor) -> Tensor:
        return x


def test_layers_of_ones_own_are_watched_from_their_rule_on(monkeypatch):
    monkeypatch.setattr(lipschitz, "_rules", dict(lipschitz._rules))
    lipschitz.register(Mine)(lambda layer, shape: 1.0)
    layer = Mine().eval()
    assert lipschitz(layer, (4,)) == 1
    with monkeypatch.context() as patch:
        patch.setattr(Mine, "scaled", lambda self, x: 5 * x)
        assert "Mine.scaled was replaced" in reasons(layer, (4,))
    handle = layer.part.register_forward_hook(lambda *_: None)
    assert "its part (Linear): it has a hook" in reasons(layer, (4,))
    handle.remove()
    assert lipschitz(layer, (4,)) == 1


# --- tensors ----------------------------------------------------------------------------------------------------------


class Other(Tensor):
    """A tensor with an arithmetic of its own."""


class Silent(Tensor):
    """Without `__torch_function__`, which says nothing of what it dispatches to."""

    __torch_function__ = torch._C._disabled_torch_function_impl


def owners(module: nn.Module) -> Iterator[tuple[dict, str]]:
    for part in module.modules():
        for held in (part._parameters, part._buffers):
            yield from ((held, name) for name, value in held.items() if value is not None)


@pytest.mark.parametrize("kind", BOUNDED, ids=lambda kind: kind.__name__)
def test_no_weight_is_a_subclass_of_a_tensor(kind):
    case = bounded(kind)
    for held, name in owners(case.layer):
        plain = held[name]
        for other in (Other, Silent):
            changed = plain.detach().as_subclass(other)
            held[name] = nn.Parameter(changed, False) if other is Other else changed
            assert f"is a {other.__name__}" in reasons(case.layer, case.shape), name
        held[name] = plain
    assert not reasons(case.layer, case.shape)


def test_other_tensors_that_are_not_plain():
    layer = nn.Linear(3, 3).eval()
    layer.weight = nn.Parameter(torch.eye(3).to_sparse(), False)
    assert "is stored as" in reasons(layer, (3,))
    layer = nn.Linear(3, 3).eval()
    layer.weight.double = lambda: torch.zeros(3, 3)
    assert "had its double replaced" in reasons(layer, (3,))
    layer = nn.Linear(3, 3).eval()
    object.__setattr__(layer, "weight", torch.eye(3))
    assert "its weight is hidden" in reasons(layer, (3,))
    assert "is a Other" in reasons(layers.Residual(nn.Identity(), torch.tensor(1.0).as_subclass(Other)).eval(), (3,))


# --- types ------------------------------------------------------------------------------------------------------------


def impostor(kind: type) -> nn.Module:
    """A layer that says that it is of this type by all means but its type."""

    class Meta(type):
        def __hash__(cls) -> int:
            return hash(kind)

        def __eq__(cls, other: object) -> bool:
            return other is kind or other is cls

    class Impostor(nn.Module, metaclass=Meta):
        __class__ = property(lambda self: kind)  # type: ignore[assignment]

        def forward(self, x: Tensor) -> Tensor:
            return 1000 * x

    Impostor.__name__ = kind.__name__
    return Impostor().eval()


@pytest.mark.parametrize("kind", [*KINDS, nn.Sequential], ids=lambda kind: kind.__name__)
def test_a_type_is_known_by_identity(kind):
    layer = impostor(kind)
    for shape in ((4,), (1, 4, 4)):
        assert lipschitz(layer, shape) == pytest.approx(1000), "what its code does, not what it says"
        assert lipschitz(layers.ConvexPotential(nn.Linear(4, 4), activation=layer).eval(), (4,)) == math.inf
    assert math.isnan(singular_range(layer, (4,))[1])
    x, y = torch.rand(2, 1, 2, 2), torch.zeros(2, dtype=torch.long)
    model = nn.Sequential(nn.Flatten(), layer, nn.Linear(4, 2)).eval()
    true = nn.Sequential(nn.Flatten(), layers.Scale(1000), model[2]).eval()
    assert torch.equal(certify_crown(model, x, y), certify_crown(true, x, y))
    assert torch.allclose(certify(model, x, y), certify(true, x, y), rtol=1e-8)


class Lying(OrderedDict):
    """A dictionary that may say one thing and give another."""


@pytest.mark.parametrize("name", ["_parameters", "_buffers", "_modules", "_forward_hooks", "_forward_pre_hooks"])
def test_what_a_module_keeps_its_parts_in_is_plain(name):
    model = nn.Sequential(nn.Linear(3, 3)).eval()
    for module in (model, model[0]):
        plain = vars(module)[name]
        object.__setattr__(module, name, Lying(plain))
        assert f"its {name} is not a plain dictionary" in reasons(model, (3,))
        object.__setattr__(module, name, plain)
    assert not reasons(copy.deepcopy(model), (3,))
