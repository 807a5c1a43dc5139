"""More images extend a run, fewer images read what it has: the order of the commands does not matter."""

import functools
import shlex
import shutil
from dataclasses import replace

import pandas as pd
import pytest
from hydra import compose, initialize_config_dir

from lipbench.commands.reproduce import reproduce
from lipbench.commands.run import experiment_of
from lipbench.commands.suites import CONF
from lipbench.files import read_arrays, read_json
from lipbench.results import MANIFEST, read_bounds, read_manifest, verify

NAME = "digits08/hkr_mlp"
SMALL = ["training.epochs=1", "progress=false", "device=cpu"]
ATTACKS = ("fgsm", "deepfool", "fgm")


def experiment(root, *overrides):
    chosen = [f"experiment={NAME}", *SMALL, *overrides]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return experiment_of(compose("config", overrides=[*chosen, f"results={root}"]), NAME, chosen)


class Attacks:
    """Counts the images that each attack gets; one of them is interrupted."""

    def __init__(self):
        self.images, self.interrupted = dict.fromkeys(ATTACKS, 0), None

    def of(self, job):
        return replace(job, attacks={name: self._watched(name, attack) for name, attack in job.attacks.items()})

    def _watched(self, name, attack):
        @functools.wraps(attack)
        def watched(model, x, y, **options):
            if name == self.interrupted:
                raise KeyboardInterrupt
            self.images[name] += len(x)
            return attack(model, x, y, **options)

        return watched


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run of the network alone."""
    root = tmp_path_factory.mktemp("trained")
    experiment(root, "attack=[]").run()
    return root


@pytest.fixture
def command(trained, tmp_path):
    """`run(images)`: one command in a folder that holds the trained network; the attacks that it calls."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    attacks = Attacks()

    def run(images, names=ATTACKS):
        job = experiment(tmp_path, f"attack=[{','.join(names)}]", f"images={images}")
        attacks.of(job).run()
        return job.folder

    return run, attacks


def content(folder):
    """What a run writes, but for seconds."""
    files = [*sorted(folder.glob("bounds/*")), folder / "data.json", folder / "network.json"]
    flags = folder / "flags.json"
    summary = {key: value for key, value in read_json(folder / "summary.json").items() if "seconds" not in key}
    arrays = {
        name: {key: value.tobytes() for key, value in read_arrays(folder / f"{name}.npz").items()}
        for name in ("gallery", "illustrations")
    }
    seen = read_json(flags) if flags.exists() else []
    return {path.name: path.read_bytes() for path in files}, summary, arrays, seen


@pytest.fixture(scope="module")
def at_once(trained, tmp_path_factory):
    root = tmp_path_factory.mktemp("once")
    shutil.copytree(trained, root, dirs_exist_ok=True)
    job = experiment(root, f"attack=[{','.join(ATTACKS)}]", "images=30")
    job.run()
    return content(job.folder)


def test_more_images_then_fewer_each_twice(command, at_once, capsys):
    run, attacks = command
    folder = run(30)
    stamp = (folder / MANIFEST).stat().st_mtime_ns
    for images in (30, 20, 20):
        run(images)
        assert ("30 images kept; 20 asked" in capsys.readouterr().err) == (images == 20)
    assert (folder / MANIFEST).stat().st_mtime_ns == stamp, "nothing is written"
    assert set(attacks.images.values()) == {30}, "nothing is computed"
    assert content(folder) == at_once


def test_fewer_images_then_more_each_twice(command, at_once, capsys):
    run, attacks = command
    folder = run(20)
    run(20)
    said = capsys.readouterr().err
    assert "kept" not in said
    assert "made again" not in said
    assert set(attacks.images.values()) == {20}
    assert len(read_json(folder / "summary.json")) > 1
    run(30)
    assert "fgsm.parquet is of 20 images, 30 are asked for" in capsys.readouterr().err
    run(30)
    assert set(attacks.images.values()) == {50}
    assert content(folder) == at_once
    verify(folder)
    assert "images=30" in shlex.split(read_manifest(folder)["run"]["command"])


@pytest.mark.parametrize("then", [20, 30])
def test_stopped_while_it_is_extended(command, at_once, then):
    run, attacks = command
    folder = run(20)
    attacks.interrupted = "deepfool"
    with pytest.raises(KeyboardInterrupt):
        run(30)
    attacks.interrupted = None
    assert not (folder / MANIFEST).exists()
    run(then)
    verify(folder)
    rows = read_bounds(folder).query("norm == 'l2'").groupby("method")["index"].nunique()
    assert rows["fgsm"] == 30
    assert rows["deepfool"] == rows["fgm"] == then
    assert attacks.images["fgsm"] == 50, "the table that was extended is kept"
    run(30)
    assert content(folder) == at_once


def test_another_attack_of_fewer_images(command, tmp_path):
    run, attacks = command
    folder = run(30, ["fgsm"])
    run(20, ["fgsm", "deepfool"])
    assert attacks.images == {"fgsm": 30, "deepfool": 20, "fgm": 0}
    assert "images=30" in shlex.split(read_manifest(folder)["run"]["command"]), "it makes every table"
    assert read_arrays(folder / "gallery.npz")["images"].shape[0] == 16
    assert read_json(folder / "summary.json")["attacked_images"] == 30
    rows, _ = reproduce(folder, tmp_path / "again", device="cpu", progress=False)
    assert all(row.equal for row in rows if row.name.startswith("bounds/")), rows
    assert len(rows) > 4


def test_more_images_than_there_are(command):
    run, attacks = command
    folder = run(1000, ["fgsm"])
    count = attacks.images["fgsm"]
    assert read_json(folder / "bounds/fgsm.json")["images"] == count < 1000
    run(2000, ["fgsm"])
    assert attacks.images["fgsm"] == count


def test_a_measure_by_attacks_is_of_the_attacked_images(tmp_path, capsys):
    own = ["training.epochs=10", "attack=[]", "measure=[bracket]", "measure.bracket.number=20"]

    def indices(images):
        job = experiment(tmp_path, *own, f"images={images}")
        job.run()
        assert verify(job.folder) is not None
        return {*pd.read_csv(job.folder / "bracket.csv")["index"]}

    ten = indices(10)
    certified = read_bounds(experiment(tmp_path, *own).folder)
    right = sorted({*certified[certified["label"] == certified["prediction"]]["index"]})
    assert ten == {index for index in right if index < 10}
    assert indices(5) == ten, "a table of more images is kept"
    capsys.readouterr()
    assert indices(30) == {*right[:20]}, "one of fewer is made again"
    assert "bracket.csv is of 10 images, all are asked for: it is made again." in capsys.readouterr().err
    assert indices(10) == {*right[:20]}
