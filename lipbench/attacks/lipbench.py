"""The attack `lipbench`."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice

import torch
from torch import Tensor

from lipbench.attacks.alma import descend
from lipbench.attacks.engine import minimum_distance
from lipbench.attacks.engine.approaching import approach, oscillate, prune, rivals
from lipbench.attacks.engine.sliding import slide
from lipbench.geometry import per_image, unit
from lipbench.judge import Classifier
from lipbench.margins import margin
from lipbench.randomness import keys, normal, uniform

# A round is a new starting point, and a slide along the boundary from it. An image leaves the search after as many
# rounds without a gain as `_Best.patience` says, or after all rounds. Less than GAIN is no gain.
ROUNDS, GAIN = 24, 1e-2
FEWEST, MOST, CURVED = 2, 10, 10
# Steps of an oscillation, the first ones and later ones, of the pruning of noise, and of `alma`.
SHORT, LONG, PRUNING, ALMA = 10, 30, 12, 60
# Share of the pixels that become black or white: of x, of the best image.
SALT, SPARKLE = 0.6, 0.05
# Steps of a slide, and its longest step at its start and at its end, relative to the distance: from far, from an
# oscillation, and from near.
FAR, SLIDE, NEAR = (20, 0.5, 0.005), (15, 0.2, 0.003), (10, 0.1, 0.001)
FIRST = (10, 0.5, 0.005)
# The last slide, from the best image of those that needed more than the first rounds.
POLISH = (20, 0.02, 0.0005)

Plan = tuple[int, float, float]


@minimum_distance
def lipbench(model: Classifier, x: Tensor, y: Tensor, *, start: Tensor | None = None) -> Tensor:
    """Several starting points, a slide along the boundary from each, and a last one from the best.

    One minimum is found in a few passes (`lipbench.attacks.engine.sliding`). Networks with saturated units, deep narrow
    ones and provably trained ones have many minima, and which one is found depends on the start. So starts differ in
    kind: DeepFool; an augmented Lagrangian; oscillation around the boundary from noise around x or the best image, from
    noise far from x, and from black and white pixels; and noise that is pruned until it differs from x in a few pixels.
    An image leaves the search after a few rounds without a gain.

    Args:
        start: images to begin at as well; None: a cold start.
    """
    order, reached = rivals(model, x, y, 9)
    best = _Best(model, x, y, start, reached[:, 0])
    if start is not None:
        rows = best.distance.isfinite().nonzero()[:, 0]
        best.add(rows, best.images[rows], NEAR)
    every = torch.arange(len(x), device=x.device)
    best.add(every, approach(model, x, y, order[:, 0], steps=15), FIRST)
    starts = _Starts(best)
    for number, kind in enumerate(islice(starts.kinds(), ROUNDS)):
        rows = best.open()
        if not len(rows):
            break
        best.add(rows, *kind(rows, 4 * number))
    rows = (best.distance.isfinite() & (best.patience() > FEWEST)).nonzero()[:, 0]
    best.add(rows, best.images[rows], POLISH)
    return best.images


class _Best:
    """The nearest image of each so far, and how many rounds have gained nothing since it was found.

    Args:
        linear: distance of the linearised boundary, [N].
    """

    def __init__(self, model: Classifier, x: Tensor, y: Tensor, start: Tensor | None, linear: Tensor):
        self.model, self.x, self.y, self.linear = model, x, y, linear
        self.images = x.clone() if start is None else start.clone()
        self.distance = unit(self.images - x)[1]
        self.distance = self.distance.where(self.distance > 0, torch.inf)
        self.idle = torch.zeros_like(y)

    def add(self, rows: Tensor, start: Tensor, plan: Plan) -> None:
        """A round of these rows: a slide from `start`."""
        if not len(rows):
            return
        steps, first, last = plan
        x, y, known = self.x[rows], self.y[rows], self.distance[rows]
        images, distance = slide(self.model, x, y, start, steps=steps, first_reach=first, last_reach=last, known=known)
        nearer = (distance < known).nonzero()[:, 0]
        distance[nearer] = _confirmed(self.model, x[nearer], y[nearer], images[nearer], distance[nearer])
        nearer = distance < known
        self.images[rows[nearer]], self.distance[rows[nearer]] = images[nearer], distance[nearer]
        self.idle[rows] = torch.where(distance < (1 - GAIN) * known, 0, self.idle[rows] + 1)

    def open(self) -> Tensor:
        """The rows that have gained in one of their last rounds, or have found nothing."""
        return ((self.idle < self.patience()) | self.distance.isinf()).nonzero()[:, 0]

    def patience(self) -> Tensor:
        """Rounds without a gain after which an image leaves, [N]. The less the linearised distance at x says about the
        best one, the more: FEWEST where they agree, as on 1-Lipschitz networks.
        """
        ratio = self.distance / self.linear
        curved = FEWEST + CURVED * (torch.maximum(ratio, 1 / ratio) - 1)
        return curved.nan_to_num(nan=MOST).clamp(FEWEST, MOST).floor().long()


@torch.no_grad()
def _confirmed(model: Classifier, x: Tensor, y: Tensor, images: Tensor, estimate: Tensor) -> Tensor:
    """The estimated distances [N] where an image at that distance on the ray, or a little beyond the image itself, is
    misclassified, else inf: near a saturated unit a linearisation can promise a boundary that is not there.
    """
    ray, length = unit(images - x)
    result = torch.full_like(estimate, torch.inf)
    for distance in (estimate, length):
        rows = (result.isinf() & estimate.isfinite()).nonzero()[:, 0]
        if len(rows):
            reach = per_image(1.005 * distance[rows], x)
            wrong = margin(model((x[rows] + reach * ray[rows]).clamp(0, 1)), y[rows]) < 0
            result[rows[wrong]] = distance[rows[wrong]]
    return result


# Rows and a number of the first random draw -> images of these rows to slide from, and the slide.
Kind = Callable[[Tensor, int], tuple[Tensor, Plan]]


class _Starts:
    """Where rounds begin."""

    def __init__(self, best: _Best):
        self.best, self.key, self.shape = best, keys(best.x, 0), tuple(best.x.shape[1:])

    def kinds(self) -> Iterator[Kind]:
        """The kinds of starts in their order."""
        hop, near, far = self.hop, partial(self.noise, length=1.0), partial(self.noise, length=3.0)
        yield self.skip
        yield self.skip
        yield partial(self.noise, length=2.0)
        yield self.lagrangian
        while True:
            yield from (hop, near, self.midway, self.pruned, hop, self.salt, far, self.pruned, self.sparkle)

    def lagrangian(self, rows: Tensor, draw: int) -> tuple[Tensor, Plan]:
        """A short `alma` from x."""
        return descend(self.best.model, self.best.x[rows], self.best.y[rows], steps=ALMA), NEAR

    def noise(self, rows: Tensor, draw: int, length: float) -> tuple[Tensor, Plan]:
        """Oscillation from noise around x."""
        return self._oscillation(rows, self._around(rows, self.best.x[rows], length, draw))

    def skip(self, rows: Tensor, draw: int) -> tuple[Tensor, Plan]:
        """A short `hop`."""
        return self._oscillation(rows, self._around(rows, self.best.images[rows], 0.5, draw), SHORT)[0], NEAR

    def hop(self, rows: Tensor, draw: int) -> tuple[Tensor, Plan]:
        """Oscillation from noise around the best image."""
        return self._oscillation(rows, self._around(rows, self.best.images[rows], 0.5, draw))

    def midway(self, rows: Tensor, draw: int) -> tuple[Tensor, Plan]:
        """Oscillation from halfway to an image of noise: where gradients near x say little, its own say more."""
        return self._oscillation(rows, (self.best.x[rows] + self._uniform(rows, draw)) / 2)

    def salt(self, rows: Tensor, draw: int) -> tuple[Tensor, Plan]:
        """Oscillation from x with black and white pixels."""
        return self._oscillation(rows, self._salted(rows, self.best.x[rows], SALT, draw))

    def sparkle(self, rows: Tensor, draw: int) -> tuple[Tensor, Plan]:
        """Oscillation from the best image with a few black and white pixels."""
        return self._oscillation(rows, self._salted(rows, self.best.images[rows], SPARKLE, draw))

    def pruned(self, rows: Tensor, draw: int) -> tuple[Tensor, Plan]:
        """An image of noise of which only those pixels are left that change the label."""
        x, y = self.best.x[rows], self.best.y[rows]
        return prune(self.best.model, x, y, self._uniform(rows, draw), steps=PRUNING), FAR

    def _oscillation(self, rows: Tensor, start: Tensor, steps: int = LONG) -> tuple[Tensor, Plan]:
        best = self.best
        return oscillate(best.model, best.x[rows], best.y[rows], steps=steps, start=start), SLIDE

    def _around(self, rows: Tensor, centre: Tensor, length: float, draw: int) -> Tensor:
        """Normal noise, its length relative to the best distance."""
        direction, _ = unit(normal(self.key[rows], self.shape, draw).to(centre))
        known = self.best.distance[rows]
        known = known.where(known.isfinite(), 0.1 * centre[0].numel() ** 0.5)
        return (centre + per_image(length * known, centre) * direction).clamp(0, 1)

    def _salted(self, rows: Tensor, centre: Tensor, share: float, draw: int) -> Tensor:
        chosen, values = self._uniform(rows, draw), self._uniform(rows, draw + 1)
        return torch.where(chosen < share, values.round(), centre)

    def _uniform(self, rows: Tensor, draw: int) -> Tensor:
        return uniform(self.key[rows], self.shape, draw).to(self.best.x)
