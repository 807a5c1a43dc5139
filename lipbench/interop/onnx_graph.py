"""A network in an ONNX file as a torch module: differentiable, and in any precision. Needs the extra lipbench[onnx]."""

import math
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lipbench.interop.adapters import arrangement, check_precision
from lipbench.interop.kinds import ONNX, ModelError, kind_of, not_what_was_expected
from lipbench.interop.onnx_operators import OPERATORS, READS, OnnxError

# Older files mean other things by some operators; onnx rewrites them.
OPSET = 18
# The largest difference of a logit to that of the runtime, relative to the largest of the image (at least 1).
TOLERANCE = 1e-4
# Numbers that a graph may make of one image, all its operators together.
VALUES = 2**26
# In a float64 copy everything that is cast to a floating point type becomes float64, as the weights do.
PRECISION = ("Cast", "CastLike", "ConstantOfShape")
ANOTHER_WAY = "Or give the nn.Module that it was exported from: model=file.py:function checkpoint=weights."


@dataclass(frozen=True)
class _Node:
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]


class OnnxNetwork(nn.Module):
    """The graph of an ONNX file, run with torch's operations one node after another: images -> its first output.

    Its weights are buffers, so that `.double()` and `.to(device)` reach them. A graph of float64 images computes in
    float64, for inputs of every precision.

    Attributes:
        size: of one input, None where the file leaves it open.
        batch: the number of images that the graph takes at once; None: any.
    """

    def __init__(self, proto: Any):
        super().__init__()
        from onnx import helper

        graph = proto.graph
        tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._nodes: list[_Node] = []
        for node in graph.node:
            attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            if node.op_type == "Constant":
                ((name, value),) = attributes.items()
                tensors[node.output[0]] = _constant(name, value)
            else:
                plain = {name: _plain(value) for name, value in attributes.items()}
                self._nodes.append(_Node(node.op_type, tuple(node.input), tuple(node.output), plain))
        unknown = sorted({n.kind for n in self._nodes} - {*OPERATORS, *PRECISION})
        if unknown:
            raise OnnxError(f"The graph uses {', '.join(unknown)}, which lipbench cannot read. {ANOTHER_WAY[3:]}")
        self._constants: dict[str, str] = {}
        for i, (name, tensor) in enumerate(tensors.items()):
            self._constants[name] = f"constant_{i}"
            self.register_buffer(f"constant_{i}", torch.from_numpy(np.array(_plain(tensor))))
        given = [value for value in graph.input if value.name not in tensors]
        if len(given) != 1:
            names = [value.name for value in given]
            raise OnnxError(f"A classifier takes images alone; this graph takes {len(given)} inputs: {names}.")
        self._input, self._output = given[0].name, graph.output[0].name
        kind = given[0].type.tensor_type
        self._images = _torch_type(kind.elem_type)
        # Exporters write an open size as a name, as 0 or as -1.
        sizes = [d.dim_value if d.dim_value > 0 else None for d in kind.shape.dim] or [None]
        self.batch: int | None = sizes[0]
        self.size: tuple[Any, ...] = tuple(sizes[1:])

    def forward(self, x: Tensor, bound: "_Bound | None" = None) -> Tensor:
        x = x.to(torch.promote_types(x.dtype, self._images))
        values: dict[str, Tensor | None] = {name: getattr(self, own) for name, own in self._constants.items()}
        values |= {"": None, self._input: x}
        for node in self._nodes:
            inputs = [values[name] for name in node.inputs]
            if bound is not None:
                bound.check(node, inputs, x.dtype)
            found = _applied(node, inputs, x.dtype)
            results = found if isinstance(found, list) else [found]
            values.update(zip(node.outputs, results, strict=False))  # an unused output has no name
        logits = values[self._output]
        assert logits is not None
        return logits


