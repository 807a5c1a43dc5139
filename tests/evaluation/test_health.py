"""Health flags: planted faults are seen, sound networks raise none."""

import re
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import lipbench
from lipbench.data import digits
from lipbench.evaluation.evaluate import health
from lipbench.evaluation.health import masked_flag, model_flags, returned_flags, table_flags
from lipbench.evaluation.scaling import range_flags
from lipbench.judge import Classifier
from lipbench.modules import undisturbed
from lipbench.results import bounds_table
from lipbench.results.flags import Flag

SHAPE = (1, 4, 4)
X = torch.rand(20, *SHAPE, generator=torch.Generator().manual_seed(0))


def classifier(*after: nn.Module, gain: float = 1.0) -> nn.Module:
    """A linear network with three classes, its weights the same each time, and whatever follows."""
    linear = nn.Linear(16, 3)
    generator = torch.Generator().manual_seed(1)
    linear.weight.data = gain * torch.randn(3, 16, generator=generator)
    linear.bias.data.zero_()
    return nn.Sequential(nn.Flatten(), linear, *after).eval()


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def names(model: nn.Module) -> set[str]:
    labels = torch.arange(len(X)) % 3
    return {flag.name for flag in model_flags(model, X, labels)}


def test_a_sound_network_raises_no_flag():
    assert names(classifier()) == set()
    assert names(classifier().double().float()) == set()
    assert names(classifier(nn.Dropout(), gain=1e4)) == set()
    assert names(classifier(nn.LogSoftmax(1))) == set(), "log-probabilities do not saturate"


@pytest.mark.parametrize(("scale", "middle"), [(lambda x: 255 * x, 127.5), (lambda x: 2 * x - 1, 0.0)])
def test_a_model_that_was_made_for_other_pixels_is_flagged(scale, middle):
    labels = torch.arange(60) % 2
    images = 0.5 * torch.rand(60, *SHAPE) + 0.5 * labels[:, None, None, None]
    linear = nn.Linear(16, 2)
    linear.weight.data, linear.bias.data = torch.tensor([[0.0], [1.0]]).repeat(1, 16), torch.tensor([16 * middle, 0.0])
    made = nn.Sequential(nn.Flatten(), linear).eval()  # tells bright images from dark ones
    flags = {flag.name: flag.message for flag in model_flags(made, images, labels)}
    assert "the accuracy is 50 %, and 100 % if the pixels are" in flags["input_range"]
    inside = nn.Sequential(Function(scale), made).eval()
    assert "input_range" not in {flag.name for flag in model_flags(inside, images, labels)}
    assert "input_range" not in {flag.name for flag in model_flags(made, images[:20], labels[:20])}, "too few"
    assert "input_range" in {flag.name for flag in model_flags(made, images, labels, 5)}, "of all, five at once"


@pytest.mark.parametrize(
    ("ones", "own", "other", "flagged"),
    [(50, 60, 90, True), (50, 70, 85, False), (50, 80, 100, False), (90, 60, 100, False)],
    ids=["clear", "small gain", "good as it is", "one label"],
)
def test_only_a_clear_gain_of_other_pixels_is_flagged(ones, own, other, flagged):
    """The first pixel is the label; the next two are white where the model errs, as given and on bright pixels."""
    labels = (torch.arange(100) < ones).long()
    order, images = torch.randperm(100, generator=torch.Generator().manual_seed(0)), torch.zeros(100, *SHAPE)
    images[:, 0, 0, 0], images[:, 0, 0, 1], images[:, 0, 0, 2] = labels, order >= own, order >= other

    def logits(x):
        label, wrong, wrong_if_bright = x.flatten(1).T[:3]
        z = 2.0 * (label > 0) - 1
        z = torch.where((wrong_if_bright if x.max() > 10 else wrong) > 0, -z, z)
        return torch.stack([-z, z], 1)

    assert [int((logits(x).argmax(1) == labels).sum()) for x in (images, 255 * images)] == [own, other]
    found = range_flags(Classifier(Function(logits).eval()), images, labels)
    assert [flag.name for flag in found] == ["input_range"] * flagged


