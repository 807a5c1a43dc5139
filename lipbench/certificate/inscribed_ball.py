"""The inscribed ball: how near an adversarial image of the box can be, if none lies in a ball around another centre.

Let h be 1-Lipschitz on all of R^n with h(q) >= F > 0, and h(z) <= 0 at every image z that the rival wins: h_k = (z_y -
z_k) / gap[y, k] for the rival k. The rival wins at no point of the open ball (q, F). With p = q - x and delta = z - x,
every image z that it wins has ||delta - p|| >= F,

    2 <p, delta>  <=  ||delta||^2 + ||p||^2 - F^2,

hence for every t >= 0, with w = t / (1 + t) and delta_t = clip(-t p, -x, 1 - x), which minimises ||delta||^2 + 2 t <p,
delta> over the box,

    ||delta||^2  >=  w (F^2 - ||p||^2 + 2 <p, delta_t>) + (1 - w) ||delta_t||^2  =  rho(q, t)^2.

The radius of an image is the smallest rho of its rivals, each with a ball of its own. The centre q may lie outside of
the box; there it is better than x. See docs/theory.md.
Relatives: Cullen et al., 2022, arXiv 2210.06077, move the centre of randomised smoothing's certificates.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch
from torch import Tensor

from lipbench.precision import OUTWARD

# Unit roundoff of float64. What numbers that underflow can take off a squared radius is far below `LOST`.
UNIT, LOST = 2.0**-53, 1e-280
# Newton's method converges quadratically, from a start that is exact without the box.
NEWTON = 6


def clipped_ray(x: Tensor, offset: Tensor, t: Tensor) -> Tensor:
    """clip(-t offset, -x, 1 - x): [M, n], [M, n], [M] -> [M, n]. t may be inf."""
    ray = torch.where(offset == 0, 0.0, -t[:, None] * offset)
    return torch.clamp(ray, -x, 1 - x)


def best_t(x: Tensor, offset: Tensor, depth: Tensor, steps: int = NEWTON, guess: Tensor | None = None) -> Tensor:
    """The t of the largest rho(q, t), where the clipped ray leaves the ball: ||delta_t - p|| = F. [M].

    The squared distance is a concave, piecewise linear and growing function of (1 + t)^2, so that Newton's method,
    after its first step, comes from below. Any t gives a certificate, so its result need not be exact.

    Args:
        x: images [M, n] in [0, 1].
        offset: p = q - x.
        depth: F [M].
        steps: of Newton's method.
        guess: of t [M], where it begins; None or NaN: the best t without the box, which is never too large.
    """
    length = offset.norm(dim=1)
    smallest = torch.finfo(x.dtype).tiny
    first = depth / length.clamp_min(smallest)
    if guess is not None:
        first = torch.where(guess.isnan(), first, 1 + guess)
    u = first.clamp_min(1).square()
    low, high, squares = -x, 1 - x, offset.square()
    for _ in range(steps):
        t = u.sqrt() - 1
        ray = -t[:, None] * offset
        away = torch.clamp(ray, low, high)
        slope = (squares * (away == ray)).sum(1)
        excess = (away - offset).square().sum(1) - depth.square()
        u = (u - excess / slope.clamp_min(smallest)).clamp(1, 1e12)
    return torch.nan_to_num(u, nan=1.0).sqrt() - 1


def ball_radius(x: Tensor, centre: Tensor, depth: Tensor, t: Tensor) -> Tensor:
    """rho(q, t), rounded down: no image of the box within it is outside of the ball. [M] float64.

    0 where depth or t is no number of 0 or more, or nothing follows. inf is allowed as t.

    Args:
        x: images [M, n], float64.
        centre: q [M, n], float64, anywhere.
        depth: F [M], a lower bound of h(q).
        t: [M], whatever it is.
    """
    offset = centre - x
    usable = (depth > 0) & depth.isfinite() & (t >= 0) & offset.isfinite().all(1)
    t = torch.where(usable, t, 0.0)
    weight = torch.where(t.isinf(), 1.0, t / (1 + t))
    away = clipped_ray(x, offset, t)
    products = offset * away
    far, square = offset.square().sum(1), away.square().sum(1)
    found = weight * (depth.square() - far + 2 * products.sum(1)) + square / (1 + t)
    # n + 20 roundings of each of these sums at most, and what the rounded minimiser changes: see docs/rounding.md.
    sums = weight * (depth.square() + far + 2 * products.abs().sum(1)) + square / (1 + t)
    found = found - (2 * x.shape[1] + 60) * UNIT * sums - LOST
    return torch.where(usable & (found > 0), found, 0.0).sqrt() / OUTWARD


@dataclass(frozen=True)
class InscribedBalls:
    """What proves inscribed radii: for each image and rival class a ball without an image that the rival wins.

    `at_x` and `depth` are lower bounds of h_k = (z_y - z_k) / gap[y, k] at x and at the centres. From them one formula
    checks the radii (`ball_radius`).

    Attributes:
        x: images [N, C, H, W], float64.
        at_x: [N, K], lower bounds of h_k(x), the radii of the balls around x itself: inf for the label, 0 where a rival
            wins or nothing is known.
        image: [M], the image of each ball around another centre.
        rival: [M], its class k.
        centre: [M, C, H, W], float64, in the box or not.
        depth: [M], lower bounds of h_k at the centre.
        t: [M], the free number of the closed form.
    """

    x: Tensor
    at_x: Tensor
    image: Tensor
    rival: Tensor
    centre: Tensor
    depth: Tensor
    t: Tensor

    def radii(self) -> Tensor:
        """Radius by image and rival, [N, K] float64; inf for the label."""
        found = self.at_x.flatten().scatter_reduce(0, self._pair(), self._radius_of_each(), "amax")
        return found.view_as(self.at_x)

    def radius(self) -> Tensor:
        """Certified radius of each image, [N] float64."""
        return self.radii().amin(1)

    def exits(self) -> Tensor:
        """Of each image the point of the box that is nearest to it outside of its largest ball, [N, C, H, W] float64:
        about where the nearest adversarial image lies. Of the rival with the smallest radius; x where it has no ball.
        """
        smallest, rival = self.radii().min(1)
        found = self._radius_of_each()
        ball = self._largest(found).gather(1, rival[:, None])[:, 0]
        moved = (ball >= 0) & (found[ball] == smallest) if len(found) else ball >= 0
        rows, ball = self.x.flatten(1)[moved], ball[moved]
        exits = self.x.flatten(1).clone()
        exits[moved] = rows + clipped_ray(rows, self.centre.flatten(1)[ball] - rows, self.t[ball])
        return exits.view_as(self.x)

    def of(self, rows: Tensor) -> "InscribedBalls":
        """Those of some images, whose numbers are `rows` [n]: the first of them is image 0, and so on."""
        place = torch.full((len(self.x),), -1, device=self.x.device)
        place[rows] = torch.arange(len(rows), device=self.x.device)
        kept = self._some((place[self.image] >= 0).nonzero()[:, 0])
        return replace(kept, x=self.x[rows], at_x=self.at_x[rows], image=place[kept.image])

    def with_more(self, rows: Tensor, balls: "InscribedBalls") -> "InscribedBalls":
        """Of each image and rival the largest ball of these and of those of some images, whose numbers are `rows`."""
        pairs = zip(self._parts(), (rows[balls.image], *balls._parts()[1:]), strict=True)
        both = InscribedBalls(self.x, self.at_x, *(torch.cat(parts) for parts in pairs))
        largest = both._largest(both._radius_of_each()).flatten()
        return both._some(largest[largest >= 0])

    def centres(self, image: Tensor, rival: Tensor) -> Tensor:
        """Of each of these pairs the centre of its largest ball, [M, n]: NaN where it has none but the one around x."""
        chosen = self._largest(self._radius_of_each())[image, rival]
        centres = self.x.new_full((len(image), self.x[0].numel()), torch.nan)
        centres[chosen >= 0] = self.centre.flatten(1)[chosen[chosen >= 0]]
        return centres

    def check(self, radii: Tensor) -> bool:
        """Whether these balls prove radii [N]."""
        return bool((radii <= self.radius()).all())

    def _pair(self) -> Tensor:
        """The number of image and rival of each ball, [M]."""
        return self.image * self.at_x.shape[1] + self.rival

    def _radius_of_each(self) -> Tensor:
        """[M], rounded down."""
        return ball_radius(self.x.flatten(1)[self.image], self.centre.flatten(1), self.depth, self.t)

    def _largest(self, found: Tensor) -> Tensor:
        """The number of the largest ball of each image and rival, [N, K]; -1 where there is none that proves anything.

        Args:
            found: radii of the balls [M].
        """
        pair = self._pair()
        best = self.at_x.new_zeros(self.at_x.numel()).scatter_reduce(0, pair, found, "amax")
        largest = ((found == best[pair]) & (found > 0)).nonzero()[:, 0]
        none = torch.full((self.at_x.numel(),), -1, device=self.x.device)
        return none.scatter_reduce(0, pair[largest], largest, "amax").view_as(self.at_x)

    def _parts(self) -> tuple[Tensor, ...]:
        """What there is of each ball."""
        return self.image, self.rival, self.centre, self.depth, self.t

    def _some(self, balls: Tensor) -> "InscribedBalls":
        """The balls of these numbers, of the same images."""
        return InscribedBalls(self.x, self.at_x, *(part[balls] for part in self._parts()))


def joined(parts: Sequence[InscribedBalls]) -> InscribedBalls:
    """The balls of all images, one part of the images after the other."""
    firsts = accumulate((len(part.x) for part in parts), initial=0)
    images = [part.image + first for part, first in zip(parts, firsts, strict=False)]
    columns = zip(*(part._parts()[1:] for part in parts), strict=True)
    return InscribedBalls(
        torch.cat([part.x for part in parts]),
        torch.cat([part.at_x for part in parts]),
        torch.cat(images),
        *(torch.cat(column) for column in columns),
    )


def without_balls(x: Tensor, y: Tensor, at_x: Tensor) -> InscribedBalls:
    """The balls around x alone, of radii `at_x` [N, K]."""
    none = at_x.new_zeros(0)
    rows = none.long()
    own = at_x.scatter(1, y[:, None], torch.inf) if at_x.numel() else at_x
    return InscribedBalls(x.double(), own, rows, rows, x.double()[:0], none, none)
