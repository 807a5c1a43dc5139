"""Images and labels that cannot be judged: a clear error at every entry point."""

import math

import pytest
import torch
from helpers.entry_points import ENTRIES, PIXELS, classifier, images, labels
from torch import Tensor

import lipbench
from lipbench import attacks
from lipbench.certificate import radius
from lipbench.evaluation.transport_law import transport_law


def poisoned(value: float) -> Tensor:
    x = images()
    x[2, 0, 1, 1] = value
    return x


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_pixels_that_are_not_finite(entry, value):
    with pytest.raises(ValueError, match=r"1 of 4 images have pixels that are NaN or infinite, the first is image 2"):
        ENTRIES[entry](classifier(), poisoned(value), labels())


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize(
    ("y", "error", "match"),
    [
        (torch.tensor([0, 1, 2, 3]), ValueError, r"Labels are 0\.\.2 for 3 logits; got 0\.\.3"),
        (torch.tensor([0, 1, -1, 2]), ValueError, r"Labels are 0\.\.2 for 3 logits; got -1\.\.2"),
        (torch.tensor([0, 1]), ValueError, "As many labels as images"),
        (torch.zeros(4, 1, dtype=torch.long), ValueError, r"labels \[4, 1\]"),
        (torch.zeros(4), TypeError, r"tensor of integers \[N\].* not torch.float32"),
        ([0, 1, 2, 0], TypeError, "tensor of integers .* not a list"),
    ],
    ids=str,
)
def test_labels_of_another_kind(entry, y, error, match):
    with pytest.raises(error, match=match):
        ENTRIES[entry](classifier(), images(), y)


@pytest.mark.parametrize("entry", ENTRIES)
def test_no_images(entry):
    with pytest.raises(ValueError, match="at least one"):
        ENTRIES[entry](classifier(), images(0), labels(0))
    with pytest.raises(ValueError, match="nothing to judge"):
        ENTRIES[entry](classifier(), torch.zeros(4, 0, 4, 4), labels())


@pytest.mark.parametrize("entry", ENTRIES)
def test_one_logit(entry):
    with pytest.raises(ValueError, match=r"K >= 2.*lipbench\.antipodal"):
        ENTRIES[entry](classifier(1), images(), torch.zeros(4, dtype=torch.long))


@pytest.mark.parametrize("entry", ENTRIES)
def test_no_tensor(entry):
    with pytest.raises(TypeError, match=r"[Ii]mages"):
        ENTRIES[entry](classifier(), images().tolist(), labels())


@pytest.mark.parametrize("entry", PIXELS)
@pytest.mark.parametrize(
    ("x", "match"),
    [
        (images() * 255, "normalisation inside the model"),
        (images() - 0.5, "normalisation inside the model"),
        ((images() * 255).int(), "uint8 in 0..255 or float"),
        (images() > 0.5, "uint8 in 0..255 or float"),
        (images().to(torch.complex64), "uint8 in 0..255 or float"),
        (images()[:, 0], r"\[N, C, H, W\]; got \[4, 4, 4\]"),
        (torch.rand(4, 1, 5, 5), r"refuses images of shape \[1, 5, 5\]"),
    ],
    ids=["range", "negative", "int32", "bool", "complex", "three dimensions", "five pixels"],
)
def test_images_of_another_kind(entry, x, match):
    with pytest.raises(ValueError, match=match):
        ENTRIES[entry](classifier(), x, labels())


@pytest.mark.parametrize("attack", [attacks.deepfool, attacks.lipbench, attacks.falsifier, attacks.chain(attacks.fgm)])
def test_an_attack_called_directly_takes_the_pixels_of_the_model(attack):
    model, x = classifier(), images()
    y = model(x).argmax(1)
    for wrong, match in ((x * 255, "Divide pixels of 0..255 by 255"), ((x * 255).byte(), r"images\.float\(\) / 255")):
        with pytest.raises(ValueError, match=match):
            attack(model, wrong, y)
        with pytest.raises(ValueError, match=match):
            attacks.within(attack, 10)(model, wrong, y)
    with pytest.raises(TypeError, match="the label of each image"):
        attack(model, x, None)
    assert attack(model, x, y.int()).equal(attack(model, x, y)), "any integers are labels"


def test_the_predictions_of_the_model_itself_are_checked_too():
    for x, match in ((poisoned(math.nan), "NaN"), (torch.rand(4, 1, 5, 5), "refuses"), (images(0), "nothing to judge")):
        with pytest.raises(ValueError, match=match):
            lipbench.certify(classifier(), x)
    with pytest.raises(ValueError, match=r"antipodal"):
        lipbench.certify(classifier(1), images())


@pytest.mark.filterwarnings("ignore::lipbench.HealthWarning")
def test_one_class_alone_is_judged_as_any():
    model, x = classifier(2), images(6)
    y = torch.zeros(6, dtype=torch.long)
    together = lipbench.evaluate(model, x, y, ["fgm"], progress=False)
    assert len(together) == 6 * 3 * 5, "four certificates and an attack, in three norms"
    mixed = lipbench.evaluate(model, x, torch.tensor([0, 0, 0, 1, 1, 1]), ["fgm"], progress=False)
    first = [table[table["index"] < 3].reset_index(drop=True) for table in (together, mixed)]
    assert first[0].equals(first[1]), "the others' labels change nothing"
    assert transport_law(model, x, y) == {}, "of two samples one is missing"


def test_a_radius_of_numbers_that_do_not_belong_together():
    logits, gaps = torch.zeros(2, 3), torch.ones(3, 3)
    for wrong in (
        lambda: radius(logits[:, :1], torch.zeros(2).long(), gaps[:1, :1]),  # nothing to win against: not infinite
        lambda: radius(logits, torch.tensor([0, 3]), gaps),
        lambda: radius(logits, torch.tensor([0, -1]), gaps),
        lambda: radius(logits, torch.tensor([0]), gaps),
        lambda: radius(logits, torch.tensor([0, 1]), gaps[:2, :2]),
        lambda: radius(logits[0], torch.tensor([0]), gaps),
    ):
        with pytest.raises(ValueError, match=r"Logits are|Labels are|K >= 2"):
            wrong()
