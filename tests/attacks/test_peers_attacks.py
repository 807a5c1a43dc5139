"""Attacks of other libraries through their adapters: on exact hyperplanes, and where they would fail by themselves."""

import importlib
import random
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchattacks
from helpers.hyperplanes import SHAPE, Hyperplane, corners, exact, interior, judged
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor, nn

import lipbench
from lipbench.attacks.peers import MissingExtra, Search
from lipbench.attacks.peers.with_torchattacks import torchattack
from lipbench.commands.run import experiment_of
from lipbench.commands.suites import CONF
from lipbench.evaluation.evaluate import ATTACKS, CERTIFICATES
from lipbench.judge import distance

PEERS = sorted(
    path.stem
    for library in ("adv_lib", "foolbox", "torchattacks")
    for path in (CONF / "attack").glob(f"{library}_*.yaml")
)
ONE_STEP = {"foolbox_fgm", "foolbox_fgsm", "torchattacks_fgsm"}
# Each native attack and the attacks of other libraries that bear its name.
NAMESAKES = {
    "fgsm": ["torchattacks_fgsm", "foolbox_fgsm"],
    "fgm": ["foolbox_fgm"],
    "l2_pgd": ["torchattacks_pgd", "foolbox_pgd"],
    "apgd": ["torchattacks_apgd"],
    "deepfool": ["foolbox_deepfool", "torchattacks_deepfool"],
    "carlini_wagner": ["foolbox_cw", "adv_lib_cw", "torchattacks_cw"],
    "ddn": ["foolbox_ddn", "adv_lib_ddn"],
    "alma": ["adv_lib_alma"],
}
# Fewer and longer steps than the configuration's.
SHORT = {
    "foolbox_cw": {"binary_search_steps": 7, "steps": 150, "stepsize": 0.04},
    "adv_lib_cw": {"binary_search_steps": 7, "max_iterations": 150, "learning_rate": 0.04},
    "torchattacks_cw": {"steps": 150, "lr": 0.04},
    "torchattacks_apgd": {"steps": 20},
    "torchattacks_pgd": {"steps": 20},
    "foolbox_pgd": {"steps": 20},
}
# Its projection multiplies every step up to the radius, so that it need not ever cross a boundary.
INCOMPLETE = {"adv_lib_fmn"}
# Adam's first steps have one length for all images: too long for an image that is almost on the boundary.
COARSE = {"adv_lib_alma", "adv_lib_cw", "foolbox_cw", "torchattacks_cw"}


@pytest.fixture(params=PEERS)
def name(request, need_library_of) -> str:
    need_library_of(request.param)
    return request.param


def configured(name: str) -> Any:
    node: Any = OmegaConf.to_container(OmegaConf.load(CONF / "attack" / f"{name}.yaml"), resolve=True)
    if name in SHORT:
        node[name]["attack"] |= SHORT[name]
    return instantiate(node[name], _convert_="all")


def test_there_are_peers_of_every_library():
    assert len(PEERS) >= 16


@pytest.mark.parametrize("images", [interior, corners])
def test_peers_come_near_the_nearest_point(name, images):
    model, x = Hyperplane(), images()
    y = model(x).argmax(1)
    ratio = judged(model, x, configured(name)(model, x, y), y) / exact(model, x, y)
    assert (ratio >= 1 - 1e-5).all()
    if name not in INCOMPLETE:
        assert ratio.isfinite().all()
    found = ratio[ratio.isfinite()]
    if name in ONE_STEP:
        assert found.max() <= 1.35
    elif name in COARSE:
        assert found.median() <= 1.01
        assert found.quantile(0.9) <= 1.25
    else:
        assert (found <= 1.01).all()


@pytest.mark.parametrize(("scale", "shift"), [(1e4, 0.0), (1.0, -100.0)])
def test_scale_and_shift_of_the_logits_change_nothing(name, scale, shift):
    x = interior(12)
    plain, changed = Hyperplane(), Hyperplane(scale=scale, shift=shift)
    y = plain(x).argmax(1)
    before, after = (judged(m, x, configured(name)(m, x, y), y) for m in (plain, changed))
    both = before.isfinite() & after.isfinite()
    assert both.any() if name in INCOMPLETE else both.all()
    # A large shift costs digits of float32.
    assert torch.allclose(before[both], after[both], rtol=2e-2)


@pytest.mark.parametrize("classes", [3, 10])
def test_many_classes(name, classes):
    model, x = Hyperplane(classes), interior(20)
    y = model(x).argmax(1)
    ratio = judged(model, x, configured(name)(model, x, y), y) / exact(model, x, y)
    assert name in INCOMPLETE or ratio.isfinite().all()
    # One step goes where the cross-entropy of all classes says, not to the nearest one.
    assert ratio.median() <= (2 if name in ONE_STEP else 1.05)


