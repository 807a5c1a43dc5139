"""Runs a forward pass on an image without numbers, and writes down every operation that it makes of it.

`Image` is a tensor that has a shape and no memory. Python code that branches on its numbers, prints them or hands them
to numpy meets an error, so no constant of the graph can depend on an image. Tensors of the module are its own; what it
computes from these alone is a constant. Operations are seen below all of torch's Python code, as its dispatcher runs
them: a replaced function of torch is read as what it does.
"""

import sys
import traceback
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lipbench.certificate.exactness import Unbounded
from lipbench.certificate.lipschitz import Shape
from lipbench.certificate.tracing.steps import Folded, Refused, Rows, in_evaluation
from lipbench.modules import exactly

HERE, TORCH = str(Path(__file__).parent), str(Path(torch.__file__).parent)
PRIVATE = "assign the result to a new name instead of writing into a tensor: y = torch.relu(x), torch.cat, torch.stack"


class Image(Tensor):
    """An activation of one image, [1, ...] at first, without numbers."""

    tape: "Tape"
    node: int
    family: "_Family"

    @staticmethod
    def __new__(cls, tape: "Tape", node: int, shape: Shape, like: "Image | None" = None) -> "Image":
        image: Image = Tensor._make_wrapper_subclass(cls, shape, dtype=tape.dtype, device=tape.device)
        image.tape, image.node = tape, node
        # Those that share memory in the network itself: a write into one would change the others.
        image.family = _Family() if like is None else like.family
        image.family.add(image)
        return image

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        tape = next(leaf.tape for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Image))
        return tape.call(func, args, kwargs or {})


def _no_memory(image: Image, *args: Any, **kwargs: Any) -> Any:
    raise image.tape.at_line(
        Unbounded("its code asks for the memory of an activation", "compute with operations of torch, not with numpy")
    )


# Below Python, what these give for a tensor without memory would be read all the same.
for _name in (
    "data_ptr",
    "storage",
    "untyped_storage",
    "numpy",
    "tolist",
    "__array__",
    "__dlpack__",
    "apply_",
    "map_",
    "map2_",
):
    setattr(Image, _name, _no_memory)


class _Family:
    """The living images of one memory, by identity: a set would compare tensors."""

    def __init__(self) -> None:
        self._members: list[weakref.ref[Image]] = []

    def add(self, image: Image) -> None:
        self._members.append(weakref.ref(image))

    def others(self, image: Image) -> bool:
        return any(member() is not None and member() is not image for member in self._members)


@dataclass(frozen=True)
class Node:
    """A step of the tape.

    Attributes:
        name: of the layer, or of the module in whose forward it stands, and the operation.
        step: what it computes, of one or more inputs.
        inputs: the nodes that it reads; 0 is the image.
        shape: of its output as a step sees it, without the batch.
        line: where the code stands that calls it.
    """

    name: str
    step: nn.Module
    inputs: tuple[int, ...]
    shape: Shape
    line: str


