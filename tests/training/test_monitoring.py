"""Per layer: singular values, bounds and gradients in the history, in TensorBoard, on figures."""

import math
import sys
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.experiments import experiment
from helpers.trained import singular_values
from torch import nn

import lipbench
from lipbench import layers, losses
from lipbench.certificate import gaps, gaps_of, layerwise, lipschitz
from lipbench.figures import save_figure, training_comparison, training_curves
from lipbench.files import ResultsError
from lipbench.layers import spectrum as spectrum_module
from lipbench.layers.spectrum import singular_range
from lipbench.report import draw as report_figures
from lipbench.report import find_runs
from lipbench.report.draw import draw
from lipbench.results import layer_columns, read_histories
from lipbench.training import auto, event_log
from lipbench.training.monitor import monitor

LOSS = partial(losses.hkr, margin=1.0)
# The smoke form of an experiment sets an option of carlini_wagner.
FAST = ["attack=[carlini_wagner]", "attack.carlini_wagner.steps=2"]
LAYERS = {
    "tall": (nn.Linear(12, 30), (12,)),
    "wide": (nn.Linear(30, 12), (30,)),
    "patches": (nn.Conv2d(3, 8, 2, stride=2), (3, 8, 8)),
    "patches, unread pixels, outputs to spare": (nn.Conv2d(1, 8, 2, stride=2), (1, 5, 5)),
    "patches, unread pixels": (nn.Conv2d(3, 8, 2, stride=2), (3, 5, 5)),
    "pixels skipped": (nn.Conv2d(2, 9, 1, stride=2), (2, 4, 4)),
    "padded patches": (nn.Conv2d(3, 20, 2, stride=2, padding=1), (3, 6, 6)),
    "zeros": (nn.Conv2d(3, 8, 3, padding=1), (3, 6, 6)),
    "zeros, stride": (nn.Conv2d(3, 8, 3, stride=2, padding=1), (3, 7, 7)),
    "same, oblong kernel": (nn.Conv2d(3, 5, (3, 5), padding="same"), (3, 6, 6)),
    "valid": (nn.Conv2d(3, 8, 3), (3, 7, 7)),
    "grouped": (nn.Conv2d(4, 8, 3, padding=1, groups=2), (4, 5, 5)),
    "grouped patches": (nn.Conv2d(4, 8, 2, stride=2, groups=2), (4, 6, 6)),
    "dilated": (nn.Conv2d(3, 8, 3, dilation=2, padding=2), (3, 7, 7)),
    "circular": (nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), (3, 16, 15)),
    "circular, stride": (nn.Conv2d(4, 8, 3, stride=2, padding=1, padding_mode="circular"), (4, 14, 12)),
    "circular, stride does not divide": (nn.Conv2d(3, 4, 3, stride=2, padding=1, padding_mode="circular"), (3, 7, 7)),
    "circular, cropped": (nn.Conv2d(3, 4, 5, padding=1, padding_mode="circular"), (3, 8, 8)),
}


@pytest.fixture(scope="module")
def digits() -> lipbench.data.Dataset:
    return lipbench.data.digits(keep=(0, 8))


def constrained() -> nn.Sequential:
    torch.manual_seed(0)
    return lipbench.models.mlp((1, 8, 8), 2, widths=[16, 8], constraint=layers.Orthogonal, activation=layers.MaxMin)


def plain() -> nn.Sequential:
    torch.manual_seed(0)
    return lipbench.models.convnet((1, 8, 8), 2, channels=(4,), widths=[8])


def train(digits, model, epochs=3, **options):
    optimizer = partial(auto, adam_lr=1e-2)
    return lipbench.fit(model, digits, LOSS, optimizer, epochs=epochs, batch_size=32, progress=False, **options)


@pytest.mark.parametrize("kind", LAYERS)
def test_singular_range_is_that_of_the_dense_operator(kind):
    layer, shape = LAYERS[kind]
    values = singular_values(layer, shape)
    assert values.max() > 1.2 * values.min(), "all equal: any of them would pass"
    low, high = singular_range(layer, shape)
    assert low == pytest.approx(values.min().item(), rel=1e-9, abs=1e-9)
    assert high == pytest.approx(values.max().item(), rel=1e-9)
    assert high <= lipschitz(layer.eval(), shape) <= high * (1 + 1e-6)