def test_nobody_notices_the_attack(name):
    model = nn.Sequential(
        nn.Flatten(), nn.Sequential(nn.Linear(36, 8), nn.ReLU(inplace=True), nn.Dropout()), nn.Linear(8, 2)
    )
    model.train()
    model[1].eval()
    model[2].weight.requires_grad_(False)
    x, y = torch.rand(6, *SHAPE), torch.tensor([0, 1, 0, 1, 0, 1])
    before, weights = x.clone(), [p.clone() for p in model.parameters()]
    state = torch.get_rng_state(), np.random.get_state()[1], random.getstate()  # noqa: NPY002
    with torch.no_grad():
        images = configured(name)(model, x, y)
        assert not torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), state[0])
    assert (np.random.get_state()[1] == state[1]).all()  # noqa: NPY002
    assert random.getstate() == state[2]
    assert [m.training for m in model] == [True, False, True]
    assert [p.requires_grad for p in model.parameters()] == [True, True, False, True]
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(p, w) for p, w in zip(model.parameters(), weights, strict=True))
    assert torch.equal(x, before)
    assert not images.requires_grad
    with torch.no_grad():
        assert torch.equal(images, configured(name)(model, x, y)), "the second time gives other images"


def test_one_logit_is_refused_with_the_remedy(name):
    with pytest.raises(ValueError, match=r"lipbench\.antipodal"):
        configured(name)(
            nn.Sequential(nn.Flatten(), nn.Linear(36, 1)), torch.rand(2, *SHAPE), torch.zeros(2, dtype=torch.long)
        )


class Sum(nn.Module):
    """No parameters: label 1 where the pixels' sum exceeds 18."""

    def forward(self, x: Tensor) -> Tensor:
        f = x.flatten(1).sum(1) - 18
        return torch.stack((-f / 2, f / 2), 1)


@pytest.mark.parametrize("kind", ["parameterless", "scripted", "double"])
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_models_of_any_kind(name, kind):
    model = torch.jit.script(Sum()) if kind == "scripted" else Sum()
    x = torch.rand(5, *SHAPE, dtype=torch.float64 if kind == "double" else torch.float32)
    y = model(x).argmax(1)
    images = configured(name)(model, x, y)
    assert images.dtype == x.dtype
    length = judged(model, x, images, y)
    assert name in INCOMPLETE or length.isfinite().all()
    nearest = (x.flatten(1).sum(1) - 18).abs() / 6
    assert (length >= nearest * (1 - 1e-5)).all()


def test_a_constant_classifier_gives_the_images_back(name):
    class Constant(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.stack((x.sum((1, 2, 3)) * 0 + 1, x.sum((1, 2, 3)) * 0), 1)

    x = torch.rand(3, *SHAPE)
    assert torch.equal(configured(name)(Constant(), x, torch.zeros(3, dtype=torch.long)), x)


def test_misclassified_images_come_back_untouched(name):
    model, x = Hyperplane(), interior(10)
    y = model(x).argmax(1)
    wrong = torch.arange(10) < 4
    images = configured(name)(model, x, torch.where(wrong, 1 - y, y))
    assert torch.equal(images[wrong], x[wrong])
    assert (distance(x, images)[~wrong] > 0).all()
    assert torch.equal(configured(name)(model, x, 1 - y), x)


class Failing(torchattacks.attack.Attack):
    """Returns what it is told to."""

    def __init__(self, model, images):
        super().__init__("Failing", model)
        self.images = images

    def forward(self, images, labels=None):
        return self.images


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.5])
def test_a_failure_is_the_image_itself(value):
    model, x = Hyperplane(), interior(10)
    y = model(x).argmax(1)
    good = ATTACKS["deepfool"](model, x, y)
    broken = torch.where(torch.arange(10).view(-1, 1, 1, 1) < 5, value, good)
    broken = x if value == 0.5 else broken  # a point that is not adversarial
    images = torchattack(model, x, y, attack=partial(Failing, images=broken))
    assert torch.equal(images[:5], x[:5])
    assert (distance(x, images)[5:] > 0).all() == (value != 0.5)


def test_images_outside_the_box_are_brought_back():
    model, x = Hyperplane(), interior(10)
    y = model(x).argmax(1)
    far = x + 1e3 * (ATTACKS["deepfool"](model, x, y) - x)
    images = torchattack(model, x, y, attack=partial(Failing, images=far))
    assert judged(model, x, images, y).isfinite().all()


class Threshold:
    """An attack of torchattacks' form that succeeds from a size of its own for each image on; counts its calls."""

    def __init__(self, thresholds: Tensor, target: Tensor):
        self.thresholds, self.target, self.sizes = thresholds, target, []

    def __call__(self, x: Tensor, y: Tensor, rows: Tensor, size: float) -> Tensor:
        self.sizes.append(size)
        success = (size >= self.thresholds[rows]).view(-1, 1, 1, 1)
        return torch.where(success, x + size * self.target, x)


