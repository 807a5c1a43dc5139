"""Losses: stateless functions (logits [N, K], integer labels [N]) -> scalar.

With K = 2 the network is one function f = z_1 - z_0 (see `lipbench.antipodal`) and the optimal-transport losses are
the binary ones; with K > 2 they are their one-vs-all forms. Expectations of one class are means over that class, so
that imbalance does not weigh on the Kantorovich-Rubinstein term; a class that is absent from a batch leaves its part
of that term out.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def cross_entropy(logits: Tensor, labels: Tensor, *, temperature: float = 1.0) -> Tensor:
    """CE(t z) / t: t -> 0 gives a Wasserstein discriminator, t -> inf gives accuracy (Béthune et al., 2022, arXiv
    2104.05097).
    """
    return F.cross_entropy(temperature * logits, labels) / temperature


def binary_cross_entropy(logits: Tensor, labels: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Logistic loss of f = z_1 - z_0, log(1 + exp(-t y f)) / t with y in {-1, +1}.

    Raises:
        ValueError: the network has not two logits.
    """
    f = binary_function(logits)
    return F.binary_cross_entropy_with_logits(temperature * f, labels.to(f.dtype)) / temperature


def margin_cross_entropy(logits: Tensor, labels: Tensor, *, offset: float = 1.0, temperature: float = 1.0) -> Tensor:
    """CE((z - offset e_y) / T): the true logit must win by `offset` before the loss counts it as won (Prach and
    Lampert, 2022, eq. 11).

    Args:
        offset: in units of the logits; sqrt 2 r asks for a certified radius r of a network with orthonormal rows.
        temperature: divides the logits (small: close to a hinge).
    """
    offsets = offset * F.one_hot(labels, logits.shape[1]).to(logits.dtype)
    return F.cross_entropy((logits - offsets) / temperature, labels) * temperature


def kr(logits: Tensor, labels: Tensor) -> Tensor:
    """Minus the Kantorovich-Rubinstein estimate: E[f | y=-1] - E[f | y=+1]; one-vs-all: sum_k E_{not k} f_k - E_k f_k.

    Minus this loss, divided by the Lipschitz constant of f, is at most the Wasserstein-1 distance of the two classes.
    A batch without one
    of the classes has no estimate: its part is 0 (with a gradient of 0).
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


def hinge(logits: Tensor, labels: Tensor, *, margin: float = 1.0, balanced: bool = False) -> Tensor:
    """E max(0, margin - y f), y in {-1, +1}; one-vs-all: sum_k E max(0, margin - s_k f_k), s_k = +1 for the true
    class, else -1.

    Args:
        margin: in units of f, which are pixels' L2 distance for a 1-Lipschitz f. (deel-torchlip's `min_margin` is
            twice that.)
        balanced: average over the classes of each class's mean instead of over the images, for imbalanced data.
    """
    if logits.shape[1] == 2:
        per_image = F.relu(margin - (2 * labels - 1) * binary_function(logits))
    else:
        signs = 2 * F.one_hot(labels, logits.shape[1]) - 1
        per_image = F.relu(margin - signs * logits).sum(1)
    if not balanced:
        return per_image.mean()
    counts = torch.bincount(labels, minlength=logits.shape[1])
    weights = 1 / counts.clamp_min(1).to(per_image.dtype)
    return (per_image * weights[labels]).sum() / (counts > 0).sum()


def hkr(logits: Tensor, labels: Tensor, *, margin: float = 1.0, alpha: float = 0.98, balanced: bool = False) -> Tensor:
    """Hinge-regularised Kantorovich-Rubinstein: alpha hinge + (1 - alpha) kr (Serrurier et al., CVPR 2021, eq. 10;
    one-vs-all: eq. 14).

    Args:
        margin: of the hinge, max(0, margin - y f). (deel-torchlip's `min_margin` is twice that.)
        alpha: in [0, 1]: the paper's lambda is alpha / (1 - alpha). 0 is pure KR, 1 pure hinge.
        balanced: see `hinge`.
    """
    return alpha * hinge(logits, labels, margin=margin, balanced=balanced) + (1 - alpha) * kr(logits, labels)


def binary_function(logits: Tensor) -> Tensor:
    """f = z_1 - z_0 of a two-class network, [N, 2] -> [N].

    Raises:
        ValueError: the network has another number of logits than two.
    """
    if logits.shape[1] != 2:
        raise ValueError(f"A binary loss needs two logits, [N, 2]; this network gives {list(logits.shape)}.")
    return logits[:, 1] - logits[:, 0]
