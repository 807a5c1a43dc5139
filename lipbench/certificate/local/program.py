"""A network as a list of steps, each affine or with a rule of `lipbench.certificate.local.lines`."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lipbench.certificate.exactness import Unbounded, number, rule_of, unknown
from lipbench.certificate.lipschitz import Shape, flat, lipschitz, output_shape
from lipbench.certificate.relaxation.piecewise import ENTRIES, relaxation
from lipbench.certificate.tracing.steps import (
    Centering,
    Combination,
    Copies,
    Diagonal,
    Elementwise,
    Extreme,
    Folded,
    Graph,
    LogSoftmax,
    Matmul,
    Product,
    Refused,
    Rows,
    Shift,
    Standardized,
    Total,
    dense,
)
from lipbench.layers import Abs, FullSort, GroupSort, MaxMin
from lipbench.modules import exactly

NEUTRAL = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
# Functions of each entry alone.
POINTWISE = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.Hardtanh, nn.ELU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Tanh, nn.Softplus),
    *(Abs, Elementwise),
)
# Nothing outside of a region bounds these.
LOCAL = (Product, Matmul)


@dataclass(frozen=True)
class Op:
    """A step of the list.

    Attributes:
        step: what it computes, in float64.
        inputs: where its inputs are: 0 is the image, k the output of step k - 1.
        shape: of its output, without the batch.
        constant: its Lipschitz constant on all of R^n; inf where there is none.
        whole: a step that does not fall in any of its inputs and computes the same from an earlier value, and where
            that value is: it bounds the range once more.
    """

    step: nn.Module
    inputs: tuple[int, ...]
    shape: Shape
    constant: float
    whole: tuple[nn.Module, int] | None = None


class InverseRoot(nn.Module):
    """1 / sqrt(x + eps), of means of squares."""

    def __init__(self, eps: float):
        super().__init__()
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return (x.clamp_min(0) + self.eps).rsqrt()


@torch.no_grad()
def program(network: nn.Module, shape: Shape) -> list[Op]:
    """The steps of a network, on the CPU in float64; differences of the last outputs are those of its logits.

    Args:
        network: what `lipbench.certificate.radius.read_exactly` gives.
        shape: of one image.

    Raises:
        Unbounded: a layer that has no bound near an image either.
    """
    writer = _Writer(tuple(shape))
    layers = flat(copy.deepcopy(network).double().cpu())
    if exactly(layers[-1], LogSoftmax):
        layers = layers[:-1]
    for part in network.modules():
        refusal = unknown(part)
        if refusal is not None and not isinstance(part, nn.ModuleList):
            raise refusal.of(type(part).__name__)
    place = 0
    for layer in layers:
        place = writer.write(layer, (place,))
    if place != len(writer.ops):  # the last layers do nothing
        writer.add(nn.Flatten(), (place,))
    return writer.ops


def windows(step: Any, shape: Shape) -> Tensor:
    """[outputs, entries]: where the entries of each window are in the flat input; one of them twice for padding."""
    places = torch.arange(math.prod(shape), dtype=torch.float64).reshape(shape)
    if isinstance(step, Extreme):
        split = places.reshape(step.inputs)
        kept = [d for d in range(split.ndim) if d not in step.dims]
        return split.permute(*kept, *step.dims).reshape(-1, math.prod(split.shape[d] for d in step.dims)).long()
    padding = step.padding if isinstance(step.padding, tuple | list) else (step.padding, step.padding)
    sides = (padding[-1], padding[-1], padding[0], padding[0])
    padded = nn.functional.pad(places[:, None], sides, value=-1.0)
    found = nn.functional.unfold(padded, step.kernel_size, step.dilation, 0, step.stride)
    table = found.transpose(1, 2).flatten(0, 1).long()
    return torch.where(table < 0, table.amax(1, keepdim=True), table)


class _Writer:
    def __init__(self, shape: Shape):
        self.ops: list[Op] = []
        self.shapes = [shape]

    def add(self, step: nn.Module, inputs: tuple[int, ...], constant: float | None = None, **options: Any) -> int:
        """Writes a step down as it is: the place of its output."""
        zeros = [torch.zeros(1, *self.shapes[i], dtype=torch.float64) for i in inputs]
        shape = tuple(step(*zeros).shape[1:])
        self.ops.append(Op(step.eval(), inputs, shape, math.inf if constant is None else constant, **options))
        self.shapes.append(shape)
        return len(self.ops)

    def write(self, step: nn.Module, inputs: tuple[int, ...]) -> int:
        """Writes a step down, as several where these are bounded better: the place of its output."""
        shape = self.shapes[inputs[0]]
        if isinstance(step, Rows) and exactly(step.layer, nn.Linear, nn.LayerNorm, nn.RMSNorm, *POINTWISE):
            step = step.layer  # which computes the same of all rows at once
        if exactly(step, *NEUTRAL):
            return inputs[0]
        if exactly(step, *LOCAL) or (len(inputs) > 1 and exactly(step, Combination, Copies)):
            return self.add(step, inputs)
        if len(inputs) > 1:  # of all others a bound of one input says nothing
            raise step.reason if isinstance(step, Refused) else Unbounded(f"{type(step).__name__} has several inputs")
        for kinds, write in self._several.items():
            if exactly(step, *kinds):
                return write(step, inputs, shape)
        return self.add(step, inputs, self._constant(step, shape))

    @property
    def _several(self) -> dict[tuple[type, ...], Callable[[Any, tuple[int, ...], Shape], int]]:
        """What is written as several steps."""
        return {
            (Graph,): self._graph,
            (Folded,): lambda step, inputs, shape: self.write(step.norm, (self.write(step.first, inputs),)),
            (Standardized,): self._standardized,
            (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.InstanceNorm1d, nn.InstanceNorm2d): self._normalised,
            (MaxMin, GroupSort, FullSort): self._sorted,
            (nn.MaxPool2d, Extreme): self._largest,
            (nn.PixelShuffle, nn.PixelUnshuffle): self._moved,
        }

    def _constant(self, step: nn.Module, shape: Shape) -> float:
        """On all of R^n.

        Raises:
            Unbounded: it has none.
        """
        (bound,) = lipschitz.layerwise(step, shape)
        if bound.why:
            raise Unbounded(bound.why, bound.remedy).of(bound.kind)
        return bound.bound

    def _graph(self, graph: Graph, inputs: tuple[int, ...], shape: Shape) -> int:
        places = [inputs[0]]
        for step, sources in zip(graph.steps, graph.inputs, strict=True):
            places.append(self.write(step, tuple(places[i] for i in sources)))
        return places[-1]

    def _standardized(self, step: Standardized, inputs: tuple[int, ...], shape: Shape) -> int:
        """x / sqrt(mean x^2 + eps), group by group: a product, whose second factor is a curve of a mean."""
        size = math.prod(shape) // step.groups
        split = (step.groups, size)
        x = self.add(Centering(split, [1]), inputs, 1 + 1e-9) if step.centred else inputs[0]
        squares = self.add(Product(step.line), (x, x))
        mean = self.add(Total(split, [1], 1 / size, (step.groups,)), (squares,), 1 / math.sqrt(size) * (1 + 1e-9))
        root = self.add(InverseRoot(step.eps), (mean,))
        index = torch.arange(step.groups).repeat_interleave(size)
        return self.add(Product(step.line), (x, self.add(Copies(index, shape), (root,))))

    def _normalised(self, layer: Any, inputs: tuple[int, ...], shape: Shape) -> int:
        """A layer of torch that divides by a statistic of the image."""
        if getattr(layer, "track_running_stats", False):
            raise Unbounded("it keeps running statistics", "use nn.BatchNorm2d").of(type(layer).__name__)
        centred = not exactly(layer, nn.RMSNorm)
        if exactly(layer, nn.LayerNorm, nn.RMSNorm):
            groups = math.prod(shape) // math.prod(layer.normalized_shape)
        else:
            groups = layer.num_groups if exactly(layer, nn.GroupNorm) else shape[0]
        place = self._standardized(Standardized(groups, number(layer, "eps"), centred), inputs, shape)
        dims = 0 if exactly(layer, nn.LayerNorm, nn.RMSNorm) else len(shape) - 1
        for kind, name in ((Diagonal, "weight"), (Shift, "bias")):
            values = getattr(layer, name, None)
            if values is not None:
                values = values.detach().reshape(*values.shape, *(1,) * dims).expand(shape).clone()
                largest = float(values.abs().max()) * (1 + 1e-9) if kind is Diagonal else 1.0
                place = self.add(kind(values), (place,), largest)
        return place

    def _sorted(self, layer: nn.Module, inputs: tuple[int, ...], shape: Shape) -> int:
        """Sorts, by max(a, b) = b + relu(a - b), where the matrices are small."""
        constant, steps = self._constant(layer, shape), []
        if math.prod(shape) ** 2 <= ENTRIES:
            steps = rule_of(relaxation.rules, layer)(layer, shape)
        if not steps:
            return self.add(layer, inputs, constant)
        place = self.add(nn.Flatten(), inputs, 1.0)
        for step in steps:
            inner = place if step.inner is None else self._matrix(step.inner, place)
            risen = self.add(nn.ReLU(), (inner,), 1.0)
            risen = risen if step.rise is None else self._matrix(step.rise, risen)
            place = risen if step.direct is None else self._sum(self._matrix(step.direct, place), risen)
        out = output_shape(layer, shape)
        index = torch.arange(math.prod(out))
        return self.add(Copies(index, out), (place,), 1.0, whole=(layer, inputs[0]))

    def _largest(self, step: Any, inputs: tuple[int, ...], shape: Shape) -> int:
        """The largest of each window, pair by pair: max(a, b) = b + relu(a - b)."""
        constant = self._constant(step, shape)
        if not getattr(step, "largest", True):
            return self.add(step, inputs, constant)
        place, table, out = inputs[0], windows(step, shape), output_shape(step, shape)
        while table.shape[1] > 1:
            if table.shape[1] % 2:  # one entry twice is as large
                table = torch.cat((table, table[:, -1:]), 1)
            halves = table.chunk(2, 1)
            a, b = (self.add(Copies(half.flatten(), (half.numel(),)), (place,), 1.0) for half in halves)
            risen = self.add(nn.ReLU(), (self.add(Combination((1.0, -1.0)), (a, b)),), 1.0)
            place = self._sum(b, risen)
            table = torch.arange(halves[0].numel()).view_as(halves[0])
        index = table[:, 0]
        return self.add(Copies(index, out), (place,), 1.0, whole=(step, inputs[0]))

    def _moved(self, step: nn.Module, inputs: tuple[int, ...], shape: Shape) -> int:
        """A permutation of the entries; the gradient of torch's own refuses batches of some shapes."""
        places = step(torch.arange(math.prod(shape), dtype=torch.float64).view(1, *shape))[0]
        return self.add(Copies(places.flatten().long(), tuple(places.shape)), inputs, 1.0)

    def _matrix(self, weight: Tensor, place: int) -> int:
        return self.write(dense(weight, None), (place,))

    def _sum(self, a: int, b: int) -> int:
        return self.add(Combination((1.0, 1.0)), (a, b))
