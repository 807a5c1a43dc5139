"""Every loader on mutated files: it loads or refuses them with its own error. benchmarks/fuzzing.py tries thousands."""

import importlib.util
import sys
from pathlib import Path

import pytest

pytest.importorskip("hypothesis")
pytest.importorskip("onnx")


def _script():
    path = Path(__file__).parent.parent / "benchmarks" / "fuzzing.py"
    spec = importlib.util.spec_from_file_location("fuzzing", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["fuzzing"] = module  # its dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


fuzzing = _script()


@pytest.mark.filterwarnings("ignore")  # of libraries, about what is strange in a file
@pytest.mark.parametrize("name", list(fuzzing.LOADERS))
def test_mutated_files_are_loaded_or_refused(name):
    outcome = fuzzing.fuzz(fuzzing.LOADERS[name], 12)
    assert outcome.crashes == []
    assert outcome.inputs == outcome.accepted + outcome.refused > 6
    assert outcome.refused
