"""What the rounding of the float64 forward pass can add to a difference of two logits: `certify` takes it off.

Each layer adds the rounding of its own, in L2, carried to the logits by the constants of the layers after it. Large
numbers that cancel, between layers or in one, are covered: the bounds are of what is added up, not of what comes out.
`Passes` says for which layers it is an estimate instead.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from lipbench.certificate.exactness import Unbounded, rule_of
from lipbench.certificate.lipschitz import LayerBound, Shape, flat, lipschitz, output_shape, product
from lipbench.certificate.rounding import SLACK, Affine, Step, rounding
from lipbench.certificate.rules.linear import absolute_norm, frequency_norm, magnitudes
from lipbench.layers import AdaptiveL2Pool2d, FourierConv2d, L2Pool2d, is_circular
from lipbench.modules import exactly

# Relative to what a layer adds up: a float64 sum of n products is off by at most n times 1.1e-16 of them, a vector of m
# such sums by sqrt m times that. There is room for n sqrt m = 9e5; `_share` takes more where a layer needs it.
LOGIT_SLACK, UNIT = 1e-10, 2.0**-53
# The smallest normal number of float64: below it, results and operands may be flushed to zero.
TINY = 2.0**-1022
# From the roundings of float32 to those of float64: every term of their bounds shrinks at least so much.
FINER = 2.0**-29

# From activations [N, ...] in float64: the output, and [N] its distance in L2 from the exact one of the same input.
Pass = Callable[[Tensor], tuple[Tensor, Tensor]]


class Passes:
    """The layers of a network one after another, each with the rounding that it adds.

    * Layers of one product, or of none: `LOGIT_SLACK` of the norms of what goes in (times that of the weights, before
      any of them cancel or are cropped), comes out and is added, which is more than n sqrt m roundings of them; of
      dense layers and convolutions of any size, of poolings and Fourier transforms up to n sqrt m = 9e5. What numbers
      below `TINY` lose is added.
    * Layers of several products (residual ones, ...), and L2 poolings, whose squares underflow: the bound of
      `lipbench.certificate.rounding`, product by product.
    * An estimate: a layer of which a part has no such bound, such as a tanh inside of a residual one, and a layer of
      the user's own, or of torch by a rule of the user's, without a rounding rule. `LOGIT_SLACK` of the norms of what
      goes into and comes out of the whole and every part, times the constant of the whole. `certify` takes it at
      images; `certify_inscribed`, whose centres lie anywhere, does not.

    Args:
        exact: in float64; its containers are known, so that it is its layers one after another.
        shape: of one image, (C, H, W).
        bounds: the constants of these layers.

    Attributes:
        is_estimate: whether that of any layer is an estimate.
    """

    def __init__(self, exact: nn.Module, shape: Shape, bounds: Sequence[LayerBound]):
        exact = lipschitz.read(exact, shape)
        self._passes: list[tuple[Pass, float]] = []
        self.is_estimate = False
        for i, (layer, own) in enumerate(zip(flat(exact), bounds, strict=True)):
            found = _pass(layer, shape, own)
            self.is_estimate |= found is None
            self._passes.append((found or _estimated(layer, own.bound), product(bounds[i + 1 :])))
            shape = output_shape(layer, shape)

    @torch.no_grad()
    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[N, K] logits, and [N] what rounding can add to a difference of two of them.

        Args:
            x: images, float64; a first layer in place overwrites them.
        """
        slack = torch.zeros(len(x), dtype=x.dtype, device=x.device)
        for forward, onward in self._passes:
            x, error = forward(x)
            # A difference of two logits is sqrt 2 longer at most.
            slack = slack + error * (math.sqrt(2) * onward)
        return x, slack


