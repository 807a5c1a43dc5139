"""The Python API, for anyone's classifier."""

import copy
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import lipbench
from lipbench.evaluation.evaluate import CERTIFICATES
from lipbench.results import COLUMNS


@pytest.fixture(scope="module")
def digits() -> lipbench.data.Dataset:
    return lipbench.data.digits()


def classifier() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Dropout(), nn.Linear(20, 10))


def test_evaluate_in_three_lines(digits):
    model = classifier().train()
    model[3].eval()
    before = copy.deepcopy(model.state_dict())
    images, labels = digits.test.images[:20], digits.test.labels[:20]
    table = lipbench.evaluate(model, images, labels, attacks=["deepfool", "fgm"], progress=False)
    assert list(table.columns) == COLUMNS
    methods = (*CERTIFICATES, "deepfool", "fgm")
    assert table.groupby("method").size().to_dict() == dict.fromkeys(methods, 60)
    assert model.training
    assert not model[3].training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    floats = lipbench.evaluate(model, images.float() / 255, labels, attacks=["deepfool", "fgm"], progress=False)
    assert floats.equals(table)


def test_evaluate_takes_your_own_methods_and_believes_none(digits):
    model, x, y = classifier().eval(), digits.test.images[:10], digits.test.labels[:10]

    def liar(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return x  # "adversarial" at distance 0

    def outside(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return x + 100 * torch.randn_like(x)

    attacks = {"liar": liar, "outside": outside}
    with pytest.warns(lipbench.HealthWarning) as said:
        table = lipbench.evaluate(model, x, y, attacks=attacks, certificates=[], progress=False)
    assert sorted(str(w.message).split(":")[1] for w in said) == [
        " never_succeeded (liar, outside)",
        " outside_box (outside)",
    ]
    wrong = (table["label"] != table["prediction"]).to_numpy()
    assert not wrong.all()
    assert (table["distance"][wrong] == 0).all()
    assert (table["distance"][~wrong] == float("inf")).all()


def test_a_lying_certificate_is_caught(digits):
    def liar(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return torch.full((len(x),), 50.0)

    model = classifier()
    labels = model.eval()(digits.test.images[:10].float() / 255).argmax(1)
    with pytest.raises(lipbench.LawViolation) as error:
        lipbench.evaluate(model, digits.test.images[:10], labels, ["deepfool"], {"liar": liar}, progress=False)
    assert len(error.value.table) == 60
    assert (error.value.pairs["norm"] == "l2").sum() == 10
    assert "on 10 images" in str(error.value)


def test_certify(digits):
    model = lipbench.models.mlp((1, 8, 8), 10, widths=[16], constraint=lipbench.layers.Orthogonal)
    x = digits.test.images[:30]
    radii = lipbench.certify(model, x)  # its own predictions; unbaked and in training mode: a copy is baked
    assert model.training
    assert (radii > 0).all()
    assert (lipbench.certify(model, x, (lipbench.bake(copy.deepcopy(model))(x / 255).argmax(1) + 1) % 10) == 0).all()
    assert (lipbench.certify(nn.Sequential(model, nn.LayerNorm(10)), x) == 0).all(), "no rule, no certificate"


def test_errors_are_for_people(digits):
    x, y = digits.test.images[:4], digits.test.labels[:4]
    model = classifier()
    with pytest.raises(ValueError, match="deepfool"):
        lipbench.evaluate(model, x, y, attacks=["deepfol"])
    with pytest.raises(ValueError, match="normalisation inside the model"):
        lipbench.evaluate(model, x.float(), y)
    with pytest.raises(ValueError, match="As many labels"):
        lipbench.evaluate(model, x, y[:2])
    with pytest.raises(ValueError, match=r"Labels are 0\.\.9"):
        lipbench.evaluate(model, x, y + 10)
    with pytest.raises(ValueError, match=r"lipbench\.antipodal"):
        lipbench.evaluate(nn.Sequential(nn.Flatten(), nn.Linear(64, 1)), x, y)
    broken = classifier()
    nn.init.constant_(broken[1].weight, float("nan"))
    with pytest.raises(ValueError, match="NaN"):
        lipbench.evaluate(broken, x, y)


def test_antipodal_makes_a_classifier_of_one_logit(digits):
    one = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
    x = 0.4 + 0.2 * digits.test.images[:12].float() / 255
    labels = (one(x)[:, 0] > 0).long()
    table = lipbench.evaluate(lipbench.antipodal(one), x, labels, attacks=["deepfool"], progress=False)
    pair = table[table["norm"] == "l2"].pivot(index="index", columns="method", values="distance")
    assert (pair["certificate"] <= pair["deepfool"]).all()
    # Away from the box's walls a linear classifier's certificate is the distance.
    assert (pair["deepfool"] / pair["certificate"]).median() == pytest.approx(1, abs=1e-3)


def test_parameterless_and_float64_models():
    class Mean(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            f = x.flatten(1).mean(1) - 0.5
            return torch.stack((-f, f), 1)

    x = torch.rand(6, 1, 4, 4)
    table = lipbench.evaluate(Mean(), x, (x.flatten(1).mean(1) > 0.5).long(), progress=False)
    assert table.loc[(table["method"] == "deepfool") & (table["norm"] == "l2"), "distance"].max() < 1
    double = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).double()
    table = lipbench.evaluate(double, x, torch.zeros(6, dtype=torch.long), progress=False)
    assert len(table) == 180


def test_the_package_shows_what_is_public_and_nothing_else():
    assert dir(lipbench) == sorted(lipbench.__all__)
    for name in lipbench.__all__:
        assert getattr(lipbench, name).__doc__, name
    assert re.fullmatch(r"\d+\.\d+\.\d+", lipbench.__version__)


def test_images_come_in_any_common_form(digits):
    model, images = classifier().eval(), digits.test.images[:8]
    test = lipbench.data.Split(images, model(images / 255).argmax(1))
    small = replace(digits, test=test)
    x, y = test.images.numpy(), test.labels.numpy()
    x.setflags(write=False)
    loader = DataLoader(TensorDataset(test.images / 255, test.labels), batch_size=3)
    forms = [(test,), (small,), (loader,), (x, y), (x[::-1][::-1], test.labels), (test.images, y.astype("uint8"))]
    expected = lipbench.evaluate(model, test.images, test.labels, attacks=["fgm"], progress=False)
    radii = lipbench.certify(model, test.images, test.labels)
    assert (radii > 0).all()
    state = torch.get_rng_state()
    for form in forms:
        assert lipbench.evaluate(model, *form, attacks=["fgm"], progress=False).equals(expected)
        assert torch.equal(lipbench.certify(model, *form), radii)
    assert torch.equal(torch.get_rng_state(), state)


def test_other_forms_are_refused_with_the_remedy(digits):
    model, test = classifier(), digits.test[:4]
    x, y = test.images.numpy(), test.labels.numpy()
    lists = DataLoader([{"x": image, "y": label} for image, label in zip(test.images, test.labels, strict=True)])
    for wrong, kind, remedy in [
        ((x.transpose(0, 2, 3, 1), y), ValueError, r"transpose\(0, 3, 1, 2\)"),
        ((np.zeros((4, 32, 32, 3), "uint8"), y), ValueError, r"transpose\(0, 3, 1, 2\)"),
        ((x.astype(object), y), TypeError, "float32"),
        ((x.tolist(), y), TypeError, "not a list"),
        ((x,), TypeError, r"evaluate\(model, images, labels\)"),
        ((test, y), ValueError, "own labels"),
        ((lists,), TypeError, "torch.cat"),
        ((DataLoader(TensorDataset(test.images[:0], test.labels[:0])),), ValueError, "no batches"),
    ]:
        with pytest.raises(kind, match=remedy):
            lipbench.evaluate(model, *wrong)


def test_a_data_set_is_shown_in_one_line(digits):
    assert repr(digits) == "Dataset('digits', 10 classes, train=1222, validation=216, test=359, images 1x8x8)"
    assert repr(digits.test[:3]) == "Split(3 images 1x8x8, 3 classes)"


def test_evaluate_knows_every_name_of_the_command_line(digits, need_library_of):
    names = lipbench.attacks.names()
    assert set(names) > {"alma", "lipbench", "hop_skip_jump", "torchattacks_pgd"}
    model, x, y = classifier().eval(), digits.test.images[:3], digits.test.labels[:3]
    tables = [
        lipbench.evaluate(model, x, y, attacks, ["certificate_crown"], progress=False)
        for attacks in (["alma"], {"alma": lipbench.attacks.alma})
    ]
    assert set(tables[0]["method"]) == {"alma", "certificate_crown"}
    assert tables[0].equals(tables[1])
    for name in ["foolbox_ddn", "torchattacks_pgd"]:
        need_library_of(name)
        table = lipbench.evaluate(model, x, y, [name], [], progress=False)
        assert np.isfinite(table["distance"]).all()


def test_a_library_that_is_missing_is_named(monkeypatch, tmp_path, digits):
    (tmp_path / "attack").mkdir()
    lines = ["# Needs the extra absent: pip install lipbench[absent]", "absent:", "  _target_: absent.attack"]
    (tmp_path / "attack" / "absent.yaml").write_text("\n".join(lines))
    monkeypatch.setattr("lipbench.configuration.CONF", tmp_path)
    with pytest.raises(ValueError, match=r"'absent'.*pip install lipbench\[absent\]"):
        lipbench.evaluate(classifier(), digits.test.images[:3], digits.test.labels[:3], ["absent"])
