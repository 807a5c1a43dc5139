"""Randomised smoothing (Cohen et al., 2019, arXiv 1902.02918): a classifier that is a vote of a base network."""

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from scipy.stats import binom
from torch import Tensor, nn

from lipbench.images import images_at_once
from lipbench.layers import ConstraintFactory
from lipbench.randomness import keys, normal, split

# Samples of noise that an image is computed with at once.
AT_ONCE = 50


class Smoothed(nn.Module):
    """The vote of a base network over `votes` copies of the image, each with its own Gaussian noise.

    The label is the class with at least `needed` of the votes, so many that a class which the base network gives at
    most half of all noise gets them with a probability of at most `alpha`. Where no class has them it abstains:
    abstention is label K, the last logit, which is the label of no image and so a mistake. The logits are
    log-odds: of the share of each class, and of the share that one must exceed.

    The noise of an image is keyed by (`noise_seed`, its pixels): the vote is a function of the image alone, and
    that of one image says nothing of that of the next.

    Where a gradient with respect to the image is asked for, a soft vote stands in: the log-odds of the base network's
    mean probabilities over the first `soft_votes` samples. Attacks search with it; who judges them counts votes. In
    training mode it is the base network on the image with one sample of noise, drawn from torch's generator of the
    CPU, as augmentation is.

    Args:
        base: images -> logits [N, K]; it sees pixels outside [0, 1].
        sigma: standard deviation of the noise, pixels in [0, 1].
        alpha: see above; of a vote, not of a certificate.

    Shapes:
        [N, C, H, W] -> [N, K + 1] in evaluation mode, [N, K] in training mode.

    Raises:
        ValueError: sigma or alpha out of range, or so few votes that it would always abstain.
    """

    def __init__(
        self,
        base: nn.Module,
        *,
        sigma: float,
        votes: int = 1000,
        alpha: float = 0.001,
        soft_votes: int = 50,
        noise_seed: int = 0,
    ):
        super().__init__()
        if not (0 < sigma < float("inf") and 0 < alpha <= 0.5 and votes >= 1 and soft_votes >= 1):
            raise ValueError(
                "A smoothed network needs sigma > 0, alpha in (0, 0.5] and at least one vote; got "
                f"sigma={sigma}, alpha={alpha}, votes={votes} and soft_votes={soft_votes}."
            )
        self.base = base
        self.sigma, self.alpha = float(sigma), float(alpha)
        self.votes, self.soft_votes, self.noise_seed = votes, soft_votes, noise_seed
        if self.needed > votes:
            raise ValueError(
                f"{votes} votes, even where all agree, are no majority with an error of alpha={alpha:g}: it would "
                "always abstain. Use more votes or a larger alpha."
            )

    @property
    def needed(self) -> int:
        """The votes that a class needs: the smallest t with P(Binomial(votes, 1/2) >= t) <= alpha, more than half."""
        return max(self.votes // 2, int(binom.isf(self.alpha, self.votes, 0.5))) + 1

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            logits: Tensor = self.base(x + self.sigma * torch.randn(x.shape).to(x))
            return logits
        if torch.is_grad_enabled() and x.requires_grad:
            odds = self._soft(x)
        else:
            # Half a vote for and one against everyone keep the odds of 0 and of all votes finite.
            odds = ((self.counts(x, 0, self.votes) + 0.5) / (self.votes + 1)).double().logit()
        abstention = odds.new_full((len(x), 1), self.needed / (self.votes + 1)).logit()
        return torch.cat((odds, abstention), dim=1).to(x.dtype)

    @staticmethod
    def images_at_once(shape: Sequence[int]) -> int:
        """How many images of a shape (C, H, W) get their noise together."""
        return max(1, images_at_once(shape) // AT_ONCE)

    @torch.no_grad()
    def counts(self, x: Tensor, first: int, samples: int) -> Tensor:
        """How often the base network says each class under so many samples of noise, int64 [N, K].

        A sample whose logits are not finite belongs to no class.

        Args:
            first: number of the first sample; those of the vote itself are 0 to votes - 1.
        """
        parts = []
        for images in x.split(self.images_at_once(x.shape[1:])):
            total: Tensor | int = 0
            for noisy in self._noisy(images, first, samples):
                logits = self.base(noisy.flatten(0, 1))
                says = F.one_hot(logits.argmax(1), logits.shape[1]) * logits.isfinite().all(1, keepdim=True)
                total = total + says.unflatten(0, noisy.shape[:2]).sum(1)
            assert isinstance(total, Tensor)  # at least one sample
            parts.append(total)
        return torch.cat(parts)

    def noisy(self, x: Tensor) -> Tensor:
        """The first batch that the votes of images [N, C, H, W] are counted on, [M, C, H, W]."""
        return next(self._noisy(x, 0, self.votes)).flatten(0, 1)

    def _soft(self, x: Tensor) -> Tensor:
        """Log-odds of mean probabilities, float64 [N, K]: their gradient does not vanish where all samples agree."""
        parts = [
            self.base(noisy.flatten(0, 1)).double().log_softmax(1).unflatten(0, noisy.shape[:2])
            for noisy in self._noisy(x, 0, self.soft_votes)
        ]
        mine = torch.cat(parts, dim=1).logsumexp(1)
        others = [mine[:, [k for k in range(mine.shape[1]) if k != c]].logsumexp(1) for c in range(mine.shape[1])]
        return mine - torch.stack(others, dim=1)

    def _noisy(self, x: Tensor, first: int, samples: int) -> Iterator[Tensor]:
        """Each image with its samples of noise, [N, at most AT_ONCE, C, H, W] at once."""
        key = keys(x.detach() + 0.0, self.noise_seed)  # -0 and 0 are one pixel
        for start in range(first, first + samples, AT_ONCE):
            own = split(key, start, min(AT_ONCE, first + samples - start))
            noise = normal(own.flatten(), tuple(x.shape[1:])).unflatten(0, own.shape)
            yield x[:, None] + self.sigma * noise.to(x)

    def extra_repr(self) -> str:
        return f"sigma={self.sigma:g}, votes={self.votes}, alpha={self.alpha:g}"


def smoothed(
    shape: tuple[int, int, int],
    classes: int,
    *,
    base: Callable[..., nn.Module],
    constraint: ConstraintFactory = nn.Identity,
    sigma: float,
    votes: int = 1000,
    alpha: float = 0.001,
    soft_votes: int = 50,
    noise_seed: int = 0,
) -> Smoothed:
    """A smoothed network, see `Smoothed`.

    Args:
        shape: of one image, (C, H, W).
        classes: number of classes K.
        base: builder of the base network, called with shape, classes and constraint.
    """
    network = base(shape, classes, constraint=constraint)
    return Smoothed(network, sigma=sigma, votes=votes, alpha=alpha, soft_votes=soft_votes, noise_seed=noise_seed)