class _Bound(TorchDispatchMode):
    """Stops a graph before an operator makes too much: each operator is tried on tensors without memory first, and
    what torch makes of these on the way, but for views, is added up.
    """

    def __init__(self, images: int):
        super().__init__()
        self.left = VALUES * images

    def check(self, node: _Node, inputs: list[Any], working: torch.dtype) -> None:
        """
        Raises:
            OnnxError: the graph makes more than `VALUES` numbers for each image.
        """
        read = READS.get(node.kind, len(inputs))
        shadows = [value if value is None or i >= read else value.to("meta") for i, value in enumerate(inputs)]
        with self:
            _applied(node, shadows, working)
        if self.left < 0:
            raise OnnxError(f"up to {node.kind} the graph makes more than {VALUES:,} numbers for each image.")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = dict(kwargs or {})
        if "device" in options:
            options["device"] = "meta"
        made = func(*args, **options)
        tensors = made if isinstance(made, list | tuple) else (made,)
        size = sum(tensor.numel() for tensor in tensors if isinstance(tensor, Tensor))
        if not func.is_view or size > args[0].numel():  # an expanded view is one only in torch
            self.left -= size
        return made


def load_onnx(path: str | Path, shape: tuple[int, ...] = ()) -> tuple[OnnxNetwork, int | None]:
    """The network of an ONNX file, and the number of images that it takes at once (None: any).

    It is believed only after it gave the logits that onnxruntime (or onnx's own reference) gives, on random images.

    Args:
        shape: of one image, (C, H, W), for a file that leaves these sizes open.

    Raises:
        ImportError: the extra lipbench[onnx] is not installed.
        OnnxError: the file is no ONNX, no classifier of images of one shape, uses operators or number types that are
            not read, makes too much of an image, or the two disagree.
    """
    if not find_spec("onnx"):
        raise ImportError("Reading ONNX files needs onnx: pip install 'lipbench[onnx]'.")
    path = Path(path).expanduser()
    proto = _read(path)
    try:
        network = OnnxNetwork(proto).eval()
        check_precision(path.name, network._images)
    except ModelError as error:
        raise OnnxError(str(error)) from error
    except Exception as error:  # a graph that contradicts itself, a tensor that contradicts its shape
        raise OnnxError(f"{path.name} is damaged: {type(error).__name__}: {str(error)[:200]}") from error
    if None in network.size:
        if len(shape) != 3:
            raise OnnxError(
                f"{path.name} takes inputs {network.size}, whose sizes are open: give the shape of an image."
            )
        arranged = arrangement(path.name, network.size, shape, None)
        network.size = tuple(shape) if arranged is None else arranged.size
    images = network.batch or 3
    if images * math.prod(network.size) > VALUES:
        raise OnnxError(f"{path.name} takes inputs {[images, *network.size]}: more than {VALUES:,} numbers at once.")
    _compare(network, path, proto, images)
    return network, network.batch


def _read(path: Path) -> Any:
    """The graph of a file, its operators rewritten to `OPSET` where they are older."""
    import onnx
    from onnx import version_converter

    if not path.exists():
        raise OnnxError(f"There is no file {path}.")
    kind = kind_of(path)
    if kind is not ONNX:
        raise OnnxError(not_what_was_expected(path, "ONNX", kind))
    try:
        proto = onnx.load(str(path))
        _one_version(proto)
        onnx.checker.check_model(proto)
    except Exception as error:  # protobuf's, the checker's
        raise OnnxError(f"{path.name} cannot be read as ONNX: {_first_line(error)}") from error
    version = next((entry.version for entry in proto.opset_import if not entry.domain), OPSET)
    try:
        return version_converter.convert_version(proto, OPSET) if version < OPSET else proto
    except Exception as error:  # the converter's
        raise OnnxError(
            f"{path.name} uses the operators of version {version}, which onnx cannot rewrite to {OPSET} "
            f"({_first_line(error)}). Export it again with opset_version={OPSET}. {ANOTHER_WAY}"
        ) from error


