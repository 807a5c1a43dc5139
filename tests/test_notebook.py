"""The Python interface in a notebook: what a reader sees after each cell. The notebooks of docs/notebooks run."""

import base64
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

CELLS = [
    """import lipbench
data = lipbench.data.digits()
model = lipbench.models.mlp((1, 8, 8), 10, widths=[16], constraint=lipbench.layers.Orthogonal)
data""",
    """model = lipbench.bake(model).eval()
split = data.test[:6]
labels = model(split.images / 255).argmax(1)
table = lipbench.evaluate(model, split.images, labels, ["fgm", "deepfool"])""",
    "lipbench.plot.curves(table)",
    "lipbench.plot.bracket(table)",
    "lipbench.plot.tightness(table)",
    "bool((lipbench.certify(model, split.images.numpy()) > 0).all())",
]


NOTEBOOKS = sorted(Path(__file__).parent.parent.glob("docs/notebooks/*.ipynb"))


def libraries() -> tuple[ModuleType, ModuleType]:
    """nbclient and nbformat; skips the test where a notebook cannot be executed."""
    reason = "a notebook needs nbclient, nbformat and ipykernel: pip install nbclient ipykernel"
    pytest.importorskip("ipykernel", reason=reason)
    return pytest.importorskip("nbclient", reason=reason), pytest.importorskip("nbformat", reason=reason)


def execute(notebook: Any, folder: Path) -> list[list[dict[str, Any]]]:
    """The outputs of every cell that is code."""
    where = {"metadata": {"path": str(folder)}}
    libraries()[0].NotebookClient(notebook, timeout=600, kernel_name="python3", resources=where).execute()
    return [cell["outputs"] for cell in notebook["cells"] if cell["cell_type"] == "code"]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory) -> list[list[dict[str, Any]]]:
    """The outputs of every cell of a notebook that was executed."""
    cells = libraries()[1].v4
    notebook = cells.new_notebook(cells=[cells.new_code_cell(cell) for cell in CELLS])
    return execute(notebook, tmp_path_factory.mktemp("notebook"))


def text(cell: list[dict[str, Any]]) -> str:
    return "".join(output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell)


def test_a_data_set_and_a_certificate_are_one_line_of_text(outputs):
    assert text(outputs[0]).startswith("Dataset('digits', 10 classes, ")
    assert text(outputs[5]) == "True"


def test_progress_is_a_bar_and_no_warning(outputs):
    assert "fgm" in text(outputs[1])
    assert "%|" in text(outputs[1])
    assert "IProgress" not in text(outputs[0])


@pytest.mark.parametrize("cell", [2, 3, 4])
def test_every_plot_is_shown_as_a_picture(outputs, cell):
    pictures = [output["data"]["image/png"] for output in outputs[cell] if "image/png" in output.get("data", {})]
    assert len(pictures) == 1
    content = base64.b64decode(pictures[0])
    assert content.startswith(b"\x89PNG")
    assert len(content) > 5000


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_of_the_documentation_runs(path, tmp_path, monkeypatch):
    nbformat = libraries()[1]
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))  # for the commands that it starts
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") for cell in notebook["cells"]), "commit it without outputs"
    results = execute(notebook, tmp_path)
    assert sum("image/png" in output.get("data", {}) for cell in results for output in cell) >= 1
    if path.stem == "certify":
        before, after = text(results[2]), text(results[4])
        radius = float(re.findall(r"^certificate +(\S+)", before, re.M)[0])
        assert radius > 0
        assert float(re.findall(r"[\d.]+", after)[0]) == pytest.approx(radius, abs=1e-4), "the same certificate"
    if path.stem == "train":
        last = text(results[3]).split("\n")[-1].split()
        assert 1 <= float(last[-1]) < 1.2, "the tightness after the last epoch"