def test_a_large_zero_padded_convolution_is_bounded_by_its_torus(monkeypatch):
    layer, shape = nn.Conv2d(3, 8, 3, padding=1), (3, 8, 8)
    values = singular_values(layer, shape)
    exact = singular_range(layer, shape)
    monkeypatch.setattr(spectrum_module, "DENSE_SIDE", 0)
    low, high = singular_range(layer, shape)
    assert exact[1] < high <= 1.1 * values.max().item()
    assert low != pytest.approx(exact[0], rel=1e-6)


def stretched(padding_mode: str, channels: tuple[int, int] = (4, 4), stride: int = 1) -> layers.FourierConv2d:
    """A Fourier convolution whose output channels are scaled by 1, 1/2, 1/3, ...: its singular values are known."""
    torch.manual_seed(0)
    inner = nn.Conv2d(*channels, 3, stride=stride, padding=1, padding_mode=padding_mode)
    layer = layers.bake(layers.constrain(inner, layers.cayley, size=(6, 6)))
    with torch.no_grad():
        layer.spectrum.div_(torch.arange(1.0, 1 + layer.spectrum.shape[-2])[:, None])
        layer.bias.fill_(0.7)
    return layer


@pytest.mark.parametrize(
    ("layer", "channels"),
    [
        (stretched("circular"), 4),
        (stretched("circular", stride=2), 4),
        (stretched("zeros"), 4),
        (stretched("zeros", (3, 5)), 3),
        (stretched("zeros", stride=2), 4),
        (layers.SkewExponential(nn.Conv2d(3, 3, 3, padding=1)), 3),
        (layers.SkewExponential(nn.Conv2d(3, 5, 3, padding=1, padding_mode="circular")), 3),
        (layers.SkewExponential(nn.Conv2d(4, 2, 3, padding=1)), 4),
    ],
)
def test_singular_range_of_constructions_is_that_of_the_dense_operator(layer, channels):
    shape = (channels, 6, 6)
    if isinstance(layer, layers.SkewExponential):
        with torch.no_grad():  # beyond what the constraint allows, the series is far from orthogonal
            layer.inner.weight.mul_(8)
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    values = singular_values(layer, shape)
    assert values.max() > 1.2 * values.min(), "all equal: any of them would pass"
    low, high = singular_range(layer, shape)
    assert low == pytest.approx(values.min().item(), rel=1e-6)
    assert high == pytest.approx(values.max().item(), rel=1e-6)
    assert all(torch.equal(tensor, before[name]) for name, tensor in layer.state_dict().items())


def test_a_large_construction_is_bounded_or_unknown(monkeypatch):
    monkeypatch.setattr(spectrum_module, "DENSE_SIDE", 0)
    layer = stretched("zeros")
    low, high = singular_range(layer, (4, 6, 6))
    assert (low, high) == pytest.approx((0.25, 1.0), rel=1e-5)
    assert high >= singular_values(layer, (4, 6, 6)).max() > 0.5
    skew = layers.SkewExponential(nn.Conv2d(3, 3, 3, padding=1))
    assert all(map(math.isnan, singular_range(skew, (3, 6, 6))))


@pytest.mark.parametrize(
    ("family", "mode", "unknown"),
    [
        (layers.soc, "zeros", []),
        (layers.soc, "circular", []),
        (layers.cayley, "zeros", []),
        (layers.sandwich, "zeros", ["4"]),
    ],
)
def test_the_history_shows_every_construction(family, mode, unknown, digits, tmp_path):
    torch.manual_seed(0)
    model = lipbench.models.convnet(
        (1, 8, 8), 2, channels=(4,), widths=(8,), padding_mode=mode, constraint=family, activation=layers.MaxMin
    )
    history = pd.DataFrame(train(digits, model, 2))
    names = ["0", "4", "6"]
    assert list(layer_columns(history, "lipschitz")) == list(layer_columns(history, "gradient")) == names
    assert list(layer_columns(history, "sigma_max")) == [name for name in names if name not in unknown]
    assert (history[[f"{name}.lipschitz" for name in names]] <= 1 + 1e-5).all(axis=None)
    assert (history[[f"{name}.gradient" for name in names]] > 0.01).all(axis=None)
    assert history["0.gradient"].tolist() == pytest.approx(history["gradient_norm"].tolist())
    for name in unknown:
        assert history[f"{name}.sigma_max"].isna().all()
    bands, bounds, *_ = training_curves(history).axes
    assert len(bands.collections) == len(names) - len(unknown)
    assert {line.get_label() for line in bounds.get_lines()} == {"network", *(f"layer {n}" for n in names)}
    run = history.assign(dataset="d", experiment="a", variant="default", seed=0)
    bar = training_comparison(run).axes[-1].get_lines()[0].get_xdata()
    assert bar[1] == pytest.approx(1, abs=0.05)
    save_figure(training_curves(history), tmp_path / "curves")


