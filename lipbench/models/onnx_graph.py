"""A network in an ONNX file as a torch module: differentiable, and in any precision. Needs the extra lipbench[onnx]."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lipbench.models.onnx_operators import OPERATORS, OnnxError

# Older files mean other things by some operators; onnx rewrites them.
OPSET = 18
# The largest difference of a logit to that of the runtime, relative to the largest of the image (at least 1).
TOLERANCE = 1e-4
# Numbers of the largest input, and of the largest constant that a graph makes.
VALUES = 2**26
# In a float64 copy whatever is cast to a floating point type becomes float64, as the weights do.
PRECISION = ("Cast", "CastLike", "ConstantOfShape")


@dataclass(frozen=True)
class _Node:
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]


class OnnxNetwork(nn.Module):
    """The graph of an ONNX file, run with torch's operations one node after another: images -> its first output.

    Its weights are buffers, so that `.double()` and `.to(device)` reach them.
    """

    def __init__(self, proto: Any):
        super().__init__()
        from onnx import helper, numpy_helper

        graph = proto.graph
        constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self._nodes: list[_Node] = []
        for node in graph.node:
            attributes = {a.name: _plain(helper.get_attribute_value(a), numpy_helper) for a in node.attribute}
            if node.op_type == "Constant":
                constants[node.output[0]] = np.asarray(next(iter(attributes.values())))
            else:
                self._nodes.append(_Node(node.op_type, tuple(node.input), tuple(node.output), attributes))
        unknown = sorted({n.kind for n in self._nodes} - {*OPERATORS, *PRECISION})
        if unknown:
            raise OnnxError(
                f"The graph uses {', '.join(unknown)}, which lipbench cannot read. Bring the nn.Module that it was "
                "exported from: model=file.py:function checkpoint=weights."
            )
        self._constants: dict[str, str] = {}
        for i, (name, value) in enumerate(constants.items()):
            self._constants[name] = f"constant_{i}"
            self.register_buffer(f"constant_{i}", torch.from_numpy(np.array(value)))
        given = [value.name for value in graph.input if value.name not in constants]
        if len(given) != 1:
            raise OnnxError(f"A classifier takes images alone; this graph takes {len(given)} inputs: {given}.")
        self._input, self._output = given[0], graph.output[0].name

    def forward(self, x: Tensor) -> Tensor:
        values: dict[str, Tensor | None] = {name: getattr(self, own) for name, own in self._constants.items()}
        values |= {"": None, self._input: x}
        for node in self._nodes:
            inputs = [values[name] for name in node.inputs]
            if node.kind in PRECISION:
                found: Any = _in_precision(node, inputs, x.dtype)
            else:
                found = OPERATORS[node.kind](*inputs, **node.attributes)
            results = found if isinstance(found, list) else [found]
            values.update(zip(node.outputs, results, strict=False))  # an output that nobody asks for has no name
        logits = values[self._output]
        assert logits is not None
        return logits


def load_onnx(path: str | Path) -> tuple[OnnxNetwork, int | None]:
    """The network of an ONNX file, and the number of images that it takes at once (None: any).

    It is believed only after it gave the logits that onnxruntime (or onnx's own reference) gives, on random images.

    Raises:
        ImportError: the extra lipbench[onnx] is not installed.
        OnnxError: the file is no ONNX, no classifier of images of one shape, uses operators that are not read, or the
            two disagree.
    """
    if not find_spec("onnx"):
        raise ImportError("Reading ONNX files needs onnx: pip install 'lipbench[onnx]'.")
    import onnx
    from onnx import version_converter

    path = Path(path)
    try:
        proto = onnx.load(str(path))
        onnx.checker.check_model(proto)
        versions = {entry.domain or "ai.onnx": entry.version for entry in proto.opset_import}
        if versions.get("ai.onnx", OPSET) < OPSET:
            proto = version_converter.convert_version(proto, OPSET)
    except Exception as error:  # protobuf's, the checker's, the converter's
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise OnnxError(f"{path.name} cannot be read as ONNX: {lines[0]}") from error
    try:
        network = OnnxNetwork(proto).eval()
    except OnnxError:
        raise
    except Exception as error:  # a graph that contradicts itself, a tensor that contradicts its shape
        raise OnnxError(f"{path.name} is damaged: {type(error).__name__}: {str(error)[:200]}") from error
    given = next(value for value in proto.graph.input if value.name == network._input)
    sizes = [d.dim_value if d.HasField("dim_value") else None for d in given.type.tensor_type.shape.dim]
    if len(sizes) != 4 or None in sizes[1:]:
        raise OnnxError(f"{path.name} takes inputs {sizes}, not images [N, C, H, W] of one shape.")
    batch, *shape = sizes
    if math.prod(n for n in sizes if n is not None) > VALUES:
        raise OnnxError(f"{path.name} takes inputs {sizes}: more than {VALUES:,} numbers at once.")
    _compare(network, path, proto, (batch or 3, *(n for n in shape if n is not None)))
    return network, batch


@torch.no_grad()
def _compare(network: OnnxNetwork, path: Path, proto: Any, shape: Sequence[int]) -> None:
    x = torch.rand(*shape, generator=torch.Generator().manual_seed(0))
    feeds = {network._input: x.numpy()}
    try:  # first, because what it makes is bounded
        found = network(x)
    except Exception as error:  # an operator with options that are not read
        raise OnnxError(f"{path.name}: {type(error).__name__} while it runs in torch: {error}") from error
    try:
        if find_spec("onnxruntime"):
            import onnxruntime

            runtime = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        else:
            from onnx.reference import ReferenceEvaluator

            runtime = ReferenceEvaluator(proto)
        expected = torch.from_numpy(np.asarray(runtime.run(None, feeds)[0]))
    except Exception as error:  # the runtime's own errors, which derive from nothing else
        raise OnnxError(f"{path.name}: the runtime refuses it: {str(error)[:200]}") from error
    scale = expected.abs().amax().clamp_min(1)
    if found.shape != expected.shape or not bool((found - expected).abs().amax() <= TOLERANCE * scale):
        raise OnnxError(
            f"{path.name} as lipbench reads it gives other logits than the runtime: it cannot be judged so. Bring the "
            "nn.Module that it was exported from."
        )


def _in_precision(node: _Node, inputs: list[Any], working: torch.dtype) -> Tensor:
    if node.kind == "ConstantOfShape":
        value = torch.from_numpy(np.asarray(node.attributes.get("value", np.zeros(1, np.float32)))).flatten()[0]
        shape = inputs[0].tolist()
        if math.prod(shape) > VALUES:
            raise OnnxError(f"a constant of shape {shape}: more than {VALUES:,} numbers")
        kind = working if value.is_floating_point() else value.dtype
        return torch.full(shape, value.item(), dtype=kind, device=inputs[0].device)
    if node.kind == "CastLike":
        kind = inputs[1].dtype
    else:
        from onnx import helper

        kind = torch.from_numpy(np.zeros(1, helper.tensor_dtype_to_np_dtype(node.attributes["to"]))).dtype
    result: Tensor = inputs[0].to(working if kind.is_floating_point else kind)
    return result


def _plain(value: Any, numpy_helper: Any) -> Any:
    """An attribute as Python and numpy know it."""
    if isinstance(value, bytes):
        return value.decode()
    return numpy_helper.to_array(value) if hasattr(value, "raw_data") else value
