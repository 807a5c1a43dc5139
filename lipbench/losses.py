"""Losses: stateless functions (logits [N, K], integer labels [N]) -> scalar.

With K = 2 the network is one function f = z_1 - z_0 (see `lipbench.antipodal`) and the optimal-transport losses are
the binary ones; with K > 2 they are their one-vs-all forms. Expectations of one class are means over that class, so
that imbalance does not weigh on the Kantorovich-Rubinstein term; a class that is absent from a batch leaves its part
of that term out.

Every other loss is a mean over the images, or, with `balanced=True`, the mean over the classes of the batch of each
class's mean: class weights taken from the batch itself, for imbalanced data. (The other way is `balanced=True` of
`lipbench.fit`, which makes the batches themselves balanced; both together do no harm.)

A margin is one number, or a sequence of one per class: images of class k must then win by `margin[k]`.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Margin = float | Sequence[float]
# Below it a batch's mean |z| counts as this: logits that are all 0 rank nothing.
SMALLEST_SCALE = 1e-6


def cross_entropy(logits: Tensor, labels: Tensor, *, temperature: float = 1.0, balanced: bool = False) -> Tensor:
    """CE(t z) / t: t -> 0 gives a Wasserstein discriminator, t -> inf gives accuracy (Béthune et al., 2022, arXiv
    2104.05097).
    """
    check_options(temperature=temperature)
    return _mean(F.cross_entropy(temperature * logits, labels, reduction="none"), labels, balanced) / temperature


def binary_cross_entropy(logits: Tensor, labels: Tensor, *, temperature: float = 1.0, balanced: bool = False) -> Tensor:
    """Logistic loss of f = z_1 - z_0, log(1 + exp(-t y f)) / t with y in {-1, +1}.

    Raises:
        ValueError: the network has not two logits.
    """
    check_options(temperature=temperature)
    f = binary_function(logits)
    per_image = F.binary_cross_entropy_with_logits(temperature * f, labels.to(f.dtype), reduction="none")
    return _mean(per_image, labels, balanced) / temperature


def margin_cross_entropy(
    logits: Tensor, labels: Tensor, *, offset: Margin = 1.0, temperature: float = 1.0, balanced: bool = False
) -> Tensor:
    """CE((z - offset e_y) / T): the true logit must win by `offset` before the loss counts it as won (Prach and
    Lampert, 2022, eq. 11).

    Args:
        offset: in units of the logits; sqrt 2 r asks for a certified radius r of a network with orthonormal rows. One
            number, or one per class.
        temperature: divides the logits (small: close to a hinge).

    Raises:
        ValueError: a sequence of offsets that is not one per class.
    """
    check_options(temperature=temperature)
    offsets = _margins(offset, logits, labels)[:, None] * F.one_hot(labels, logits.shape[1]).to(logits.dtype)
    per_image = F.cross_entropy((logits - offsets) / temperature, labels, reduction="none")
    return _mean(per_image, labels, balanced) * temperature


def kr(logits: Tensor, labels: Tensor) -> Tensor:
    """Minus the Kantorovich-Rubinstein estimate: E[f | y=-1] - E[f | y=+1]; one-vs-all: sum_k E_{not k} f_k - E_k f_k.

    Minus this loss, divided by the Lipschitz constant of f, is at most the Wasserstein-1 distance of the two classes.
    A batch without one of the classes has no estimate: its part is 0 (with a gradient of 0).
    """
    if logits.shape[1] == 2:
        logits, members = binary_function(logits)[:, None], (labels == 1)[:, None]
    else:
        members = F.one_hot(labels, logits.shape[1]).bool()
    inside = members.to(logits.dtype)
    outside = 1 - inside
    present = (members.any(0) & (~members).any(0)).to(logits.dtype)
    mean_inside = (logits * inside).sum(0) / inside.sum(0).clamp_min(1)
    mean_outside = (logits * outside).sum(0) / outside.sum(0).clamp_min(1)
    return (present * (mean_outside - mean_inside)).sum()


def hinge(logits: Tensor, labels: Tensor, *, margin: Margin = 1.0, balanced: bool = False) -> Tensor:
    """E max(0, margin - y f), y in {-1, +1}; one-vs-all: sum_k E max(0, margin - s_k f_k), s_k = +1 for the true
    class, else -1.

    Args:
        margin: in units of f, which are pixels' L2 distance for a 1-Lipschitz f; one number, or one per class, which
            its images must keep. (deel-torchlip's `min_margin` is twice that.)

    Raises:
        ValueError: a sequence of margins that is not one per class.
    """
    margins = _margins(margin, logits, labels)
    if logits.shape[1] == 2:
        per_image = F.relu(margins - (2 * labels - 1) * binary_function(logits))
    else:
        per_image = F.relu(margins[:, None] - _signed(logits, labels)).sum(1)
    return _mean(per_image, labels, balanced)


def hkr(logits: Tensor, labels: Tensor, *, margin: Margin = 1.0, alpha: float = 0.98, balanced: bool = False) -> Tensor:
    """Hinge-regularised Kantorovich-Rubinstein: alpha hinge + (1 - alpha) kr (Serrurier et al., CVPR 2021, eq. 10;
    one-vs-all: eq. 14).

    Args:
        margin: of the hinge, see `hinge`. (deel-torchlip's `min_margin` is twice that.)
        alpha: in [0, 1]: the paper's lambda is alpha / (1 - alpha). 0 is pure KR, 1 pure hinge.
    """
    check_options(alpha=alpha)
    return alpha * hinge(logits, labels, margin=margin, balanced=balanced) + (1 - alpha) * kr(logits, labels)


def soft_hkr(
    logits: Tensor,
    labels: Tensor,
    *,
    margin: Margin = 1.0,
    alpha: float = 0.98,
    temperature: float = 1.0,
    balanced: bool = False,
) -> Tensor:
    """Multiclass HKR whose wrong classes are weighted by a softmax, so that the strongest rival counts most (Serrurier
    et al., 2023, arXiv 2206.06854): E sum_k F_k (alpha max(0, margin - s_k f_k) - (1 - alpha) s_k f_k), with F = 1 for
    the true class, F_k = softmax_{k != y}(T f_k) else, and T = 2 temperature margin / mean|f|.

    F carries no gradient. The paper smooths mean|f| over past batches; here it is that of the batch, which over N x K
    logits hardly varies and leaves the loss without a state to store, resume and share between processes. The KR part
    is a mean over images, not of class-conditional means: use `balanced` for imbalanced data. With two classes there is
    one rival, and this is `hkr`.

    Args:
        margin, alpha: as in `hkr`.
        temperature: 0 weighs the K - 1 rivals alike, inf counts the strongest alone.
    """
    if logits.shape[1] == 2:
        return hkr(logits, labels, margin=margin, alpha=alpha, balanced=balanced)
    check_options(alpha=alpha)
    if not temperature >= 0:
        raise ValueError(f"The temperature of soft_hkr is 0 or more; got {temperature}.")
    margins = _margins(margin, logits, labels)[:, None]
    with torch.no_grad():
        true = F.one_hot(labels, logits.shape[1]).bool()
        sharpness = 2 * temperature * margins / logits.abs().mean().clamp_min(SMALLEST_SCALE)
        weights = (sharpness * logits).masked_fill(true, -torch.inf).softmax(1).masked_fill(true, 1.0)
    signed = _signed(logits, labels)
    per_image = (weights * (alpha * F.relu(margins - signed) - (1 - alpha) * signed)).sum(1)
    return _mean(per_image, labels, balanced)


def binary_function(logits: Tensor) -> Tensor:
    """f = z_1 - z_0 of a two-class network, [N, 2] -> [N].

    Raises:
        ValueError: the network has another number of logits than two.
    """
    if logits.shape[1] != 2:
        raise ValueError(f"A binary loss needs two logits, [N, 2]; this network gives {list(logits.shape)}.")
    return logits[:, 1] - logits[:, 0]


def _signed(logits: Tensor, labels: Tensor) -> Tensor:
    """s_k f_k, [N, K]: s_k = +1 for the true class, else -1."""
    return (2 * F.one_hot(labels, logits.shape[1]) - 1) * logits


def _mean(per_image: Tensor, labels: Tensor, balanced: bool) -> Tensor:
    """The mean over the images, or that of the means of the classes that are there; [N] -> scalar."""
    if not balanced:
        return per_image.mean()
    counts = torch.bincount(labels)
    return (per_image / counts[labels].to(per_image.dtype)).sum() / (counts > 0).sum()


def check_options(temperature: float = 1.0, alpha: float = 0.5) -> None:
    """
    Raises:
        ValueError: with these the loss would ask for mistakes.
    """
    if not temperature > 0:
        raise ValueError(f"The temperature of a loss is larger than 0; got {temperature}.")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is the weight of the hinge, from 0 to 1; got {alpha}.")


def _margins(margin: Margin, logits: Tensor, labels: Tensor) -> Tensor:
    """The margin of each image, [N].

    Raises:
        ValueError: a negative margin; a sequence of margins that is not one per class.
    """
    if min(margin if isinstance(margin, Sequence) else [margin], default=0) < 0:
        raise ValueError(f"A margin (or offset) is 0 or more: images must win by it; got {margin}.")
    if not isinstance(margin, Sequence):
        return logits.new_full((len(labels),), float(margin))
    if len(margin) != logits.shape[1]:
        raise ValueError(
            f"Give one margin (or offset) for all {logits.shape[1]} classes, or one for each; got {len(margin)}: "
            f"{list(margin)}."
        )
    return logits.new_tensor([float(m) for m in margin])[labels]