def test_what_is_unknown_is_nan_and_nothing_fails(digits):
    reflect = nn.Conv2d(1, 2, 3, padding=1, padding_mode="reflect")
    assert all(map(math.isnan, singular_range(reflect, (1, 8, 8))))
    assert all(map(math.isnan, singular_range(nn.ReLU(), (3,))))
    broken = nn.Linear(3, 3)
    with torch.no_grad():
        broken.weight[0, 0] = torch.nan
    assert all(map(math.isnan, singular_range(broken, (3,))))
    row = monitor(nn.Sequential(reflect, nn.Flatten(), nn.Linear(128, 2)), digits.validation, LOSS, 0.5)
    assert math.isnan(row["0.sigma_min"])
    assert row["0.lipschitz"] == row["lipschitz"] == math.inf
    assert row["2.sigma_max"] > 0
    assert row["0.gradient"] == pytest.approx(row["gradient_norm"])


def test_the_history_shows_a_planted_singular_value_and_the_gradient_it_loses(digits):
    first, last = nn.Linear(64, 64), nn.Linear(64, 2)
    values = torch.ones(64)
    values[-1] = 0.5
    with torch.no_grad():
        basis = layers.polar(torch.randn(64, 64))
        first.weight.copy_(basis @ torch.diag(values) @ basis.T)
        last.weight.copy_(torch.stack([basis[:, -1], -basis[:, -1]]))  # reads the direction that was halved
    row = monitor(nn.Sequential(nn.Flatten(), first, last), digits.validation, LOSS, 0.5)
    assert row["1.sigma_min"] == pytest.approx(0.5, abs=1e-5)
    assert row["1.sigma_max"] == pytest.approx(1, abs=1e-5)
    assert row["1.lipschitz"] == pytest.approx(1, abs=1e-5)
    assert row["2.lipschitz"] == pytest.approx(2**0.5, abs=1e-5)
    assert row["2.gradient"] == pytest.approx(2, abs=1e-5)
    assert row["1.gradient"] == row["gradient_norm"] == pytest.approx(1, abs=1e-5)


def test_layers_inside_residual_sums_and_constructions(digits):
    torch.manual_seed(0)
    branch = nn.Sequential(nn.Linear(64, 64), nn.ReLU())
    potential = layers.ConvexPotential(nn.Linear(64, 64))
    model = nn.Sequential(nn.Flatten(), layers.Residual(branch), potential, nn.Linear(64, 2))
    row = monitor(model, digits.validation, LOSS, 0.5)
    names = list(layer_columns(pd.DataFrame([row]), "sigma_max"))
    assert names == ["1.branch.0", "2", "3"]
    bounds = {layer.name: layer.bound for layer in layerwise(model.eval(), (1, 8, 8))}
    assert row["2.lipschitz"] == bounds["2"]
    assert row["lipschitz"] == pytest.approx(math.prod(bounds.values()))
    norm = torch.linalg.matrix_norm(potential.inner.weight.detach().double(), 2).item()
    assert row["2.sigma_max"] == pytest.approx(norm)
    assert row["1.branch.0.lipschitz"] == pytest.approx(row["1.branch.0.sigma_max"], rel=1e-6)
    assert all(not hooks for m in model.modules() for hooks in (m._forward_hooks, m._forward_pre_hooks))


