"""Who is adversarial, asked by the caller of an attack, never by the attack; and a model left as it was found."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lipbench.attacks.engine.exact import float64_of
from lipbench.gate import is_memory, with_gradient
from lipbench.state import evaluation_mode, same_random_numbers


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, frozen parameters and gradients on, inside the block; every mode, flag and gradient of the model
    as before, after it, and the generators of random numbers as well.
    """
    # A frozen TorchScript module has no mode: `eval` would give it one.
    modes = [(module, module.training) for module in model.modules() if hasattr(module, "training")]
    modeless = [module for module in model.modules() if not hasattr(module, "training")]
    parameters = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    try:
        evaluation_mode(model)
        for p, _, _ in parameters:
            p.requires_grad_(False)
            p.grad = None  # so that nobody clears it in place
        # Inference mode, where the caller is in it, would make every gradient zero.
        with same_random_numbers(), torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
        for module in modeless:
            vars(module).pop("training", None)
        for p, flag, gradient in parameters:
            p.requires_grad_(flag)
            p.grad = gradient


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """z_y - max_{k != y} z_k, [N, K] -> [N]: positive where the label wins.

    Raises:
        ValueError: fewer than two logits.
    """
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ValueError(
            f"A classifier gives logits [N, K] with K >= 2; this one gives {list(logits.shape)}. "
            "For one logit f, wrap the model: lipbench.antipodal(model)."
        )
    true = logits.gather(1, labels[:, None])[:, 0]
    return true - logits.scatter(1, labels[:, None], -torch.inf).amax(1)


def margin_and_gradient(
    model: nn.Module, x: Tensor, y: Tensor, softness: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The margin [N] and its gradient in the image [N, C, H, W].

    Args:
        softness: T [N], in the unit of the logits: the gradient is that of z_y - T log sum_{k != y} exp(z_k / T), in
            which every class counts that is close to the best of the others. With two classes that is the margin.
            None: that of the margin itself.
    """
    x = x.detach().requires_grad_()
    logits = with_gradient(model, x)
    value = margin(logits, y)
    descent = value if softness is None else _soft(logits, y, softness)
    return value.detach(), gradient_of(descent.sum(), x)


def _soft(logits: Tensor, y: Tensor, softness: Tensor) -> Tensor:
    """Something with the gradient of the soft margin: the shares of the classes, held fixed, weigh the logits."""
    others = logits.detach().scatter(1, y[:, None], -torch.inf)
    behind = others - others.amax(1, keepdim=True)
    smallest = torch.finfo(logits.dtype).tiny
    shares = (behind / softness.clamp_min(smallest)[:, None]).softmax(1)
    # Times zero, an infinite logit would be NaN.
    others = torch.where(shares > 0, logits * shares, 0)
    return logits.gather(1, y[:, None])[:, 0] - others.sum(1)


def gradient_of(value: Tensor, x: Tensor) -> Tensor:
    """The gradient of a sum; zero where the model passes none: decisions, images that it detaches, a backward pass that
    fails (the health flag `no_gradients` says why).
    """
    try:
        return _gradient(value, x)
    except Exception as error:  # a backward pass of the user's own raises anything
        if is_memory(error):
            raise
        return torch.zeros_like(x)


def gradients_of(values: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Several values per image, [N, M], and the gradient of each in the image, [N, M, C, H, W].

    Args:
        values: images [N, C, H, W] that require gradients -> [N, M].
        x: images.
    """
    x = x.detach().requires_grad_()
    found = values(x)
    columns = range(found.shape[1])
    try:
        gradients = [_gradient(found[:, k].sum(), x, keep=k < columns[-1]) for k in columns]
    except Exception as error:
        if is_memory(error):
            raise
        # Compiled code gives one backward pass per forward pass.
        gradients = [gradient_of(values(x)[:, k].sum(), x) for k in columns]
    return found.detach(), torch.stack(gradients, 1)


def _gradient(value: Tensor, x: Tensor, keep: bool = False) -> Tensor:
    if not value.requires_grad:
        return torch.zeros_like(x)
    (gradient,) = torch.autograd.grad(value, x, retain_graph=keep, allow_unused=True)
    return torch.zeros_like(x) if gradient is None else gradient


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
