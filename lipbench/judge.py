"""What an attack is given, and who decides whether an image is adversarial."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lipbench.gate import first_line, is_memory, with_gradient
from lipbench.margins import margin
from lipbench.modules import duplicate

# Norms in which a distance can be taken, and their orders.
ORDERS = {"l2": 2.0, "linf": torch.inf, "l1": 1.0}


class BudgetSpent(BaseException):
    """A forward or backward pass that the budget of a `Meter` does not allow. A BaseException, so that no attack that
    catches the errors of a model goes on.
    """


class Meter:
    """The budget of an attack on one image, and the nearest misclassified image that it passed.

    Args:
        x: the image, [1, C, H, W].
        y: its label, [1].
        limit: propagations allowed: a forward pass of one image is one, its backward pass another.

    Attributes:
        forwards, backwards: passes so far.
        trace: (propagations, distance) of each image that was misclassified and nearer than all before it.
        nearest: these images [1, C, H, W], the nearest last.
    """

    def __init__(self, x: Tensor, y: Tensor, limit: int):
        self.x, self.y, self.limit, self.forwards, self.backwards = x, y, limit, 0, 0
        self.trace: list[tuple[int, float]] = []
        self.nearest: list[Tensor] = []

    @property
    def spent(self) -> int:
        """Propagations so far."""
        return self.forwards + self.backwards

    @contextmanager
    def watching(self, classifier: "Classifier") -> Iterator[None]:
        """Inside, every call of the model as deployed, of its float64 copy, and of copies of these is counted.

        The calls raise `BudgetSpent` where more propagations are not allowed. TorchScript, which takes no hooks, is
        called through another module from now on.
        """
        classifier.model = deployed = _hookable(classifier.model)
        classifier._float64 = [_hookable(module) for module in classifier._float64]

        def before(module: nn.Module, images: tuple[Any, ...], named: dict[str, Any]) -> None:
            self._charge(len(_first(images, named)))
            self.forwards += len(_first(images, named))

        def after(module: nn.Module, images: tuple[Any, ...], named: dict[str, Any], logits: Any) -> None:
            if not isinstance(logits, Tensor):
                return
            if logits.requires_grad:
                logits.register_hook(back)
            if module is deployed:
                self.see(_first(images, named), logits)

        def back(gradient: Tensor) -> None:
            self._charge(len(gradient))
            self.backwards += len(gradient)

        handles = []
        for module in (deployed, *classifier._float64):
            handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
            handles.append(module.register_forward_hook(after, with_kwargs=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _charge(self, count: int) -> None:
        if self.spent + count > self.limit:
            raise BudgetSpent(f"{self.spent} of {self.limit} propagations are spent, {count} more are asked for.")

    @torch.no_grad()
    def see(self, images: Tensor, logits: Tensor) -> None:
        """Keeps the nearest of these images that is misclassified, in the box and nearer than any before."""
        usable = Judge.misclassified(logits, self.y.expand(len(images)))
        usable &= ((images >= 0) & (images <= 1)).flatten(1).all(1)
        length, row = distance(self.x, images).where(usable, torch.inf).min(0)
        if float(length) < (self.trace[-1][1] if self.trace else torch.inf):
            self.trace.append((self.spent, float(length)))
            self.nearest.append(images[row : row + 1].detach().clone())


class Classifier(nn.Module):
    """A model as deployed, with a copy of its weights in float64: what an attack is given.

    The copy is made once, so a change of the model needs a new `Classifier`. A traced, exported or converted module
    may hold constants or casts of float32 that `.double()` does not reach: then it does not compute in float64.

    Args:
        model: images [N, C, H, W] in [0, 1] -> logits [N, K]; in evaluation mode. Of a `Classifier` the new one takes
            the model and the float64 copy: it counts anew, and nothing that is set on the one changes the other.

    Attributes:
        passes: how many images went through the model, in either precision.
        backward_passes: how many went back through it, once for each gradient.
        why_not: why there is no float64 copy that runs; "" as long as there is one.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.passes, self.backward_passes, self.training = 0, 0, False
        same = model if isinstance(model, Classifier) else None
        self.model: nn.Module = model if same is None else same.model
        self.why_not: str = "" if same is None else same.why_not
        # In a list: torch takes it for no part of this module.
        self._float64: list[nn.Module] = [] if same is None else [*same._float64]
        if same is not None:
            return
        try:
            self._float64.append(duplicate(model).double())
        except Exception as error:  # a module of the user's own raises anything
            if is_memory(error):
                raise
            self.why_not = f"no copy of it can be made in float64 ({first_line(error)})"

    @classmethod
    def of(cls, model: nn.Module) -> "Classifier":
        """The model itself where it is a `Classifier` already, else a new one."""
        return model if isinstance(model, cls) else cls(model)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, K] of copies of the images, which the model may overwrite."""
        self.passes += len(x)
        logits = with_gradient(self.model, x)
        if isinstance(logits, Tensor) and logits.requires_grad:
            logits.register_hook(self._count_backward)
        return logits

    def _count_backward(self, gradient: Tensor) -> None:
        self.backward_passes += len(gradient)

    @torch.no_grad()
    def exact(self, images: Tensor) -> Tensor | None:
        """Logits [N, K] in float64; None where the model does not compute in float64, then and ever after.

        The model as deployed must have classified the same images: what fails here is then a matter of the precision.

        Raises:
            torch.OutOfMemoryError, MemoryError: as it came.
        """
        return self._exact(images)

    def wide(self) -> "Wide":
        """The float64 copy as a module whose passes are counted here, for gradients in float64."""
        return Wide(self)

    def _exact(self, images: Tensor) -> Tensor | None:
        if not self._float64:
            return None
        self.passes += len(images)
        try:
            logits: Tensor = self._float64[0](images.clone().double())
            if logits.dtype != torch.float64:
                raise TypeError(f"its logits come out as {logits.dtype}")
        except Exception as error:
            if is_memory(error):
                raise
            self._float64.clear()
            self.why_not = f"its float64 copy does not run ({first_line(error)})"
            return None
        if logits.requires_grad:
            logits.register_hook(self._count_backward)
        return logits


class Wide(nn.Module):
    """The float64 copy of a `Classifier`; where there is none, the model as deployed on images of its own precision."""

    def __init__(self, classifier: Classifier):
        super().__init__()
        self._classifier = [classifier]  # in a list: torch takes it for no part of this module

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] float64 -> logits [N, K] float64."""
        (classifier,) = self._classifier
        logits = classifier._exact(x)
        if logits is None:
            logits = classifier(x.float()).double()
        return logits


