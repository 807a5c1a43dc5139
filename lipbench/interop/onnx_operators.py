"""The operators of ONNX (opset 13 and later) that classifiers are made of, as functions of torch tensors.

Each takes the inputs of a node, then its attributes by name: https://onnx.ai/onnx/operators. All are differentiable
where their mathematics is, and work in the precision of their inputs.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lipbench.interop.kinds import ModelError

Operator = Callable[..., Any]


class OnnxError(ModelError):
    """An ONNX file that cannot be read as a classifier, with what would help."""


def _ints(values: Tensor | Sequence[int] | None) -> list[int]:
    if values is None:
        return []
    return [int(v) for v in (values.flatten().tolist() if isinstance(values, Tensor) else values)]


def _div(a: Tensor, b: Tensor) -> Tensor:
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def _gemm(
    a: Tensor,
    b: Tensor,
    c: Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,
    transB: int = 0,
) -> Tensor:
    # A product with 1 would be weights that the forward pass computes, whose float32 rounding is not known.
    a = a if alpha == 1 else alpha * a
    product = (a.T if transA else a) @ (b.T if transB else b)
    return product if c is None else product + (c if beta == 1 else beta * c)


def _clip(x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    x = x if low is None else torch.maximum(x, low)
    return x if high is None else torch.minimum(x, high)


def _pads(
    x: Tensor,
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    pads: Sequence[int] | None,
    auto_pad: str,
) -> list[int]:
    """(before, after) of each dimension, the last one first, as `F.pad` takes them."""
    dims = len(kernel)
    before, after = [0] * dims, [0] * dims
    if auto_pad.startswith("SAME"):
        for i, (n, k, s, d) in enumerate(zip(x.shape[2:], kernel, strides, dilations, strict=True)):
            total = max(0, (-(-n // s) - 1) * s + d * (k - 1) + 1 - n)
            before[i] = total // 2 if auto_pad == "SAME_UPPER" else total - total // 2
            after[i] = total - before[i]
    elif pads is not None:
        before, after = list(pads[:dims]), list(pads[dims:])
    return [side for i in reversed(range(dims)) for side in (before[i], after[i])]


def _conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    kernel_shape: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    group: int = 1,
    auto_pad: str = "NOTSET",
) -> Tensor:
    kernel = list(weight.shape[2:])
    strides, dilations = strides or [1] * len(kernel), dilations or [1] * len(kernel)
    sides = _pads(x, kernel, strides, dilations, pads, auto_pad)
    function = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[len(kernel)]
    padded = F.pad(x, sides) if any(sides) else x
    return function(padded, weight, bias, stride=tuple(strides), dilation=tuple(dilations), groups=group)


def _max_pool(
    x: Tensor,
    *,
    kernel_shape: Sequence[int],
    strides: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    storage_order: int = 0,
) -> Tensor:
    strides, dilations = strides or [1] * len(kernel_shape), dilations or [1] * len(kernel_shape)
    sides = _pads(x, kernel_shape, strides, dilations, pads, auto_pad)
    function = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}[len(kernel_shape)]
    padded = F.pad(x, sides, value=-math.inf) if any(sides) else x
    return function(padded, tuple(kernel_shape), tuple(strides), 0, tuple(dilations), ceil_mode=bool(ceil_mode))


def _average_pool(
    x: Tensor,
    *,
    kernel_shape: Sequence[int],
    strides: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    auto_pad: str = "NOTSET",
    ceil_mode: int = 0,
    count_include_pad: int = 0,
) -> Tensor:
    """Sums of the windows over the numbers of pixels in them, each as a convolution with ones."""
    strides, dilations = strides or [1] * len(kernel_shape), dilations or [1] * len(kernel_shape)
    if ceil_mode:
        raise OnnxError("AveragePool with ceil_mode=1 is not read: export the model with ceil_mode=False.")
    ones = x.new_ones(x.shape[1], 1, *kernel_shape)
    window = functools.partial(
        _conv, weight=ones, strides=strides, dilations=dilations, pads=pads, auto_pad=auto_pad, group=x.shape[1]
    )
    sums = window(x)
    if count_include_pad:
        return sums / math.prod(kernel_shape)
    return sums / window(torch.ones_like(x[:1]))


def _batch_norm(
    x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor, *, epsilon: float = 1e-5, **_: Any
) -> Tensor:
    return F.batch_norm(x, mean, var, scale, bias, training=False, eps=epsilon)


def _layer_norm(
    x: Tensor, scale: Tensor, bias: Tensor | None = None, *, axis: int = -1, epsilon: float = 1e-5, **_: Any
) -> Tensor:
    return F.layer_norm(x, list(x.shape[axis:]), scale, bias, epsilon)


def _flatten(x: Tensor, *, axis: int = 1) -> Tensor:
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


def _reshape(x: Tensor, shape: Tensor, *, allowzero: int = 0) -> Tensor:
    sizes = _ints(shape)
    return torch.reshape(x, [x.shape[i] if n == 0 and not allowzero else n for i, n in enumerate(sizes)])


def _squeeze(x: Tensor, axes: Tensor | None = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(tuple(_ints(axes)))


def _unsqueeze(x: Tensor, axes: Tensor) -> Tensor:
    places, dims = _ints(axes), x.ndim + axes.numel()
    for axis in sorted(a % dims for a in places):
        x = x.unsqueeze(axis)
    return x


def _split(x: Tensor, split: Tensor | None = None, *, axis: int = 0, num_outputs: int = 0) -> list[Tensor]:
    if split is not None:
        return list(x.split(_ints(split), dim=axis))
    return list(x.split(-(-x.shape[axis] // num_outputs), dim=axis))


def _slice(x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor | None = None, steps: Tensor | None = None) -> Tensor:
    first, last = _ints(starts), _ints(ends)
    places, strides = _ints(axes) or list(range(len(first))), _ints(steps) or [1] * len(first)
    for start, end, axis, step in zip(first, last, places, strides, strict=True):
        n = x.shape[axis]
        # Backwards, an end before the first pixel means all of them.
        stop = None if step < 0 and end < -n else end
        kept = range(n)[start:stop:step]
        x = x.index_select(axis, kept.start + kept.step * torch.arange(len(kept), device=x.device))
    return x


def _gather(x: Tensor, index: Tensor, *, axis: int = 0) -> Tensor:
    rows = torch.where(index < 0, index + x.shape[axis], index)
    axis %= x.ndim
    picked = x.index_select(axis, rows.flatten())
    return picked.reshape([*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]])


def _shape(x: Tensor, *, start: int = 0, end: int | None = None) -> Tensor:
    return torch.tensor(list(x.shape)[start:end], dtype=torch.long, device=x.device)


def _expand(x: Tensor, shape: Tensor) -> Tensor:
    return x.expand(torch.broadcast_shapes(x.shape, tuple(_ints(shape))))


def _pad(
    x: Tensor, pads: Tensor, value: Tensor | None = None, axes: Tensor | None = None, *, mode: str = "constant"
) -> Tensor:
    places = [a % x.ndim for a in _ints(axes)] or list(range(x.ndim))
    sides, both = _ints(pads), [[0, 0] for _ in range(x.ndim)]
    for i, axis in enumerate(places):
        both[axis] = [sides[i], sides[i + len(places)]]
    if mode == "constant":
        flat = [side for pair in reversed(both) for side in pair]
        return F.pad(x, flat, value=0.0 if value is None else float(value))
    flat = [side for pair in reversed(both[2:]) for side in pair]
    return F.pad(x, flat, mode={"reflect": "reflect", "edge": "replicate", "wrap": "circular"}[mode])


def _top_k(x: Tensor, k: Tensor, *, axis: int = -1, largest: int = 1, sorted: int = 1) -> list[Tensor]:
    return list(torch.topk(x, int(k), dim=axis, largest=bool(largest), sorted=bool(sorted)))


def _depth_to_space(x: Tensor, *, blocksize: int, mode: str = "DCR") -> Tensor:
    if mode == "CRD":
        return F.pixel_shuffle(x, blocksize)
    n, c, h, w = x.shape
    blocks = x.reshape(n, blocksize, blocksize, c // blocksize**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return blocks.reshape(n, c // blocksize**2, h * blocksize, w * blocksize)


def _space_to_depth(x: Tensor, *, blocksize: int) -> Tensor:
    n, c, h, w = x.shape
    blocks = x.reshape(n, c, h // blocksize, blocksize, w // blocksize, blocksize).permute(0, 3, 5, 1, 2, 4)
    return blocks.reshape(n, c * blocksize**2, h // blocksize, w // blocksize)


def _dft(
    x: Tensor,
    length: Tensor | None = None,
    place: Tensor | None = None,
    *,
    axis: int | None = None,
    inverse: int = 0,
    onesided: int = 0,
) -> Tensor:
    """Real and imaginary parts lie in the last dimension; the axis is an input from opset 20 on, and an attribute
    before.
    """
    if place is None and axis is None:
        raise OnnxError("A DFT without an axis means another one in every version of ONNX: give it in the file.")
    dim = (int(place) if place is not None else int(axis or 0)) % x.ndim
    imaginary = x[..., 1] if x.shape[-1] == 2 else torch.zeros_like(x[..., 0])
    signal, n = torch.complex(x[..., 0], imaginary), None if length is None else int(length)
    if inverse and onesided:  # back to real numbers
        return torch.fft.irfft(signal, n, dim)[..., None]
    n = n or x.shape[dim]
    spectrum = (torch.fft.ifft if inverse else torch.fft.fft)(signal, n, dim)
    return torch.view_as_real(spectrum.narrow(dim, 0, n // 2 + 1) if onesided else spectrum)


def _reduce(function: Callable[..., Tensor]) -> Operator:
    """A reduction whose axes are an input (from opset 18 on) or an attribute."""

    def reduce(
        x: Tensor,
        where: Tensor | None = None,
        *,
        axes: Sequence[int] | None = None,
        keepdims: int = 1,
        noop_with_empty_axes: int = 0,
    ) -> Tensor:
        places = _ints(where) or _ints(axes)
        if not places and noop_with_empty_axes:
            return x
        return function(x, tuple(places) or tuple(range(x.ndim)), bool(keepdims))

    return reduce


def _every(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    return lambda *inputs: functools.reduce(function, inputs)


OPERATORS: dict[str, Operator] = {
    **{name: getattr(torch, name.lower()) for name in ("Abs", "Neg", "Exp", "Log", "Sqrt", "Sigmoid", "Tanh", "Relu")},
    **{name: getattr(torch, name.lower()) for name in ("Erf", "Sign", "Floor", "Ceil", "Round", "Sin", "Cos")},
    **{name: getattr(torch, name.lower()) for name in ("Reciprocal", "Greater", "Less")},
    "Add": torch.add,
    "And": torch.logical_and,
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Clip": _clip,
    "Concat": lambda *inputs, axis: torch.cat(inputs, dim=axis),
    "Conv": _conv,
    "DFT": _dft,
    "DepthToSpace": _depth_to_space,
    "Div": _div,
    "Dropout": lambda x, *_, **__: x,
    "Einsum": lambda *inputs, equation: torch.einsum(equation, *inputs),
    "Elu": lambda x, *, alpha=1.0: F.elu(x, alpha),
    "Equal": torch.eq,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherElements": lambda x, index, *, axis=0: x.gather(axis, index),
    "Gelu": lambda x, *, approximate="none": F.gelu(x, approximate=approximate),
    "Gemm": _gemm,
    "GlobalAveragePool": lambda x: x.mean(tuple(range(2, x.ndim)), keepdim=True),
    "GlobalMaxPool": lambda x: x.amax(tuple(range(2, x.ndim)), keepdim=True),
    "GreaterOrEqual": torch.ge,
    "HardSigmoid": lambda x, *, alpha=0.2, beta=0.5: (alpha * x + beta).clamp(0, 1),
    "HardSwish": F.hardswish,
    "Identity": lambda x: x,
    "InstanceNormalization": lambda x, scale, bias, *, epsilon=1e-5: F.instance_norm(
        x, weight=scale, bias=bias, eps=epsilon
    ),
    "LayerNormalization": _layer_norm,
    "LeakyRelu": lambda x, *, alpha=0.01: F.leaky_relu(x, alpha),
    "LessOrEqual": torch.le,
    "LogSoftmax": lambda x, *, axis=-1: x.log_softmax(axis),
    "MatMul": torch.matmul,
    "Max": _every(torch.maximum),
    "MaxPool": _max_pool,
    "Mean": lambda *inputs: sum(inputs) / len(inputs),
    "Min": _every(torch.minimum),
    "Mish": F.mish,
    "Mul": torch.mul,
    "Not": torch.logical_not,
    "Or": torch.logical_or,
    "PRelu": lambda x, slope: torch.where(x < 0, slope * x, x),
    "Pad": _pad,
    "Pow": torch.pow,
    "Range": lambda start, limit, delta: torch.arange(start.item(), limit.item(), delta.item(), device=start.device),
    "ReduceL1": _reduce(lambda x, axes, keep: x.abs().sum(axes, keep)),
    "ReduceL2": _reduce(lambda x, axes, keep: torch.linalg.vector_norm(x, dim=axes, keepdim=keep)),
    "ReduceMax": _reduce(torch.amax),
    "ReduceMean": _reduce(torch.mean),
    "ReduceMin": _reduce(torch.amin),
    "ReduceSum": _reduce(torch.sum),
    "ReduceSumSquare": _reduce(lambda x, axes, keep: x.square().sum(axes, keep)),
    "Reshape": _reshape,
    "Selu": F.selu,
    "Shape": _shape,
    "Slice": _slice,
    "Softmax": lambda x, *, axis=-1: x.softmax(axis),
    "Softplus": lambda x: torch.logaddexp(x, torch.zeros_like(x)),
    "Softsign": F.softsign,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _squeeze,
    "Sub": torch.sub,
    "Sum": lambda *inputs: sum(inputs),
    "TopK": _top_k,
    "Transpose": lambda x, *, perm=None: x.permute(perm if perm is not None else tuple(reversed(range(x.ndim)))),
    "Unsqueeze": _unsqueeze,
    "Where": torch.where,
}

# The first input of an operator whose numbers it reads, where those of a tensor of shapes or places decide what it
# makes; it reads those of all later inputs as well.
READS = {
    "ConstantOfShape": 0,
    "Range": 0,
    **dict.fromkeys(("DFT", "Expand", "Pad", "Reshape", "Slice", "Split", "Squeeze", "TopK", "Unsqueeze"), 1),
    **{name: 1 for name in OPERATORS if name.startswith("Reduce")},
}
