"""docs/extending.md: its diffs apply to the repository, and what the command beneath each asks for runs."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from helpers.runs_on_disk import make
from hydra import compose, initialize_config_dir

from lipbench.commands.run import experiment_of
from lipbench.commands.suites import CONF
from lipbench.files import read_json, write_json
from lipbench.results import read_bounds, write_manifest

PAGE = Path(__file__).parent.parent / "docs" / "extending.md"
SMOKE = ["images=4", "training.epochs=1", "progress=false", "device=cpu"]


def cases(command: str) -> list[tuple[str, str]]:
    """The diffs with the arguments of the command beneath them."""
    if not PAGE.exists():
        return []
    pattern = rf"^```diff\n((?:(?!^```).)*)^```\n\n`lipbench {command} ([^`]+)`"
    return re.findall(pattern, PAGE.read_text(), re.M | re.S)


@pytest.mark.parametrize(("diff", "command"), cases("run"), ids=[c.split()[-1] for _, c in cases("run")])
def test_a_diff_of_the_page_works(diff, command, tmp_path, monkeypatch):
    if shutil.which("git") is None:
        pytest.skip("git is not there to apply the diff")
    shutil.copytree(CONF, tmp_path / "conf")
    subprocess.run(["git", "apply", "-"], input=diff, text=True, cwd=tmp_path, check=True)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("lipbench.commands.variants.CONF", tmp_path / "conf")
    overrides = shlex.split(command)
    attacks = [] if "attack=" in command else ["attack=[fgsm]"]
    with initialize_config_dir(str(tmp_path / "conf"), version_base="1.3"):
        cfg = compose("config", overrides=[*overrides, *SMOKE, *attacks, f"results={tmp_path / 'results'}"])
    job = experiment_of(cfg, overrides[0].removeprefix("experiment="), [])
    assert job.run()["violations"] == 0
    if "certificate_crown" in command:
        assert (read_bounds(job.folder).query("method == 'certificate_crown'")["distance"] > 0).any()
    new = re.search(r"^\+\+\+ b/(my_\w+)\.py", diff, re.M)
    assert new is not None
    assert new.group(1) in (job.folder / "config.yaml").read_text() + str(job.options), "what is new was used"


@pytest.fixture
def changed(tmp_path) -> Path:
    """A copy of the package, to which a diff can be applied, and a results folder."""
    if shutil.which("git") is None:
        pytest.skip("git is not there to apply the diff")
    for name in ("lipbench", "hydra_plugins", "conf"):
        shutil.copytree(PAGE.parent.parent / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    make(tmp_path / "results/runs", "hkr_cnn")
    return tmp_path


def reported(root: Path, case: tuple[str, str]) -> Path:
    """The results folder, once a diff is applied and the report beneath it is made."""
    diff, command = case
    if diff:
        subprocess.run(["git", "apply", "-"], input=diff, encoding="utf-8", cwd=root, check=True)
    words = [sys.executable, "-m", "lipbench", "report", *shlex.split(command)]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(words, cwd=root, env=environment, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    return root / "results/runs"


def test_the_figure_of_the_page_is_drawn(changed):
    root = reported(changed, cases("report")[0])
    assert (root / "figures/shares_data.png").stat().st_size > 1000
    accuracy = 100 * read_json(root / "data/hkr_cnn/default/0/summary.json")["accuracy"]
    assert pd.read_csv(root / "figures/shares_data.csv")["accuracy"].tolist() == [pytest.approx(accuracy)]
    page = (root / "report.html").read_text(encoding="utf-8")
    assert "A bar per run: its accuracy on the test set." in page


def test_the_column_of_the_page_is_everywhere(changed):
    root = reported(changed, cases("report")[1])
    path = root / "data/hkr_cnn/default/0/summary.json"
    mean = read_json(path)["mean_distance"]
    assert pd.read_csv(root / "leaderboard.csv")["mean distance"].tolist() == [pytest.approx(mean)]
    board, tex, page = (
        (root / name).read_text(encoding="utf-8") for name in ("leaderboard.md", "leaderboard_data.tex", "report.html")
    )
    assert re.search(r"\| +mean \|", board)
    assert all(f"{mean:.3f}" in text for text in (board, tex, page))
    assert "mean distance of the best attack, L2" in page
    # Its check refuses a summary.
    write_json(path, {**read_json(path), "mean_distance": -1})
    write_manifest(path.parent)
    make(root, "sound")
    reported(changed, ("", "results=results/runs figures=false"))
    assert "mean_distance: -1, which is no such value" in (root / "leaderboard.md").read_text(encoding="utf-8")


def test_every_kind_has_its_diff():
    assert (len(cases("run")), len(cases("report"))) == (4, 2) or not PAGE.exists()
