"""The attack `lipbench`."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import count, islice

import torch
from torch import Tensor

from lipbench.attacks.alma import descend
from lipbench.attacks.engine import minimum_distance
from lipbench.attacks.engine.approaching import approach, oscillate, rivals
from lipbench.attacks.engine.sliding import slide
from lipbench.geometry import per_image, unit
from lipbench.judge import Classifier
from lipbench.randomness import keys, normal, uniform

# A round is a new starting point, and a slide along the boundary from it. An image leaves the search where a third of
# its rounds ended within SAME of its best distance, the best one included, or after so many rounds.
ROUNDS, TRUST, SAME = 18, 3, 5e-3
# Classes that are approached: at most so many, and those whose linearised distance is at most so many best distances.
RIVALS, FAR = 4, 1.5
# Steps of a slide, and its longest step at its start and at its end, relative to the distance.
STEPS, REACH = 20, (0.5, 0.005)
# The same after a search that ends near a minimum, and for the last slide, from the best image of all.
NEAR_REACH, POLISH, POLISH_REACH = (0.1, 0.005), 20, (0.02, 0.0005)


@minimum_distance
def lipbench(model: Classifier, x: Tensor, y: Tensor, *, start: Tensor | None = None) -> Tensor:
    """Several starting points, a slide along the boundary from each, and a last one from the best.

    One minimum is found in a few passes (`lipbench.attacks.engine.sliding`); networks with saturated units, deep narrow
    ones and provably trained ones have many, and which one is found depends on the start. So starts differ in kind:
    oscillation around the boundary as in DDN, DeepFool to each of the nearest classes, and then random parts of the
    best perturbation, doubled. An image whose rounds bring nothing nearer leaves the search.

    Args:
        start: images to begin at; None: a cold start.
    """
    best = _Best(x, start)
    for explore, reach in islice(_rounds(model, x, y, best), ROUNDS):
        rows, images = explore()
        if len(rows):
            best.add(rows, *_slide(model, x[rows], y[rows], images, STEPS, reach, best.distance[rows]))
    rows = best.distance.isfinite().nonzero()[:, 0]
    if len(rows):
        best.add(rows, *_slide(model, x[rows], y[rows], best.images[rows], POLISH, POLISH_REACH))
    return best.images


def _slide(
    model: Classifier,
    x: Tensor,
    y: Tensor,
    images: Tensor,
    steps: int,
    reach: tuple[float, float],
    known: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    return slide(model, x, y, images, steps=steps, first_reach=reach[0], last_reach=reach[1], known=known)


class _Best:
    """The nearest image of each so far, and how often a round ended as near."""

    def __init__(self, x: Tensor, start: Tensor | None):
        self.images = x.clone() if start is None else start.clone()
        self.distance = unit(self.images - x)[1]
        self.distance = self.distance.where(self.distance > 0, torch.inf)
        self.rounds = torch.zeros(len(x), dtype=torch.long, device=x.device)
        self.same = torch.zeros_like(self.rounds)

    def rows(self) -> Tensor:
        """The images whose best minimum was not found often enough to be trusted."""
        return ((self.same < 2) | (TRUST * self.same < self.rounds)).nonzero()[:, 0]

    def add(self, rows: Tensor, images: Tensor, distance: Tensor) -> None:
        """What a round found for these rows."""
        known = self.distance[rows]
        nearer = distance < known
        self.images[rows[nearer]], self.distance[rows[nearer]] = images[nearer], distance[nearer]
        gain, same = distance < (1 - SAME) * known, distance <= (1 + SAME) * known
        self.same[rows] = torch.where(gain, 1, self.same[rows] + same.long())
        self.rounds[rows] += 1


# A function that gives rows and images to slide from, and the reach of the slide.
Round = tuple[Callable[[], tuple[Tensor, Tensor]], tuple[float, float]]


def _rounds(model: Classifier, x: Tensor, y: Tensor, best: _Best) -> Iterator[Round]:
    """The rounds in their order. Every near class is approached; the other rounds are for images without trust."""

    def towards(place: int) -> tuple[Tensor, Tensor]:
        rows = (reached[:, place] <= FAR * best.distance).nonzero()[:, 0]
        share = 0.3 if place % 2 == 0 else 1.0
        return rows, approach(model, x[rows], y[rows], steps=15, share=share, rival=order[rows, place])

    def few_pixels(draw: int) -> tuple[Tensor, Tensor]:
        rows = best.rows()
        pixels = uniform(key[rows], shape, draw).to(x) < 0.2
        return rows, approach(model, x[rows], y[rows], steps=15, share=0.5, pixels=pixels)

    def noise(draw: int, length: float) -> tuple[Tensor, Tensor]:
        rows = best.rows()
        direction, _ = unit(normal(key[rows], shape, draw).to(x))
        known = best.distance[rows]
        known = known.where(known.isfinite(), 0.1 * x[0].numel() ** 0.5)
        start = (x[rows] + per_image(length * known, x) * direction).clamp(0, 1)
        return rows, oscillate(model, x[rows], y[rows], steps=20, start=start)

    def part(draw: int) -> tuple[Tensor, Tensor]:
        rows = best.rows()
        chosen = uniform(key[rows], shape, draw).to(x) < 0.5
        return rows, torch.where(chosen, best.images[rows], x[rows])

    def lagrangian() -> tuple[Tensor, Tensor]:
        rows = best.rows()
        return rows, descend(model, x[rows], y[rows], steps=50) if len(rows) else x[rows]

    every = torch.arange(len(x), device=x.device)
    yield lambda: (every, oscillate(model, x, y, steps=20)), NEAR_REACH
    order, reached = rivals(model, x, y, 9)
    key, shape = keys(x, 0), tuple(x.shape[1:])
    for place in range(min(RIVALS, order.shape[1])):
        yield partial(towards, place), REACH
    yield lagrangian, NEAR_REACH
    for draw in count():
        if not len(best.rows()):
            break
        yield partial(noise, 3 * draw, 2.0 if draw % 2 == 0 else 0.5), REACH
        yield partial(few_pixels, 3 * draw + 1), REACH
        yield partial(part, 3 * draw + 2), REACH
