"""Attacks of adversarial-library (Rony et al.); the extra `adv-lib`."""

from collections.abc import Callable

from torch import Tensor, nn

from lipbench.attacks.engine import minimum_distance
from lipbench.attacks.peers.adapter import MissingExtra, run_peer
from lipbench.attacks.peers.search import Search

try:
    import adv_lib.attacks  # noqa: F401  what `attack` comes from
except (ImportError, RuntimeError) as error:  # torchvision, which it imports, raises the second next to another torch
    raise MissingExtra(
        "adv-lib",
        "adv-lib",
        error,
        " (it builds with setuptools < 80 only, and imports torchvision and visdom: see docs/other_libraries.md)",
    ) from error


@minimum_distance
def adv_lib_attack(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    attack: Callable[..., Tensor],
    search: Search | None = None,
    inside: float = 0.0,
    logits: int = 2,
    seed: int = 0,
) -> Tensor:
    """Any untargeted attack of adv-lib, with logits that it can read (`Readable`), brought to the boundary.

    Args:
        x: images [N, C, H, W] in [0, 1].
        attack: (model, images, labels, options) -> images, such as `functools.partial(adv_lib.attacks.ddn, steps=200)`.
        search: of the radius, for attacks that need one.
        inside: distance of the start's pixels from 0 and 1, for Carlini-Wagner (1e-4).
        logits: that the attack needs: ALMA's ratio of logits needs three, and fails on two.
        seed: of its random numbers. They depend on the batch, so does the result of an attack that uses them.

    Returns:
        images in [0, 1], x itself where nothing was found.

    Raises:
        ValueError: the model has one logit.
    """

    def run(classifier: nn.Module, xs: Tensor, ys: Tensor, value: float | None) -> Tensor:
        options = {} if search is None or value is None else search.options(value)
        return attack(classifier, xs, ys, **options)

    return run_peer(model, x, y, run, search=search, inside=inside, least=logits, seed=seed)
