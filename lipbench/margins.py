"""Who is adversarial, asked by the caller of an attack, never by the attack; and a model left as it was found."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from lipbench.gate import is_memory, logits_of, with_gradient
from lipbench.images import MOST, check_labels, images_at_once


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


@torch.no_grad()
def predict(
    model: nn.Module, x: Tensor, first: int = 0, batch_size: int | None = None, labels: Tensor | None = None
) -> Tensor:
    """Labels given by the model as deployed, [N].

    Args:
        first: number of the first image, for messages.
        batch_size: images computed at once, at most; None: so many that memory stays bounded.
        labels: [N], which have to be those of the logits.

    Raises:
        ValueError: the model refuses the images; the logits are not [N, K >= 2], or not finite: with the images; labels
            beyond K.
    """
    predictions, most = [], images_at_once(x.shape[1:], most=batch_size or MOST)
    for start, xs in zip(range(0, len(x), most), x.split(most), strict=True):
        logits = logits_of(model, xs)
        margin(logits, torch.zeros(len(xs), dtype=torch.long, device=xs.device))
        if labels is not None:
            check_labels(labels, logits.shape[1])
        bad = (~logits.isfinite()).any(1).nonzero()[:, 0]
        if len(bad):
            raise ValueError(
                f"The model gives NaN or infinite logits on {len(bad)} images, the first is "
                f"image {first + start + int(bad[0])}: there is no distance to judge."
            )
        predictions.append(logits.argmax(1))
    return torch.cat(predictions)
