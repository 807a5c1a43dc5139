"""Layers of torch and of lipbench that compute what layers of other libraries do."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from lipbench.certificate.exactness import Unbounded
from lipbench.certificate.lipschitz import Shape, lipschitz
from lipbench.certificate.tracing.steps import Centering, Shift, convolution, dense
from lipbench.layers import L2Pool2d


def plain_linear(layer: Any, shape: Shape) -> nn.Module:
    """A dense layer with the same weight and bias."""
    return dense(layer.weight, layer.bias)


def plain_conv(layer: Any, shape: Shape) -> nn.Module:
    """A convolution with the same weight, bias and options."""
    options = {name: getattr(layer, name) for name in ("stride", "padding", "dilation", "padding_mode")}
    return convolution(layer.weight, layer.bias, layer.groups, **options)


@lipschitz.equal(nn.LPPool2d)
def pooled(layer: Any, shape: Shape) -> nn.Module:
    """The L2 norm of blocks that do not overlap."""
    size = layer.kernel_size
    size = size[0] if isinstance(size, tuple | list) and len(set(size)) == 1 else size
    stride = layer.stride in (None, size, (size, size), [size, size])
    if layer.norm_type != 2 or not isinstance(size, int) or not stride or layer.ceil_mode:
        raise Unbounded(
            "its blocks overlap, are no squares, or have another norm than L2", "use nn.LPPool2d(2, k) with stride k"
        )
    return L2Pool2d(size)


def shifted(bias: Tensor, shape: Shape) -> Shift:
    """`x + bias`, one number per channel, for inputs of this shape."""
    if bias.numel() not in (1, shape[0]):
        raise Unbounded(f"its bias has {bias.numel()} numbers for {shape[0]} channels", "give one number per channel")
    return Shift(bias.detach().reshape(-1, *(1,) * (len(shape) - 1)).expand(shape).clone())


def centered(shape: Shape, dims: Sequence[int], bias: Tensor | None) -> nn.Module:
    """Subtracts means over dimensions of [N, ...], and adds one number per channel."""
    places = [d % (len(shape) + 1) - 1 for d in dims]
    if -1 in places:
        raise Unbounded("it subtracts the mean of the batch", "leave out dimension 0")
    step = Centering(tuple(shape), places)
    return step if bias is None else nn.Sequential(step, shifted(bias, shape))


__all__ = ["centered", "plain_conv", "plain_linear", "pooled", "shifted"]
