"""What a traced forward pass is made of besides layers of torch: sums, copies of entries, reductions.

A step acts on activations [N, ...], one image after another. Steps of several inputs are called with all of them.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lipbench.certificate.exactness import Unbounded

Shape = tuple[int, ...]


def in_evaluation(step: nn.Module) -> nn.Module:
    """Sets the mode of what this package makes, and leaves alone the modules of the network in it, which have a mode or
    refuse one.
    """
    made = (step, *(part for part in step.children() if isinstance(part, Refused | nn.ModuleList | Folded)))
    for module in made:
        module.training = False
    return step


def options_of(step: nn.Module) -> str:
    """Everything about a step but its tensors, for comparison."""
    if not type(step).__module__.startswith(__name__):
        return step.extra_repr()
    hidden = ("compute", "function", "reason", "training")
    return repr({key: value for key, value in vars(step).items() if not key.startswith("_") and key not in hidden})


def dense(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A dense layer of these very tensors, [D, E] and [D]."""
    # Small at first: `skip_init` would import torch's compiler, for seconds.
    layer = nn.Linear(1, 1, bias=bias is not None)
    layer.out_features, layer.in_features = weight.shape
    return _filled(layer, weight, bias)


def convolution(weight: Tensor, bias: Tensor | None, groups: int, **options: Any) -> nn.Conv2d:
    """A convolution of these very tensors, [C, D / groups, H, W] and [C]; `options` are those of `nn.Conv2d`."""
    layer = nn.Conv2d(
        groups, groups, (weight.shape[2], weight.shape[3]), groups=groups, bias=bias is not None, **options
    )
    layer.out_channels, layer.in_channels = weight.shape[0], weight.shape[1] * groups
    return _filled(layer, weight, bias)


