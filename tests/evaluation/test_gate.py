"""Users' own functions: whatever they raise or return is taken, or answered by their name and what was expected."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import lipbench
from lipbench import attacks, gate
from lipbench.evaluation.health import HealthWarning
from lipbench.results import LawViolation

N = 6
# Not as errors: torch's compiler and its checkpoints warn, and what a model raises means that it has no gradient.
pytestmark = [
    pytest.mark.filterwarnings("default"),
    pytest.mark.filterwarnings("ignore::lipbench.evaluation.health.HealthWarning"),
    pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad:UserWarning"),  # a checkpoint, forwards
]


def network() -> nn.Sequential:
    torch.manual_seed(4)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 4)).eval()


def images() -> Tensor:
    return torch.rand(N, 1, 4, 4, generator=torch.Generator().manual_seed(1))


MODEL, X = network(), images()
# The second label of each image: the boundary is near.
MODEL[3].bias.data -= MODEL(X).detach().mean(0)
Y = MODEL(X).argmax(1)


def nested(tensors: list[Tensor], layout: torch.layout = torch.strided) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls them a prototype
        return torch.nested.as_nested_tensor(tensors, layout=layout)


class Subclass(Tensor):
    """A tensor whose arithmetic may be another one."""


class Deployed(nn.Module):
    """The network behind code of a user's own."""

    def __init__(self, run) -> None:
        super().__init__()
        self.inner, self.run = network(), run
        self.inner.load_state_dict(MODEL.state_dict())

    def forward(self, x: Tensor):
        return self.run(self.inner, x)


def judge(attack=None, certificate=None, model: nn.Module = MODEL) -> pd.DataFrame:
    return lipbench.evaluate(
        model,
        X,
        Y,
        {"mine": attack} if attack else [],
        {"mine_too": certificate} if certificate else [],
        progress=False,
    )


def l2(table: pd.DataFrame, method: str) -> np.ndarray:
    return table.loc[(table["norm"] == "l2") & (table["method"] == method), "distance"].to_numpy()


RADII = {
    "a tensor": torch.full((N,), 0.001, dtype=torch.float64),
    "one that requires a gradient": torch.full((N,), 0.001, dtype=torch.float64).requires_grad_(),
    "an array": np.full(N, 0.001),
    "an array that is read backwards": np.full(2 * N, 0.001)[::-2],
    "an array of float32": np.full(N, 0.001, dtype=np.float32),
    "a list": [0.001] * N,
    "a tuple": (0.001,) * N,
    "a list of tensors": [torch.tensor(0.001, dtype=torch.float64)] * N,
    "a series": pd.Series([0.001] * N),
}
NO_RADII = {
    "nothing": None,
    "a number": 0.1,
    "a name": "0.1",
    "too few": torch.zeros(N - 1),
    "a column": torch.zeros(N, 1),
    "a pair": (torch.zeros(N), torch.zeros(N)),
    "a dictionary": {"radii": torch.zeros(N)},
    "decisions": torch.zeros(N, dtype=torch.bool),
    "a list of decisions": [True] * N,
    "complex numbers": torch.zeros(N, dtype=torch.complex64),
    "NaN": torch.full((N,), torch.nan),
    "negative numbers": [-1.0] * N,
    "a ragged list": [[0.0], *[0.0] * (N - 1)],
    "names": ["0.1"] * N,
    "gaps": [None] * N,
    "a sparse tensor": torch.zeros(N).to_sparse(),
    "a nested tensor": nested([torch.zeros(1)] * N),
    "a jagged tensor": nested([torch.zeros(1)] * N, layout=torch.jagged),
}


@pytest.mark.parametrize("kind", RADII)
def test_radii_are_taken_in_every_clear_form(kind):
    found = l2(judge(certificate=lambda model, x, y: RADII[kind]), "mine_too")
    assert np.allclose(found, 0.001, rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.uint64])
def test_integers_of_any_kind_are_radii(dtype):
    found = gate.checked_radii("mine", np.arange(N).astype(dtype), N)
    assert torch.equal(found, torch.arange(N, dtype=torch.float64))


@pytest.mark.parametrize("kind", NO_RADII)
def test_what_is_no_radius_is_refused_by_name(kind):
    with pytest.raises(
        ValueError, match=r"certificate mine_too returned .*A certificate is a function \(model, x, y\)"
    ):
        judge(certificate=lambda model, x, y: NO_RADII[kind])


