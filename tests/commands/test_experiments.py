"""Every YAML of conf/ composes, and every experiment runs in smoke form with the laws on."""

import io
import subprocess
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.experiments import experiment
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

import lipbench
from lipbench.commands.options import check_overrides
from lipbench.commands.suites import CONF, CommandError, expand_suites, experiments
from lipbench.data import Dataset, Split
from lipbench.data.celeba.drawn import face
from lipbench.data.celeba.face import draw
from lipbench.data.own.pictures import Preparation
from lipbench.evaluation.evaluate import CERTIFICATES
from lipbench.files import ResultsError, read_json
from lipbench.judge import Judge
from lipbench.report import find_runs, leaderboard, write_leaderboard
from lipbench.results import LawViolation
from lipbench.runs.network import build

KINDS = {
    *(f"{loss}_{body}" for loss in ("plain", "ce", "hkr") for body in ("mlp", "cnn")),
    *("spectral_mlp", "frobenius_mlp", "clip_mlp", "kr_mlp", "adversarial_cnn", "smoothed_cnn"),
}
# Their experiments differ by the faces alone, so those of one run for all.
FACES = ("celeba_drawn_eyeglasses", "celeba_drawn_mustache", "celeba_eyeglasses", "celeba_mustache")
# Their images are large: at a quarter of the size and with few channels a smoke test is one still.
NARROW = ["model.channels=[8,8,8]", "model.widths=[16]"]
# Votes are of few samples.
FEW = [
    *("model.votes=20", "model.soft_votes=4", "certificate.certificate_smoothing.samples=50"),
    *("model.base.channels=[4,4]", "model.base.widths=[16]"),
]
# Experiments without a constraint: first word of their name.
UNCONSTRAINED = ("plain", "adversarial", "smoothed")
# Experiments with the layers of other libraries: first word of their name -> what they import.
PEERS = {"deel": "deel.torchlip", "orthogonium": "orthogonium"}


def drawn(name: str) -> Dataset:
    """Random images in the shape of a data set: enough to run its experiments without its files."""
    if name.startswith("celeba"):
        return drawn_faces(name)
    generator = torch.Generator().manual_seed(0)
    classes, shape = (
        2 if name.endswith(("08", "oneclass")) else 10,
        (3, 32, 32) if name.startswith("cifar") else (1, 28, 28),
    )

    def split(count: int) -> Split:
        labels = torch.arange(count) % classes
        images = torch.randint(0, 256, (count, *shape), generator=generator, dtype=torch.uint8)
        return Split(images, labels)

    return Dataset(name, tuple(map(str, range(classes))), split(256), split(40), split(40))


def drawn_faces(name: str) -> Dataset:
    """Faces of 16x16, every fourth with the attribute."""
    attribute = name.rsplit("_", 1)[1].capitalize()
    prepare, images = Preparation((16, 16), crop=148), []
    for index in range(48):
        has, random = face(0, index)
        content = io.BytesIO()
        draw({**has, attribute: index % 4 == 0}, random).save(content, "JPEG")
        images.append(torch.tensor(prepare(content.getvalue())))
    x, y = torch.stack(images), (torch.arange(48) % 4 == 0).long()
    train, validation, test = (Split(x[a:b], y[a:b]) for a, b in ((0, 32), (32, 40), (40, 48)))
    return Dataset(name, (f"no {attribute}", attribute), train, validation, test)


def test_the_experiments_of_all_faces_differ_by_the_faces_alone():
    names = {name.split("/")[1] for name in experiments("celeba_eyeglasses")}
    assert names == {"plain_cnn", "adversarial_cnn", "ce_cnn", "hkr_cnn", "layers_cnn"}
    for name in names:
        configurations = []
        for dataset in FACES:
            with initialize_config_dir(str(CONF), version_base="1.3"):
                cfg = compose("config", overrides=[f"experiment={dataset}/{name}"])
            found = OmegaConf.to_container(cfg)
            assert found.pop("dataset") == OmegaConf.to_container(OmegaConf.load(CONF / "dataset" / f"{dataset}.yaml"))
            assert found["training"]["balanced"]
            configurations.append(found)
        assert all(found == configurations[0] for found in configurations)