def test_the_search_finds_the_smallest_size_of_each_image():
    model = Sum()
    x, y = torch.full((40, *SHAPE), 0.499), torch.zeros(40, dtype=torch.long)
    thresholds = torch.logspace(-2, 0, 40)
    thresholds[-1] = 50.0  # out of reach
    attack = Threshold(thresholds, torch.full((1, *SHAPE), 0.4))
    search = Search("eps", lowest=0.1, highest=1.0, ratio=1.5, bisections=4)
    length = distance(x, search.nearest_success(model, x, y, attack)) / 0.4 / 6
    reachable = (thresholds >= 0.1 / 1.5 ** (15 / 16)) & (thresholds <= 1)
    assert (length[reachable] >= thresholds[reachable] * (1 - 1e-4)).all()
    assert (length[reachable] <= thresholds[reachable] * 1.5 ** (1 / 16) * (1 + 1e-4)).all()
    assert length[-1] == 0
    assert len(set(attack.sizes)) == len(attack.sizes), "a value was tried twice"
    assert min(attack.sizes) >= 0.1 / 1.5
    assert 1.0 <= max(attack.sizes) <= 1.5


@pytest.mark.parametrize(
    "options", [{"lowest": 0}, {"ratio": 1.0}, {"bisections": -1}, {"lowest": 2.0, "highest": 1.0}]
)
def test_a_search_without_sense_is_refused(options):
    with pytest.raises(ValueError, match="0 < lowest <= highest, ratio > 1 and bisections >= 0"):
        Search("eps", **options)


@pytest.mark.parametrize("library", ["foolbox", "adv_lib"])
def test_a_missing_library_is_named_with_its_extra(library, monkeypatch):
    module = f"lipbench.attacks.peers.with_{library}"
    monkeypatch.delitem(sys.modules, module, raising=False)
    for loaded in [name for name in sys.modules if name.split(".")[0] == library]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, library, None)  # an import of it fails
    with pytest.raises(MissingExtra, match=rf"pip install lipbench\[{library.replace('_', '-')}\]"):
        importlib.import_module(module)


def test_the_command_says_what_is_missing_before_it_trains(tmp_path):
    code = "import sys; sys.modules['foolbox'] = None; from lipbench.commands.main import main; sys.exit(main())"
    options = ["experiment=digits08/hkr_mlp", "attack=[foolbox_ddn]", f"results={tmp_path}"]
    answer = subprocess.run([sys.executable, "-c", code, "run", *options], capture_output=True, text=True, check=False)
    assert answer.returncode == 1
    assert "pip install lipbench[foolbox]" in answer.stderr
    assert "Traceback" not in answer.stderr
    assert not list(tmp_path.iterdir())


def test_peers_run_by_configuration(tmp_path, need_library_of):
    chosen = ["deepfool", "foolbox_cw", "foolbox_ddn", "torchattacks_pgd"]
    need_library_of("foolbox_cw")
    overrides = ["experiment=digits08/hkr_mlp", f"attack=[{','.join(chosen)}]", f"results={tmp_path}", "images=6"]
    overrides += ["training.epochs=1", "progress=false", "device=cpu"]
    overrides += ["attack.foolbox_cw.attack.steps=50", "attack.foolbox_cw.attack.stepsize=0.1"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", overrides=overrides)
    summary = experiment_of(cfg, "digits08/hkr_mlp", []).run()
    assert summary["violations"] == 0
    table = lipbench.read(tmp_path)
    assert set(table["method"]) == {*CERTIFICATES, *chosen}
    rows = table["method"].isin(chosen) & (table["norm"] == "l2")
    distances = table[rows].pivot(index="index", columns="method", values="distance")
    found = np.isfinite(distances["deepfool"])
    assert found.any()
    assert np.isfinite(distances[found]).all(axis=None)


@pytest.mark.parametrize(
    ("native", "rival"), [(native, rival) for native, rivals in NAMESAKES.items() for rival in rivals]
)
def test_native_attacks_are_as_near_as_their_namesakes(native, rival, need_library_of):
    need_library_of(rival)
    torch.manual_seed(7)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3))
    for p in model.parameters():
        nn.init.normal_(p, std=0.4)
    x = torch.rand(40, *SHAPE)
    y = model(x).argmax(1)
    ours, theirs = (judged(model, x, attack(model, x, y), y) for attack in (configured(native), configured(rival)))
    assert ours.isfinite().sum() >= theirs.isfinite().sum()
    assert ours.median() <= 1.01 * theirs.median()


def test_the_benchmark_measures_the_distance_of_two_curves(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    benchmark = importlib.import_module("attacks")
    generator = np.random.default_rng(0)
    for _ in range(20):
        ours, others = generator.integers(0, 12, (2, 15)) / 4
        others[0] = ours[1] = np.inf
        by_hand = [(ours > e).sum() - (others > e).sum() for e in np.arange(-1, 4, 1 / 8)]
        images, epsilon = benchmark.excess(ours, others)
        assert images == max(by_hand)
        assert (ours > epsilon).sum() - (others > epsilon).sum() == images