def test_too_little_memory_for_the_rescaled_images_is_an_error():
    def greedy(x):
        if x.max() > 1:
            raise MemoryError
        return torch.stack([x.flatten(1).mean(1), x.flatten(1).mean(1)], 1)

    with pytest.raises(MemoryError):
        range_flags(Function(greedy), torch.rand(40, *SHAPE), torch.arange(40) % 2)


@pytest.mark.parametrize(
    ("after", "flag"),
    [
        (Function(lambda z: z + 1e-3 * torch.randn_like(z)), "randomised"),
        (Function(lambda z: z + torch.from_numpy(np.random.normal(size=z.shape)).to(z)), "randomised"),  # noqa: NPY002
        (Function(lambda z: z - z.mean(0)), "batch_dependent"),
        (nn.Softmax(1), "probabilities"),
        (Function(lambda z: z.round() + 0 * z), "zero_gradients"),
        (Function(lambda z: torch.sqrt(z * 0) + z), "nan_gradients"),
        (Function(lambda z: z.detach()), "no_gradients"),
        (Function(lambda z: torch.from_numpy(z.detach().numpy())), "no_gradients"),
        (Function(lambda z: z if z.dtype == torch.float32 else -z), "float64_differs"),
        (Function(lambda z: z.float()), "float64"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_fault_is_named_and_nothing_else(after, flag):
    model = classifier(after)
    if flag == "zero_gradients":  # where it rounds, not everywhere
        model = classifier(Function(torch.round))
    # Rounded and squashed outputs have small gradients besides.
    assert names(model) - {"saturated_gradients"} == {flag}


def test_saturated_probabilities_have_no_gradient():
    found = names(classifier(nn.Softmax(1), gain=300.0))
    assert {"probabilities", "zero_gradients"} <= found <= {"probabilities", "zero_gradients", "saturated_gradients"}


def test_saturated_units_are_counted_as_a_share():
    flags = model_flags(classifier(nn.Tanh(), gain=8.0), X, torch.arange(len(X)) % 3)
    (flag,) = [flag for flag in flags if flag.name == "saturated_gradients"]
    assert flag.severity == "note"
    assert re.match(r"on \d+ of 20 \(\d+ %\) images", flag.message)


def test_looking_changes_nothing():
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.Dropout())
    model[1].weight.grad = torch.ones(3, 16)
    before = X.clone()
    state = torch.get_rng_state()
    model_flags(model, X, torch.zeros(len(X), dtype=torch.long))
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    assert torch.equal(model[1].weight.grad, torch.ones(3, 16))
    assert torch.equal(X, before)


def test_what_an_attack_returns():
    model = classifier()
    assert returned_flags(model, "a", X) == []
    bad = X.clone()
    bad[0, 0, 0, 0], bad[1, 0, 0, 0], bad[2, 0, 0, 0] = 1.1, -1e-6, torch.nan
    (flag,) = returned_flags(model, "a", bad, batch_size=7)
    assert (flag.name, flag.method) == ("outside_box", "a")
    assert flag.message.startswith("3 of 20 ")
    middle = model(X)[:, 0].median()  # of 20, the tenth
    broken = classifier(Function(lambda z: z + 0 * (z[:, :1] - middle - 1e-4).log()))
    (flag,) = returned_flags(broken, "a", X, batch_size=7)
    assert flag.name == "nan_logits"
    assert "of 10 of 20 " in flag.message


def rows(method: str, side: str, distances: list[float], wrong: int = 0, norm: str = "l2") -> pd.DataFrame:
    """Images of the labels 0, 1, 0, ...; the first `wrong` ones misclassified."""
    labels = np.arange(len(distances)) % 2
    predictions = np.where(np.arange(len(distances)) < wrong, 1 - labels, labels)
    return bounds_table(range(len(distances)), labels, predictions, method, side, np.array(distances), norm)


def found(*tables: pd.DataFrame, **options) -> dict[str, Flag]:
    return {flag.name: flag for flag in table_flags(pd.concat(tables, ignore_index=True), **options)}


def test_a_sound_table_raises_no_flag():
    good = [1.0, 2.0, 3.0, 4.0]
    assert found(rows("certificate", "lower", good), rows("a", "upper", good)) == {}
    assert found(rows("a", "upper", [0.0, *good], wrong=1)) == {}


def test_what_never_happens_is_said_of_the_method():
    inf = float("inf")
    flags = found(rows("a", "upper", [inf] * 4), rows("b", "upper", [1.0, inf, 2.0, 3.0]))
    assert flags.keys() == {"never_succeeded", "unbroken"}
    assert flags["never_succeeded"].method == "a"
    assert "1 of 4" in flags["unbroken"].message
    both = table_flags(pd.concat([rows(name, "upper", [inf] * 4) for name in "ab"]))
    assert [flag.method for flag in both if flag.name == "never_succeeded"] == ["a, b"], "one flag names all"
    # A misclassified image has the distance 0 whatever the attack does.
    assert "never_succeeded" in found(rows("a", "upper", [0.0, inf, inf, inf], wrong=1))
    flags = found(rows("certificate", "lower", [0.0] * 4), rows("a", "upper", [1.0] * 4))
    assert flags.keys() == {"never_certified"}
    assert "layer_table" in flags["never_certified"].message
    (flag,) = found(rows("certificate_float", "lower", [0.0] * 4)).values()
    assert "or how it rounds is not known" in flag.message
    assert "float_layerwise" in flag.message


def test_a_black_box_that_wins():
    white = rows("pgd", "upper", [1.0] * 40)
    near = [0.9] * 3 + [1.2] * 37
    assert found(white, rows("hop_skip_jump", "upper", near)).keys() == {"black_box_nearer"}
    assert found(white, rows("other", "upper", near)) == {}
    assert found(white, rows("other", "upper", near), black_box={"other"}).keys() == {"black_box_nearer"}
    assert found(white, rows("hop_skip_jump", "upper", [0.9] + [1.2] * 39)) == {}, "one of forty is luck"
    assert found(white, rows("hop_skip_jump", "upper", [0.995] * 40)) == {}, "as near"
    failed = rows("pgd", "upper", [float("inf")] + [1.0] * 39)
    assert found(failed, rows("hop_skip_jump", "upper", [1.2] * 40)).keys() == {"black_box_nearer"}
    # Another norm is another question.
    linf = rows("hop_skip_jump", "upper", [0.1] * 40, norm="linf")
    assert found(white, rows("hop_skip_jump", "upper", [1.2] * 40), linf) == {}


def test_lipbench_is_weak_where_another_attack_is_nearer():
    ours = rows("lipbench", "upper", [1.0] * 40)
    assert found(ours, rows("ddn", "upper", [0.9] * 3 + [1.2] * 37)).keys() == {"weak_attack"}
    assert found(ours, rows("ddn", "upper", [0.9] * 2 + [1.2] * 38)) == {}, "two of forty are luck"
    assert found(ours, rows("ddn", "upper", [0.96] * 40)) == {}, "4 % nearer"
    assert found(rows("apgd", "upper", [1.0] * 40), rows("ddn", "upper", [0.5] * 40)) == {}, "others may be weak"
    assert found(ours, rows("hop_skip_jump", "upper", [0.9] * 3 + [1.2] * 37)).keys() == {"black_box_nearer"}


class _Opposite(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return -gradient


@pytest.mark.parametrize(
    ("first", "masked"),
    [
        (nn.Identity(), False),
        (Function(lambda x: x.tanh()), False),
        (Function(_Opposite.apply), True),
        (Function(lambda x: (x * 10).round() / 10), True),
    ],
)
def test_gradients_are_masked_where_they_contradict_the_margin(first, masked):
    model = Classifier(nn.Sequential(first, classifier()))
    y = model(X).argmax(1)
    images = (X + torch.rand(X.shape, generator=torch.Generator().manual_seed(2)) - 0.5).clamp(0, 1)
    flags = masked_flag(model, X, y, images, 20)
    assert [flag.name for flag in flags] == ["black_box_wins"] * masked


def test_accuracy_of_a_guess():
    assert found(rows("a", "upper", [1.0] * 8, wrong=4)).keys() == {"low_accuracy"}
    assert found(rows("a", "upper", [1.0] * 8, wrong=3)) == {}
    # Hardly better than a guess: of many images a tenth of the way to 1, of fewer within the error of a guess.
    assert found(rows("a", "upper", [1.0] * 4000, wrong=1850)).keys() == {"low_accuracy"}
    assert found(rows("a", "upper", [1.0] * 4000, wrong=1750)) == {}
    assert found(rows("a", "upper", [1.0] * 40, wrong=15)).keys() == {"low_accuracy"}
    assert found(rows("a", "upper", [1.0] * 40, wrong=10)) == {}
    assert "50.0 %, hardly better than always" in found(rows("a", "upper", [1.0] * 8, wrong=4))["low_accuracy"].message
    assert "37.5 %, worse than always" in found(rows("a", "upper", [1.0] * 8, wrong=5))["low_accuracy"].message


def test_of_classes_of_unequal_size_the_accuracy_is_balanced():
    """A one-class network: 10 % inliers. Always answering "outlier" is right on 90 %, and worthless."""
    labels = (np.arange(1000) < 100).astype(int)
    for right, flagged in ((0.4, False), (0.02, True)):
        sees = np.where(np.arange(1000) >= 1000 * (1 - right), 0, 1)  # all inliers, and some outliers
        table = bounds_table(range(1000), labels, sees, "a", "upper", np.ones(1000))
        assert ("low_accuracy" in found(table)) == flagged, f"balanced accuracy {50 + 50 * right / 0.9:.0f} %"
    never = bounds_table(range(1000), labels, 0 * labels, "a", "upper", np.ones(1000))
    assert found(never)["low_accuracy"].message.startswith("balanced accuracy 50.0 %, hardly better than")


@pytest.mark.parametrize(
    ("what", "flagged"),
    [
        (lambda x: x, False),
        (lambda x: x + 0.2, False),
        (lambda x: x.transpose(2, 3), True),
        (lambda x: x.rot90(1, (2, 3)), True),
        (lambda x: x / 255, True),
        (lambda x: 1 - x, True),
    ],
    ids=["as trained", "brighter", "transposed", "turned", "range", "inverted"],
)
def test_images_of_another_kind_than_the_training_are_flagged(what, flagged):
    data = digits()
    images, labels = data.train.images.flatten(1) / 255, data.train.labels
    means = torch.stack([images[labels == k].mean(0) for k in range(10)])
    test = what(data.test.images / 255).flatten(1)
    predictions = (test @ means.T - means.square().sum(1) / 2).argmax(1)
    table = bounds_table(
        range(len(test)), data.test.labels.numpy(), predictions.numpy(), "a", "upper", np.ones(len(test))
    )
    assert ("low_accuracy" in found(table)) == flagged


def test_evaluate_warns_and_keeps_the_flags():
    def liar(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return x

    model = classifier(nn.Softmax(1))
    labels = model(X).argmax(1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        table = lipbench.evaluate(model, X, labels, {"liar": liar}, progress=False)
    issued = {str(w.message).split(":")[1].split()[0] for w in caught if w.category is lipbench.HealthWarning}
    assert issued == {"probabilities", "never_succeeded"}
    assert all(w.filename == __file__ for w in caught), "they point to the caller"
    flags = {flag["name"]: flag for flag in table.attrs["flags"]}
    assert flags.keys() == issued | {"never_certified", "unbroken", "saturated_gradients"}, "notes are kept, not issued"
    assert flags["never_succeeded"]["method"] == "liar"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = classifier()
        assert lipbench.evaluate(model, X, model(X).argmax(1), ["deepfool"], progress=False).attrs["flags"] == []


def test_nan_logits_are_an_error_that_says_so():
    broken = classifier(Function(lambda z: z * torch.where(z[:, :1] > z[:, :1].median(), torch.nan, 1.0)))
    for function in (lambda: health(broken, X, torch.zeros(20).long()), lambda: lipbench.certify(broken, X)):
        with pytest.raises(ValueError, match=r"NaN or infinite logits on \d+ images"):
            function()


def test_undisturbed_keeps_the_gradients_of_others():
    model = classifier()
    model[1].weight.grad = torch.ones(3, 16)
    with undisturbed(model):
        model.zero_grad(set_to_none=False)
    assert torch.equal(model[1].weight.grad, torch.ones(3, 16))
