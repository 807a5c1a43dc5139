"""Attacks of torchattacks (Kim, 2020, arXiv 2010.01950)."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from lipbench.attacks.engine import minimum_distance
from lipbench.attacks.peers.adapter import run_peer
from lipbench.attacks.peers.search import Search


@minimum_distance
def torchattack(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    attack: Callable[..., Any],
    search: Search | None = None,
    inside: float = 0.0,
    seed: int = 0,
) -> Tensor:
    """Any untargeted attack of torchattacks, with logits that it can read (`Readable`), brought to the boundary.

    It is run through its `forward`: its own call restores the modes of the root module alone.

    Args:
        x: images [N, C, H, W] in [0, 1].
        attack: model, options -> attack, such as `functools.partial(torchattacks.CW, steps=100)`.
        search: of an attack with a radius (`Search("eps")`) or with a weight that is not searched (`Search("c")`).
        inside: distance of the start's pixels from 0 and 1, for Carlini-Wagner (1e-4).
        seed: of its random numbers. They depend on the batch, so does the result of an attack that uses them.

    Returns:
        images in [0, 1], x itself where nothing was found.

    Raises:
        ValueError: the model has one logit.
    """

    def run(classifier: nn.Module, xs: Tensor, ys: Tensor, value: float | None) -> Tensor:
        options = {} if search is None or value is None else search.options(value)
        instance = attack(classifier, **options)
        instance.set_device(xs.device)  # it looks for a parameter, which a model need not have
        images: Tensor = instance.forward(xs, ys)
        return images

    return run_peer(model, x, y, run, search=search, inside=inside, seed=seed)
