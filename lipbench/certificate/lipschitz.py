"""`lipschitz`: a sound upper bound of a network's Lipschitz constant, from the weights it really has.

Rules are found by the exact type of a module. All that is not known exactly is unknown: a subclass, a hook, a live
parametrization, a module in training mode. Its bound is infinite, its certificate 0, and `layerwise` says why.
"""

import itertools
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import nn

from lipbench.certificate.exactness import Unbounded, rule_of, unknown, watch
from lipbench.certificate.remedies import without_rule
from lipbench.precision import OUTWARD

Shape = tuple[int, ...]
ConstantRule = Callable[..., float]

# Binary digits of a bound that is rounded outward: 6e-11 of it at most.
DIGITS = 35
# Products below this may have lost digits, or all of them.
SMALLEST = 1e-290
FINITE = "train it again: numbers that are not finite classify nothing"


@dataclass(frozen=True)
class LayerBound:
    """The bound of one layer.

    Attributes:
        name: dotted path in the model, "" for the model itself.
        kind: name of its type.
        bound: Lipschitz constant in L2, `inf` where it is unknown.
        why: why it is unknown, else "".
        remedy: what would make it known, else "".
    """

    name: str
    kind: str
    bound: float
    why: str = ""
    remedy: str = ""

    @property
    def reason(self) -> str:
        """Why it is unknown, with the remedy; "" where it is known."""
        return f"{self.why}: {self.remedy}" if self.remedy else self.why