def _filled(layer: Any, weight: Tensor, bias: Tensor | None) -> Any:
    layer.weight = nn.Parameter(weight.detach(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return layer.eval()


class Refused(nn.Module):
    """A part of a network that has no bound, with the reason.

    Args:
        kind: what it is called in tables.
        reason: why it has none.
        compute: what it computes, for the shape of its output.
    """

    def __init__(self, kind: str, reason: Unbounded, compute: Callable[..., Tensor]):
        super().__init__()
        self.kind, self.reason = kind, reason
        self.compute = [compute]  # in a list: a module would become a part

    def forward(self, *inputs: Tensor) -> Tensor:
        try:
            return self.compute[0](*inputs)
        except (RuntimeError, ValueError):  # its own precision is hidden in it
            other = torch.float64 if inputs[0].dtype == torch.float32 else torch.float32
            return self.compute[0](*(x.to(other) for x in inputs)).to(inputs[0].dtype)


class Rows(nn.Module):
    """A layer that acts on the rows of every image: [N, L, ...] -> [N, L, ...], such as on the tokens of a sequence."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        rows: Tensor = self.layer(x.flatten(0, 1))
        return rows.unflatten(0, x.shape[:2])


class Copies(nn.Module):
    """Each output is a copy of an entry of the inputs, or a constant: views, permutations, slices, concatenations.

    Args:
        index: [outputs], the entry of all inputs one after another; -1 for the constant.
        shape: of the output, without the batch.
        constant: such as the zeros of a padding.
    """

    index: Tensor

    def __init__(self, index: Tensor, shape: Shape, constant: float = 0.0):
        super().__init__()
        self.register_buffer("index", index)
        self.shape, self.constant = shape, constant
        kept = index[index >= 0]
        self.repeats = int(kept.bincount().max()) if len(kept) else 0

    def forward(self, *inputs: Tensor) -> Tensor:
        flat = [x.flatten(1) for x in inputs]
        if bool((self.index < 0).any()):
            flat.append(flat[0].new_full((len(flat[0]), 1), self.constant))
        return torch.cat(flat, dim=1)[:, self.index].reshape(len(flat[0]), *self.shape)


class Combination(nn.Module):
    """The sum of its inputs, each times a number: residual sums, differences, constant factors."""

    def __init__(self, factors: Sequence[float]):
        super().__init__()
        self.factors = tuple(map(float, factors))

    def forward(self, *inputs: Tensor) -> Tensor:
        terms = [x if c == 1 else c * x for c, x in zip(self.factors, inputs, strict=True)]
        return sum(terms[1:], start=terms[0])


class Shift(nn.Module):
    """`x + bias`, a number for each entry."""

    bias: Tensor

    def __init__(self, bias: Tensor):
        super().__init__()
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias


class Diagonal(nn.Module):
    """`factor * x`, a number for each entry, in float64: the inverse of a divisor has more digits than it."""

    factor: Tensor

    def __init__(self, factor: Tensor):
        super().__init__()
        self.register_buffer("factor", factor)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor.to(x.dtype)


class Total(nn.Module):
    """Sums over dimensions, times a number: sums and means.

    Args:
        inputs: shape of one input as it is summed.
        dims: dimensions of that shape.
        factor: 1 for a sum, 1 / count for a mean.
        shape: of the output, without the batch.
    """

    def __init__(self, inputs: Shape, dims: Sequence[int], factor: float, shape: Shape):
        super().__init__()
        self.inputs, self.factor, self.shape = inputs, factor, shape
        self.dims = tuple(d % max(1, len(inputs)) for d in dims)
        self.count = math.prod(inputs[d] for d in self.dims)

    def forward(self, x: Tensor) -> Tensor:
        x = x.reshape(len(x), *self.inputs)
        total = x.sum([d + 1 for d in self.dims]) if self.dims else x
        return (total * self.factor).reshape(len(x), *self.shape)


class Centering(nn.Module):
    """Subtracts the mean over dimensions of `inputs`, the shape of one input."""

    def __init__(self, inputs: Shape, dims: Sequence[int]):
        super().__init__()
        self.inputs, self.dims = inputs, tuple(d % max(1, len(inputs)) for d in dims)
        self.count = math.prod(inputs[d] for d in self.dims)

    def forward(self, x: Tensor) -> Tensor:
        split = x.reshape(len(x), *self.inputs)
        return (split - split.mean([d + 1 for d in self.dims], keepdim=True)).reshape(x.shape)


class Extreme(nn.Module):
    """The largest or the smallest entry over dimensions; arguments as of `Total`."""

    def __init__(self, inputs: Shape, dims: Sequence[int], largest: bool, shape: Shape):
        super().__init__()
        self.inputs, self.largest, self.shape = inputs, largest, shape
        self.dims = tuple(d % max(1, len(inputs)) for d in dims)

    def forward(self, x: Tensor) -> Tensor:
        dims = [d + 1 for d in self.dims]
        pick = torch.amax if self.largest else torch.amin
        return pick(x.reshape(len(x), *self.inputs), dims).reshape(len(x), *self.shape)


class Sort(nn.Module):
    """Sorted along a dimension of `inputs`, the shape of one input as it is sorted."""

    def __init__(self, inputs: Shape, dim: int, descending: bool):
        super().__init__()
        self.inputs, self.dim, self.descending = inputs, dim % max(1, len(inputs)), descending

    def forward(self, x: Tensor) -> Tensor:
        split = x.reshape(len(x), *self.inputs)
        return split.sort(dim=self.dim + 1, descending=self.descending).values.reshape(x.shape)


class LogSoftmax(nn.Module):
    """The logarithm of softmax over all entries, [N, K]: the differences of its outputs are those of its inputs."""

    def forward(self, x: Tensor) -> Tensor:
        return x.log_softmax(1)


class Softmax(nn.Module):
    """Softmax along a dimension of `inputs`, the shape of one input as it is normalised."""

    def __init__(self, inputs: Shape, dim: int):
        super().__init__()
        self.inputs, self.dim = inputs, dim % max(1, len(inputs))

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), *self.inputs).softmax(self.dim + 1).reshape(x.shape)


class Folded(nn.Module):
    """A dense layer or a convolution, and the batch normalisation behind it: bounded as one layer.

    Args:
        first: an `nn.Linear` or `nn.Conv2d`.
        norm: an `nn.BatchNorm1d` or `nn.BatchNorm2d`.
    """

    def __init__(self, first: nn.Module, norm: nn.Module):
        super().__init__()
        self.first, self.norm = first, norm
        self.kind = f"{type(first).__name__}, {type(norm).__name__}"

    def forward(self, x: Tensor) -> Tensor:
        normed: Tensor = self.norm(self.first(x))
        return normed


class Product(nn.Module):
    """The product of two activations, entry by entry: bounded where both have a known range.

    Args:
        line: where the code stands that multiplies.
    """

    def __init__(self, line: str):
        super().__init__()
        self.line = line

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a * b


class Matmul(nn.Module):
    """The matrix product of two activations, as in attention: it has no bound on all of R^n.

    Args:
        inputs: shapes of the two as they are multiplied, of one image.
        shape: of the output, without the batch.
        line: where the code stands that multiplies.
    """

    def __init__(self, inputs: tuple[Shape, Shape], shape: Shape, line: str):
        super().__init__()
        # As many dimensions each: of one image the first may be one of those that are multiplied.
        dims = max(map(len, inputs))
        self.inputs = tuple((*(1,) * (dims - len(given)), *given) for given in inputs)
        self.shape, self.line = shape, line

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        a, b = (x.reshape(len(x), *shape) for x, shape in zip((a, b), self.inputs, strict=True))
        return (a @ b).reshape(len(a), *self.shape)


class Standardized(nn.Module):
    """Groups of entries, each divided by the root of the mean of its squares: what layer, group and RMS normalisation
    do. Its slope is limited by `eps` alone.

    Args:
        groups: number of groups of neighbouring entries.
        eps: added to the mean of the squares.
        centred: whether the mean is subtracted first.
        line: where the code stands that normalises.
    """

    def __init__(self, groups: int, eps: float, centred: bool, line: str = ""):
        super().__init__()
        self.groups, self.eps, self.centred, self.line = groups, eps, centred, line

    def forward(self, x: Tensor) -> Tensor:
        split = x.reshape(len(x), self.groups, -1)
        split = split - split.mean(2, keepdim=True) if self.centred else split
        return (split * (split.square().mean(2, keepdim=True) + self.eps).rsqrt()).reshape(x.shape)


class Elementwise(nn.Module):
    """A function of each entry, whose slope is at most a number.

    Args:
        name: of the function of torch.
        function: itself.
        slope: the largest magnitude of its derivative, rounded up.
    """

    def __init__(self, name: str, function: Callable[[Tensor], Tensor], slope: float):
        super().__init__()
        self.name, self.slope = name, slope
        self.function = [function]

    def forward(self, x: Tensor) -> Tensor:
        return self.function[0](x)

    def extra_repr(self) -> str:
        return self.name


class Graph(nn.Module):
    """Steps that are not one after another: a part of a network between two tensors through which all of it passes.

    Args:
        names: of the steps.
        steps: in an order in which they can be computed; the last one gives the output.
        inputs: of each step the places of its inputs: 0 is the input of the whole, k the output of step k - 1.
        shapes: of the output of each step, without the batch.
    """

    def __init__(
        self,
        names: Sequence[str],
        steps: Sequence[nn.Module],
        inputs: Sequence[tuple[int, ...]],
        shapes: Sequence[Shape],
    ):
        super().__init__()
        self.names, self.inputs, self.shapes = tuple(names), tuple(inputs), tuple(shapes)
        self.steps = nn.ModuleList(steps)

    def forward(self, x: Tensor) -> Tensor:
        values = [x]
        for step, places in zip(self.steps, self.inputs, strict=True):
            values.append(step(*(values[i] for i in places)))
        return values[-1]