def test_bases_of_experiments_are_no_experiments():
    assert (CONF / "experiment" / "_celeba" / "hkr_cnn.yaml").exists()
    assert not [name for name in experiments() if name.startswith("_")]
    with pytest.raises(CommandError, match="Unknown experiment '_celeba/hkr_cnn'"):
        check_overrides(["experiment=_celeba/hkr_cnn"], "config")


def test_every_data_set_has_every_experiment():
    existing = set(experiments())
    for dataset in ("digits", "digits08", "mnist", "mnist08"):
        assert existing >= {f"{dataset}/{kind}" for kind in KINDS}


def test_both_editions_of_cifar_have_the_same_experiments():
    found = {}
    for dataset in ("cifar10", "cifar10_jpeg"):
        for name in experiments(dataset):
            with initialize_config_dir(str(CONF), version_base="1.3"):
                cfg = compose("config", overrides=[f"experiment={name}", "dataset=cifar10"])
            found.setdefault(name.split("/")[1], []).append(OmegaConf.to_container(cfg))
    assert len(found) >= 7
    assert all(len(pair) == 2 and pair[0] == pair[1] for pair in found.values())


# Others differ by the data set alone, as the tests above say.
SAME = ("cifar10", *FACES[1:])


# One experiment of each kind of network and loss runs whole, on the smallest data that it knows.
WHOLE = {
    *(f"digits08/{kind}" for kind in ("hkr_mlp", "hkr_cnn", "kr_mlp", "plain_cnn", "deel_mlp", "deel_cnn")),
    *("digits08/orthogonium_cnn", "digits08/smoothed_cnn", "digits/adversarial_cnn", "digits/ce_cnn"),
    *("mnist08/hkr_mlp", "mnist/margin_cnn", "mnist_oneclass/hkr_mlp", "two_moons/hkr_mlp"),
    *("cifar10_jpeg/margin_resnet", f"{FACES[0]}/hkr_cnn"),
}
SHAPES = {
    "digits": (1, 8, 8),
    "mnist": (1, 28, 28),
    "cifar10": (3, 32, 32),
    "celeba": (3, 64, 64),
    "two": (2, 1, 1),
    "shapes": (2, 1, 1),
}
# The others differ from one of these by a loss, a constraint or a number: they are composed and built.
BUILT = [name for name in experiments() if name.split("/")[0] not in SAME and name not in WHOLE]


def shape_of(name: str) -> tuple[tuple[int, int, int], int]:
    """The images and the number of classes of an experiment."""
    dataset = name.split("/", maxsplit=1)[0]
    shape = next(shape for start, shape in SHAPES.items() if dataset.startswith(start))
    return shape, 10 if dataset in ("digits", "mnist", "cifar10_jpeg") else 2


@pytest.mark.parametrize("name", BUILT)
def test_an_experiment_composes_and_its_network_takes_the_images(name):
    library = PEERS.get(name.split("/")[1].split("_")[0])
    if library is not None:
        pytest.importorskip(library, reason="the extra peers is not installed: pip install lipbench[peers]")
    shape, classes = shape_of(name)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = OmegaConf.to_container(compose("config", overrides=[f"experiment={name}"]), resolve=True)
    recipe = {"model": cfg["model"], "constraint": cfg["constraint"], "shape": shape, "classes": classes}
    logits = build(recipe, baked=True).eval()(torch.zeros(1, *shape))
    assert logits.shape == (1, classes + name.endswith("smoothed_cnn"))
    instantiate(cfg["loss"]), instantiate(cfg["optimizer"]), instantiate(cfg["training"])