FORMS = {
    "an array": lambda x: x.detach().numpy(),
    "float64": lambda x: x.double(),
    "with a graph": lambda x: x.detach().requires_grad_() * 1,
    "another order in memory": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "a list of images": list,
}
NO_IMAGES = {
    "nothing": lambda x: None,
    "a pair": lambda x: (x, x),
    "too few": lambda x: x[1:],
    "without channels": lambda x: x[:, 0],
    "integers": lambda x: (255 * x).byte(),
    "integers of numpy": lambda x: (255 * x).byte().numpy(),
    "decisions": lambda x: torch.ones(N, dtype=torch.bool),
    "a dictionary": lambda x: {"images": x},
    "complex numbers": lambda x: x.to(torch.complex64),
    "a sparse tensor": lambda x: x.to_sparse(),
    "a nested tensor": lambda x: nested(list(x)),
    "a list of nested tensors": lambda x: [nested(list(x))] * N,
    "objects": lambda x: np.full(x.shape, None),
}


@pytest.mark.parametrize("kind", FORMS)
def test_images_are_taken_in_every_clear_form(kind):
    def mine(model: nn.Module, x: Tensor, y: Tensor):
        return FORMS[kind](attacks.fgm(model, x, y))

    usual = l2(judge(attacks.fgm), "mine")
    assert np.isfinite(usual).any()
    assert np.array_equal(l2(judge(mine), "mine"), usual)


@pytest.mark.parametrize("kind", NO_IMAGES)
def test_what_is_no_image_is_refused_by_name(kind):
    with pytest.raises(ValueError, match=r"attack mine returned .*An attack is a function \(model, x, y\)"):
        judge(lambda model, x, y: NO_IMAGES[kind](x))


ERRORS = [
    AssertionError("x"),
    AttributeError("x"),
    KeyError("x"),
    NotImplementedError("x"),
    RuntimeError("x"),
    StopIteration("x"),
    SystemExit(0),
    TypeError("x"),
    ValueError("x"),
    ZeroDivisionError("x"),
    torch.jit.Error("x"),
    type("OfTheirOwn", (Exception,), {})("x"),
]


def raising(error: BaseException):
    def function(*arguments):
        raise error

    return function


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_is_told_with_the_name_the_place_and_what_was_expected(error):
    place = rf"test_gate\.py, line \d+\): {type(error).__name__}"
    with pytest.raises(ValueError, match=rf"attack mine fails \({place}.*An attack is"):
        judge(raising(error))
    with pytest.raises(ValueError, match=rf"certificate mine_too fails \({place}.*A certificate is"):
        judge(certificate=raising(error))
    with pytest.raises(ValueError, match=rf"model refuses images of shape \[1, 4, 4\].*{type(error).__name__}"):
        judge(attacks.fgm, model=Deployed(raising(error)))
    with pytest.raises(ValueError, match=rf"model refuses images of shape \[1, 4, 4\].*{type(error).__name__}"):
        lipbench.certify(Deployed(raising(error)), X)
    with pytest.raises(ValueError, match=rf"measure mine fails \({place}.*A measure is"), gate.named("measure", "mine"):
        raising(error)()


@pytest.mark.parametrize(
    "error", [MemoryError("x"), ImportError("x"), KeyboardInterrupt(), LawViolation("x", None, None)]
)
def test_what_is_no_fault_of_the_function_comes_through(error):
    with pytest.raises(type(error)):
        judge(raising(error))


def test_a_wrong_signature_is_told():
    with pytest.raises(ValueError, match=r"attack mine fails .*takes 1 positional argument.*\(model, x, y\) -> images"):
        judge(lambda model: X)


@pytest.mark.parametrize(
    "chosen", ["fgm", attacks.fgm, [attacks.fgm], {"mine": "fgm"}, {1: attacks.fgm}, {"mine": None}, 3]
)
def test_what_is_no_choice_of_functions_is_refused(chosen):
    for kind in ("attack", "certificate"):
        with pytest.raises(ValueError, match=rf"(?i){kind}.*name"):
            lipbench.evaluate(MODEL, X, Y, **{f"{kind}s": chosen}, progress=False)


@pytest.mark.parametrize(
    ("run", "said"),
    [
        (lambda m, x: None, "this one a NoneType"),
        (lambda m, x: (m(x), x), "this one a tuple"),
        (lambda m, x: {"logits": m(x)}, "this one a dict"),
        (lambda m, x: m(x).detach().numpy(), "this one a ndarray"),
        (lambda m, x: m(x).argmax(1), "int64; logits are floats.*before argmax"),
        (lambda m, x: m(x).to(torch.complex64), "complex64; logits are floats"),
        (lambda m, x: m(x).to_sparse(), "plain, dense tensor; this one a Tensor, torch.sparse_coo"),
        (lambda m, x: nested(list(m(x))), "this one a Tensor, nested"),
        (lambda m, x: m(x).as_subclass(Subclass), "this one a Subclass of shape"),
        (lambda m, x: m(x).half(), "float16, too coarse"),
        (lambda m, x: m(x).mean(0), r"gives \[4\] for"),
        (lambda m, x: m(x)[:1].repeat(2 * len(x), 1), r"gives \[\d+, 4\] for"),
        (lambda m, x: m(x)[:, :1], "antipodal"),
        (lambda m, x: m(x)[..., None], r"gives \[\d+, 4, 1\] for"),
        (lambda m, x: m(x) * torch.nan, "NaN"),
    ],
)
def test_a_model_that_is_no_classifier_is_refused_with_what_is_expected(run, said):
    for call in (lambda: judge(attacks.fgm, model=Deployed(run)), lambda: lipbench.certify(Deployed(run), X, Y)):
        with pytest.raises(ValueError, match=said):
            call()