class Tape:
    """The steps of one forward pass.

    Args:
        shape: of one image.
        dtype, device: those of the network.
        operations: by the name of an operation of torch, what makes steps of it, called with the tape, the operation
            itself and its arguments.
        own: the memory of the network's own tensors.
    """

    def __init__(
        self,
        shape: Shape,
        dtype: torch.dtype,
        device: torch.device,
        operations: dict[str, Callable[..., Any]],
        own: frozenset[int],
    ):
        self.dtype, self.device, self.operations, self.own = dtype, device, operations, own
        self.nodes = [Node("", nn.Identity(), (), tuple(shape), "")]
        self.inside: list[str] = []
        # Two nodes -> that of `MaxMin` on both.
        self.pairs: dict[tuple[int, int], int] = {}
        self.image = Image(self, 0, (1, *shape))

    def call(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """What an operation of torch's dispatcher makes of images without numbers."""
        name = func.overloadpacket.__name__
        if any(leaf.tape is not self for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Image)):
            raise Unbounded("it keeps activations from one call to the next", "compute from the images of a call alone")
        if kwargs.get("out") is not None:
            raise self.at_line(Unbounded(f"{name} writes into a tensor that it is given as out=", PRIVATE))
        in_place = name.endswith("_") and not name.startswith("_")
        operation = self.operations.get(name.removesuffix("_") if in_place else name)
        if operation is None and func._can_decompose():
            found = func.decompose(*args, **kwargs)
            if found is not NotImplemented:
                return found
        if in_place:
            return self._written(operation, func, args, kwargs)
        if operation is None:
            return self.refuse(name, _unread(name), func, args, kwargs)
        try:
            return operation(self, func, *args, **kwargs)
        except Unbounded as error:
            return self.refuse(name, error, func, args, kwargs)

    def _written(self, operation: Any, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """An operation that overwrites its first argument, which then stands for the result."""
        target = args[0]
        name = func.overloadpacket.__name__
        if operation is None or not isinstance(target, Image) or target.family.others(target):
            raise self.at_line(Unbounded(f"{name} writes into a tensor that is still used, or a part of one", PRIVATE))
        try:
            out = operation(self, func, *args, **kwargs)
        except Unbounded as error:
            raise self.at_line(error) from error
        if out.shape != target.shape:
            raise self.at_line(Unbounded(f"{name} changes the shape of a tensor in place", PRIVATE))
        target.node = out.node
        return target

    def add(
        self, name: str, step: nn.Module, images: Sequence[Image | int], shape: Shape, like: Image | None = None
    ) -> Image:
        """Writes a step down.

        Args:
            images: its inputs, or their nodes.
            shape: of its output as the code sees it.
            like: an image whose memory the output may share.

        Raises:
            Unbounded: torch rounds the numbers of layers to half precision here.
        """
        if torch.is_autocast_enabled(self.device.type):
            raise self.at_line(Unbounded("it computes in half precision by torch.autocast", "leave autocast out"))
        title = ".".join(filter(None, (self.inside[-1] if self.inside else "", name)))
        inputs = tuple(image if isinstance(image, int) else image.node for image in images)
        self.nodes.append(Node(title, _ready(step), inputs, seen(shape), self.line()))
        return Image(self, len(self.nodes) - 1, shape, like)

    def layer(self, name: str, layer: nn.Module, image: Image) -> Image:
        """Writes down a layer that acts on each row of [L, ...]; L is 1 for the image itself."""
        if layer.training and not isinstance(layer, Refused):  # a new one, which would change running statistics
            layer.eval()
        rows, *shape = image.shape
        zeros = torch.zeros(1, *shape, dtype=self.dtype, device=self.device)
        try:
            out = layer(zeros)
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            why, remedy = f"it refuses an input of shape {shape} ({error})", "ask for the shape of the model's images"
            raise Unbounded(why, remedy) from error
        # A layer may return its input itself, or a view of it.
        shared = out.untyped_storage().data_ptr() == zeros.untyped_storage().data_ptr()
        before = self.nodes[image.node]
        if rows == 1 and _folds(before.step, layer):
            folded = Folded(before.step, layer)
            return self.add(name, folded, list(before.inputs), (rows, *out.shape[1:]))
        step = layer if rows == 1 else Rows(layer)
        return self.add(name, step, [image], (rows, *out.shape[1:]), image if shared else None)

    def refuse(self, name: str, error: Unbounded, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """A step without a bound; the steps after it are read nevertheless.

        Raises:
            Unbounded: the shape of its output is not known either.
        """
        error = self.at_line(error)
        if {torch.Tag.dynamic_output_shape, torch.Tag.data_dependent_output} & set(func.tags):
            raise error  # what it gives for zeros says nothing of other numbers
        images = [a for a in tree_leaves((args, kwargs)) if isinstance(a, Image)]
        try:
            # Not on the "meta" device, whose import takes seconds.
            made = func(*_filled(args), **_filled(kwargs))
        except Exception:
            raise error from None

        def one(tensor: Any) -> Any:
            if not isinstance(tensor, Tensor):
                return tensor
            empty = torch.zeros(seen(tuple(tensor.shape)), dtype=self.dtype, device=self.device)
            step = Refused(name, error, lambda *inputs: empty.expand(len(inputs[0]), *empty.shape))
            return self.add(name, step, images, tuple(tensor.shape))

        if isinstance(made, Tensor):
            return one(made)
        if not isinstance(made, list | tuple):  # a number, on which Python code would branch
            raise error
        return type(made)(map(one, made))

    def constant(self, value: Any, step: nn.Module) -> nn.Module:
        """Notes on a step whether its weights are the network's own, or computed in the forward pass."""
        if isinstance(value, Tensor) and value.numel() > 1 and value.untyped_storage().data_ptr() not in self.own:
            step.computed = True  # type: ignore[assignment]
        return step

    def at_line(self, error: Unbounded) -> Unbounded:
        line = self.line()
        return Unbounded(f"{error.why} ({line})" if line else error.why, error.remedy)

    def at_error(self, reason: Unbounded, error: BaseException) -> Unbounded:
        """With the line of code at which Python stopped."""
        stack = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_of_the_user(frame.filename)]
        return (
            Unbounded(f"{reason.why} ({Path(stack[-1].filename).name}, line {stack[-1].lineno})", reason.remedy)
            if stack
            else reason
        )

    def line(self) -> str:
        """Of the code that is running, outside of torch and of this package."""
        for frame in _frames():
            file = frame.f_code.co_filename
            if _is_of_the_user(file):
                return f"{Path(file).name}, line {frame.f_lineno}"
        return ""


def _is_of_the_user(file: str) -> bool:
    return not file.startswith((HERE, TORCH, "<"))


def _frames() -> Iterator[Any]:
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_name == RUN and frame.f_code.co_filename.startswith(HERE):
            return  # what called the tracer is no code of the network
        yield frame
        frame = frame.f_back  # type: ignore[assignment]


def _folds(first: nn.Module, norm: nn.Module) -> bool:
    kinds = ((nn.Linear, nn.BatchNorm1d), (nn.Conv2d, nn.BatchNorm2d))
    return any(exactly(first, before) and exactly(norm, after) for before, after in kinds)


def _ready(step: nn.Module) -> nn.Module:
    return in_evaluation(step) if isinstance(step, Refused | Rows | Folded) else step.eval()


# The function of this package that calls the network.
RUN = "run_on_tape"


def seen(shape: Shape) -> Shape:
    """The shape of an activation as a step sees it, behind the batch: a leading 1 stands for the image. One number is
    (1,).
    """
    return (tuple(shape[1:]) if tuple(shape[:1]) == (1,) else tuple(shape)) or (1,)


def _filled(value: Any) -> Any:
    """Arguments with zeros in place of images."""
    if isinstance(value, Image):
        return torch.zeros(value.shape, dtype=value.tape.dtype, device=value.tape.device)
    if isinstance(value, list | tuple):
        return type(value)(map(_filled, value))
    if isinstance(value, dict):
        return {key: _filled(v) for key, v in value.items()}
    return value


def _unread(name: str) -> Unbounded:
    if name in ("is_nonzero", "_local_scalar_dense", "item"):
        return Unbounded(
            "its code looks at the numbers of an image",
            "use no if, while, float(), int() or .item() of an activation: torch.maximum or torch.relu choose as well",
        )
    why = "use operations that have a bound (docs/your_model.md), or a layer with a rule of its own"
    return Unbounded(f"torch.{name} is not read", why)
