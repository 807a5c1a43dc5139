"""Operations that copy entries: views, permutations, slices, concatenations, paddings. Also the register of all."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lipbench.certificate.exactness import Unbounded
from lipbench.certificate.tracing.steps import Copies
from lipbench.certificate.tracing.tape import Image, Tape, seen

aten = torch.ops.aten
# By the name of an operation of torch's dispatcher (ATen). Called with the tape, the operation itself and its
# arguments, of which at least one is an `Image`.
OPERATIONS: dict[str, Callable[..., Any]] = {}


def reads(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: this reads the operations of these names."""

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        OPERATIONS.update(dict.fromkeys(names, function))
        return function

    return add


@reads("view", "_unsafe_view", "reshape", "permute", "transpose", "t", "unsqueeze", "squeeze", "expand", "slice")
@reads(
    "select",
    "unsafe_split",
    "unsafe_split_with_sizes",
    "unsafe_chunk",
    "split",
    "split_with_sizes",
    "chunk",
    "unbind",
    "flip",
    "roll",
    "repeat",
    "index_select",
    "index",
)
@reads("pixel_shuffle", "pixel_unshuffle", "reflection_pad1d", "reflection_pad2d", "replication_pad2d", "unfold")
@reads("im2col", "upsample_nearest2d", "clone", "alias", "detach", "narrow", "flatten", "movedim", "cat", "stack")
@reads("channel_shuffle", "diagonal", "lift_fresh", "contiguous", "view_as", "expand_as", "replication_pad1d", "rot90")
def copies(tape: Tape, func: Any, *args: Any, constant: float = 0.0, **kwargs: Any) -> Any:
    """Run on the places of the entries, it says which one each output copies."""
    images: list[Image] = []
    # Of what it copies, neither the kind of numbers nor their order in memory matter.
    options = {key: value for key, value in kwargs.items() if key not in ("dtype", "device", "layout", "memory_format")}
    made = func(*_numbered(args, images), **options)
    like = images[0] if func.is_view else None
    name = func.overloadpacket.__name__
    if isinstance(made, Tensor):
        return _copied(tape, name, made, images, constant, like)
    return type(made)([_copied(tape, name, each, images, constant, like) for each in made])


def _numbered(value: Any, images: list[Image]) -> Any:
    """Arguments with the numbers 1, 2, ... of their entries in place of images, which are appended to the list."""
    # No inner function: one that calls itself is a circle of references, which would keep images alive.
    if isinstance(value, Image):
        before = sum(image.numel() for image in images)
        images.append(value)
        return torch.arange(before + 1, before + value.numel() + 1, dtype=torch.float64).reshape(value.shape)
    if isinstance(value, list | tuple):
        return type(value)([_numbered(each, images) for each in value])
    if isinstance(value, Tensor) and value.is_floating_point():
        raise Unbounded("it joins activations and constants", "add the constant, or make it part of the layer after")
    return value.cpu() if isinstance(value, Tensor) else value


def _copied(tape: Tape, name: str, made: Tensor, images: Sequence[Image], constant: float, like: Image | None) -> Image:
    """Copies of copies are copies: they are read from where the first ones come from, so that slices which are put
    together again are no more than a permutation.
    """
    index, shape = made.flatten().long() - 1, tuple(made.shape)
    sources, index = _used(tape, *_traced_back(tape, [image.node for image in images], index, constant))
    size, before = _size(tape, sources[0]), tape.nodes[sources[0]].shape
    step: nn.Module = Copies(index.to(tape.device), seen(shape), constant)
    if len(sources) == 1 and torch.equal(index, torch.arange(size)):
        like = images[0]
        if seen(shape) == before:
            return Image(tape, sources[0], shape, like)
        step = nn.Flatten() if len(seen(shape)) == 1 else step
    for place, node in enumerate(tape.nodes):
        if node.inputs == tuple(sources) and node.shape == seen(shape) and _same_copies(node.step, step):
            return Image(tape, place, shape, like)
    return tape.add(name, step, sources, shape, like)


def _same_copies(a: nn.Module, b: nn.Module) -> bool:
    if not isinstance(a, Copies) or not isinstance(b, Copies):
        return False
    return a.constant == b.constant and torch.equal(a.index, b.index)


def _size(tape: Tape, node: int) -> int:
    return math.prod(tape.nodes[node].shape)


def _traced_back(tape: Tape, nodes: list[int], index: Tensor, constant: float) -> tuple[list[int], Tensor]:
    """The nodes that are copied and the places in them, behind steps that copy."""
    sources: list[int] = []
    places = []

    def start(source: int) -> int:
        if source not in sources:
            sources.append(source)
        return sum(_size(tape, other) for other in sources[: sources.index(source)])

    for node in nodes:
        step, size = tape.nodes[node].step, _size(tape, node)
        own = torch.arange(size)
        behind, found = tape.nodes[node].inputs, own
        if type(step) is Copies and (step.constant == constant or bool((step.index >= 0).all())):
            found = step.index.cpu()
        elif type(step) is not nn.Flatten or (step.start_dim, step.end_dim) != (1, -1):
            behind = (node,)
        # From places in all inputs of that step to places in all sources.
        table = torch.cat([torch.arange(_size(tape, b)) + start(b) for b in behind])
        places.append(torch.where(found < 0, -1, table[found.clamp_min(0)]) if len(table) else found)
    joined = torch.cat(places) if places else index
    return sources, torch.where(index < 0, -1, joined[index.clamp_min(0)]) if len(joined) else index


def _used(tape: Tape, sources: list[int], index: Tensor) -> tuple[list[int], Tensor]:
    """Without the sources of which nothing is copied, as where the last step of a sequence is taken; one stays."""
    if len(sources) == 1:
        return sources, index
    sizes = torch.tensor([_size(tape, source) for source in sources])
    owner = torch.arange(len(sources)).repeat_interleave(sizes)[index.clamp_min(0)]
    kept = torch.zeros(len(sources), dtype=torch.bool)
    kept[owner[index >= 0]] = True
    kept[0] |= not kept.any()
    before = (sizes * ~kept).cumsum(0)
    return [s for s, k in zip(sources, kept, strict=True) if k], torch.where(index < 0, -1, index - before[owner])


@reads("constant_pad_nd")
def _pad(tape: Tape, func: Any, x: Image, pad: Sequence[int], value: float = 0.0) -> Any:
    return copies(tape, func, x, pad, 0.0, constant=float(value))


@reads("_to_copy", "to")
def _cast(tape: Tape, func: Any, x: Image, *args: Any, **kwargs: Any) -> Any:
    kind = kwargs.get("dtype") or tape.dtype
    if kind in (tape.dtype, torch.float64):
        return copies(tape, aten.clone.default, x)
    raise Unbounded(f"it is rounded to {kind}", "leave the conversion out: judge model.float()")


@reads("new_zeros", "new_ones", "new_full", "zeros_like", "ones_like", "full_like")
def _constants(tape: Tape, func: Any, x: Image, *args: Any, **kwargs: Any) -> Tensor:
    """Of the shape of an activation, but no activation."""
    made: Tensor = func(torch.zeros(x.shape, dtype=tape.dtype, device=tape.device), *args, **kwargs)
    return made
