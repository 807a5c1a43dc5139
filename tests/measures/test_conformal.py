"""Robust conformal sets: constants and scores by hand, the law on a trained network, a wrong constant is caught."""

import sys

import pandas as pd
import pytest
import torch
from helpers.experiments import experiment
from helpers.results_tree import runs_of
from scipy.stats import betabinom
from torch import nn

import lipbench
from lipbench.certificate import gaps_of, layerwise, logit_bounds
from lipbench.data import Split, digits
from lipbench.figures.conformal import conformal as drawn
from lipbench.layers import Antipodal, Scale
from lipbench.measures import conformal
from lipbench.measures.conformal import EPSILONS, logit_score, margin_score, smallest_kept
from lipbench.results import LawViolation

# The name of the module is also that of the function.
module = sys.modules["lipbench.measures.conformal"]
SHAPE = (1, 2, 3)
KEY = ["score", "sets", "images", "epsilon"]


def linear(classes: int, scale: float = 1.0) -> nn.Sequential:
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, classes))
    with torch.no_grad():
        model[1].weight.copy_(scale * torch.randn(classes, 6, generator=torch.Generator().manual_seed(3)))
        model[1].bias.copy_(-model[1].weight.sum(1) / 2)
    return model.eval()


@pytest.fixture
def points() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    x = 0.3 + 0.4 * torch.rand(300, *SHAPE, generator=generator)
    return x, torch.randint(0, 4, (300,), generator=generator)


def split(x: torch.Tensor, y: torch.Tensor) -> Split:
    return Split((255 * x).round().to(torch.uint8), y)


def test_the_constant_of_a_logit_is_the_norm_of_its_row():
    model = linear(4)
    rows = model[1].weight.double().norm(dim=1)

    def bounds(network: nn.Module) -> torch.Tensor:
        return logit_bounds(network, SHAPE, layerwise(network, SHAPE))

    found = bounds(model)
    assert torch.allclose(found, rows, rtol=1e-6)
    assert (found >= rows).all()
    assert torch.allclose(bounds(nn.Sequential(*model, Scale(3.0)).eval()), 3 * rows, rtol=1e-6)
    function = nn.Sequential(nn.Flatten(), nn.Linear(6, 1), Antipodal()).eval()
    assert torch.allclose(bounds(function), function[1].weight.double().norm().expand(2) / 2, rtol=1e-6)
    whole = nn.Sequential(*model, nn.Sigmoid()).eval()
    assert torch.allclose(bounds(whole), torch.linalg.matrix_norm(model[1].weight.double(), 2) / 4, rtol=1e-6)


def test_scores_and_threshold_by_hand():
    logits, reach = torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([0.5, 0.1, 0.2])
    assert torch.allclose(logit_score(logits, reach), torch.tensor([[3.5, 1.1, 2.2]]))
    assert torch.allclose(margin_score(logits), torch.tensor([[1.0, -2.0, -1.0]]))
    pairs = torch.tensor([[0.0, 5.0, 0.5], [5.0, 0.0, 5.0], [0.5, 5.0, 0.0]])
    assert torch.allclose(margin_score(logits, pairs), torch.tensor([[1.5, 3.0, -0.5]]))
    scores = torch.arange(1.0, 20.0)  # 19 labels: the 18th largest of them
    assert smallest_kept(scores, 0.1) == 2.0
    assert smallest_kept(scores, 0.05) == 1.0
    assert smallest_kept(scores[:18], 0.05) == -torch.inf


def test_on_a_linear_network_the_attack_reaches_the_bound(points):
    model, (x, y) = linear(4), points
    norms = model[1].weight.norm(dim=1)
    with torch.no_grad():
        before = model(x).gather(1, y[:, None])[:, 0]
        moved = module._attacked(model, x, y, logit_score, 0.05, 20)
        after = model(moved).gather(1, y[:, None])[:, 0]
    assert torch.allclose(before - after, 0.05 * norms[y], rtol=1e-3)
    assert (moved.double() - x.double()).flatten(1).norm(dim=1).max() <= 0.05
    table = conformal(model, x[150:], y[150:], validation=split(x[:150], y[:150]), epsilons=(0.0, 0.05))
    rows = table.set_index(KEY).sort_index()
    for score in ("logit", "margin"):
        # The bound is exact here, so that robust sets under attack hold the labels that vanilla ones hold.
        robust, vanilla = rows.loc[(score, "robust", "attacked", 0.05)], rows.loc[(score, "vanilla", "clean", 0.05)]
        assert vanilla["coverage"] <= robust["coverage"] <= vanilla["coverage"] + 2 / 150
        assert rows.loc[(score, "vanilla", "attacked", 0.05), "coverage"] < vanilla["coverage"]
    assert rows.loc[("logit", "robust", "clean", 0.05), "lipschitz"] == pytest.approx(
        model[1].weight.norm(dim=1).max().item()
    )
    assert vanilla["p_value"] == pytest.approx(betabinom.cdf(round(150 * vanilla["coverage"]), 150, 136, 15))


