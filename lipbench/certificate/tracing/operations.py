"""Operations of torch's dispatcher (ATen) as steps of a graph: `OPERATIONS`, by their names there.

Each is called with the tape, the operation itself and its arguments, of which at least one is an `Image`.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipbench.certificate.exactness import Unbounded
from lipbench.certificate.tracing.steps import (
    Combination,
    Copies,
    Diagonal,
    Elementwise,
    Extreme,
    Pairwise,
    Product,
    Shift,
    Softmax,
    Sort,
    Total,
)
from lipbench.certificate.tracing.tape import Image, Tape, seen
from lipbench.layers import Abs

aten = torch.ops.aten
OPERATIONS: dict[str, Callable[..., Any]] = {}
BY_IMAGE = "use lipbench.layers.LayerCentering, which subtracts the mean and divides by nothing"


def reads(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: this reads the operations of these names."""

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        OPERATIONS.update(dict.fromkeys(names, function))
        return function

    return add


# --- copies of entries ------------------------------------------------------------------------------------------------


@reads("view", "_unsafe_view", "reshape", "permute", "transpose", "t", "unsqueeze", "squeeze", "expand", "slice")
@reads("select", "split", "split_with_sizes", "chunk", "unbind", "flip", "roll", "repeat", "index_select", "index")
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
    sources, index = _traced_back(tape, [image.node for image in images], index, constant)
    size, before = _size(tape, sources[0]), tape.nodes[sources[0]].shape
    step: nn.Module = Copies(index.to(tape.device), seen(shape), constant)
    if len(sources) == 1 and torch.equal(index, torch.arange(size)):
        like = images[0]
        if seen(shape) == before:
            return Image(tape, sources[0], shape, like)
        step = nn.Flatten() if len(seen(shape)) == 1 else step
    return tape.add(name, step, sources, shape, like)


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


# --- sums and products ------------------------------------------------------------------------------------------------


def _alike(tape: Tape, *values: Any) -> list[Any]:
    """Images and tensors of one shape: what is repeated on the way counts as copies."""
    shape = torch.broadcast_shapes(*(value.shape for value in values if isinstance(value, Tensor)))
    return [
        copies(tape, aten.expand.default, value, list(shape))
        if isinstance(value, Image)
        else torch.as_tensor(value, device=tape.device).to(tape.dtype).expand(shape)
        for value in values
    ]


def _combined(tape: Tape, name: str, a: Any, b: Any, first: float, second: float) -> Image:
    origin = b if isinstance(a, Image) else a
    a, b = _alike(tape, a, b)
    if isinstance(a, Image) and isinstance(b, Image):
        return tape.add(name, Combination((first, second)), [a, b], tuple(a.shape))
    image, constant, factor = (a, second * b, first) if isinstance(a, Image) else (b, first * a, second)
    shape = tuple(image.shape)
    image = image if factor == 1 else tape.add(name, Combination((factor,)), [image], shape)
    return tape.add(name, tape.constant(origin, Shift(constant.reshape(seen(shape)))), [image], shape)


@reads("add")
def _add(tape: Tape, func: Any, a: Any, b: Any, *, alpha: float = 1) -> Any:
    return _combined(tape, "add", a, b, 1, alpha)


@reads("sub", "subtract")
def _sub(tape: Tape, func: Any, a: Any, b: Any, *, alpha: float = 1) -> Any:
    return _combined(tape, "sub", a, b, 1, -alpha)


@reads("rsub")
def _rsub(tape: Tape, func: Any, a: Any, b: Any, alpha: float = 1) -> Any:
    return _combined(tape, "sub", a, b, -alpha, 1)


@reads("neg")
def _neg(tape: Tape, func: Any, x: Image) -> Any:
    return tape.add("neg", Combination((-1.0,)), [x], tuple(x.shape))


@reads("mul", "multiply")
def _mul(tape: Tape, func: Any, a: Any, b: Any) -> Any:
    image, factor = (a, b) if isinstance(a, Image) else (b, a)
    if isinstance(factor, Image):
        a, b = _alike(tape, a, b)
        return tape.add("mul", Product(tape.line()), [a, b], tuple(a.shape))
    return _times(tape, "mul", image, factor)


