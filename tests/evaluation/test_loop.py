"""The loop over methods: what is kept is not made again, and attacks do not know what is certified."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import lipbench
from lipbench.evaluation.bounds import attack_images, certify_images
from lipbench.evaluation.loop import judge
from lipbench.judge import Classifier, distance
from lipbench.results.laws import LawViolation, check

torch.manual_seed(0)
MODEL = nn.Sequential(nn.Flatten(), nn.Linear(9, 3)).eval()
X = torch.rand(8, 1, 3, 3)
with torch.no_grad():
    Y = MODEL(X).argmax(1)


def constant(radius: float):
    return lambda model, x, y: torch.full((len(x),), radius)


def still(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return x


def unasked(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    raise AssertionError("a method whose table is kept was called")


def found(certificates, attacks, **options):
    return {judged.name: judged for judged in judge(Classifier(MODEL), X, Y, certificates, attacks, **options)}


def test_each_method_is_yielded_before_the_next_one_runs():
    called = []

    def noted(name: str, method):
        def call(*arguments):
            called.append(name)
            return method(*arguments)

        return call

    certificates = {"one": noted("one", constant(0.1)), "two": noted("two", constant(0.2))}
    steps = judge(Classifier(MODEL), X, Y, certificates, {"attack": noted("attack", still)})
    for count, name in enumerate(("one", "two", "attack"), 1):
        judged = next(steps)
        assert judged.name == name
        assert len(called) == count
        assert (judged.images is None) == (name != "attack")
    assert next(steps, None) is None


def test_what_is_kept_is_not_made_again():
    methods = {"large": unasked, "small": constant(0.1)}
    assert set(found(methods, {"old": unasked, "still": still}, kept=["large", "old"])) == {"small", "still"}


def test_a_certificate_that_is_too_large_stops_no_attack():
    """From a start within 0.1 % of a certificate no attack searches: so it must not know the certificates."""
    near = lipbench.attacks.deepfool(MODEL, X, Y)

    def farther(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return (x + 1.004 * (near - x)).clamp(0, 1)

    far = distance(X, farther(MODEL, X, Y))
    assert (0.9995 * far > distance(X, near)).sum() >= 6
    both = lipbench.attacks.chain(farther, lipbench.attacks.deepfool)
    with pytest.raises(LawViolation):
        lipbench.evaluate(MODEL, X, Y, {"both": both}, {"wrong": lambda model, x, y: 0.9995 * far}, progress=False)


def test_passes_are_those_that_a_certificate_counts():
    assert np.isnan(certify_images(MODEL, X, Y, constant(0.1)).passes)
    known = certify_images(MODEL, X, Y, lipbench.certificate.certify)
    assert (known.passes, known.backward_passes) == (2, 0), "in float32 and in float64"
    searched = certify_images(MODEL, X, Y, lipbench.certificate.certify_inscribed)
    assert searched.passes > 2
    assert searched.backward_passes > 0


def test_attacks_and_costly_certificates_judge_the_first_images_alone():
    methods = {"certificate": constant(0.1), "certificate_crown": constant(0.1)}
    judged = found(methods, {"still": still}, attacked=3)
    assert {name: one.table["index"].nunique() for name, one in judged.items()} == {
        "certificate": 8,
        "certificate_crown": 3,
        "still": 3,
    }


def test_a_certificate_and_an_attack_of_one_name_are_refused():
    with pytest.raises(ValueError, match="certificate: a certificate and an attack"):
        lipbench.evaluate(MODEL, X, Y, {"certificate": still}, progress=False)


def test_flags_belong_to_the_attack_whose_images_show_them():
    judged = found({}, {"outside": lambda model, x, y: x + 5, "still": still})
    assert [flag.name for flag in judged["outside"].flags] == ["outside_box"]
    assert judged["still"].flags == ()


def test_evaluate_collects_what_the_loop_yields():
    attacks = {"deepfool": lipbench.attacks.deepfool, "fgm": lipbench.attacks.fgm}
    methods = {"certificate": lipbench.certificate.certify}
    table = lipbench.evaluate(MODEL, X, Y, attacks, methods, progress=False)
    pd.testing.assert_frame_equal(
        table, pd.concat([one.table for one in found(methods, attacks).values()], ignore_index=True)
    )
    upper = table[(table["side"] == "upper") & (table["norm"] == "l2")]["distance"]
    assert (np.isfinite(upper) & (upper > 0)).all()


def test_one_check_names_every_law_that_does_not_hold(tmp_path):
    true = attack_images(MODEL, X, Y, lipbench.attacks.deepfool, "deepfool").table
    lying = certify_images(MODEL, X, Y, constant(50.0), "lying").table
    sound = certify_images(MODEL, X, Y, lipbench.certificate.certify, "certificate").table
    check(pd.concat([true, sound]))
    with pytest.raises(LawViolation, match="on 8 images") as alone:
        check(pd.concat([true, lying]))
    assert len(alone.value.pairs[alone.value.pairs["norm"] == "l2"]) == 8
    with pytest.raises(LawViolation, match=r"^the second law$"):
        check(pd.concat([true, sound]), ["the second law"])
    with pytest.raises(LawViolation, match=r"(?s)on 8 images.*violations\.npz.*the second law"):
        check(pd.concat([true, lying]), ["the second law"], tmp_path)