def test_gaps_from_layers_are_the_gaps():
    """Once per kind of head, each against the norm of its backbone computed apart; nested containers do not matter."""
    shape = (1, 8, 8)
    antipodal = layers.bake(constrained())
    backbone = lipschitz(nn.Sequential(*antipodal[:-1]).eval(), shape)
    nested = nn.Sequential(nn.Sequential(*antipodal[:3]), nn.Sequential(*antipodal[3:])).eval()
    for model in (antipodal, nested):
        assert gaps_of(model, shape, layerwise(model, shape))[0, 1].item() == pytest.approx(backbone, rel=1e-8)
        assert gaps(model, shape)[0, 1].item() == pytest.approx(backbone, rel=1e-8)
    body, head = nn.Linear(64, 5), nn.Linear(5, 3)
    model = nn.Sequential(nn.Flatten(), body, nn.Tanh(), head).eval()
    expected = lipschitz(body, (64,)) * (head.weight[0] - head.weight[2]).norm().item()
    assert gaps_of(model, shape, layerwise(model, shape))[0, 2].item() == pytest.approx(expected, rel=1e-6)
    model = nn.Sequential(model, nn.ReLU()).eval()  # no head that it knows
    expected = 2**0.5 * lipschitz(model, shape)
    assert gaps_of(model, shape, layerwise(model, shape))[0, 2].item() == pytest.approx(expected, rel=1e-8)
    model[0][1].train()
    assert gaps_of(model, shape, layerwise(model, shape))[0, 2].item() == math.inf


def test_columns_are_the_same_in_every_epoch_and_after_a_resume(digits, tmp_path):
    whole = train(digits, constrained(), 4)
    assert len({tuple(row) for row in whole}) == 1
    seen: list[dict] = []

    def stop(row):
        seen.append(row)
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    path = tmp_path / "checkpoint.pt"
    with pytest.raises(KeyboardInterrupt):
        train(digits, constrained(), 4, checkpoint=path, on_epoch=stop)
    again = train(digits, constrained(), 4, checkpoint=path, on_epoch=seen.append)
    assert [row["epoch"] for row in seen] == [1, 2, 2, 3, 4]
    csv = [pd.DataFrame(rows).drop(columns="seconds").to_csv() for rows in (whole, again)]
    assert csv[0] == csv[1]