class Written(nn.Module):
    """A linear network as forward code, and something after it."""

    def __init__(self, after) -> None:
        super().__init__()
        self.inner, self.after = linear(4), after

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.after(self.inner(x))


def test_where_a_constant_is_unknown_robust_sets_hold_all_classes(points):
    x, y = points
    model = Written(lambda z: z * z.exp().sum(1, keepdim=True)).eval()
    rows = conformal(model, x, y, validation=split(x, y), epsilons=(0.0, 0.1), steps=2)
    robust, vanilla = (rows[rows["sets"] == sets] for sets in ("robust", "vanilla"))
    assert set(robust["size"]) == {4}
    assert set(robust["coverage"]) == {1}
    assert vanilla["size"].max() < 4
    assert rows["lipschitz"].min() == torch.inf


def test_forward_code_has_the_sets_of_its_layers(points):
    x, y = points
    tables = [
        conformal(model, x, y, validation=split(x, y), epsilons=(0.0, 0.1))
        for model in (linear(4), Written(lambda z: z + 1).eval())
    ]
    columns = ["score", "sets", "images", "epsilon", "coverage", "size"]
    margin = [table.loc[table["score"] == "margin", columns].reset_index(drop=True) for table in tables]
    pd.testing.assert_frame_equal(*margin)
    assert tables[1].loc[tables[1]["sets"] == "robust", "size"].max() < 4


def test_an_alpha_that_is_no_share_is_refused(points):
    x, y = points
    with pytest.raises(ValueError, match="alpha=1"):
        conformal(linear(4), x, y, validation=split(x, y), alpha=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of a run of a small trained network, with its table."""
    made = experiment(
        "digits/hkr_mlp",
        tmp_path_factory.mktemp("results"),
        *("training.epochs=6", "attack=[carlini_wagner]", "certificate=[certificate]", "measure=[conformal]"),
    )
    made.run()
    return made.folder


def test_no_cell_covers_less_than_it_must(folder):
    table = pd.read_csv(folder / "conformal.csv")
    assert len(table) == 2 * len(EPSILONS) * 4
    robust = table[table["sets"] == "robust"]
    assert robust["p_value"].min() > 0.01
    assert (robust["calibration"].iloc[0], robust["test"].iloc[0]) == (216, 359)
    rows = table.set_index(KEY).sort_index()
    for score in ("logit", "margin"):
        sure = rows.loc[(score, "vanilla", "clean", 0.0), "coverage"]
        attacked = rows.loc[(score, "robust", "attacked")]
        assert attacked["coverage"].min() >= sure, "the law, image by image, without sampling error"
        assert attacked["size"].iloc[-1] > attacked["size"].iloc[0]
        assert rows.loc[(score, "robust", "clean"), "size"].is_monotonic_increasing
        assert rows.loc[(score, "vanilla", "attacked", 0.5), "p_value"] < 1e-6, "the attack is one"


@pytest.mark.parametrize("planted", ["logit_bounds", "gaps_of"])
def test_a_wrong_constant_is_caught(planted, folder, monkeypatch):
    right = {"logit_bounds": logit_bounds, "gaps_of": gaps_of}[planted]
    monkeypatch.setattr(module, planted, lambda *given: 0.5 * right(*given))
    data, model = digits(), lipbench.load(folder)
    with pytest.raises(LawViolation, match="ROBUST CONFORMAL") as caught:
        conformal(model, data.test.images, data.test.labels, validation=data.validation, epsilons=(0.5,))
    assert set(caught.value.pairs["score"]) == {"logit" if planted == "logit_bounds" else "margin"}
    assert len(caught.value.table) == 8


def test_the_figure_draws_the_sets_under_attack(folder):
    figure, table = drawn(runs_of([folder]))
    left, right = figure.axes
    rows = table.set_index(KEY).sort_index()
    for axis, column in ((left, "coverage"), (right, "size")):
        solid = next(line for line in axis.lines if line.get_linestyle() == "-")
        assert solid.get_ydata().tolist() == rows.loc[("logit", "robust", "attacked"), column].tolist()
    assert left.lines[-1].get_ydata()[0] == pytest.approx(90)
    assert drawn(runs_of([])) is None
