"""Operations on each entry, and poolings: as layers of torch where there are some, else by the slope."""

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lipbench.certificate.exactness import Unbounded
from lipbench.certificate.tracing.arithmetic import combined, multiplied, places_of
from lipbench.certificate.tracing.copying import OPERATIONS, aten, copies, reads
from lipbench.certificate.tracing.steps import Elementwise, LogSoftmax, Softmax
from lipbench.certificate.tracing.tape import Image, Tape
from lipbench.layers import Abs


@reads("max_pool2d_with_indices", "max_pool2d")
def _max_pool(tape: Tape, func: Any, x: Image, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1,
              ceil_mode: bool = False) -> Any:  # fmt: skip
    found = tape.layer("max_pool2d", nn.MaxPool2d(kernel, stride or None, padding, dilation, ceil_mode=ceil_mode), x)
    return found if func.overloadpacket.__name__ == "max_pool2d" else (found, places_of(tape, found))


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
    return found, places_of(tape, found)


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
    """scale * x above 0, scale * alpha * (exp(input_scale * x) - 1) below: ELU, CELU and SELU."""
    if (scale, input_scale) == (1, 1):
        return nn.ELU(alpha)
    slope = abs(scale) * max(1.0, abs(alpha * input_scale)) * (1 + 1e-12)
    name = f"elu({alpha}, {scale}, {input_scale})"
    return Elementwise(name, lambda x: aten.elu(x, alpha, scale, input_scale), slope)


_LAYERS: dict[str, Callable[..., nn.Module]] = {
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
    "clamp_min": _clamp,
    "clamp_max": lambda high: _clamp(None, high),
}
for _name, _make in _LAYERS.items():
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


@reads("_softmax", "softmax", "_safe_softmax")
def _softmax(tape: Tape, func: Any, x: Image, dim: int, *_: Any) -> Any:
    return tape.add("softmax", Softmax(tuple(x.shape), dim), [x], tuple(x.shape))


@reads("_log_softmax", "log_softmax")
def _log_softmax(tape: Tape, func: Any, x: Image, dim: int, *_: Any) -> Any:
    if x.ndim != 2 or len(x) != 1 or dim % 2 != 1:
        raise Unbounded("there is no rule for log_softmax over a part of the activations", "use it on logits alone")
    return tape.add("log_softmax", LogSoftmax(), [x], tuple(x.shape))


@reads("where")
def _where(tape: Tape, func: Any, condition: Any, a: Any = None, b: Any = None) -> Any:
    if isinstance(condition, Image) or a is None:
        raise Unbounded("it chooses by comparing an activation, and may jump", "use torch.relu, torch.maximum")
    mask = condition.to(tape.dtype)
    parts = [multiplied(tape, func, value, m) for value, m in ((a, mask), (b, 1 - mask)) if isinstance(value, Image)]
    constants = [value * m for value, m in ((a, mask), (b, 1 - mask)) if not isinstance(value, Image)]
    first, second = [*parts, *constants]
    return combined(tape, "where", first, second, 1, 1)


@reads("eq", "ne", "lt", "le", "gt", "ge", "floor", "ceil", "round", "sign", "argmax", "argmin", "trunc")
def _jumps(tape: Tape, func: Any, *args: Any, **kwargs: Any) -> Any:
    raise Unbounded("it jumps, so that it has no Lipschitz constant", "use torch.relu, torch.maximum, torch.clamp")


@reads("dropout", "native_dropout", "bernoulli", "rand_like", "randn_like", "normal")
def _random(tape: Tape, func: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    if func.overloadpacket.__name__ == "dropout" and not args[-1]:
        return copies(tape, aten.clone.default, x)
    raise Unbounded("it is random", "evaluate the model without randomness: self.training, not True")