def test_tensorboard_holds_every_column_once_after_a_resume(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    columns = {"lipschitz": 0.5, "1.sigma_min": 0.25, "unknown": math.nan}
    for epochs in ((1, 2), (2, 3)):
        with event_log(tmp_path) as write:
            for epoch in epochs:
                write({"epoch": epoch, **columns})
    events = accumulator.EventAccumulator(str(tmp_path))
    events.Reload()
    assert set(events.Tags()["scalars"]) == set(columns)
    assert [(e.step, e.value) for e in events.Scalars("1.sigma_min")] == [(1, 0.25), (2, 0.25), (3, 0.25)]


def test_an_experiment_writes_events_only_when_asked(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    silent = experiment("digits08/hkr_mlp", tmp_path / "a", *FAST)
    silent.run()
    assert not (silent.folder / "tensorboard").exists()
    told = experiment("digits08/hkr_mlp", tmp_path / "b", *FAST, "tensorboard=true", "training.epochs=2")
    told.run()
    assert "tensorboard" not in (told.folder / "config.yaml").read_text()
    history = pd.read_csv(told.folder / "history.csv")
    events = accumulator.EventAccumulator(str(told.folder / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == set(history) - {"epoch"}
    for column in ("train_loss", "1.sigma_min", "seconds"):
        logged = [event.value for event in events.Scalars(column)]
        assert logged == pytest.approx(history[column].tolist(), rel=1e-6)


def test_a_missing_tensorboard_is_said_before_the_training(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    job = experiment("digits08/hkr_mlp", tmp_path, "tensorboard=true")
    with pytest.raises(ImportError, match=r"pip install lipbench\[tensorboard\]"):
        job.run()
    assert not (job.folder / "checkpoint.pt").exists()


def test_figures_of_a_plain_and_a_constrained_network(digits, tmp_path):
    for name, model in (("plain", plain()), ("tight", constrained())):
        folder = tmp_path / "d" / name / "default" / "0"
        (folder / "bounds").mkdir(parents=True)
        (folder / "bounds" / "a.csv").touch()
        history = train(digits, model)
        pd.DataFrame(history).to_csv(folder / "history.csv", index=False)
    histories = read_histories(tmp_path)
    figure = training_comparison(histories, "d")
    bound, gradient, values = figure.axes
    drawn = {line.get_label(): line.get_ydata() for line in bound.get_lines()}
    for name in ("plain", "tight"):
        rows = histories[histories["experiment"] == name]
        assert np.allclose(drawn[name], np.sqrt(2) * rows["lipschitz"])
        assert (drawn[name] >= rows["gradient_norm"] * 0.9999).all(), "both are of the margin"
    assert [tick.get_text() for tick in values.get_yticklabels()] == ["plain", "tight"]
    assert len(gradient.get_lines()) == 2
    save_figure(figure, tmp_path / "comparison")

    for name, names in (("plain", ["0", "4", "6"]), ("tight", ["1", "3", "5"])):
        history = read_histories(tmp_path / "d" / name)
        assert list(layer_columns(history, "sigma_min")) == names
        figure = training_curves(history, name)
        bands, bounds, gradients, _ = figure.axes
        assert len(bands.collections) == len(names)
        for layer, band in zip(names, bands.collections, strict=True):
            heights = band.get_paths()[0].vertices[:, 1]
            assert heights.min() == pytest.approx(history[f"{layer}.sigma_min"].min())
            assert heights.max() == pytest.approx(history[f"{layer}.sigma_max"].max())
        assert {line.get_label() for line in bounds.get_lines()} == {"network", *(f"layer {n}" for n in names)}
        assert len(gradients.get_lines()) == len(names) + 1
        whole, slopes = (axis.get_lines()[-1].get_ydata() for axis in (bounds, gradients))
        assert np.allclose(whole, np.sqrt(2) * history["lipschitz"])
        assert (whole >= slopes * 0.9999).all(), "both are of the margin"
        written = save_figure(figure, tmp_path / name)
        assert all(path.stat().st_size > 10_000 for path in written if path.suffix != ".csv")


def test_an_old_history_without_layers_is_compared_by_what_it_has():
    rows = [
        {"dataset": "d", "experiment": name, "variant": "default", "seed": seed, "epoch": epoch, "lipschitz": value}
        for name, value in (("a", 1.0), ("b", 99.0))
        for seed in (3, 1)
        for epoch in (1, 2)
    ]
    histories = pd.DataFrame(rows).assign(gradient_norm=lambda t: t["seed"])
    bound, gradient = training_comparison(histories).axes
    assert bound.get_yscale() == "log"
    assert gradient.get_yscale() == "linear"
    assert [line.get_ydata().tolist() for line in gradient.get_lines()] == [[1, 1], [1, 1]], "the lowest seed"


def test_the_report_draws_the_runs_that_are_asked_for(tmp_path, monkeypatch):
    few = [recipe for recipe in report_figures.RECIPES if recipe.name in ("accuracy", "training")]
    monkeypatch.setattr(report_figures, "RECIPES", few)  # the others are drawn by the tests of the report
    for name in ("hkr_mlp", "kr_mlp"):
        experiment(f"digits08/{name}", tmp_path, "attack=[fgsm,carlini_wagner]", FAST[1]).run()
    drawn = {path.name for path in draw(find_runs(tmp_path), False)[0]}
    assert {"accuracy_digits08.png", "training_digits08.png"} <= drawn
    assert not any("mlp" in name for name in drawn)
    drawn = {path.name for path in draw(find_runs(tmp_path), ["kr_mlp"])[0]}
    assert {name for name in drawn if "mlp" in name} == {
        f"training_digits08_kr_mlp_default_0.{suffix}" for suffix in ("png", "pdf", "csv")
    }
    assert sum("mlp" in path.name for path in draw(find_runs(tmp_path), True)[0]) == 6
    with pytest.raises(ResultsError, match="hkr_mlp, kr_mlp"):
        draw(find_runs(tmp_path), ["kr_mpl"])
