"""The law suites fail for the three laziest implementations: an attack that returns x, a certificate of zeros, and a
constraint that leaves the weight as it is.
"""

import importlib.util
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
import torch
from helpers.hyperplanes import corners, interior
from torch import Tensor, nn

import lipbench

TESTS = Path(__file__).parent


def suite(path: str) -> ModuleType:
    """A copy of a module of tests, in which a law is a function to call."""
    spec = importlib.util.spec_from_file_location(f"copy_of_{Path(path).stem}", TESTS / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ATTACKS, NEARNESS = suite("attacks/test_attacks.py"), suite("attacks/test_nearness.py")
CERTIFICATES, INTERFACE = suite("certificate/test_certificate.py"), suite("evaluation/test_api.py")
LAYERS = suite("layers/test_layers.py")


def nothing(model: nn.Module, x: Tensor, y: Tensor, **_: object) -> Tensor:
    return x


def zeros(model: nn.Module, x: Tensor, y: Tensor | None = None) -> Tensor:
    return torch.zeros(len(x), dtype=torch.float64)


class Free(lipbench.layers.constraints.Constraint):
    def forward(self, weight: Tensor) -> Tensor:
        return weight


@pytest.mark.parametrize(
    "law",
    [
        partial(ATTACKS.test_iterative_attacks_reach_the_nearest_point, images=interior, classes=2),
        partial(ATTACKS.test_iterative_attacks_reach_the_nearest_point, images=corners, classes=10),
        ATTACKS.test_one_step_attacks_come_near_on_interior_images,
        partial(ATTACKS.test_scale_and_shift_of_the_logits_change_nothing, scale=1e4, shift=0.0),
        partial(NEARNESS.test_carlini_wagner_is_nearly_as_near, binary=False, most=1.006),
        partial(NEARNESS.test_ddn_settles, binary=True),
    ],
)
def test_an_attack_that_returns_x_fails(law):
    with pytest.raises(AssertionError):
        law(attack=nothing)


def test_a_chain_that_returns_x_fails(monkeypatch):
    law = ATTACKS.test_a_chain_is_never_worse_than_its_parts_and_starts_where_they_end

    def forgets(*attacks):
        chained = lipbench.attacks.chain(*attacks)
        return lambda model, x, y: nothing(chained(model, x, y), x, y)  # calls its parts, drops what they found

    monkeypatch.setattr(ATTACKS, "chain", forgets)
    with pytest.raises(AssertionError):
        law()


def test_a_certificate_of_zeros_fails(monkeypatch):
    digits = lipbench.data.digits()
    monkeypatch.setattr(CERTIFICATES, "certify", zeros)
    monkeypatch.setattr(lipbench, "certify", zeros)
    for law in (
        CERTIFICATES.test_certify_is_reached_by_a_linear_classifier_and_leaves_the_model,
        partial(INTERFACE.test_certify, digits),
        partial(INTERFACE.test_images_come_in_any_common_form, digits),
    ):
        with pytest.raises(AssertionError):
            law()


@pytest.mark.parametrize("kind", LAYERS.LAYERS)
def test_an_identity_constraint_fails(kind):
    with pytest.raises(AssertionError):
        LAYERS.test_norm_is_at_most_one_after_training(Free, kind)


def test_an_identity_constraint_fails_after_large_steps():
    for law in (
        partial(LAYERS.test_without_the_constraint_the_norm_exceeds_one, Free),
        partial(LAYERS.test_a_jump_of_the_weight_is_survived, Free, jump=5.0),
    ):
        with pytest.raises(AssertionError):
            law()


def test_the_laws_hold_for_what_they_are_for():
    ATTACKS.test_one_step_attacks_come_near_on_interior_images(lipbench.attacks.fgm)
    CERTIFICATES.test_certify_is_reached_by_a_linear_classifier_and_leaves_the_model()
    LAYERS.test_a_jump_of_the_weight_is_survived(lipbench.layers.Orthogonal, jump=5.0)
