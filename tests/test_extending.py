"""docs/extending.md: its diffs apply to the repository, and what the command beneath each asks for runs."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from lipbench.commands.run import experiment_of
from lipbench.commands.suites import CONF

PAGE = Path(__file__).parent.parent / "docs" / "extending.md"
SMOKE = ["images=4", "training.epochs=1", "progress=false", "device=cpu"]


def cases() -> list[tuple[str, str]]:
    """The diffs with their commands."""
    if not PAGE.exists():
        return []
    return re.findall(r"^```diff\n(.*?)^```\n\n`python -m lipbench run ([^`]+)`", PAGE.read_text(), re.M | re.S)


@pytest.mark.parametrize(("diff", "command"), cases(), ids=[c.split()[-1] for _, c in cases()])
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
    new = re.search(r"^\+\+\+ b/(my_\w+)\.py", diff, re.M)
    assert new is not None
    assert new.group(1) in (job.folder / "config.yaml").read_text() + str(job.options), "what is new was used"


def test_every_kind_has_its_diff():
    assert len(cases()) == 4 or not PAGE.exists()
