"""Operations that add, multiply, reduce: sums, products, means, dense layers, convolutions, normalisations."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lipbench.certificate.exactness import Unbounded
from lipbench.certificate.tracing.copying import aten, copies, reads
from lipbench.certificate.tracing.steps import (
    Combination,
    Diagonal,
    Extreme,
    Matmul,
    Product,
    Shift,
    Sort,
    Standardized,
    Total,
    convolution,
    dense,
)
from lipbench.certificate.tracing.tape import Image, Tape, seen
from lipbench.layers import MaxMin, Scale

BY_IMAGE = "use lipbench.layers.LayerCentering, which subtracts the mean and divides by nothing"


def _alike(tape: Tape, *values: Any) -> list[Any]:
    """Images and tensors of one shape: what is repeated on the way counts as copies."""
    shape = torch.broadcast_shapes(*(value.shape for value in values if isinstance(value, Tensor)))
    return [
        copies(tape, aten.expand.default, value, list(shape))
        if isinstance(value, Image)
        else torch.as_tensor(value, dtype=tape.dtype, device=tape.device).expand(shape)
        for value in values
    ]


def combined(tape: Tape, name: str, a: Any, b: Any, first: float, second: float) -> Image:
    origin = b if isinstance(a, Image) else a
    a, b = _alike(tape, a, b)
    if isinstance(a, Image) and isinstance(b, Image):
        return tape.add(name, Combination((first, second)), [a, b], tuple(a.shape))
    image, constant, factor = (a, second * b, first) if isinstance(a, Image) else (b, first * a, second)
    shape = tuple(image.shape)
    linear = tape.nodes[image.node].step
    if type(linear) is nn.Linear and linear.bias is None and factor == 1 and len(shape) == 2 and len(constant) == 1:
        merged = _with_bias(tape, linear, constant[0])
        return tape.add(name, tape.constant(origin, merged), list(tape.nodes[image.node].inputs), shape)
    image = image if factor == 1 else tape.add(name, Combination((factor,)), [image], shape)
    return tape.add(name, tape.constant(origin, Shift(constant.reshape(seen(shape)))), [image], shape)


def _with_bias(tape: Tape, linear: nn.Linear, bias: Tensor) -> nn.Module:
    """A dense layer whose bias is added after it, as one layer: a head is known by its rows."""
    layer = dense(linear.weight, bias.clone())
    vars(layer)["computed"] = vars(linear).get("computed", False)
    return layer


@reads("add")
def _add(tape: Tape, func: Any, a: Any, b: Any, *, alpha: float = 1) -> Any:
    return combined(tape, "add", a, b, 1, alpha)


@reads("sub", "subtract")
def _sub(tape: Tape, func: Any, a: Any, b: Any, *, alpha: float = 1) -> Any:
    return combined(tape, "sub", a, b, 1, -alpha)


@reads("rsub")
def _rsub(tape: Tape, func: Any, a: Any, b: Any, alpha: float = 1) -> Any:
    return combined(tape, "sub", a, b, -alpha, 1)


@reads("neg")
def _neg(tape: Tape, func: Any, x: Image) -> Any:
    return tape.add("neg", Combination((-1.0,)), [x], tuple(x.shape))


@reads("mul", "multiply")
def multiplied(tape: Tape, func: Any, a: Any, b: Any) -> Any:
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
        if factor == 1:
            return copies(tape, aten.clone.default, x)
        # On a GPU a quotient may be the product with a rounded inverse, one rounding more than `Scale` allows for.
        plain = 0 < factor < math.inf and (name == "mul" or tape.device.type == "cpu")
        return tape.add(name, Scale(factor) if plain else Combination((factor,)), [x], tuple(x.shape))
    image, _ = _alike(tape, x, factor)
    own = Diagonal(factor.detach().double().expand(image.shape).reshape(seen(tuple(image.shape))))
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
            return _pairwise(tape, name, a, b, largest)
        image, constant = (a, b) if isinstance(a, Image) else (b, a)
        # max(x, c) = c + relu(x - c), min(x, c) = c - relu(c - x)
        sign = 1.0 if largest else -1.0
        above = tape.layer("relu", nn.ReLU(), combined(tape, name, image, constant, sign, -sign))
        return combined(tape, name, above, constant, sign, 1)
    extreme = _extreme(tape, aten.amax.default if largest else aten.amin.default, x, other, keepdim)
    return extreme if other is None else (extreme, places_of(tape, extreme))


def _pairwise(tape: Tape, name: str, a: Image, b: Image, largest: bool) -> Image:
    """Half of `MaxMin` on both together: the same for the larger and the smaller numbers, so that both put together are
    no more than a sort.
    """
    key, count = (min(a.node, b.node), max(a.node, b.node)), a.numel()
    if key not in tape.pairs:
        flat = [copies(tape, aten.reshape.default, each, [1, -1]) for each in (a, b)]
        tape.pairs[key] = tape.layer("max_min", MaxMin(), copies(tape, aten.cat.default, flat, 1)).node
    both = Image(tape, tape.pairs[key], (1, 2 * count))
    half = copies(tape, aten.slice.Tensor, both, 1, 0 if largest else count, count if largest else 2 * count)
    return copies(tape, aten.reshape.default, half, list(a.shape))


def places_of(tape: Tape, like: Image) -> Image:
    """Where entries are found, which jumps: an image that has no bound, should it be used."""
    why = Unbounded("it uses the places of the largest numbers, which jump", "use the values alone")
    return tape.refuse("indices", why, aten.clone.default, (like,), {})


@reads("sort")
def _sort(tape: Tape, func: Any, x: Image, *args: Any, **kwargs: Any) -> Any:
    # sort(x, dim, descending), or sort.stable(x, *, stable, dim, descending)
    dim = args[0] if args else kwargs.get("dim", -1)
    descending = args[1] if len(args) > 1 else kwargs.get("descending", False)
    if not x.ndim:
        raise Unbounded("it sorts one number", "leave it out")
    found = tape.add("sort", Sort(tuple(x.shape), int(dim), bool(descending)), [x], tuple(x.shape))
    return found, places_of(tape, found)


@reads("linear")
def _linear(tape: Tape, func: Any, x: Any, weight: Any, bias: Any = None) -> Any:
    if not isinstance(x, Image) or isinstance(weight, Image) or isinstance(bias, Image):
        raise Unbounded("its weights depend on the image", "use weights that are the same for every image")
    if weight.ndim != 2 or (bias is not None and tuple(bias.shape) != (len(weight),)):
        raise Unbounded(f"its weight has the shape {list(weight.shape)}", "use a weight [outputs, inputs]")
    layer = dense(weight.to(tape.dtype), None if bias is None else bias.to(tape.dtype))
    tape.constant(weight, layer)
    tape.constant(bias, layer)
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
    return combined(tape, "add", product, bias, 1, beta)


@reads("mm", "matmul", "bmm", "mv")
def _matmul(tape: Tape, func: Any, a: Any, b: Any) -> Any:
    if isinstance(a, Image) and isinstance(b, Image):
        if min(a.ndim, b.ndim) < 2:
            raise Unbounded("it multiplies activations by activations, one of them a vector", "multiply matrices")
        shape = tuple(func(torch.zeros(a.shape), torch.zeros(b.shape)).shape)
        step = Matmul((tuple(a.shape), tuple(b.shape)), seen(shape), tape.line())
        return tape.add("matmul", step, [a, b], shape)
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
    layer = convolution(
        weight.to(tape.dtype),
        None if bias is None else bias.to(tape.dtype),
        groups,
        stride=_pair(stride),
        padding=_pair(padding),
        dilation=_pair(dilation),
    )
    tape.constant(weight, layer)
    tape.constant(bias, layer)
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


@reads("native_layer_norm")
def _layer_norm(tape: Tape, func: Any, x: Image, shape: Any, weight: Any, bias: Any, eps: float) -> Any:
    found = _standardized(tape, "layer_norm", x, x.numel() // math.prod(shape), eps, weight, bias)
    return found, *[torch.zeros(0)] * 2


@reads("native_group_norm")
def _group_norm(
    tape: Tape, func: Any, x: Image, weight: Any, bias: Any, count: int, channels: int, size: int, groups: int,
    eps: float,
) -> Any:  # fmt: skip
    scale, shift = (t if t is None else t.reshape(-1, *(1,) * (x.ndim - 2)) for t in (weight, bias))
    found = _standardized(tape, "group_norm", x, count * groups, eps, scale, shift)
    return found, *[torch.zeros(0)] * 2


@reads("_fused_rms_norm")
def _rms_norm(tape: Tape, func: Any, x: Image, shape: Any, weight: Any, eps: float | None) -> Any:
    if eps is None:
        raise Unbounded("its eps is that of the precision", "give a number: nn.RMSNorm(..., eps=1e-6)")
    found = _standardized(tape, "rms_norm", x, x.numel() // math.prod(shape), eps, weight, None, centred=False)
    return found, torch.zeros(0)


def _standardized(
    tape: Tape, name: str, x: Image, groups: int, eps: float, weight: Any, bias: Any, centred: bool = True
) -> Any:
    made: Any = tape.add(name, Standardized(groups, eps, centred, tape.line()), [x], tuple(x.shape))
    made = made if weight is None else _times(tape, "mul", made, weight)
    return made if bias is None else combined(tape, "add", made, bias, 1, 1)