@reads("div", "divide", "true_divide")
def _div(tape: Tape, func: Any, a: Any, b: Any, *, rounding_mode: str | None = None) -> Any:
    if rounding_mode is not None:
        raise Unbounded("it rounds, and jumps there", "divide without rounding")
    if isinstance(b, Image):
        raise Unbounded("it divides by an activation, which may be near 0", BY_IMAGE)
    return _times(tape, "div", a, 1 / b.double() if isinstance(b, Tensor) else 1 / b, b)


def _times(tape: Tape, name: str, x: Image, factor: Any, origin: Any = None) -> Image:
    if not isinstance(factor, Tensor) or (factor.numel() == 1 and factor.ndim <= x.ndim):
        factor = float(factor.detach() if isinstance(factor, Tensor) else factor)
        return tape.add(name, Combination((factor,)), [x], tuple(x.shape))
    image, _ = _alike(tape, x, factor)
    own = Diagonal(factor.to(tape.dtype).expand(image.shape).reshape(seen(tuple(image.shape))))
    step = tape.constant(factor if origin is None else origin, own)
    return tape.add(name, step, [image], tuple(image.shape))


@reads("sum", "mean")
def _total(tape: Tape, func: Any, x: Image, dims: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    if dtype not in (None, tape.dtype, torch.float64):
        raise Unbounded(f"it is rounded to {dtype}", "leave the dtype out")
    dims, shape = _reduced(x, dims, keepdim)
    count = math.prod(x.shape[d] for d in dims)
    name = func.overloadpacket.__name__
    return tape.add(name, Total(tuple(x.shape), dims, 1 / count if name == "mean" else 1.0, seen(shape)), [x], shape)


def _reduced(x: Image, dims: Any, keepdim: bool) -> tuple[list[int], tuple[int, ...]]:
    """The dimensions that are reduced, and the shape that is left."""
    given = list(range(x.ndim)) if dims is None or dims == [] else [dims] if isinstance(dims, int) else list(dims)
    places = sorted({d % max(1, x.ndim) for d in given}) if x.ndim else []
    left = [1 if i in places else n for i, n in enumerate(x.shape) if keepdim or i not in places]
    return places, tuple(left)


@reads("amax", "amin")
def _extreme(tape: Tape, func: Any, x: Image, dims: Any = None, keepdim: bool = False) -> Any:
    dims, shape = _reduced(x, dims, keepdim)
    name = func.overloadpacket.__name__
    return tape.add(name, Extreme(tuple(x.shape), dims, name == "amax", seen(shape)), [x], shape)


@reads("max", "min", "maximum", "minimum")
def _max(tape: Tape, func: Any, x: Any, other: Any = None, keepdim: bool = False) -> Any:
    largest = func.overloadpacket.__name__.startswith("max")
    name = "max" if largest else "min"
    if isinstance(other, Tensor):
        a, b = _alike(tape, x, other)
        if isinstance(a, Image) and isinstance(b, Image):
            return tape.add(name, Pairwise(largest), [a, b], tuple(a.shape))
        image, constant = (a, b) if isinstance(a, Image) else (b, a)
        # max(x, c) = c + relu(x - c), min(x, c) = c - relu(c - x)
        sign = 1.0 if largest else -1.0
        above = tape.layer("relu", nn.ReLU(), _combined(tape, name, image, constant, sign, -sign))
        return _combined(tape, name, above, constant, sign, 1)
    extreme = _extreme(tape, aten.amax.default if largest else aten.amin.default, x, other, keepdim)
    return extreme if other is None else (extreme, _places(tape, extreme))


def _places(tape: Tape, like: Image) -> Image:
    """Where entries are found, which jumps: an image that has no bound, should it be used."""
    why = Unbounded("it uses the places of the largest numbers, which jump", "use the values alone")
    return tape.refuse("indices", why, aten.clone.default, (like,), {})


@reads("sort")
def _sort(tape: Tape, func: Any, x: Image, *args: Any, **kwargs: Any) -> Any:
    options = [a for a in args if a is not None]
    if func._overloadname == "stable":
        dim, descending = kwargs.get("dim", -1), kwargs.get("descending", False)
    else:
        dim, descending, *_ = [*options, *(-1, False)[len(options) :]]
    if not x.ndim:
        raise Unbounded("it sorts one number", "leave it out")
    found = tape.add("sort", Sort(tuple(x.shape), int(dim), bool(descending)), [x], tuple(x.shape))
    return found, _places(tape, found)


# --- layers with weights ----------------------------------------------------------------------------------------------


@reads("linear")
def _linear(tape: Tape, func: Any, x: Any, weight: Any, bias: Any = None) -> Any:
    if not isinstance(x, Image) or isinstance(weight, Image) or isinstance(bias, Image):
        raise Unbounded("its weights depend on the image", "use weights that are the same for every image")
    if weight.ndim != 2 or (bias is not None and tuple(bias.shape) != (len(weight),)):
        raise Unbounded(f"its weight has the shape {list(weight.shape)}", "use a weight [outputs, inputs]")
    layer = nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[0], bias=bias is not None)
    _fill(tape, layer, weight, bias)
    return tape.layer("linear", layer, x) if x.ndim > 1 else _linear_of_vector(tape, layer, x)


