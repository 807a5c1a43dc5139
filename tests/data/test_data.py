"""Splits and data sets are what they claim."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from lipbench.data import Dataset, Split, digits, hold_out, keep_classes

PARTS = ("train", "validation", "test")


def numbered(labels: list[int]) -> Split:
    """A split whose image n has the value n, so that an image can be followed."""
    return Split(
        torch.arange(len(labels), dtype=torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 2, 3, 4).clone(),
        torch.tensor(labels),
    )


def numbers(split: Split) -> list[int]:
    return split.images[:, 0, 0, 0].tolist()


def fingerprints(split: Split) -> list[bytes]:
    """One string per image, label excluded."""
    return [image.numpy().tobytes() for image in split.images]


# --- Split and Dataset ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "labels", "error", "message"),
    [
        (torch.zeros(2, 1, 3, 3), torch.zeros(2).long(), TypeError, "uint8"),
        (torch.zeros(2, 1, 3, 3).byte(), torch.zeros(2).int(), TypeError, "int64"),
        (torch.zeros(2, 3, 3).byte(), torch.zeros(2).long(), ValueError, r"\[N, C, H, W\]"),
        (torch.zeros(2, 1, 3, 3).byte(), torch.zeros(3).long(), ValueError, "2 images"),
        (torch.zeros(2, 1, 3, 3).byte(), torch.zeros(2, 1).long(), ValueError, "2 images"),
        (torch.zeros(0, 1, 3, 3).byte(), torch.zeros(0).long(), ValueError, "at least one image"),
        (torch.zeros(2, 1, 3, 3).byte(), torch.tensor([0, -1]), ValueError, "-1"),
    ],
)
def test_a_split_refuses_what_it_is_not(images: Tensor, labels: Tensor, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Split(images, labels)


def test_a_dataset_knows_its_shape_and_refuses_contradictions() -> None:
    good = numbered([0, 1, 1])
    dataset = Dataset("toy", ("a", "b"), good, good, good)
    assert dataset.shape == (2, 3, 4)
    assert len(dataset.train) == 3
    with pytest.raises(ValueError, match="validation split holds the label 2"):
        replace(dataset, validation=numbered([0, 2]))
    with pytest.raises(ValueError, match=r"\(1, 3, 4\) \(test\)"):
        replace(dataset, test=Split(good.images[:, :1], good.labels))
    with pytest.raises(ValueError, match="at least two classes"):
        replace(dataset, classes=("a",))
    with pytest.raises(ValueError, match="twice"):
        replace(dataset, classes=("a", "a"))


# --- hold_out and keep_classes ----------------------------------------------------------------------------


def test_hold_out_is_a_stratified_partition_with_images_beside_their_labels() -> None:
    labels = [0] * 40 + [1] * 20 + [2] * 60
    train, validation = hold_out(numbered(labels), 0.1, seed=3)
    assert sorted(numbers(train) + numbers(validation)) == list(range(120))
    assert torch.bincount(validation.labels).tolist() == [4, 2, 6]
    for part in (train, validation):
        assert part.labels.tolist() == [labels[number] for number in numbers(part)]
        assert numbers(part) == sorted(numbers(part))


def test_hold_out_depends_on_its_seed_alone_and_leaves_the_global_one() -> None:
    split = numbered([0, 1] * 50)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = numbers(hold_out(split, 0.2, seed=1)[1])
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    assert numbers(hold_out(split, 0.2, seed=1)[1]) == first
    assert numbers(hold_out(split, 0.2, seed=2)[1]) != first


def test_hold_out_serves_rare_classes_on_both_sides() -> None:
    train, validation = hold_out(numbered([0] * 100 + [1] * 2 + [2]), 0.01, seed=0)
    assert torch.bincount(train.labels).tolist() == [99, 1, 1]
    assert torch.bincount(validation.labels).tolist() == [1, 1]
    train, validation = hold_out(numbered([0] * 3 + [1] * 3), 0.99, seed=0)
    assert torch.bincount(train.labels).tolist() == [1, 1]


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 10.0, float("nan")])
def test_hold_out_refuses_fractions_that_leave_nothing(fraction: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        hold_out(numbered([0, 0, 1, 1]), fraction, seed=0)


def test_hold_out_says_when_there_is_nothing_to_hold_out() -> None:
    with pytest.raises(ValueError, match="single image"):
        hold_out(numbered([0, 1, 2]), 0.5, seed=0)


def test_keep_classes_relabels_in_the_order_asked_for() -> None:
    split = numbered([3, 1, 0, 3, 2, 1])
    kept = keep_classes(split, (3, 1))
    assert numbers(kept) == [0, 1, 3, 5]
    assert kept.labels.tolist() == [0, 1, 0, 1]
    assert keep_classes(split, [1, 3]).labels.tolist() == [1, 0, 1, 0]
    assert split.labels.tolist() == [3, 1, 0, 3, 2, 1]


def test_keep_classes_refuses_absent_and_repeated_classes() -> None:
    with pytest.raises(ValueError, match=r"\[7\]; the labels to choose from are \[0, 1\]"):
        keep_classes(numbered([0, 1]), (1, 7))
    with pytest.raises(ValueError, match="twice"):
        keep_classes(numbered([0, 1]), (1, 1))


# --- digits -----------------------------------------------------------------------------------------------


def test_digits_are_all_of_the_real_ones_split_without_loss() -> None:
    from sklearn.datasets import load_digits

    dataset = digits()
    assert dataset.name == "digits"
    assert dataset.classes == tuple("0123456789")
    assert dataset.shape == (1, 8, 8)
    parts = [getattr(dataset, part) for part in PARTS]
    originals = np.floor(load_digits().images * 255 / 16 + 0.5).astype(np.uint8)
    pairs = sorted(zip([image.tobytes() for image in originals], load_digits().target, strict=True))
    found = [pair for part in parts for pair in zip(fingerprints(part), part.labels.tolist(), strict=True)]
    assert sorted(found) == pairs
    assert max(int(part.images.max()) for part in parts) == 255


def test_digits_split_is_stratified_and_never_moves() -> None:
    dataset = digits()
    assert [len(getattr(dataset, part)) for part in PARTS] == [1222, 216, 359]
    for part, share in zip(PARTS, (0.68, 0.12, 0.2), strict=True):
        counts = torch.bincount(getattr(dataset, part).labels).float() / (share * 179.7)
        assert counts.min() > 0.9
        assert counts.max() < 1.1
    # A new version of torch or scikit-learn that moves the split makes old results incomparable: say so here.
    digest = hashlib.sha256(b"".join(fingerprints(dataset.validation) + fingerprints(dataset.test)))
    assert digest.hexdigest()[:16] == "48a397e204d9cced"


def test_digits08_is_a_subset_of_digits_in_every_part() -> None:
    full, binary = digits(), digits(keep=(0, 8))
    assert (binary.name, binary.classes) == ("digits08", ("0", "8"))
    for part in PARTS:
        whole, kept = getattr(full, part), getattr(binary, part)
        chosen = [int(label) in (0, 8) for label in whole.labels]
        assert fingerprints(kept) == fingerprints(Split(whole.images[chosen], whole.labels[chosen]))
        assert kept.labels.tolist() == [int(label == 8) for label in whole.labels[chosen]]


def test_digits_takes_a_name_and_refuses_one_class() -> None:
    assert digits(name="mine").name == "mine"
    assert digits(keep=(8, 0), name="mine").classes == ("8", "0")
    with pytest.raises(ValueError, match="two classes"):
        digits(keep=(3,))
