"""The first seconds of a command, in which Python loads torch."""

import subprocess
import sys

import pytest


def start(tmp_path, torch: str, *words: str) -> subprocess.CompletedProcess:
    """A command in an interpreter of its own, in which `torch` is the text of a file."""
    (tmp_path / "torch.py").write_text(torch)
    code = f"import runpy, sys; sys.path.insert(0, {str(tmp_path)!r}); runpy.run_module('lipbench', None, '__main__')"
    return subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("words", [["run"], ["evaluate", "model=net.onnx"], ["report"], ["data", "mnist"]])
def test_an_interruption_of_the_imports_is_no_traceback(tmp_path, words):
    done = start(tmp_path, "raise KeyboardInterrupt", *words)
    assert done.returncode == 130
    assert done.stderr.strip().startswith("Interrupted.")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("words", [["--version"], ["--help"], ["run", "--help"], ["nonsense"]])
def test_help_and_version_need_no_torch(tmp_path, words):
    done = start(tmp_path, "raise AssertionError('loaded')", *words)
    assert done.returncode == (words == ["nonsense"])
    assert "loaded" not in done.stderr
    assert "lipbench" in done.stdout + done.stderr