def _linear_of_vector(tape: Tape, layer: nn.Module, x: Image) -> Any:
    row = copies(tape, aten.unsqueeze.default, x, 0)
    return copies(tape, aten.squeeze.dim, tape.layer("linear", layer, row), 0)


def _fill(tape: Tape, layer: nn.Module, weight: Tensor, bias: Tensor | None) -> None:
    """Gives a layer the tensors of the network, not copies."""
    layer.weight = nn.Parameter(weight.detach().to(tape.dtype), requires_grad=False)
    tape.constant(weight, layer)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach().to(tape.dtype), requires_grad=False)
        tape.constant(bias, layer)


@reads("addmm")
def _addmm(tape: Tape, func: Any, bias: Any, a: Any, b: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    simple = isinstance(a, Image) and not isinstance(b, Image) and not isinstance(bias, Image) and beta == alpha == 1
    if simple and tuple(bias.shape) == (b.shape[1],):
        return _linear(tape, func, a, b.t(), bias)
    product = _matmul(tape, func, a, b)
    product = product if alpha == 1 else _times(tape, "mul", product, alpha)
    return _combined(tape, "add", product, bias, 1, beta)


@reads("mm", "matmul", "bmm", "mv")
def _matmul(tape: Tape, func: Any, a: Any, b: Any) -> Any:
    if isinstance(a, Image) and isinstance(b, Image):
        raise Unbounded("it multiplies activations by activations, which has no global bound", "none is known")
    image_first = isinstance(a, Image)
    image, weight = (a, b) if image_first else (b, a)
    if weight.ndim > 2 and math.prod(weight.shape[:-2]) == 1:
        weight = weight.reshape(weight.shape[-2:])
    if weight.ndim == 1 and image_first:
        return copies(tape, aten.squeeze.dim, _linear(tape, func, image, weight[None]), -1)
    if weight.ndim != 2 or image.ndim < 2:
        raise Unbounded(f"it multiplies by a tensor of shape {list(weight.shape)}", "multiply by one matrix")
    if image_first:
        return _linear(tape, func, image, weight.t())
    turned = copies(tape, aten.transpose.int, image, -1, -2)
    return copies(tape, aten.transpose.int, _linear(tape, func, turned, weight), -1, -2)


@reads("convolution", "_convolution")
def _convolution(
    tape: Tape, func: Any, x: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, transposed: bool,
    output_padding: Any, groups: int, *_: Any,
) -> Any:  # fmt: skip
    if not isinstance(x, Image) or isinstance(weight, Image) or isinstance(bias, Image):
        raise Unbounded("its weights depend on the image", "use weights that are the same for every image")
    if transposed:
        raise Unbounded("there is no rule for a transposed convolution", "use nn.Upsample and nn.Conv2d")
    if weight.ndim == 3:  # one dimension is a height of 1
        x = copies(tape, aten.unsqueeze.default, x, 2)
        options = [[n, *(value * len(weight.shape[2:]))[:1]] for n, value in ((1, stride), (0, padding), (1, dilation))]
        made = _convolution(tape, func, x, weight.unsqueeze(2), bias, *options, False, [0, 0], groups)
        return copies(tape, aten.squeeze.dim, made, 2)
    if weight.ndim != 4:
        raise Unbounded("there is no rule for a convolution in three dimensions", "use nn.Conv2d")
    out, kernel = weight.shape[0], tuple(weight.shape[2:])
    layer = nn.utils.skip_init(
        nn.Conv2d, weight.shape[1] * groups, out, kernel, stride=_pair(stride), padding=_pair(padding),
        dilation=_pair(dilation), groups=groups, bias=bias is not None,
    )  # fmt: skip
    _fill(tape, layer, weight, bias)
    return tape.layer("conv2d", layer, x)


def _pair(value: Sequence[int]) -> tuple[int, int]:
    return (int(value[0]), int(value[-1]))


@reads("native_batch_norm", "_native_batch_norm_legit_no_training", "_native_batch_norm_legit")
def _batch_norm(tape: Tape, func: Any, x: Image, weight: Any, bias: Any, mean: Any, var: Any, *rest: Any) -> Any:
    eps = rest[-1]
    if (len(rest) == 3 and rest[0]) or mean is None:
        raise Unbounded("it divides by a statistic of the batch", "call model.eval()")
    kind = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}[x.ndim]
    layer = kind(len(mean), eps=eps, affine=weight is not None, device=tape.device, dtype=tape.dtype)
    layer.running_mean, layer.running_var = mean.detach().to(tape.dtype), var.detach().to(tape.dtype)
    if weight is not None:
        shift = torch.zeros_like(weight) if bias is None else bias
        _fill(tape, layer, weight, shift)
    nothing = torch.zeros(0, dtype=tape.dtype)
    return tape.layer("batch_norm", layer, x), nothing, nothing


