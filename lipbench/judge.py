"""The weights of a model in float64, copied once for all who judge by them, as long as the model is the same."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lipbench.gate import first_line, is_memory
from lipbench.margins import margin
from lipbench.modules import duplicate, tensors, weights_hash

# Attributes that can be compared; what a forward pass reads besides tensors is mostly of these kinds.
PLAIN = (bool, int, float, complex, str, bytes, type(None))


class Float64:
    """The same weights in float64, where they can be computed with.

    A traced, exported or converted module may hold constants or casts of float32 that `.double()` does not reach.

    Attributes:
        why_not: why they cannot; "" as long as they can.
    """

    def __init__(self, model: nn.Module):
        self.why_not = ""
        try:
            self._model: nn.Module | None = duplicate(model).double()
        except Exception as error:  # whatever somebody else's module raises
            if is_memory(error):
                raise
            self._model, self.why_not = None, f"no copy of it can be made in float64 ({first_line(error)})"

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor | None:
        """Logits [N, K] in float64 of images [N, C, H, W]; None where it does not compute in float64, then and ever
        after.

        The model as deployed must have classified the same images: what fails here is then a matter of the precision,
        but for memory: its want is raised as it came.
        """
        if self._model is None:
            return None
        try:
            logits = self._model(images.clone().double())
            if logits.dtype != torch.float64:
                raise TypeError(f"its logits come out as {logits.dtype}")
        except Exception as error:
            if is_memory(error):
                raise
            self._model, self.why_not = None, f"its float64 copy does not run ({first_line(error)})"
            return None
        return logits

    def wrapped(self, wrap: Callable[[nn.Module], nn.Module]) -> "Float64":
        """The same copy inside another module."""
        other = copy.copy(self)
        if other._model is not None:
            other._model = wrap(other._model)
        return other


@dataclass(frozen=True)
class _Shared:
    model: nn.Module
    exact: Float64
    state: object
    stamp: object


_shared: ContextVar[tuple[_Shared, ...]] = ContextVar("shared float64 copies", default=())


@contextmanager
def shared_float64(model: nn.Module, exact: Float64 | None = None) -> Iterator[Float64]:
    """Inside, `float64_of` gives one and the same copy of this very module, which is made at the beginning.

    A block inside a block of the same module takes the copy of the outer one, unless the module has changed since: its
    tensors bit by bit, its plain attributes, its hooks.

    Args:
        exact: the copy to be shared; None: one that is made now, or that of an outer block.
    """
    state = None if exact else _state(model)
    if exact is None:
        outer = (s.exact for s in reversed(_shared.get()) if s.model is model and s.state == state)
        exact = next(outer, None) or Float64(model)
    token = _shared.set((*_shared.get(), _Shared(model, exact, state, _stamp(model))))
    try:
        yield exact
    finally:
        _shared.reset(token)


def float64_of(model: nn.Module) -> Float64:
    """The copy that a block of `shared_float64` holds; else one that is made now.

    Also one that is made now where a tensor of the model was replaced or written to since the block began. Writes
    through `.data` do not show in that: whoever shares a copy with code that is not trusted compares the weights
    afterwards (`weights_hash`).
    """
    held = next((s for s in reversed(_shared.get()) if s.model is model), None)
    return held.exact if held and held.stamp == _stamp(model) else Float64(model)


def _state(model: nn.Module) -> object:
    """What a copy depends on, by value."""
    loose = {
        f"{name} {key}": value
        for name, module in model.named_modules()
        for key, value in vars(module).items()
        if isinstance(value, Tensor)
    }
    plain = [
        (
            name,
            type(module),
            id(vars(module).get("forward")),  # one of its own hides that of its class
            {key: value for key, value in vars(module).items() if isinstance(value, PLAIN)},
            _hooks(module),
        )
        for name, module in model.named_modules()
    ]
    return weights_hash(tensors(model)), weights_hash(loose), plain


def _hooks(module: nn.Module) -> list[int]:
    kinds = ("_forward_hooks", "_forward_pre_hooks")
    return [number for kind in kinds for number in vars(module).get(kind, ())]


def _stamp(model: nn.Module) -> object:
    """What changes with every write to a tensor, but for those that hide: cheap, whatever the size."""
    return [
        (id(t), None if t.is_inference() else t._version, t.data_ptr() if t.layout == torch.strided else None)
        for t in tensors(model).values()
    ]


class Judge:
    """Says whether images are adversarial: misclassified by the model as deployed *and* by the same weights in float64.

    The float64 copy removes images that only rounding misclassifies, so that certificates computed in float64 hold
    with no tolerance.
    A logit that is NaN labels nothing: such an image does not count as adversarial.
    Both get copies of the images, which a first layer with inplace=True would overwrite.
    Where no float64 copy can run, the model as deployed judges alone; `exact.why_not` then says why.
    """

    # Where there is no float64, what counts as more than rounding, in units of the precision of the largest logit.
    ROUNDING = 64

    def __init__(self, model: nn.Module):
        self.model = model
        self.exact = float64_of(model)

    @torch.no_grad()
    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """[N, C, H, W], [N] -> bool [N]."""
        wrong = self.misclassified(self.model(images.clone()), labels)
        rows = wrong.nonzero()[:, 0]
        if len(rows):  # where the model as deployed is right, float64 has no say
            exact = self.exact(images[rows])
            if exact is not None:
                wrong[rows] = self.misclassified(exact, labels[rows])
        return wrong

    @torch.no_grad()
    def deployed(self, images: Tensor, labels: Tensor) -> Tensor:
        """Misclassified by the model as deployed, whatever float64 says of them: bool [N]."""
        return self.misclassified(self.model(images.clone()), labels)

    @torch.no_grad()
    def surely(self, images: Tensor, labels: Tensor) -> Tensor:
        """Adversarial by more than rounding: the float64 margin is 8 times the difference of the two precisions or
        more.

        The float32 logits of an image change in their last digits with the batch that it is in; an image that is
        adversarial by less could lose that in the next batch.
        """
        logits = self.model(images.clone())
        deployed, exact = margin(logits, labels).double(), self.exact(images)
        if exact is None:
            precision = torch.finfo(logits.dtype).eps * logits.double().abs().amax(1)
            return deployed < -self.ROUNDING * precision
        value = margin(exact, labels)
        return (torch.maximum(value, deployed) < 0) & (-value >= 8 * (value - deployed).abs())

    @staticmethod
    def misclassified(logits: Tensor, labels: Tensor) -> Tensor:
        """argmax differs from the label, and no logit is NaN."""
        return (logits.argmax(1) != labels) & ~logits.isnan().any(1)


def distance(x: Tensor, images: Tensor) -> Tensor:
    """L2 distance per image, in float64, [N]."""
    return (images.double() - x.double()).flatten(1).norm(dim=1)
