"""The certificate of a smoothed network (`lipbench.models.smoothed`): statistical, where all others are proofs."""

import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from scipy.stats import beta
from torch import Tensor, nn

from lipbench.certificate.exactness import unknown, watch
from lipbench.certificate.lipschitz import OUTWARD
from lipbench.gate import first_line
from lipbench.models.smoothed import Smoothed
from lipbench.progress import SILENT, Progress

# Samples of noise of a batch that are computed once more, each alone.
ALONE = 16
# What scipy's quantiles of the beta distribution may err, and more.
SLACK = 1e-9

watch(Smoothed)


def lower_limit(count: Tensor, samples: int, alpha: float) -> Tensor:
    """Exact one-sided confidence bound of a probability (Clopper and Pearson, 1934): float64 [N] of counts [N].

    The largest p with P(Binomial(samples, p) >= count) <= alpha: with a probability of at least 1 - alpha it is not
    above the true one. Rounded down.
    """
    k = count.double().cpu().numpy()
    limit = torch.from_numpy(beta.ppf(alpha, k, samples - k + 1)) - SLACK
    return limit.nan_to_num(nan=0.0).clamp_min(0).masked_fill(count.cpu() == 0, 0.0)


def upper_limit(count: int, samples: int, alpha: float) -> float:
    """The other side: the smallest p with P(Binomial(samples, p) <= count) <= alpha, rounded up; 1 where count is
    `samples`.
    """
    return 1.0 if count >= samples else min(1.0, float(beta.ppf(1 - alpha, count + 1, samples - count)) + SLACK)


class SmoothingWarning(UserWarning):
    """A vote that cannot be certified, with the reason."""


@torch.no_grad()
def certify_smoothed(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    samples: int = 10_000,
    alpha: float = 0.001,
    queries: int = 10_000,
    progress: Callable[..., Progress] = SILENT,
) -> Tensor:
    """The method `certificate_smoothing`: certified L2 radius of each image under the vote of a `Smoothed` network,
    [N] float64; 0 where the vote is not y (it abstains, or is mistaken).

    sigma (Phi^-1(p) - Phi^-1(q)): Cohen et al., 2019, arXiv 1902.02918, theorem 1, at the level q instead of 1/2
    (Salman et al., 2019, arXiv 1906.04584, lemma 2). p bounds from below the probability that the base network says y
    under noise, from samples that are independent of the vote. q is the probability at which a vote misses y once in
    2 queries / alpha times: a vote is finite, so a margin above 1/2 must be left to it. With ever more votes q
    goes to 1/2.

    A user may ask for the vote of at most `queries` images within the radius, one after another. One of them is not
    labelled y with a probability of at most alpha, half of it for p and half for the votes. That is per image; see
    docs/baselines.md.

    The theorem is about a base network that is a function of one image. Where its logits depend on the other images of
    the batch, change from call to call, or cannot be computed of one image alone, the radius is 0 (`SmoothingWarning`
    says why). That is looked for on a few samples of noise; it cannot be proved.

    Args:
        model: exactly a `Smoothed`, in evaluation mode.
        samples: of noise, for p.
        alpha: probability that the radius of an image is too large.
        queries: see above; all attacks together.
        progress: called with the number of images, gives what is told of them (`lipbench.progress`).

    Raises:
        ValueError: another kind of model, or an alpha that is no probability.
    """
    if type(model) is not Smoothed:
        raise ValueError(
            f"certificate_smoothing certifies a vote, and this model is a {type(model).__name__}: build it with "
            "model._target_=lipbench.models.smoothed, or use certificate=[certificate]."
        )
    if not (0 < alpha < 1 and samples >= 1 and queries >= 1):
        raise ValueError(
            f"alpha is in (0, 1), samples and queries are 1 or more; got alpha={alpha}, samples={samples} and "
            f"queries={queries}."
        )
    why = _why_not(model, x)
    if why:
        warnings.warn(f"certificate_smoothing is 0: {why}", SmoothingWarning, stacklevel=2)
        return torch.zeros(len(x), dtype=torch.float64, device=x.device)
    with progress(len(x)) as bar:
        parts = []
        for images in x.split(model.images_at_once(x.shape[1:])):  # as `counts` splits them
            parts.append(model.counts(images, model.votes, samples))
            bar.update(len(images))
    counts = F.pad(torch.cat(parts), (0, 1))  # abstention, which no sample says
    p = lower_limit(counts.gather(1, y[:, None])[:, 0], samples, alpha / 2)
    q = upper_limit(model.needed - 1, model.votes, alpha / (2 * queries))
    radius = float(model.sigma) * (torch.special.ndtri(p) - torch.special.ndtri(p.new_tensor(q)))
    return (radius.clamp_min(0) / OUTWARD).to(x.device).masked_fill(model(x).argmax(1) != y, 0.0)


def _why_not(model: Smoothed, x: Tensor) -> str:
    """Why a vote cannot be certified, or ""."""
    refusal = unknown(model)
    if refusal:
        return refusal.reason
    if any(part.training for part in model.base.modules()):
        return "a part of its base network is in training mode: call model.eval()"
    for images in x.split(model.images_at_once(x.shape[1:])):
        noisy = model.noisy(images)
        together = model.base(noisy)
        chosen = torch.linspace(0, len(noisy) - 1, min(ALONE, len(noisy))).long()
        try:
            alone = torch.cat([model.base(noisy[i : i + 1]) for i in chosen.tolist()])
        except (RuntimeError, ValueError) as error:
            return f"its base network cannot be computed of one image alone ({first_line(error)})"
        if not _agree(together[chosen], alone):
            return (
                "the logits of its base network depend on the other images of the batch, or change from call to call: "
                "use a network that is a function of one image (no statistics of the batch, no noise of its own)"
            )
    return ""


def _agree(first: Tensor, second: Tensor) -> bool:
    """Whether logits [M, K] of the same images are the same up to rounding, and finite for the same images."""
    finite = first.isfinite().all(1)
    if not torch.equal(finite, second.isfinite().all(1)):
        return False
    a, b = first[finite].double(), second[finite].double()
    # Half of the digits, as in lipbench.evaluation.health: other batches are other sums, which round otherwise.
    allowed = torch.finfo(first.dtype).eps ** 0.5 * a.abs().amax(1, keepdim=True)
    return bool(((a - b).abs() <= allowed).all())