@pytest.mark.parametrize("name", sorted(WHOLE))
def test_experiment_in_smoke_form(name, tmp_path, monkeypatch):
    library = PEERS.get(name.split("/")[1].split("_")[0])
    if library is not None:
        pytest.importorskip(library, reason="the extra peers is not installed: pip install lipbench[peers]")
    votes = name.endswith("smoothed_cnn")
    # The check by decisions alone is of one image and few steps: what it finds is shown elsewhere.
    monkeypatch.setattr("lipbench.evaluation.loop.CHECKED", 1)
    monkeypatch.setattr("lipbench.attacks.hop_skip_jump", partial(lipbench.attacks.hop_skip_jump, steps=1, queries=10))
    job = experiment(
        name, tmp_path, "attack.l2_pgd.rounds=3", *(NARROW if name.startswith("celeba") else FEW if votes else [])
    )
    if name.startswith(("mnist", "cifar", "celeba")):
        job = replace(job, load_dataset=lambda: drawn(name.split("/")[0]))
    summary = job.run()
    assert summary["violations"] == 0
    assert summary.get("transport_law", True)
    assert summary["attacked_images"] == 6
    table = lipbench.read(tmp_path)
    lower = {"certificate_smoothing"} if votes else {*CERTIFICATES}
    assert set(table["method"]) == {*lower, "fgsm", "fgm", "l2_pgd", "deepfool", "carlini_wagner", "lipbench"}
    assert (table.loc[table["side"] == "lower"].groupby(["index", "norm", "method"]).size() == 1).all()
    assert set(table["norm"]) == {"l2", "linf", "l1"}
    costs = pd.read_csv(job.folder / "costs.csv").set_index("method")["seconds"]
    assert summary["attack_seconds"] == pytest.approx(costs.drop(["training", *lower]).sum())
    if not name.split("/")[1].startswith(UNCONSTRAINED):
        assert summary["lipschitz"] <= 1 + 1e-5
        assert summary["median_certificate"] is not None
    # Judged by hand: what the gallery holds is adversarial, at the distance that the table says.
    model, gallery = lipbench.load(job.folder), np.load(job.folder / "gallery.npz")
    x, y = torch.from_numpy(gallery["images"]).float() / 255, torch.from_numpy(gallery["labels"])
    images = torch.from_numpy(gallery["carlini_wagner"])
    rows = table[(table["method"] == "carlini_wagner") & (table["norm"] == "l2")].sort_values("index")
    found = Judge(model)(images, y).numpy()
    correct = ~Judge(model)(x, y).numpy()
    if name.startswith(("digits/plain", "digits08/plain")):  # after an epoch others may have no adversarial example
        assert (found & correct).any()
    distances = (images.double() - x.double()).flatten(1).norm(dim=1).numpy()
    assert np.allclose(rows["distance"].to_numpy()[found & correct], distances[found & correct])


