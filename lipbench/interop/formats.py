"""Files of a network for other runtimes: `model.onnx` and `model.pt2`, with entries about it inside, written and read
back.
"""

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from lipbench.files import atomic

Batch = int | Literal["dynamic"]
Logits = Callable[[Tensor], Tensor]

FILES = {"onnx": "model.onnx", "torch": "model.pt2"}
CERTIFICATE = "certificate.json"


class ExportError(ValueError):
    """A network that cannot be exported, or an exported file that does not compute what the network computes."""


def check(formats: Sequence[str], batch: Batch) -> None:
    """
    Raises:
        ExportError: an unknown format or batch, or missing packages.
    """
    if not formats or set(formats) - set(FILES):
        raise ExportError(f"formats are one or more of {', '.join(FILES)}; not {', '.join(formats) or 'none'}.")
    if batch != "dynamic" and (not isinstance(batch, int) or batch < 1):
        raise ExportError(f"batch is dynamic or a number of images, 1 or more; not {batch}.")
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if "onnx" in formats and not find_spec(name)]
    if missing:
        raise ExportError(
            f"The format onnx needs {', '.join(missing)}: pip install 'lipbench[onnx]'. Without: formats=[torch]."
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Without the exporter's log and its own deprecated calls: users can do nothing about them."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r".isinstance\(treespec, LeafSpec\). is deprecated")
            yield
    finally:
        logging.disable(level)


def _dynamic(batch: Batch) -> tuple[dict[int, Dim]] | None:
    return ({0: Dim("batch", min=1)},) if batch == "dynamic" else None


def traced(model: nn.Module, shape: tuple[int, ...], batch: Batch) -> ExportedProgram:
    """The graph of a model on images [N, *shape].

    Raises:
        ExportError: torch cannot trace it.
    """
    # An example of one image would fix the batch at 1.
    example = torch.rand(2 if batch == "dynamic" else batch, *shape)
    try:
        with torch.no_grad():
            program = torch.export.export(model, (example,), dynamic_shapes=_dynamic(batch))
    except Exception as error:  # torch raises many kinds
        raise ExportError(f"torch.export cannot trace this model with batch={batch}: {_first(error)}") from error
    for node in program.graph.nodes:  # the folders of the machine that exports
        node.meta.pop("stack_trace", None)
    return program


def content_of(name: str, program: ExportedProgram, entries: dict[str, Any], batch: Batch, opset: int | None) -> bytes:
    """The content of a file of this format, the entries inside.

    Raises:
        ExportError: torch cannot write this model, or not with these operators.
    """
    if name == "torch":
        buffer = io.BytesIO()
        torch.export.save(program, buffer, extra_files={CERTIFICATE: to_json(entries)})
        return buffer.getvalue()
    try:
        made = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=opset,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=_dynamic(batch),
            verbose=False,
        )
        assert made is not None
        for node in made.model.graph.all_nodes():  # names of Python code, half the file
            node.metadata_props.clear()
        made.model.metadata_props.update({key: to_json(value) for key, value in entries.items()})
        content: bytes = made.model_proto.SerializeToString()
    except Exception as error:
        raise ExportError(f"torch.onnx cannot export this model: {_first(error)}") from error
    if opset not in (None, made.model.opset_imports[""]):
        raise ExportError(f"torch cannot write this model with opset {opset}: it gives {made.model.opset_imports['']}.")
    return content


def read_back(name: str, path: Path) -> tuple[Logits, dict[str, Any]]:
    """The network in a file, images -> logits, and the entries next to it."""
    if name == "torch":
        files = {CERTIFICATE: ""}
        with path.open("rb") as file:
            module = torch.export.load(file, extra_files=files).module()
        return module, json.loads(files[CERTIFICATE])
    import onnxruntime  # an extra

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    entries = session.get_modelmeta().custom_metadata_map
    return (
        lambda x: torch.from_numpy(session.run(["logits"], {"images": x.numpy()})[0]),
        {key: json.loads(value) for key, value in entries.items()},
    )


@contextmanager
def all_or_none(folder: Path, names: Sequence[str]) -> Iterator[dict[str, Path]]:
    """Temporary paths of these files in a folder, renamed together if the block succeeds; if not, nothing is left, nor
    a folder that was not there.
    """
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        with ExitStack() as stack:
            yield {name: stack.enter_context(atomic(folder / name)) for name in names}
    except BaseException:
        for path in created:
            with suppress(OSError):
                path.rmdir()
        raise


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON without infinities.

    Raises:
        ExportError: the value is no JSON.
    """
    try:
        return json.dumps(value, indent=indent, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ExportError(f"metadata is JSON: {error}.") from error


def _first(error: Exception) -> str:
    """The first line of a message that torch stretches over pages."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]
