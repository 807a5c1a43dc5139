"""Work that takes longer than ten seconds says so while it lasts, and CROWN judges the images that are asked for."""

import io
import re
import sys
import time
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

import lipbench
from lipbench import progress
from lipbench.commands.reproduce import reproduce
from lipbench.commands.run import experiment_of
from lipbench.commands.suites import CONF
from lipbench.data import Split
from lipbench.evaluation.bounds import attack_images, certify_images
from lipbench.evaluation.evaluate import ATTACKS
from lipbench.models import Smoothed
from lipbench.progress import Progress, in_words, reporting

CERTIFICATES = sorted(path.stem for path in (CONF / "certificate").glob("*.yaml"))
MEASURES = sorted(path.stem for path in (CONF / "measure").glob("*.yaml"))
TWO_MOONS = ["experiment=two_moons/plain_mlp", "training.epochs=3", "model.widths=[8]", "images=12", "batch_size=5"]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything takes too long."""
    monkeypatch.setattr(progress, "PATIENCE", 0.0)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing takes too long, even on a slow machine."""
    monkeypatch.setattr(progress, "PATIENCE", 3600.0)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).eval()


def images(number: int) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    x = torch.rand(number, 1, 2, 2)
    return x, network()(x).argmax(1)


def method(group: str, name: str):
    return instantiate(OmegaConf.load(CONF / group / f"{name}.yaml")[name], _convert_="all")


@pytest.mark.parametrize("name", CERTIFICATES)
def test_every_certificate_says_how_long_it_takes(name: str, impatient, capsys, monkeypatch) -> None:
    for module in ("radius", "float32", "inscribed"):
        monkeypatch.setattr(sys.modules[f"lipbench.certificate.{module}"], "images_at_once", lambda *given: 3)
    monkeypatch.setattr(sys.modules["lipbench.certificate.relaxation.crown"], "_at_once", lambda steps: 3)
    monkeypatch.setattr(sys.modules["lipbench.certificate.local.certify"], "HELD", 1)
    monkeypatch.setattr(sys.modules["lipbench.models.smoothed"], "AT_ONCE", 333)  # of 1000 small images
    model = Smoothed(network(), sigma=0.1, votes=20, alpha=0.1).eval() if name.endswith("smoothing") else network()
    x, y = images(9)
    certificate = method("certificate", name)
    silent = certify_images(model, x, y, certificate, name)
    assert name not in capsys.readouterr().err
    told = certify_images(model, x, y, certificate, name, progress=True)
    assert re.search(rf"^{name}: [13] of \d images done, about \d+ s left\.$", capsys.readouterr().err, re.MULTILINE)
    assert told.table.equals(silent.table)


def test_a_certificate_of_ones_own_is_asked_for_parts_of_the_images(impatient, capsys) -> None:
    sizes = []

    def own(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        sizes.append(len(x))
        return torch.zeros(len(x), dtype=torch.float64)

    certify_images(network(), *images(1200), own, "own", progress=True)
    assert sizes == [500, 500, 200]
    assert "own: 500 of 1200 images done, about 0 s left." in capsys.readouterr().err


@pytest.mark.parametrize("name", ["fgm", "deepfool", "own"])
def test_every_attack_says_how_long_it_takes(name: str, impatient, capsys) -> None:
    attack = ATTACKS.get(name, lambda model, x, y: x)
    attack_images(network(), *images(4), attack, name, batch_size=2, progress=True)
    assert f"{name}: 2 of 4 images done" in capsys.readouterr().err


@pytest.mark.parametrize("name", MEASURES)
def test_a_measure_reports_or_is_watched(name: str, patient, capsys) -> None:
    validation = Split((255 * images(40)[0]).byte(), torch.arange(40) % 2)
    own = {"anytime": {"number": 1, "budget": 30}, "conformal": {"validation": validation}}
    measure = partial(method("measure", name), **own.get(name, {}))
    assert bool(reporting(measure, name, True)) == (name != "plane"), "a picture of the plane takes no time"
    if name != "plane":
        x, y = images(12)[0], torch.arange(12) % 2
        told = measure(network(), x, y, **reporting(measure, name, True))
        pd.testing.assert_frame_equal(told, measure(network(), x, y))
    assert not capsys.readouterr().err


def own_measure(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> pd.DataFrame:
    time.sleep(0.05)
    return pd.DataFrame({"images": [len(images)]})


def job(root: Path, *overrides: str):
    overrides = (*TWO_MOONS, f"results={root}", "attack=[fgm]", "device=cpu", *overrides)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", overrides=list(overrides))
    return experiment_of(config, "two_moons/plain_mlp", list(overrides))


def test_a_run_tells_of_its_training_its_methods_and_its_measures(tmp_path, impatient, capsys) -> None:
    own = "+measure.own={_target_: tests.commands.test_progress.own_measure, _partial_: true}"
    job(tmp_path, own).run()
    said = capsys.readouterr().err
    for line in ("training: 1 of 3 epochs done", "fgm: 5 of 12 images done", "own: 0 of 1 table after 0 s"):
        assert line in said
    job(tmp_path / "silent", own, "progress=false").run()
    assert not capsys.readouterr().err


def test_crown_bounds_the_images_that_are_asked_for(tmp_path) -> None:
    chosen = ("certificate=[certificate,certificate_crown]", "progress=false", "measure=[]")
    summary = job(tmp_path, *chosen).run()
    assert job(tmp_path, *chosen).run() == summary, "nothing is made again"
    table = lipbench.read(tmp_path)
    number = table[table["norm"] == "l2"].groupby("method")["index"].nunique()
    assert number["certificate_crown"] == number["fgm"] == 12
    assert number["certificate"] == summary["test_images"] > 12
    equal, _ = reproduce(job(tmp_path, *chosen).folder, tmp_path / "again", progress=False, device="cpu")
    assert {row.name: row.equal for row in equal}["bounds/certificate_crown"]


def test_nothing_is_said_of_what_is_quick(patient, capsys) -> None:
    with Progress("quick", 3) as bar:
        for _ in range(3):
            bar.update()
    assert not capsys.readouterr().err


def test_an_estimate_is_the_time_of_the_first_step_times_their_number(monkeypatch, capsys) -> None:
    clock = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: clock[0])
    with Progress("slow", 10, most=1e9) as bar:
        for _ in range(9):
            clock[0] += 36
            bar.update()
    assert capsys.readouterr().err == "slow: 1 of 10 images done, about 5 min left.\n"
    clock[0] = 0.0
    with Progress("by the clock", 1000, "epoch", done=10, most=60) as bar:
        clock[0] = 20
        bar.update()
    assert capsys.readouterr().err == "by the clock: 11 of 1000 epochs done, about 40 s left.\n"
    assert [in_words(seconds) for seconds in (3, 300, 36_000)] == ["about 3 s", "about 5 min", "about 10.0 h"]


def test_a_terminal_gets_a_bar(monkeypatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress("slow", 10) as bar:
        bar.update(3, loss=0.5)
    assert "slow:" in terminal.getvalue()
    assert "/10" in terminal.getvalue()
    assert "left." not in terminal.getvalue()