@reads("native_layer_norm", "native_group_norm", "_fused_rms_norm")
def _by_the_image(tape: Tape, func: Any, *args: Any, **kwargs: Any) -> Any:
    raise Unbounded("it divides by a statistic of the image, so that its slope is only limited by eps", BY_IMAGE)


# --- poolings and activations -----------------------------------------------------------------------------------------


@reads("max_pool2d_with_indices", "max_pool2d")
def _max_pool(tape: Tape, func: Any, x: Image, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1,
              ceil_mode: bool = False) -> Any:  # fmt: skip
    found = tape.layer("max_pool2d", nn.MaxPool2d(kernel, stride or None, padding, dilation, ceil_mode=ceil_mode), x)
    return found if func.overloadpacket.__name__ == "max_pool2d" else (found, _places(tape, found))


@reads("avg_pool2d")
def _avg_pool(tape: Tape, func: Any, x: Image, kernel: Any, stride: Any = (), padding: Any = 0, ceil_mode: bool = False,
              count_include_pad: bool = True, divisor_override: Any = None) -> Any:  # fmt: skip
    layer = nn.AvgPool2d(kernel, stride or None, padding, ceil_mode, count_include_pad, divisor_override)
    return tape.layer("avg_pool2d", layer, x)


@reads("_adaptive_avg_pool2d")
def _adaptive(tape: Tape, func: Any, x: Image, size: Any) -> Any:
    return tape.layer("adaptive_avg_pool2d", nn.AdaptiveAvgPool2d(tuple(size)), x)


@reads("adaptive_max_pool2d")
def _adaptive_max(tape: Tape, func: Any, x: Image, size: Any) -> Any:
    found = tape.layer("adaptive_max_pool2d", nn.AdaptiveMaxPool2d(tuple(size)), x)
    return found, _places(tape, found)


def _activation(name: str, make: Callable[..., nn.Module]) -> None:
    """Reads an operation as a layer of torch, which `make` builds from its further arguments."""

    def read(tape: Tape, func: Any, x: Image, *args: Any, **kwargs: Any) -> Any:
        return tape.layer(name, make(*args, **kwargs), x)

    OPERATIONS[name] = read


def _clamp(low: Any = None, high: Any = None, min: Any = None, max: Any = None) -> nn.Module:
    low, high = (low if low is not None else min), (high if high is not None else max)
    if any(isinstance(value, Tensor) for value in (low, high)):
        raise Unbounded("its limits are tensors", "clamp by numbers")
    if low == 0 and high is None:
        return nn.ReLU()
    return Elementwise(f"clamp({low}, {high})", functools.partial(torch.clamp, min=low, max=high), 1.0)