def _one_version(proto: Any) -> None:
    """Keeps one version of ONNX's own operators where tools that join graphs wrote several: the newest. The comparison
    with the runtime finds a graph that means another.
    """
    own = [entry for entry in proto.opset_import if entry.domain in ("", "ai.onnx")]
    others = [entry for entry in proto.opset_import if entry not in own]
    newest = max((entry.version for entry in own), default=None)
    del proto.opset_import[:]
    proto.opset_import.extend(others)
    if newest is not None:
        proto.opset_import.add(domain="", version=newest)


@torch.no_grad()
def _compare(network: OnnxNetwork, path: Path, proto: Any, images: int) -> None:
    x = torch.rand(images, *network.size, generator=torch.Generator().manual_seed(0)).to(network._images)
    feeds = {network._input: x.numpy()}
    try:  # first, because what it makes is bounded
        found = network(x, _Bound(images))
    except OnnxError as error:
        raise OnnxError(f"{path.name}: {error}") from error
    except Exception as error:  # an operator with options that are not read
        raise OnnxError(f"{path.name}: {type(error).__name__} while it runs in torch: {error}") from error
    try:
        if find_spec("onnxruntime"):
            import onnxruntime

            options = onnxruntime.SessionOptions()
            options.log_severity_level = 3  # errors: what it says of unused weights is of no use here
            runtime = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        else:
            from onnx.reference import ReferenceEvaluator

            runtime = ReferenceEvaluator(proto)
        expected = torch.from_numpy(np.asarray(runtime.run(None, feeds)[0]))
    except Exception as error:  # the runtime's own errors, which derive from nothing else
        raise OnnxError(f"{path.name}: the runtime refuses it: {str(error)[:200]}") from error
    scale = expected.abs().amax().clamp_min(1)
    if found.shape != expected.shape or not bool((found - expected).abs().amax() <= TOLERANCE * scale):
        raise OnnxError(
            f"{path.name} as lipbench reads it gives other logits than the runtime: it cannot be judged so. Give the "
            "nn.Module that it was exported from."
        )


def _applied(node: _Node, inputs: list[Any], working: torch.dtype) -> Any:
    """What a node makes; of `PRECISION` in the precision of the images, where its own is not finer."""
    if node.kind not in PRECISION:
        return OPERATORS[node.kind](*inputs, **node.attributes)
    if node.kind == "ConstantOfShape":
        value = torch.from_numpy(np.array(node.attributes.get("value", np.zeros(1, np.float32)))).flatten()[0]
        kind = _at_least(working, value.dtype)
        return torch.full(inputs[0].tolist(), value.item(), dtype=kind, device=inputs[0].device)
    wanted = inputs[1].dtype if node.kind == "CastLike" else _torch_type(node.attributes["to"])
    return inputs[0].to(_at_least(working, wanted))


def _at_least(working: torch.dtype, kind: torch.dtype) -> torch.dtype:
    return torch.promote_types(working, kind) if kind.is_floating_point else kind


def _torch_type(number: int) -> torch.dtype:
    """
    Raises:
        OnnxError: a type of numbers that torch does not have, or too coarse for distances.
    """
    from onnx import TensorProto, helper

    name = TensorProto.DataType.Name(number)
    if "FLOAT" in name and name != "FLOAT":
        raise OnnxError(f"The graph computes in {name.lower()}, too coarse for distances: export it in float32.")
    kind = helper.tensor_dtype_to_np_dtype(number)
    return torch.from_numpy(np.zeros(1, kind)).dtype


def _constant(name: str, value: Any) -> Any:
    """The tensor that an attribute of Constant stands for."""
    if name == "value":
        return value
    kinds = {"value_float": np.float32, "value_floats": np.float32, "value_int": np.int64, "value_ints": np.int64}
    if name not in kinds:
        raise OnnxError(f"The graph holds a Constant with {name}, which lipbench cannot read. {ANOTHER_WAY[3:]}")
    return np.asarray(value, kinds[name])


def _plain(value: Any) -> Any:
    """An attribute as Python and numpy know it."""
    from onnx import numpy_helper

    if isinstance(value, bytes):
        return value.decode()
    if not hasattr(value, "raw_data"):
        return value
    _torch_type(value.data_type)
    return numpy_helper.to_array(value)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
