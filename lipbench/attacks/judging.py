"""Who is adversarial, asked by the caller of an attack, never by the attack; and a model left as it was found."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, frozen parameters and gradients on, inside the block; every mode and flag of every module as
    before, after it.
    """
    modes = [(module, module.training) for module in model.modules()]
    flags = [(p, p.requires_grad) for p in model.parameters()]
    try:
        model.eval()
        for p, _ in flags:
            p.requires_grad_(False)
        with torch.enable_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
        for p, flag in flags:
            p.requires_grad_(flag)


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


def margin_and_gradient(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The margin [N] and its gradient in the image [N, C, H, W]."""
    x = x.detach().requires_grad_()
    value = margin(model(x.clone()), y)  # a first layer with inplace=True may not overwrite a leaf
    return value.detach(), gradient_of(value.sum(), x)


def gradient_of(value: Tensor, x: Tensor, *, keep: bool = False) -> Tensor:
    """The gradient of a sum; zero where the model passes none (decisions, or images that it detaches)."""
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
    """

    def __init__(self, model: nn.Module):
        self.model = model
        self.exact = copy.deepcopy(model).double()

    @torch.no_grad()
    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """[N, C, H, W], [N] -> bool [N]."""
        deployed, exact = self.model(images.clone()), self.exact(images.clone().double())
        return self.misclassified(deployed, labels) & self.misclassified(exact, labels)

    @torch.no_grad()
    def surely(self, images: Tensor, labels: Tensor) -> Tensor:
        """Adversarial by more than rounding: the float64 margin is 8 times the difference of the two precisions or
        more.

        The float32 logits of an image change in their last digits with the batch that it is in; an image that is
        adversarial by less could lose that in the next batch.
        """
        exact = margin(self.exact(images.clone().double()), labels)
        deployed = margin(self.model(images.clone()), labels).double()
        return (torch.maximum(exact, deployed) < 0) & (-exact >= 8 * (exact - deployed).abs())

    @staticmethod
    def misclassified(logits: Tensor, labels: Tensor) -> Tensor:
        """argmax differs from the label, and no logit is NaN."""
        return (logits.argmax(1) != labels) & ~logits.isnan().any(1)


def distance(x: Tensor, images: Tensor) -> Tensor:
    """L2 distance per image, in float64, [N]."""
    return (images.double() - x.double()).flatten(1).norm(dim=1)