def _elu(alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> nn.Module:
    if (scale, input_scale) != (1, 1):
        slope = abs(scale) * builtin_max(1.0, abs(alpha * input_scale)) * (1 + 1e-12)
        if input_scale != 1:
            raise Unbounded("its input is scaled", "use nn.ELU, nn.CELU(1) or nn.SELU")
        return Elementwise(f"elu({alpha}, {scale})", lambda x: aten.elu(x, alpha, scale, input_scale), slope)
    return nn.ELU(alpha)


builtin_max = max
for _name, _make in {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "abs": Abs,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "elu": _elu,
    "leaky_relu": nn.LeakyReLU,
    "softplus": nn.Softplus,
    "hardtanh": nn.Hardtanh,
    "clamp": _clamp,
    "clamp_min": lambda low: _clamp(low),
    "clamp_max": lambda high: _clamp(None, high),
}.items():
    _activation(_name, _make)

# Functions without a layer that has a rule: the largest magnitude of their slope, rounded up.
SLOPES: dict[str, float] = {
    "sin": 1.0,
    "cos": 1.0,
    "atan": 1.0,
    "erf": 1.1284,  # 2 / sqrt(pi)
    "hardsigmoid": 0.16667,
    "hardswish": 1.5,  # at 3
    "mish": 1.09,  # 1.0885
    "softsign": 1.0,
    "log_sigmoid": 1.0,
    "log_sigmoid_forward": 1.0,
}
_WHERE = {"erf": torch.erf, "sin": torch.sin, "cos": torch.cos, "atan": torch.atan, "softsign": F.softsign}


def _of_slope(name: str, slope: float) -> None:
    function = _WHERE.get(name) or getattr(F, name.removesuffix("_forward").replace("log_sigmoid", "logsigmoid"))

    def read(tape: Tape, func: Any, x: Image) -> Any:
        found = tape.add(name, Elementwise(name, function, slope), [x], tuple(x.shape))
        return (found, torch.zeros(0)) if name.endswith("_forward") else found

    OPERATIONS[name] = read


for _name, _slope in SLOPES.items():
    _of_slope(_name, _slope)


@reads("prelu", "_prelu_kernel")
def _prelu(tape: Tape, func: Any, x: Image, weight: Any) -> Any:
    if isinstance(weight, Image):
        raise Unbounded("its slope depends on the image", "use a slope that is the same for every image")
    layer = nn.PReLU(weight.numel())
    layer.weight = nn.Parameter(weight.detach().to(tape.dtype).flatten(), requires_grad=False)
    return tape.layer("prelu", tape.constant(weight, layer), x)


@reads("_softmax", "softmax")
def _softmax(tape: Tape, func: Any, x: Image, dim: int, *_: Any) -> Any:
    return tape.add("softmax", Softmax(tuple(x.shape), dim), [x], tuple(x.shape))


@reads("_log_softmax", "log_softmax")
def _log_softmax(tape: Tape, func: Any, x: Image, dim: int, *_: Any) -> Any:
    raise Unbounded("there is no rule for log_softmax", "leave it out: without it the labels are the same")


@reads("where")
def _where(tape: Tape, func: Any, condition: Any, a: Any = None, b: Any = None) -> Any:
    if isinstance(condition, Image) or a is None:
        raise Unbounded("it chooses by comparing an activation, and may jump", "use torch.relu, torch.maximum")
    mask = condition.to(tape.dtype)
    parts = [_mul(tape, func, value, m) for value, m in ((a, mask), (b, 1 - mask)) if isinstance(value, Image)]
    constants = [value * m for value, m in ((a, mask), (b, 1 - mask)) if not isinstance(value, Image)]
    return _combined(tape, "where", *parts, *constants, 1, 1)


@reads("eq", "ne", "lt", "le", "gt", "ge", "floor", "ceil", "round", "sign", "argmax", "argmin", "trunc")
def _jumps(tape: Tape, func: Any, *args: Any, **kwargs: Any) -> Any:
    raise Unbounded("it jumps, so that it has no Lipschitz constant", "use torch.relu, torch.maximum, torch.clamp")


@reads("dropout", "native_dropout", "bernoulli", "rand_like", "randn_like", "normal")
def _random(tape: Tape, func: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    if func.overloadpacket.__name__ == "dropout" and not args[-1]:
        return copies(tape, aten.clone.default, x)
    raise Unbounded("it is random", "evaluate the model without randomness: self.training, not True")
