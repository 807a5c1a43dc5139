"""Any attack within a budget of propagations per image."""

import torch
from torch import Tensor, nn

from lipbench.attacks.engine.boundary import nearest
from lipbench.attacks.engine.searching import Attack, usable, warm
from lipbench.judge import BudgetSpent, Classifier, Judge, Meter
from lipbench.modules import undisturbed


def within(attack: Attack, budget: int) -> Attack:
    """The same attack with at most `budget` propagations for each image: a forward pass is one, a backward pass
    another.

    The network itself counts and refuses, its float64 copy too, so a function of a user's own, or of another library,
    keeps to it as well, unless it calls the layers one by one. `exact` reads the weights, and takes no budget. Each
    image is attacked alone: what the others cost changes nothing. When the budget is spent, the nearest misclassified
    image of all that the attack passed is the result (the protocol of AttackBench 2.0). Whether that is adversarial is
    checked at the end, outside of the budget.

    Args:
        budget: 1 or more.

    Raises:
        ValueError: a budget below 1.
    """
    if budget < 1:
        raise ValueError(f"budget={budget}: give the propagations that one image may cost, 1 or more.")

    def limited(
        model: nn.Module, x: Tensor, y: Tensor, *, start: Tensor | None = None, lower: Tensor | None = None
    ) -> Tensor:
        x = x.detach()
        with undisturbed(model):
            classifier = Classifier.of(model)
            found = []
            for row in range(len(x)):
                one = slice(row, row + 1)
                given = {"start": start, "lower": lower}
                options = {name: None if value is None else value[one] for name, value in given.items()}
                found.append(_one(attack, classifier, x[one], y[one], budget, options)[0])
            return torch.cat(found) if found else x

    return limited


def anytime(
    attack: Attack, model: nn.Module, x: Tensor, y: Tensor, budget: int = 2000
) -> list[list[tuple[int, float]]]:
    """Per image, (propagations, distance) whenever the attack passed a nearer misclassified image: distance against
    cost.

    Args:
        x, y: images [N, C, H, W] in [0, 1] and their labels [N].
        budget: as in `within`.
    """
    with undisturbed(model):
        classifier = Classifier.of(model)
        return [
            _one(attack, classifier, x[row : row + 1].detach(), y[row : row + 1], budget, {})[1].trace
            for row in range(len(x))
        ]


def _one(
    attack: Attack, model: Classifier, x: Tensor, y: Tensor, budget: int, options: dict[str, Tensor | None]
) -> tuple[Tensor, Meter]:
    """The nearest adversarial image that the attack returned or passed, x itself where there is none."""
    metered, meter, judge = Classifier(model), Meter(x, y, budget), Classifier(model)
    returned: Tensor | None
    try:
        with meter.watching(metered):
            returned = attack(metered, x, y, **warm(attack, **options))
    except BudgetSpent:
        returned = options.get("start")
    model.passes += meter.forwards
    model.backward_passes += meter.backwards
    found = [] if returned is None else [usable(judge, x, y, returned)]
    return nearest(x, *found, _nearest_passed(Judge(judge), x, y, meter)), meter


def _nearest_passed(judge: Judge, x: Tensor, y: Tensor, meter: Meter) -> Tensor:
    """The nearest image that the attack passed: the nearest ones may be adversarial by rounding alone, and then are not
    in the next batch.
    """
    for adversarial in (judge.surely, judge):
        for images in reversed(meter.nearest):
            if adversarial(images, y):
                return images
    return x