@pytest.mark.parametrize("path", sorted(CONF.glob("*/*.yaml")), ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_every_group_composes(path, need_library_of):
    if path.parent.name == "attack":
        need_library_of(path.stem)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        value = f"[{path.stem}]" if path.parent.name in ("attack", "certificate") else path.stem
        cfg = compose("config", overrides=[f"{path.parent.name}={value}"])
    node = cfg[path.parent.name]
    if path.parent.name in ("attack", "certificate"):
        node = node[path.stem]
    instantiate({**OmegaConf.to_container(node, resolve=True), "_partial_": True})


def test_two_runs_give_the_same_tables_byte_for_byte(tmp_path):
    jobs = [experiment("digits08/hkr_mlp", tmp_path / name) for name in "ab"]
    for job in jobs:
        job.run()
    for path in sorted((jobs[0].folder / "bounds").iterdir()):
        assert path.read_bytes() == (jobs[1].folder / "bounds" / path.name).read_bytes(), path.name


def test_a_killed_run_resumes_to_the_same_tables(tmp_path):
    whole, killed = (experiment("digits08/hkr_mlp", tmp_path / name, "training.epochs=3") for name in "ab")
    whole.run()
    fit, count = killed.source.training, 0

    def dies(*arguments, **options):
        loss = arguments[2]

        def failing(logits, labels):
            nonlocal count
            count += 1
            if count > 12:
                raise KeyboardInterrupt
            return loss(logits, labels)

        return fit(*arguments[:2], failing, *arguments[3:], **options)

    killed = replace(killed, source=replace(killed.source, training=dies))
    with pytest.raises(KeyboardInterrupt):
        killed.run()
    assert (killed.folder / "checkpoint.pt").exists()
    killed = replace(killed, source=replace(killed.source, training=fit))
    killed.run()
    assert not (killed.folder / "checkpoint.pt").exists()
    for name in ("bounds/certificate.parquet", "bounds/carlini_wagner.parquet", "model.safetensors"):
        assert (whole.folder / name).read_bytes() == (killed.folder / name).read_bytes(), name


def test_what_exists_is_kept_and_what_differs_is_refused(tmp_path):
    job = experiment("digits08/kr_mlp", tmp_path)
    job.run()
    stamp = (job.folder / "model.safetensors").stat().st_mtime_ns
    table = (job.folder / "bounds" / "fgsm.parquet").stat().st_mtime_ns
    (job.folder / "bounds" / "deepfool.parquet").unlink()
    job.run()
    assert (job.folder / "bounds" / "deepfool.parquet").exists(), "a lost method is made again"
    assert (job.folder / "model.safetensors").stat().st_mtime_ns == stamp, "nothing is trained twice"
    assert (job.folder / "bounds" / "fgsm.parquet").stat().st_mtime_ns == table
    with pytest.raises(ResultsError, match=r"training\.epochs: 1 -> 2"):
        experiment("digits08/kr_mlp", tmp_path, "training.epochs=2").run()
    with pytest.raises(ResultsError, match=r"options\.sizes: 24 -> 3"):
        experiment("digits08/kr_mlp", tmp_path, "attack.fgsm.sizes=3").run()
    experiment("digits08/kr_mlp", tmp_path, "training.epochs=2", "force=true").run()
    assert len(pd.read_csv(job.folder / "history.csv")) == 2


def test_a_violation_is_said_saved_and_fails(tmp_path):
    def claimed(model, x, y):
        return torch.full((len(x),), 3.0, dtype=torch.float64)

    job = experiment("digits08/hkr_mlp", tmp_path, "training.epochs=10")
    job = replace(job, certificates={"certificate": claimed})
    with pytest.raises(LawViolation, match="SANDWICH"):
        job.run()
    pairs = pd.read_csv(job.folder / "violations.csv")
    saved = np.load(job.folder / "violations.npz")
    assert len(pairs) == len(saved["index"]) > 0
    changes = np.abs(saved["x_adv"].astype(float) - saved["x"]).reshape(len(pairs), -1)
    for norm, order in (("l2", 2), ("linf", np.inf), ("l1", 1)):
        mine = (pairs["norm"] == norm).to_numpy()
        assert np.allclose(np.linalg.norm(changes[mine], order, axis=1), pairs["upper"][mine], rtol=1e-5)
    assert read_json(job.folder / "summary.json")["violations"] == (pairs["norm"] == "l2").sum()


def test_an_unsound_network_breaks_the_transport_law(tmp_path, monkeypatch):
    job = experiment("digits08/kr_mlp", tmp_path, "training.epochs=20")
    job = replace(job, attacks={"fgsm": lipbench.attacks.fgsm})
    job = replace(job, certificates={})
    job.run()
    (job.folder / "summary.json").unlink()  # what is finished is not judged again
    monkeypatch.setattr("lipbench.evaluation.transport_law.gaps", lambda model, shape: torch.full((2, 2), 0.5))
    with pytest.raises(LawViolation, match="TRANSPORT"):
        job.run()


def test_report_of_two_seeds(tmp_path):
    for seed in (0, 1):
        experiment("digits08/hkr_mlp", tmp_path, f"seed={seed}").run()
    runs = find_runs(tmp_path)
    board = leaderboard(runs)
    assert board["seeds"].tolist() == [2]
    attacked = pd.concat(run.table[run.table["method"] == "fgsm"] for run in runs.finished)
    assert board["accuracy"][0] == pytest.approx(100 * (attacked["label"] == attacked["prediction"]).mean())
    assert board["violations"].tolist() == [0]
    assert board["transport law"].tolist() == ["holds"]
    write_leaderboard(board, runs)
    assert "hkr_mlp" in (tmp_path / "leaderboard.md").read_text()
    (tmp_path / "digits08/hkr_mlp/default/1/bounds/fgsm.parquet").unlink()
    runs = find_runs(tmp_path)
    assert leaderboard(runs)["seeds"].tolist() == [1]
    assert [problem.why.split(":")[0] for problem in runs.problems] == ["digits08/hkr_mlp/default/1 is damaged"]
    assert "bounds/fgsm.parquet is missing" in runs.problems[0].why


def weights_of(model: nn.Module) -> list[torch.Size]:
    """Shapes of the weights, constrained or baked, in their order."""
    shapes = [part.weight.shape for part in model.modules() if isinstance(part, nn.Linear | nn.Conv2d)]
    assert len(shapes) >= 4
    return shapes


def test_the_recipe_rebuilds_a_network(tmp_path):
    job = experiment("digits08/hkr_cnn", tmp_path)
    job.run()
    model = lipbench.load(job.folder)
    assert not model.training
    rows = lipbench.read(job.folder).query("method == 'fgsm' and norm == 'l2'").sort_values("index")
    x = torch.from_numpy(np.load(job.folder / "gallery.npz")["images"]).float() / 255
    assert model(x).argmax(1).tolist() == rows["prediction"].tolist()
    assert weights_of(build(read_json(job.folder / "model.json"))) == weights_of(model)
    (job.folder / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(ResultsError, match=r"model\.safetensors has 6 bytes"):
        lipbench.load(job.folder)
    with pytest.raises(ResultsError, match=r"model\.safetensors has 6 bytes"):
        lipbench.load(tmp_path)  # the one run below it


def test_suites_are_expanded_and_zero_jobs_is_an_error():
    arguments = expand_suites(["suite=digits08", "seed=0,1"])
    assert arguments[0] == "--multirun"
    assert "experiment=" + ",".join(experiments("digits08")) in arguments
    assert "digits08/smoothed_cnn" in experiments()
    assert "digits08/smoothed_cnn" not in experiments("digits08"), "it costs more than all others"
    assert expand_suites(["suite=digits08/smoothed_cnn"])[1] == "experiment=digits08/smoothed_cnn"
    with pytest.raises(CommandError, match="digits08"):
        expand_suites(["suite=digit08"])


@pytest.mark.parametrize(
    ("override", "answer"),
    [
        ("experiment=digits08/hkr_mpl", "Did you mean digits08/hkr_mlp"),
        ("loss.margn=2", "margin"),
        ("sed=1", "seed"),
        ("attack=[deepfol]", "deepfool"),
        ("loss=hrk", "hkr"),
    ],
)
def test_a_wrong_word_is_answered_with_what_exists(override, answer):
    with pytest.raises(CommandError) as error:
        check_overrides([override], "config")
    assert answer in str(error.value)


def test_the_command_ends_with_an_error_code_and_a_sentence(tmp_path):
    command = [
        sys.executable,
        "-m",
        "lipbench",
        "run",
        "experiment=mnist08/hkr_mlp",
        f"data_root={tmp_path}",
        f"results={tmp_path}",
    ]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "make data DATA=mnist" in ended.stderr
    assert "Traceback" not in ended.stderr
