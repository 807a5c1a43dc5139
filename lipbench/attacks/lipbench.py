"""The attack `lipbench`."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle, islice

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from lipbench.attacks.alma import descend
from lipbench.attacks.engine import minimum_distance
from lipbench.attacks.engine.approaching import approach, oscillate, rivals
from lipbench.attacks.engine.leaving import leave
from lipbench.attacks.engine.searching import FINISHED
from lipbench.attacks.engine.sliding import HOPELESS, margin_in_distance, slide
from lipbench.geometry import per_image, unit
from lipbench.judge import Classifier
from lipbench.margins import margin
from lipbench.randomness import keys, normal, uniform

# A round is a new starting point, and a slide along the boundary from it. Where best and linearised distance differ by
# less than the factor BENT, the boundary is straight. Such an image leaves the search when EQUAL of its rounds, the
# best one included, end within SAME of the best distance, and half of its rounds do, or five. The boundary is
# linearised at x, and at an image on the other side of x, at BEHIND of the distance.
ROUNDS, EQUAL, SAME, BENT, BEHIND = 64, 2, 3e-2, 1.05, 0.5
# An image with a curved boundary leaves when the next round promises less than PROMISE of its distance. What it
# promises is the mean step between the ENDS nearest ends of rounds, over the number of all ends: a new minimum is
# nearer than the n before it with probability 1 / (n + 1), and then it is nearer by about one step.
ENDS, PROMISE = 10, 3e-4
# Curved boundaries: a start within this share of the best distance of the best image has come back to it, and one that
# is this much farther away than it leads nowhere. Neither slides.
BACK, FARTHER = 0.1, 1.5
# Classes that are approached: at most so many, and those whose linearised distance is at most so many times the best
# distance or that of the nearest class.
RIVALS, FAR = 4, 1.5
# Steps of the augmented Lagrangian on straight and on curved boundaries, of an oscillation, and of the search for the
# centre of a ball.
ALMA, LONG_ALMA, OSCILLATION, BALL = 60, 220, 30, 40
# Steps of a slide, and its longest step at its start and at its end, relative to the distance: from far, from an
# oscillation, and from near.
FAR_SLIDE, SLIDE, NEAR_SLIDE = (20, 0.5, 0.005), (15, 0.2, 0.003), (10, 0.1, 0.002)
# And from where the ray leaves a ball, which is nearer still.
BALL_SLIDE = (20, 0.02, 0.001)
# Lengths of the noise around x and around the best image, and of the way uphill, in best distances, and the share of
# the pixels that become black or white: drawn between these, evenly in their logarithms. Best distances above LARGEST
# times the root of the number of pixels are taken as that: longer noise is almost all black and white.
NOISE, HOP, UPHILL, SALT, LARGEST = (3.0, 12.0), (0.25, 2.0), (0.5, 4.0), (0.03, 0.3), 0.15
# The last slide, from the best image of those that had more than the first rounds.
POLISH = (20, 0.02, 0.0005)


Plan = tuple[int, float, float]


@minimum_distance
def lipbench(
    model: Classifier, x: Tensor, y: Tensor, *, start: Tensor | None = None, lower: Tensor | None = None
) -> Tensor:
    """Several starting points, a slide along the boundary from each, and a last one from the best.

    One minimum is found in a few passes (`lipbench.attacks.engine.sliding`). Networks with saturated units, deep narrow
    ones and provably trained ones have many minima, and which one is found depends on the start. So starts differ in
    kind: DeepFool to each of the nearest classes, the exit of an inscribed ball where the boundary is straight, an
    augmented Lagrangian, and oscillation around the boundary from x, from uphill of x, from coarse and fine noise far
    around x, from black and white pixels, from halfway to an image of noise, and from around the best image. An image
    leaves the search when another round promises little.

    Args:
        start: images to begin at as well; None: a cold start.
        lower: certified distances [N], only with a start: an image leaves where the best distance is within 0.1 % of
            it.
    """
    best = _Best(x, start, lower)

    def add(rows: Tensor, images: Tensor, plan: Plan, known: Tensor | None = None, votes: bool = True) -> None:
        if len(rows):
            steps, first, last = plan
            found = slide(model, x[rows], y[rows], images, steps=steps, first_reach=first, last_reach=last, known=known)
            best.add(rows, found[0], _confirmed(model, x[rows], y[rows], *found), votes)

    if start is not None:
        rows = best.distance.isfinite().nonzero()[:, 0]
        add(rows, best.images[rows], NEAR_SLIDE)
    for explore, plan, votes in islice(_rounds(_Starts(model, x, y, best)), ROUNDS):
        rows, images = best.promising(*explore(), votes)
        add(rows, images, plan, best.distance[rows], votes)
        best.bend()
    rows = (best.distance.isfinite() & (best.rounds > EQUAL) & best.unfinished()).nonzero()[:, 0]
    add(rows, best.images[rows], POLISH)
    return best.images


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


class _Best:
    """The nearest image of each so far, and where its rounds ended."""

    def __init__(self, x: Tensor, start: Tensor | None, lower: Tensor | None):
        self.x, self.images = x, x.clone() if start is None else start.clone()
        self.distance = unit(self.images - x)[1]
        self.distance = self.distance.where(self.distance > 0, torch.inf)
        self.rounds = torch.zeros(len(x), dtype=torch.long, device=x.device)
        self.ends = torch.full((len(x), ENDS), torch.inf, dtype=torch.double, device=x.device)  # in their order
        self.curved = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self.linear = torch.full_like(self.distance, torch.nan)
        self.enough = torch.zeros_like(self.distance) if lower is None else (1 + FINISHED) * lower.to(self.distance)

    def rows(self) -> Tensor:
        """The images whose best minimum is not to be trusted yet."""
        doubtful = torch.where(self.curved, self._promise() >= PROMISE, self._unsettled())
        return (doubtful & self.unfinished()).nonzero()[:, 0]

    def _promise(self) -> Tensor:
        """What another round may gain, as a share of the distance, inf before there are ENDS ends [N]."""
        nearest, last = self.ends[:, 0], self.ends[:, -1]
        step = (last - nearest) / ((ENDS - 1) * nearest)
        return (step / self.rounds).nan_to_num(nan=torch.inf, posinf=torch.inf)

    def _unsettled(self) -> Tensor:
        """Whether too few rounds ended in the best minimum on a straight boundary, bool [N]."""
        same = (self.ends <= (1 + SAME) * self.distance.unsqueeze(1)).sum(1)
        return (same < EQUAL) | (2 * same < self.rounds.clamp_max(ENDS))

    def unfinished(self) -> Tensor:
        """Those that are farther than their certificates, bool [N]."""
        return self.distance > self.enough

    def straight(self) -> Tensor:
        """Those whose linearised distance is about the best one, bool [N]."""
        return self.distance.isfinite() & ~self.curved

    def bend(self) -> None:
        """Which boundaries are curved: the linearised distance at x says little about the best one. Once curved they
        stay so: where the first rounds ended far away, the later ones are no surer.
        """
        ratio = self.distance / self.linear
        self.curved |= ~(torch.maximum(ratio, 1 / ratio) < BENT)

    def promising(self, rows: Tensor, images: Tensor, votes: bool) -> tuple[Tensor, Tensor]:
        """The starts from which a slide may find something. Of curved images a start that is no nearer than the best
        image but close to it has found its minimum again, and one that is far away has not.
        """
        known, length = self.distance[rows], unit(images - self.x[rows])[1]
        doubtful = self.curved[rows] & known.isfinite() & (length >= known)
        back = doubtful & (unit(images - self.images[rows])[1] <= BACK * known)
        if votes:
            self._count(rows[back], known[back])
        left = ~back & ~(doubtful & (length > FARTHER * known))
        return rows[left], images[left]

    def add(self, rows: Tensor, images: Tensor, distance: Tensor, votes: bool) -> None:
        """What a round found for these rows, and whether it counts as an end without a gain."""
        known = self.distance[rows]
        nearer = distance < known
        self.images[rows[nearer]], self.distance[rows[nearer]] = images[nearer], distance[nearer]
        gain = distance < (1 - SAME) * known
        counted = distance.isfinite() & (distance <= HOPELESS * known) & (votes | gain)
        self._count(rows[counted], distance[counted])

    def _count(self, rows: Tensor, distance: Tensor) -> None:
        self.rounds[rows] += 1
        ends = torch.cat([self.ends[rows], distance.double().unsqueeze(1)], 1)
        self.ends[rows] = ends.sort(1).values[:, :ENDS]


# A function that gives rows and images to slide from, the slide, and whether it counts as an end without a gain.
Round = tuple[Callable[[], tuple[Tensor, Tensor]], Plan, bool]


class _Starts:
    """Where rounds begin: each method gives rows, and images of these rows to slide from. The rows are the images
    without trust, or some of them, except those of `towards`.
    """

    def __init__(self, model: Classifier, x: Tensor, y: Tensor, best: _Best):
        self.model, self.x, self.y, self.best = model, x, y, best
        self.key, self.shape = keys(x, 0), tuple(x.shape[1:])
        self.order, self.reached, nearest = rivals(model, x, y, 9)
        # The gradient at x may lead away from a boundary behind a kink, which an image on the other side of x shows.
        back = (x + BEHIND * (x - nearest)).clamp(0, 1)
        value, direction = margin_in_distance(model, back, y)
        behind = (unit(back - x)[1] + value).clamp_min(0)
        best.linear = torch.minimum(self.reached[:, 0], behind.where(unit(direction)[1] > 0, torch.inf))

    def towards(self, place: int) -> tuple[Tensor, Tensor]:
        """DeepFool towards the class of this place in the order of the linearised distances, where it is near. On
        straight boundaries the first two places suffice (docs/decisions.md).
        """
        near = self.reached[:, place] <= FAR * torch.maximum(self.best.distance, self.reached[:, 0])
        if place > 1:
            near &= ~self.best.straight()
        rows = (near & self.best.unfinished()).nonzero()[:, 0]
        if not len(rows):
            return rows, self.x[rows]
        share = 0.3 if place in (1, 2) else 1.0
        rival = self.order[rows, place]
        return rows, approach(self.model, self.x[rows], self.y[rows], steps=15, share=share, rival=rival)

    def lagrangian(self) -> tuple[Tensor, Tensor]:
        """`alma`, short where the boundary is straight."""
        rows = self.best.rows()
        images = self.x[rows].clone()
        for steps, chosen in ((LONG_ALMA, self.best.curved[rows]), (ALMA, ~self.best.curved[rows])):
            if chosen.any():
                images[chosen] = descend(self.model, self.x[rows[chosen]], self.y[rows[chosen]], steps=steps)
        return rows, images

    def ball(self) -> tuple[Tensor, Tensor]:
        """Where the rays leave their inscribed balls, of images whose boundary is straight."""
        rows = (self.best.straight() & self.best.unfinished()).nonzero()[:, 0]
        if not len(rows):
            return rows, self.x[rows]
        images = leave(self.model, self.x[rows], self.y[rows], steps=BALL)
        found = (images != self.x[rows]).flatten(1).any(1)
        return rows[found], images[found]

    def cold(self) -> tuple[Tensor, Tensor]:
        """Oscillation from x."""
        return self._oscillation(self.best.rows(), None)

    def noise(self, draw: int) -> tuple[Tensor, Tensor]:
        """Oscillation from noise far around x."""
        rows = self.best.rows()
        return self._from_noise(rows, self.x[rows], self._normal(rows, self.shape, draw), NOISE, draw)

    def coarse(self, cells: int, draw: int) -> tuple[Tensor, Tensor]:
        """Oscillation from noise far around x in which neighbouring pixels change together: so many cells a side."""
        rows = self.best.rows()
        channels, *sides = self.shape
        grid = self._normal(rows, (channels, *(min(cells, side) for side in sides)), draw)
        fine = interpolate(grid, size=sides, mode="bilinear") if len(rows) else self.x[rows]
        return self._from_noise(rows, self.x[rows], fine, NOISE, draw)

    def hop(self, draw: int) -> tuple[Tensor, Tensor]:
        """Oscillation from noise around the best image."""
        rows = self._curved()
        return self._from_noise(rows, self.best.images[rows], self._normal(rows, self.shape, draw), HOP, draw)

    def midway(self, draw: int) -> tuple[Tensor, Tensor]:
        """Oscillation from halfway to an image of noise: where gradients near x say little, its own say more."""
        rows = self._curved()
        return self._oscillation(rows, (self.x[rows] + self._uniform(rows, self.shape, draw)) / 2)

    def salt(self, draw: int) -> tuple[Tensor, Tensor]:
        """Oscillation from x with black and white pixels."""
        rows = self.best.rows()
        chosen = self._uniform(rows, self.shape, draw) < per_image(self._between(SALT, rows, draw), self.x)
        values = self._uniform(rows, self.shape, draw, 1).round()
        return self._oscillation(rows, torch.where(chosen, values, self.x[rows]))

    def uphill(self, draw: int) -> tuple[Tensor, Tensor]:
        """Oscillation from where the label is surer than at x: the gradient at x may lead away from a near boundary
        that lies behind a kink.
        """
        rows = self._curved()
        if not len(rows):
            return rows, self.x[rows]
        _, direction = margin_in_distance(self.model, self.x[rows], self.y[rows])
        return self._from_noise(rows, self.x[rows], direction, UPHILL, draw)

    def _curved(self) -> Tensor:
        """Images without trust whose boundary is not straight: far starts gain nothing on straight ones."""
        rows = self.best.rows()
        return rows[self.best.curved[rows]]

    def _oscillation(self, rows: Tensor, start: Tensor | None) -> tuple[Tensor, Tensor]:
        return rows, oscillate(self.model, self.x[rows], self.y[rows], steps=OSCILLATION, start=start)

    def _from_noise(
        self, rows: Tensor, centre: Tensor, noise: Tensor, lengths: tuple[float, float], draw: int
    ) -> tuple[Tensor, Tensor]:
        """Oscillation from noise around the centre, its length relative to the best distance."""
        known = self.best.distance[rows].clamp_max(LARGEST * self.x[0].numel() ** 0.5)
        length = self._between(lengths, rows, draw) * known
        return self._oscillation(rows, (centre + per_image(length, centre) * unit(noise)[0]).clamp(0, 1))

    def _between(self, ends: tuple[float, float], rows: Tensor, draw: int) -> Tensor:
        """A number of each image between these [N], evenly in its logarithm."""
        low, high = ends
        return low * (high / low) ** self._uniform(rows, (1,), draw, 2)[:, 0]

    def _uniform(self, rows: Tensor, shape: tuple[int, ...], draw: int, part: int = 0) -> Tensor:
        # A draw of normal numbers takes two of uniform ones.
        return uniform(self.key[rows], shape, 6 * draw + 2 + part).to(self.x)

    def _normal(self, rows: Tensor, shape: tuple[int, ...], draw: int) -> Tensor:
        return normal(self.key[rows], shape, 3 * draw).to(self.x)


def _rounds(starts: _Starts) -> Iterator[Round]:
    """The rounds in their order. With two classes every straight image leaves its ball, with more every near class is
    approached; the other rounds are for images without trust.
    """
    yield partial(starts.towards, 0), (10, 0.5, 0.005), True
    if starts.order.shape[1] == 1:
        yield starts.ball, BALL_SLIDE, True
    yield starts.lagrangian, NEAR_SLIDE, True
    yield partial(starts.coarse, 4, 1), SLIDE, True
    yield partial(starts.noise, 2), SLIDE, True
    for place in range(1, min(RIVALS, starts.order.shape[1])):
        yield partial(starts.towards, place), FAR_SLIDE, True
    yield starts.cold, SLIDE, True
    yield partial(starts.uphill, 3), SLIDE, True
    kinds: list[Callable[[int], tuple[Tensor, Tensor]]] = [
        partial(starts.coarse, 2),
        starts.salt,
        partial(starts.coarse, 4),
        starts.noise,
        partial(starts.coarse, 8),
        starts.hop,
        starts.midway,
    ]
    for draw, explore in enumerate(cycle(kinds), start=4):
        if not len(starts.best.rows()):
            break
        # A hop begins at the best image, so that coming back to it says nothing.
        yield partial(explore, draw), SLIDE, explore != starts.hop
