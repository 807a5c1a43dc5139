"""docs/extending.md: its diffs apply to the repository, and the command beneath each runs."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "extending.md"
SMOKE = ["images=4", "training.epochs=1", "progress=false", "device=cpu"]


def cases() -> list[tuple[str, str]]:
    """The diffs with their commands."""
    if not PAGE.exists():
        return []
    return re.findall(r"^```diff\n(.*?)^```\n\n`(python -m lipbench\.run [^`]+)`", PAGE.read_text(), re.M | re.S)


@pytest.mark.parametrize(("diff", "command"), cases(), ids=[c.split()[-1] for _, c in cases()])
def test_a_diff_of_the_page_works(diff, command, tmp_path):
    if shutil.which("git") is None:
        pytest.skip("git is not there to apply the diff")
    for folder in ("lipbench", "conf"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(["git", "apply", "-"], input=diff, text=True, cwd=tmp_path, check=True)
    attacks = [] if "attack=" in command else ["attack=[fgsm]"]
    arguments = [*shlex.split(command)[1:], *SMOKE, *attacks]
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "violations 0" in done.stdout


def test_every_kind_has_its_diff():
    assert len(cases()) == 4 or not PAGE.exists()