class Judge:
    """Says whether images are adversarial: misclassified by the model as deployed *and* by the same weights in float64.

    The float64 copy removes images that only rounding misclassifies, so that certificates computed in float64 hold
    with no tolerance.
    A logit that is NaN labels nothing: such an image does not count as adversarial.
    Where no float64 copy can run, the model as deployed judges alone; `model.why_not` then says why.
    """

    # Where there is no float64, what counts as more than rounding, in units of the precision of the largest logit.
    ROUNDING = 64

    def __init__(self, model: nn.Module):
        self.model = Classifier.of(model)

    @torch.no_grad()
    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """[N, C, H, W], [N] -> bool [N]."""
        wrong = self.misclassified(self.model(images), labels)
        rows = wrong.nonzero()[:, 0]
        if len(rows):  # where the model as deployed is right, float64 has no say
            exact = self.model.exact(images[rows])
            if exact is not None:
                wrong[rows] = self.misclassified(exact, labels[rows])
        return wrong

    @torch.no_grad()
    def deployed(self, images: Tensor, labels: Tensor) -> Tensor:
        """Misclassified by the model as deployed, right or wrong in float64: bool [N]."""
        return self.misclassified(self.model(images), labels)

    @torch.no_grad()
    def surely(self, images: Tensor, labels: Tensor) -> Tensor:
        """Adversarial by more than rounding: the float64 margin is 8 times the difference of the two precisions or
        more.

        The float32 logits of an image change in their last digits with the batch that it is in; an image that is
        adversarial by less could lose that in the next batch.
        """
        logits = self.model(images)
        deployed, exact = margin(logits, labels).double(), self.model.exact(images)
        if exact is None:
            precision = torch.finfo(logits.dtype).eps * logits.double().abs().amax(1)
            return deployed < -self.ROUNDING * precision
        value = margin(exact, labels)
        return (torch.maximum(value, deployed) < 0) & (-value >= 8 * (value - deployed).abs())

    @staticmethod
    def misclassified(logits: Tensor, labels: Tensor) -> Tensor:
        """argmax differs from the label, and no logit is NaN."""
        return (logits.argmax(1) != labels) & ~logits.isnan().any(1)


class _Called(nn.Module):
    """Calls a module of TorchScript."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module, self.training = module, False

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.module(x)
        return logits


def _hookable(module: nn.Module) -> nn.Module:
    return _Called(module) if isinstance(module, torch.jit.ScriptModule) else module


def _first(images: tuple[Any, ...], named: dict[str, Any]) -> Tensor:
    """The images that a module is called with."""
    found: Tensor = next(value for value in (*images, *named.values()) if isinstance(value, Tensor))
    return found


def distance(x: Tensor, images: Tensor, norm: str = "l2") -> Tensor:
    """Distance per image in the norm "l2", "linf" or "l1", in float64, [N]."""
    return torch.linalg.vector_norm((images.double() - x.double()).flatten(1), ORDERS[norm], dim=1)
