"""The Python interface in a notebook: what a reader sees after each cell."""

import base64
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


@pytest.fixture(scope="module")
def outputs(tmp_path_factory) -> list[list[dict[str, Any]]]:
    """The outputs of every cell of a notebook that was executed."""
    reason = "a notebook needs nbclient, nbformat and ipykernel: pip install nbclient ipykernel"
    nbclient, nbformat = (pytest.importorskip(name, reason=reason) for name in ("nbclient", "nbformat"))
    pytest.importorskip("ipykernel", reason=reason)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    where = {"metadata": {"path": str(tmp_path_factory.mktemp("notebook"))}}
    nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3", resources=where).execute()
    return [cell["outputs"] for cell in notebook["cells"]]


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