@pytest.mark.parametrize("spoil", ["weights", "mode", "gradient", "images", "output"])
def test_a_certificate_leaves_the_model_and_the_images_as_they_are(spoil):
    def mine(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        if spoil == "weights":
            model[3].weight.data += 1
        elif spoil == "mode":
            model.train()
        elif spoil == "gradient":
            model(x).sum().backward() if any(p.requires_grad for p in model.parameters()) else None
        elif spoil == "images":
            x.zero_(), y.zero_()
        else:
            model.forward = lambda x: torch.zeros(len(x), 4)
        return torch.zeros(len(y))

    model = network()
    if spoil in ("weights", "output"):
        with pytest.raises(ValueError, match="mine_too changed the"):
            judge(attacks.fgm, mine, model)
    else:
        plain = judge(attacks.fgm, lambda model, x, y: torch.zeros(len(x)), model)
        assert judge(attacks.fgm, mine, model).equals(plain)


class NoBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        raise KeyError("no backward pass")


WITHOUT = {
    "numpy": lambda m, x: m(torch.from_numpy(x.numpy())),
    "numpy, detached": lambda m, x: m(torch.from_numpy(x.detach().numpy().copy())),
    "item": lambda m, x: m(torch.tensor(x.tolist(), dtype=x.dtype)),
    "no_grad": lambda m, x: torch.no_grad()(m)(x),
    "inference_mode": lambda m, x: torch.inference_mode()(m)(x),
    "reentrant": lambda m, x: checkpoint(m, x, use_reentrant=True),
    "backward": lambda m, x: m(NoBackward.apply(x)),
    "in place": lambda m, x: m(x.sigmoid().exp_().log_().logit()),
}


@pytest.mark.parametrize("kind", WITHOUT)
def test_a_model_without_gradients_is_flagged_and_not_a_crash(kind):
    model = Deployed(WITHOUT[kind])
    with pytest.warns(HealthWarning, match="no_gradients"):
        table = lipbench.evaluate(model, X, Y, ["fgm", "deepfool"], [], progress=False)
    assert set(table["method"]) == {"fgm", "deepfool"}


@pytest.mark.parametrize(
    "name", ["fgsm", "l2_pgd", "carlini_wagner", "alma", "apgd", "ddn", "tangent", "transport_path"]
)
@pytest.mark.parametrize("kind", ["numpy", "backward"])
def test_no_attack_stops_at_a_model_without_gradients(kind, name):
    assert getattr(attacks, name)(Deployed(WITHOUT[kind]), X[:1], Y[:1]).shape == X[:1].shape


def inside() -> nn.Module:
    halved = torch.compile(lambda x: torch.tanh(x) * 0.5 + (x - torch.tanh(x) * 0.5), backend="aot_eager")
    return Deployed(lambda m, x: m(halved(x)))


def in_place() -> nn.Module:
    model = Deployed(lambda m, x: m(x))
    model.compile(backend="aot_eager")
    return model


WITH = {
    "compiled": lambda: torch.compile(Deployed(lambda m, x: m(x)), backend="aot_eager"),
    "compiled in place": in_place,
    "compiled inside": inside,
    "checkpoint": lambda: Deployed(lambda m, x: checkpoint(m, x, use_reentrant=False)),
}


@pytest.mark.parametrize("kind", WITH)
def test_a_model_that_computes_its_gradients_otherwise_is_attacked_as_ever(kind):
    table, plain = judge(attacks.deepfool, model=WITH[kind]()), judge(attacks.deepfool)
    assert np.isfinite(l2(plain, "mine")).any()
    assert np.allclose(l2(table, "mine"), l2(plain, "mine"), rtol=1e-3)
    assert "no_gradients" not in {flag["name"] for flag in table.attrs["flags"]}


def test_a_measure_returns_a_table():
    frame = pd.DataFrame({"value": [1.0]})
    assert gate.checked_table("mine", frame) is frame
    for returned in (None, {"value": 1.0}, [1.0], np.zeros(3), frame["value"]):
        with pytest.raises(ValueError, match=r"measure mine returned a.*pandas\.DataFrame"):
            gate.checked_table("mine", returned)