def _pass(layer: nn.Module, shape: Shape, own: LayerBound) -> Pass | None:
    """With a bound of the rounding; None where there is an estimate only."""
    package = type(layer).__module__.partition(".")[0]
    # Other layers of torch, such as transposed convolutions, have a rule of the user's or none.
    rule = str(getattr(rule_of(lipschitz.rules, layer), "__module__", ""))
    ours = package == "lipbench" or (package == "torch" and rule.startswith("lipbench."))
    # The squares of small numbers underflow, which no share of a norm covers.
    squares = exactly(layer, L2Pool2d, AdaptiveL2Pool2d)
    if ours and not squares and next(layer.children(), None) is None:
        return _of_norms(layer, own.bound, _share(layer, shape), _magnitude(layer, shape, own.bound))
    try:
        return _bounded(rounding.step(layer, shape, own.bound))
    except Unbounded:
        return None


def _magnitude(layer: nn.Module, shape: Shape, bound: float) -> float:
    """The norm of what a layer adds up: larger than its constant where weights cancel, or are cropped."""
    if type(layer) is FourierConv2d:
        return frequency_norm(layer)
    if type(layer) is nn.Conv2d and is_circular(layer):
        return absolute_norm(magnitudes(layer), shape)
    return bound


def _share(layer: nn.Module, shape: Shape) -> float:
    weight = getattr(layer, "weight", None)
    if not _matrix(layer) or weight is None or not weight.numel():
        return LOGIT_SLACK
    return max(LOGIT_SLACK, 2 * UNIT * (weight[0].numel() + 1) * math.sqrt(math.prod(output_shape(layer, shape))))


def _matrix(layer: nn.Module) -> bool:
    weight = getattr(layer, "weight", None)
    return isinstance(weight, Tensor) and weight.ndim > 1


def _of_norms(layer: nn.Module, bound: float, share: float, magnitude: float) -> Pass:
    added = _added(layer)

    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        given, size = _norm(x), x[:1].numel()  # before the call, which may overwrite it
        x = layer(x)
        lost = (given + (1 + magnitude)) * (8 * TINY * size * math.sqrt(x[:1].numel()))
        return x, (given * magnitude + _norm(x) + max(1.0, bound) * added * math.sqrt(x[:1].numel())) * share + lost

    return forward


def _bounded(step: Step) -> Pass:
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        nothing = x.new_zeros(len(x))
        x, error = step(x, Affine(nothing, nothing))
        return x, error.at * (FINER * SLACK)

    return forward


def _estimated(layer: nn.Module, bound: float) -> Pass:
    of_norms = _of_norms(layer, bound, LOGIT_SLACK, bound)

    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        inner: list[Tensor] = []
        note = _recorder(inner, len(x))
        parts = [part for part in layer.modules() if part is not layer]
        handles = [part.register_forward_hook(note, with_kwargs=True) for part in parts]
        try:
            x, error = of_norms(x)
        finally:
            for handle in handles:
                handle.remove()
        return x, error + sum(inner, x.new_zeros(len(x))) * (max(1.0, bound) * LOGIT_SLACK)

    return forward


def _recorder(norms: list[Tensor], count: int) -> Callable[..., None]:
    """A hook that notes the norm of what a module gets and gives, per image.

    Args:
        count: of the images; a tensor with another first size counts for each with its whole norm.
    """

    def note(module: nn.Module, inputs: Any, named: Any, output: Any) -> None:
        for tensor in tree_leaves((inputs, named, output)):
            if isinstance(tensor, Tensor) and tensor.numel() and (tensor.is_floating_point() or tensor.is_complex()):
                each = tensor.ndim > 1 and len(tensor) == count
                norms.append(_norm(tensor) if each else _norm(tensor.reshape(1, -1)).expand(count))

    return note


def _norm(x: Tensor) -> Tensor:
    """L2, [N, ...] -> [N], also of numbers whose squares underflow."""
    rows = x.flatten(1)
    largest = rows.abs().amax(1) if rows.shape[1] else rows.new_zeros(len(rows))
    scale = largest.where(largest > 0, 1.0)
    return (rows / scale[:, None]).norm(dim=1) * scale


def _added(layer: nn.Module) -> float:
    """The largest magnitude of all that a layer or its parts add or subtract."""
    named = [*layer.named_parameters(), *layer.named_buffers()]
    shifts = (t for name, t in named if name.rpartition(".")[2] in ("bias", "running_mean", "mean") and t.numel())
    return sum(float(t.detach().abs().max()) for t in shifts)
