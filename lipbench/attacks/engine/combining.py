"""Several attacks as one: one from the other's result, or side by side."""

from torch import Tensor, nn

from lipbench.attacks.engine.boundary import nearest
from lipbench.attacks.engine.searching import Attack, usable, warm
from lipbench.judge import Classifier
from lipbench.modules import undisturbed


def chain(*attacks: Attack) -> Attack:
    """Attacks one after another, each from the best images so far; an attack itself.

    A function without an argument `start` runs cold, and counts where it is nearer.
    """

    def chained(
        model: nn.Module, x: Tensor, y: Tensor, *, start: Tensor | None = None, lower: Tensor | None = None
    ) -> Tensor:
        x = x.detach()
        with undisturbed(model):
            model = Classifier.of(model)
            start = None if start is None else usable(model, x, y, start)
            for attack in attacks:
                found = usable(model, x, y, attack(model, x, y, **warm(attack, start=start, lower=lower)))
                start = found if start is None else nearest(x, found, start)
        if start is None:
            raise ValueError("chain() got no attacks.")
        return start

    return chained


def best_of(*attacks: Attack) -> Attack:
    """Attacks side by side, each from the same `start`; the nearest image of any; an attack itself."""

    def nearest_of(
        model: nn.Module, x: Tensor, y: Tensor, *, start: Tensor | None = None, lower: Tensor | None = None
    ) -> Tensor:
        x = x.detach()
        with undisturbed(model):
            model = Classifier.of(model)
            found = [attack(model, x, y, **warm(attack, start=start, lower=lower)) for attack in attacks]
            return nearest(x, *(usable(model, x, y, images) for images in found))

    return nearest_of
