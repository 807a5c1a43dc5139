"""docs/tutorial.md: its commands and its code run, in its order."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from lipbench.commands.suites import CONF

TUTORIAL = Path(__file__).parent.parent / "docs" / "tutorial.md"


@pytest.mark.skipif(not TUTORIAL.exists(), reason="the documentation is not there")
def test_the_tutorial(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(CONF.parent))
    other = "lipbench run experiment=digits08/hkr_mlp images=5 attack=fgm seed=1"  # other runs are there already
    subprocess.run([sys.executable, "-m", *other.split()], check=True)
    scope: dict = {}
    for language, code in re.findall(r"^```(bash|python)\n(.*?)^```", TUTORIAL.read_text(), re.M | re.S):
        if language == "python":
            exec(code, scope)
            continue
        for line in code.splitlines():
            command = shlex.split(line)
            assert command[0] == "lipbench"
            # Figures have tests of their own.
            quick = ["figures=false"] if command[1] == "report" else []
            subprocess.run([sys.executable, "-m", *command, *quick], check=True)
    assert set(scope["rows"]["seed"]) == {0}, "one network"
    assert 0 < scope["radius"].item() <= scope["found"]
    assert scope["label"].item() == 0, "an ellipse is a 0"
    assert scope["model"](scope["nearest"]).argmax().item() == 1
    assert "No image within" in capfd.readouterr().out
    folder = tmp_path / "results" / "runs"
    assert (folder / "digits08/hkr_mlp/default/0/explanations.csv").exists()
    assert (folder / "leaderboard.md").read_text().count("_mlp") >= 2
