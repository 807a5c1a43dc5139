"""Attacks of foolbox (Rauber et al., 2020, JOSS 5(53)); the extra `foolbox`."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from lipbench.attacks.engine import minimum_distance
from lipbench.attacks.peers.adapter import MissingExtra, run_peer
from lipbench.attacks.peers.search import Search

try:
    import foolbox
except ImportError as error:
    raise MissingExtra("foolbox", "foolbox", error) from error

RADII = Search("epsilon")


@minimum_distance
def foolbox_attack(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    attack: Callable[[], Any],
    search: Search = RADII,
    inside: float = 0.0,
    seed: int = 0,
) -> Tensor:
    """Any attack of foolbox, with logits that it can read (`Readable`), brought to the boundary.

    Args:
        x: images [N, C, H, W] in [0, 1].
        attack: () -> attack, such as `functools.partial(foolbox.attacks.DDNAttack, steps=200)`.
        search: of the radius, for attacks that need one (`FixedEpsilonAttack`); others find it themselves.
        inside: distance of the start's pixels from 0 and 1, for Carlini-Wagner (1e-4).
        seed: of its random numbers. They depend on the batch, so does the result of an attack that uses them.

    Returns:
        images in [0, 1], x itself where nothing was found.

    Raises:
        ValueError: the model has one logit.
    """
    instance = attack()
    sized = isinstance(getattr(instance, "attack", instance), foolbox.attacks.base.FixedEpsilonAttack)

    def run(classifier: nn.Module, xs: Tensor, ys: Tensor, value: float | None) -> Tensor:
        wrapped = foolbox.PyTorchModel(classifier, bounds=(0, 1), device=xs.device)
        images: Tensor = instance(wrapped, xs, ys, epsilons=value)[0]
        return images

    return run_peer(model, x, y, run, search=search if sized else None, inside=inside, seed=seed)
