"""What the adapters share: logits that every library can read, and a run that nothing of the caller's notices."""

import contextlib
import io
import random
import warnings
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from lipbench.attacks.peers.search import Search
from lipbench.margins import margin

# The margin at which every image starts. Large enough for a cross-entropy to look at the nearest other class alone,
# small enough for its gradient not to vanish in float32.
MARGIN = 10.0

# (classifier, x, y, value of the searched option or None) -> images
Run = Callable[[nn.Module, Tensor, Tensor, float | None], Tensor]


class MissingExtra(ImportError):
    """A library of an extra cannot be imported; the message says what to install."""

    def __init__(self, library: str, extra: str, error: Exception, more: str = ""):
        super().__init__(
            f"This attack is one of {library}, which cannot be imported ({error}). "
            f"Install it: pip install lipbench[{extra}]{more}"
        )


class Readable(nn.Module):
    """The same classifier with logits that every library can read, in float32 for a model of any precision.

    Cross-entropies lose their gradient on large logits, Carlini and Wagner's c and ALMA's penalties have a scale of
    their own, torchattacks takes 0 for the smallest logit. So each image has its own positive factor, and the smallest
    of its logits becomes 0: no decision changes, and any scale and shift of the logits gives the same attack.

    Args:
        factors: [N], of the images of a batch in their order, in the model's precision; another batch gets their
            median.
        least: logits; those that are missing are constants far below the others.
    """

    def __init__(self, model: nn.Module, factors: Tensor, least: int = 2):
        super().__init__()
        self.model, self.factors, self.least = model, factors, least
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, max(K, least)]."""
        x = x.to(self.factors.dtype, copy=True)  # a first layer with inplace=True may not overwrite a leaf
        if x.requires_grad:
            x.register_hook(Tensor.contiguous)  # adv-lib writes into the gradient, which may be one number, expanded
        logits = self.model(x)
        factors = self.factors[:, None] if len(x) == len(self.factors) else self.factors.median()
        logits = (factors * (logits - logits.amin(1, keepdim=True))).float()
        missing = self.least - logits.shape[1]
        if missing <= 0:
            return logits
        return torch.cat((logits, logits.new_full((len(logits), missing), -MARGIN)), 1)


def run_peer(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    run: Run,
    *,
    search: Search | None = None,
    inside: float = 0.0,
    least: int = 2,
    seed: int = 0,
) -> Tensor:
    """Images [N, C, H, W] in [0, 1] of an attack of another library, x itself where it gave NaN; the core of a
    `minimum_distance` attack.

    Its random numbers come from `seed` alone, and those of torch, numpy and Python go on as if it had not run.

    Args:
        x, y: images [N, C, H, W] in [0, 1] and the labels [N] that they have.
        run: the attack; it gets a `Readable` classifier.
        search: where the attack has a size, how the smallest is found for each image.
        inside: the attack starts from x.clamp(inside, 1 - inside). Carlini and Wagner's change of variables has no
            slope at pixels of exactly 0 and 1, and its implementations never move them.
        least: logits that the attack needs.
        seed: of its random numbers.
    """
    with torch.no_grad():
        value = margin(model(x.clone()), y)
    factors = MARGIN / value.where(value > 0, 1.0)

    def sized(xs: Tensor, ys: Tensor, rows: Tensor, size: float | None) -> Tensor:
        classifier = Readable(model, factors[rows], least)
        images = run(classifier, xs.float().clamp(inside, 1 - inside), ys, size).detach().to(xs)
        return torch.where(images.isfinite().flatten(1).all(1).view(-1, 1, 1, 1), images, xs).clamp(0, 1)

    with _unnoticed(seed, x.device):
        if search is None:
            return sized(x, y, torch.arange(len(x), device=x.device), None)
        return search.nearest_success(model, x, y, sized)


@contextlib.contextmanager
def _unnoticed(seed: int, device: torch.device) -> Iterator[None]:
    """Random numbers of its own, no words on the terminal, no warnings."""
    kept = np.random.get_state(), random.getstate()  # noqa: NPY002
    quiet = contextlib.redirect_stdout(io.StringIO())
    with torch.random.fork_rng([device] if device.type == "cuda" else []), quiet, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(kept[0])  # noqa: NPY002
            random.setstate(kept[1])