class Lipschitz:
    """The function `lipschitz(module, shape) -> float`, and the register of its rules."""

    def __init__(self) -> None:
        self._rules: dict[type, ConstantRule] = {}
        # Layers of other libraries -> the layers that they compute the same as.
        self.equals: dict[type, Callable[..., nn.Module]] = {}
        # What reads forward code as layers that have rules; `lipbench.certificate.tracing` is one.
        self.reader: Callable[[nn.Module, Shape], nn.Module] = lambda module, shape: module

    @property
    def kinds(self) -> tuple[type, ...]:
        """The types that have a rule."""
        return tuple(self._rules)

    @property
    def rules(self) -> dict[type, ConstantRule]:
        """The rules by type."""
        return self._rules

    def read(self, module: nn.Module, shape: Shape) -> nn.Module:
        """The network as layers one after another that have rules: itself where it is so, else its forward pass traced
        (`lipbench.certificate.tracing`). To read it again changes nothing.
        """
        return self.reader(module, tuple(shape))

    def __call__(self, module: nn.Module, shape: Shape) -> float:
        """Upper bound of the L2 Lipschitz constant of `module` on inputs of this shape; `inf` where it is unknown.

        Args:
            module: in evaluation mode, baked (see `lipbench.bake`).
            shape: of one input, without the batch: (C, H, W) or (D,).
        """
        return product(self.layerwise(module, shape))

    def register(self, kind: type) -> Callable[[ConstantRule], ConstantRule]:
        """Decorator for the rule of a type: `rule(layer, shape) -> float`. Raise `Unbounded(why, remedy)` for what has
        no bound.

        The rule is used for exactly this type, not for subclasses.
        """

        def add(rule: ConstantRule) -> ConstantRule:
            self._rules[kind] = rule
            watch(kind)
            return rule

        return add

    def equal(self, kind: type) -> Callable[[Callable[..., nn.Module]], Callable[..., nn.Module]]:
        """Decorator for a type that computes what other layers compute: `layers(layer, shape) -> module`, a layer that
        has a rule or an `nn.Sequential` of such, with the very tensors of the layer. A traced network has these in its
        place. Raise `Unbounded(why, remedy)` where there are none.
        """

        def add(layers: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
            self.equals[kind] = layers
            watch(kind)
            return layers

        return add

    def layerwise(self, module: nn.Module, shape: Shape) -> list[LayerBound]:
        """The bounds whose product is the constant, in order, with the reason for each that is infinite."""
        return self._walk(self.read(module, shape), tuple(shape), "")[0]

    def branch(self, module: nn.Module, shape: Shape) -> float:
        """The bound of a branch whose output is added to its input.

        Raises:
            Unbounded: a layer of it has no bound, its shape is not that of the input (the sum would repeat entries), or
                it may overwrite the input that is still to be added.
        """
        bounds, out = self._walk(self.read(module, shape), tuple(shape), "")
        for layer in bounds:
            if layer.why:
                raise Unbounded(f"its branch, {layer.name or layer.kind}: {layer.why}", layer.remedy)
        if out != tuple(shape):
            raise Unbounded(
                f"its branch changes the shape from {shape} to {out}, so that the sum would repeat entries",
                "use a branch that keeps the shape of its input",
            )
        if any(getattr(layer, "inplace", False) for layer in module.modules()):
            raise Unbounded(
                "its branch has a layer with inplace=True, which may overwrite the input of the sum",
                "set inplace=False",
            )
        return product(bounds)

    def _walk(self, module: nn.Module, shape: Shape | None, name: str) -> tuple[list[LayerBound], Shape | None]:
        refusal = unknown(module)
        if refusal:
            return [_refused(name, module, refusal)], None
        if type(module) is nn.Sequential:
            bounds: list[LayerBound] = []
            # Not `named_children`, which names a layer that is used twice only once.
            for child, layer in module._modules.items():
                assert layer is not None  # a Sequential cannot hold None
                found, shape = self._walk(layer, shape, f"{name}.{child}" if name else child)
                bounds += found
            return bounds, shape
        if shape is None:
            earlier = Unbounded("its shape is unknown because an earlier layer has no bound", "fix that one first")
            return [_refused(name, module, earlier)], None
        bound, out = self._leaf(module, shape)
        return [
            _refused(name, module, bound) if isinstance(bound, Unbounded) else LayerBound(name, kind_of(module), bound)
        ], out

    def _leaf(self, module: nn.Module, shape: Shape) -> tuple[float | Unbounded, Shape | None]:
        """Bound, or why there is none, and output shape of a module that is no container."""
        try:
            bound = self._rule(module, shape)
            if not bound >= 0 or any(not t.isfinite().all() for t in _tensors(module)):
                raise Unbounded("its weights are not finite", FINITE)
            if math.isinf(bound):
                why = "its bound is not finite: a weight or an option is too large, or divides by zero"
                raise Unbounded(why, "make it smaller")
            return bound, output_shape(module, shape)
        except Unbounded as error:
            return error, _output_shape_or_none(module, shape)
        except ArithmeticError as error:
            why = f"its bound is too large to be computed, or divides by zero ({error})"
            return Unbounded(why, "make its weights smaller"), _output_shape_or_none(module, shape)
        except (RuntimeError, ValueError, IndexError, TypeError) as error:
            why = f"it refuses an input of shape {list(shape)} ({error})"
            return Unbounded(why, "ask for the shape of the images that the model was made for"), None

    def _rule(self, module: nn.Module, shape: Shape) -> float:
        rule = rule_of(self._rules, module)
        if rule is None:
            raise Unbounded(*without_rule(module, self._rules))
        for name, part in module.named_modules():
            refusal = unknown(part) if part is not module else None
            if refusal:
                raise refusal.of(f"its {name} ({type(part).__name__})")
        return float(rule(module, shape))


def outward(*factors: float) -> float:
    """The product of numbers of at least 0, rounded outward: by the slack, and by the smallest float where underflow
    took digits, or all of them. 0 where a factor is.

    It has `DIGITS` bits, so that bounds whose eigenvalues differ in the last digits, as those of LAPACK do from one
    number of threads to another, are nearly always the same.
    """
    if 0 in factors:
        return 0.0
    bound = math.nextafter(math.prod(factors) * OUTWARD, math.inf)
    if not bound < 2.0**1000:
        return bound
    digits, exponent = math.frexp(bound)
    return math.ldexp(math.ceil(math.ldexp(digits, DIGITS)), exponent - DIGITS)


def product(bounds: Iterable[LayerBound]) -> float:
    """The constant of layers one after another, rounded up: `inf` where one is unknown, even next to a bound of 0, and
    where numbers that are not 0 underflow on the way.
    """
    values = [layer.bound for layer in bounds]
    if math.inf in values or 0 in values:
        return math.inf if math.inf in values else 0.0
    partial = list(itertools.accumulate(values, _times, initial=1.0))
    return math.inf if min(partial) < SMALLEST else partial[-1]


def _times(a: float, b: float) -> float:
    """The product, rounded up where it is not exact."""
    if a == 1 or b == 1 or math.isinf(a * b):
        return a * b
    exact = Fraction(a) * Fraction(b) <= Fraction(a * b)
    return a * b if exact else math.nextafter(a * b, math.inf)


def _refused(name: str, module: nn.Module, refusal: Unbounded) -> LayerBound:
    return LayerBound(name, kind_of(module), math.inf, refusal.why, refusal.remedy)


def kind_of(module: nn.Module) -> str:
    """What a table calls a module: a step that is refused says what it stands for."""
    return str(vars(module).get("kind", type(module).__name__))


def flat(model: nn.Module) -> list[nn.Module]:
    """The layers of nested plain Sequentials, in order; the model itself where it is none."""
    if type(model) is not nn.Sequential:
        return [model]
    return [layer for child in model for layer in flat(child)]


@torch.no_grad()
def output_shape(module: nn.Module, shape: Shape) -> Shape:
    """Of the output for an input of this shape, both without the batch.

    The input has the precision of the module, which the largest of its tensors shows first: a scale or a temperature
    may have another one, and a module may hold tensors that are no parameters.

    Raises:
        RuntimeError, ...: what the module raises in every precision that it has tensors of, and in float32 and float64.
    """
    largest = sorted(_tensors(module), key=torch.Tensor.numel, reverse=True) or [torch.zeros(())]
    dtypes = list(dict.fromkeys([*(tensor.dtype for tensor in largest), torch.float32, torch.float64]))
    for dtype in dtypes:
        try:
            return tuple(module(torch.zeros(1, *shape, dtype=dtype, device=largest[0].device)).shape[1:])
        except RuntimeError:
            if dtype == dtypes[-1]:
                raise
    raise AssertionError("there is at least one precision")


def _output_shape_or_none(module: nn.Module, shape: Shape) -> Shape | None:
    try:
        return output_shape(module, shape)
    except Exception:
        return None


def _tensors(module: nn.Module) -> list[torch.Tensor]:
    return [t for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()]


watch(nn.Sequential)
lipschitz = Lipschitz()
