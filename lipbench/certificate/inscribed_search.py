"""The search for the centre of an inscribed ball: ascent with momentum. What it finds is checked by others."""

from collections.abc import Callable

import torch
from torch import Tensor

from lipbench.certificate.inscribed_ball import best_t

# These numbers were chosen on validation images (docs/theory.md).
# The first centre lies this share of h(x) behind x; of the first move, and of the moves before in each.
FIRST, PACE, MEMORY = 0.1, 0.5, 0.9
# From an image near the frontier: the first centre lies this share of its distance behind x.
BEHIND = 0.3
# A step may lose this share of the radius, less and less until the last one: where h is linear and the ball touches the
# frontier inside of the box, all centres behind x are alike, and better ones lie beyond the next kink.
LOOSE = 3e-3
# Factors of the pace after a step that was accepted, and after one that was not.
FASTER, SLOWER = 1.1, 0.5
# With a slope s of h at x, rho is h(x) / sqrt(1 - s^2) at most as far as h is linear: below this there is nothing to
# gain, as for most networks that were not made for certificates.
FLATTEST = 0.05
# A pair whose pace fell below is finished.
SLOWEST = 2e-3
# Steps of Newton's method in a trial: it begins at the t of the centre before.
NEWTON = 2

# (points [M, n], pairs [M]) -> h [M] and its gradient [M, n].
Value = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class Search:
    """Pairs of an image and a rival class, each with a ball that grows.

    rho grows fastest along D = F grad h(q) - (q - z), where z is the point in which the clipped ray leaves the ball. At
    the best centre the ball touches the frontier in an image of the box, and q lies straight behind it. A step is kept
    if rho grew or fell by little; one forward and one backward pass each.

    Args:
        value: h of the pairs.
        x: the image of each pair, [M, n] in [0, 1].
        image: its number [M].
        at_x: h(x) of each pair [M], positive.
        start: images near the frontier [M, n], such as adversarial ones; x itself where none is known.
        known: centres of an earlier search [M, n], from which this one goes on where it has no `start`; NaN where none.

    Attributes:
        centre: the best of each pair so far [M, n].
        rho: its radius [M], without the rounding.
        t: where the clipped ray leaves its ball [M]; NaN where x is the centre.
    """

    def __init__(
        self,
        value: Value,
        x: Tensor,
        image: Tensor,
        at_x: Tensor,
        start: Tensor | None = None,
        known: Tensor | None = None,
    ):
        self.value, self.x, self.image, self.start = value, x, image, x if start is None else start
        self.count = int(image.max()) + 1
        self.centre, self.rho = x.clone(), at_x.clone()
        self._centre, self._rho = x.clone(), at_x.clone()  # where the search is
        self.direction, self.move = torch.zeros_like(x), torch.zeros_like(x)
        self.pace, self.last_t = torch.full_like(at_x, PACE), torch.full_like(at_x, torch.nan)
        self.t = self.last_t.clone()
        self.is_open, self.is_begun = at_x > 0, torch.zeros_like(at_x, dtype=torch.bool)
        if known is not None:
            # As if the first pass had been made, and led there.
            self.is_begun = known.isfinite().all(1) & (self.start == x).all(1)
            self.direction = torch.where(self.is_begun[:, None], known - x, 0.0) / PACE

    def run(self, steps: int, upper: Tensor | None = None) -> int:
        """So many passes of each image at most, of the rival with the smallest radius each time; the number of passes
        of all images together.

        Args:
            upper: radii [N] that are enough.
        """
        passes = 0
        for number in range(steps):
            rows = self.next_pairs(upper)
            if not len(rows):
                break
            passes += len(rows)
            new = ~self.is_begun[rows]
            if bool(new.any()):
                self.begin(rows[new])
            if not bool(new.all()):
                self.step(rows[~new], LOOSE * (1 - number / steps))
        return passes

    def begin(self, rows: Tensor) -> None:
        """The first pass of some pairs: the gradient at x, along which the first centre lies, or at the image that the
        search starts from, behind which it lies.
        """
        self.is_begun[rows] = True
        away = self.start[rows] - self.x[rows]
        _, gradient = self.value(self.start[rows], rows)
        steep = gradient.norm(dim=1)
        self.is_open[rows] &= (steep > FLATTEST) & gradient.isfinite().all(1)
        reach = away.norm(dim=1)
        behind = torch.where(reach > 0, (1 + BEHIND) * reach, FIRST * self.rho[rows])
        # As if a step had been made: PACE times this is the first one.
        self.direction[rows] = (away + (behind / steep.clamp_min(FLATTEST))[:, None] * gradient) / PACE

    def step(self, rows: Tensor, loose: float = 0.0) -> None:
        """One trial of each of these pairs, kept unless the radius falls by more than the share `loose`."""
        move = self.pace[rows, None] * self.direction[rows] + MEMORY * self.move[rows]
        centre = self._centre[rows] + move
        depth, gradient = self.value(centre, rows)
        x = self.x[rows]
        offset = centre - x
        t = best_t(x, offset, depth, NEWTON, self.last_t[rows])
        away = torch.clamp(-t[:, None] * offset, -x, 1 - x)
        rho = radius(offset, depth, t, away)
        kept = (rho > (1 - loose) * self._rho[rows]) & gradient.isfinite().all(1)
        yes, no = rows[kept], rows[~kept]
        self._centre[yes], self._rho[yes], self.move[yes] = centre[kept], rho[kept], move[kept]
        self.direction[yes] = (depth[:, None] * gradient - offset + away)[kept]
        self.last_t[rows], self.move[no] = t, 0
        self.pace[yes] *= FASTER
        self.pace[no] *= SLOWER
        best = kept & (rho > self.rho[rows])
        self.centre[rows[best]], self.rho[rows[best]], self.t[rows[best]] = centre[best], rho[best], t[best]
        self.is_open[rows] &= self.pace[rows] > SLOWEST

    def next_pairs(self, upper: Tensor | None = None) -> Tensor:
        """Of each image the pair with the smallest radius, if it is still open and below `upper` [N]: the numbers of
        these pairs.
        """
        smallest = self.rho.new_full((self.count,), torch.inf).scatter_reduce(0, self.image, self.rho, "amin")
        chosen = self.is_open & (self.rho <= smallest[self.image])
        if upper is not None:
            chosen &= self.rho < upper[self.image]
        rows = chosen.nonzero()[:, 0]
        # Of two pairs with the same radius the last one.
        last = torch.full((self.count,), -1, device=rows.device).scatter_reduce(0, self.image[rows], rows, "amax")
        return last[last >= 0]


def radius(offset: Tensor, depth: Tensor, t: Tensor, away: Tensor) -> Tensor:
    """rho(q, t) [M], not rounded down; 0 where x lies outside of the ball."""
    far, square = offset.square().sum(1), away.square().sum(1)
    found = (t * (depth.square() - far + 2 * (offset * away).sum(1)) + square) / (1 + t)
    return torch.where(depth > 0, found.clamp_min(0), 0.0).nan_to_num(0.0).sqrt()
