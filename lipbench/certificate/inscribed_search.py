"""The search for the centre of an inscribed ball: a bundle method. What it finds is checked by others."""

from collections.abc import Callable

import torch
from torch import Tensor

from lipbench.certificate.inscribed_ball import best_t

# These numbers were chosen on validation images (docs/theory.md).
# The first centre lies this share of h(x) behind x.
FIRST = 0.1
# From an image near the frontier: the first centre lies this share of its distance behind x.
BEHIND = 0.15
# Trials that a search remembers as planes, how often weight moves between these, and the pace at the start.
PLANES, TRADES, PACE = 6, 12, 0.25
# A step may lose this share of the radius, less and less until the last one: where h is linear and the ball touches the
# frontier inside of the box, all centres behind x are alike, and better ones lie beyond the next kink.
LOOSE = 3e-3
# Factors of the pace after a step that was accepted, and after one that was not.
FASTER, SLOWER = 1.2, 0.6
# With a slope s of h at x, rho is h(x) / sqrt(1 - s^2) at most as far as h is linear: below this there is nothing to
# gain, as for most networks that were not made for certificates.
FLATTEST = 0.05
# A pair whose pace fell below is finished.
SLOWEST = 2e-3
# Steps of Newton's method in a trial: it begins at the t of the centre before.
NEWTON = 2
# The error of a plane that is not there: no squared radius is near it.
NEVER = 1e9

# (points [M, n], pairs [M]) -> h [M] and its gradient [M, n].
Value = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class Search:
    """Pairs of an image and a rival class, each with a ball that grows.

    The gradient of rho(q)^2 / 2 is w D, with D = F grad h(q) - (q - z), w = t / (1 + t), and z the point in which the
    clipped ray leaves the ball. At the best centre the ball touches the frontier in an image of the box, and q lies
    straight behind it. There h has kinks, across which D turns: steps along D zigzag. So six trials, kept or not, are
    remembered as planes that touch rho^2 / 2, a new one in the place of the one with the least weight. A step goes to
    where the lowest plane, less the squared length of the step over twice the pace, is highest. It is kept if rho grew
    or fell by little; one forward and one backward pass each.

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
        self._offset, self._rho = torch.zeros_like(x), at_x.clone()  # where the search is
        self.first = torch.zeros_like(x)  # its first move
        self.planes = x.new_zeros(len(x), PLANES, x.shape[1])
        self.heights = x.new_full((len(x), PLANES), torch.inf)  # of the planes, over x; inf where there is none
        self.gram = x.new_zeros(len(x), PLANES, PLANES)  # their products
        self.pace, self.last_t = torch.full_like(at_x, PACE), torch.full_like(at_x, torch.nan)
        self.t = self.last_t.clone()
        self.is_open, self.is_begun = at_x > 0, torch.zeros_like(at_x, dtype=torch.bool)
        if known is not None:
            # As if the first pass had been made, and led there.
            self.is_begun = known.isfinite().all(1) & (self.start == x).all(1)
            self.first = torch.where(self.is_begun[:, None], known - x, 0.0)

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
                self.step(rows[~new], LOOSE * (1 - number / steps) ** 2)
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
        self.first[rows] = away + (behind / steep.clamp_min(FLATTEST))[:, None] * gradient

    def step(self, rows: Tensor, loose: float = 0.0) -> None:
        """One trial of each of these pairs, kept unless the radius falls by more than the share `loose`."""
        x, planes, heights, pace = self.x[rows], self.planes[rows], self.heights[rows], self.pace[rows]
        offset, is_first = self._offset[rows], heights.isinf().all(1)
        # Sums of products, not products of matrices, whose digits depend on how many pairs there are.
        # Where rho^2 is concave no plane lies below it. One that does is trusted as little as one that is as far above.
        above = heights + (planes * offset[:, None]).sum(2) - self._rho[rows, None].square() / 2
        weights = lowest(pace[:, None, None] * self.gram[rows], above.abs().clamp_max(NEVER))
        move = pace[:, None] * (weights[:, :, None] * planes).sum(1)
        offset = offset + torch.where(is_first[:, None], self.first[rows], move)
        centre = x + offset
        depth, gradient = self.value(centre, rows)
        t = best_t(x, offset, depth, NEWTON, self.last_t[rows])
        away = torch.clamp(-t[:, None] * offset, -x, 1 - x)
        rho = radius(offset, depth, t, away)
        plane = (t / (1 + t))[:, None] * (depth[:, None] * gradient - offset + away)
        height = rho.square() / 2 - (plane * offset).sum(1)
        usable = (rho > 0) & plane.isfinite().all(1) & height.isfinite()
        used, place = rows[usable], weights.masked_fill(heights.isinf(), -1.0).argmin(1)[usable]
        self.planes[used, place], self.heights[used, place] = plane[usable], height[usable]
        products = (self.planes[used] * plane[usable, None]).sum(2)
        self.gram[used, place], self.gram[used, :, place] = products, products
        kept = usable & (rho > (1 - loose) * self._rho[rows])
        yes, no = rows[kept], rows[~kept]
        self._offset[yes], self._rho[yes] = offset[kept], rho[kept]
        self.last_t[rows] = t
        self.first[no] *= SLOWER
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


def lowest(gram: Tensor, error: Tensor) -> Tensor:
    """Weights w [M, K], none below 0, with the sum 1, of about the smallest w gram w / 2 + error w: weight moves from
    the entry that gains least by it to the one that gains most. [M, K, K], [M, K].
    """
    weights = torch.zeros_like(error).scatter(1, error.argmin(1, keepdim=True), 1.0)
    for _ in range(TRADES):
        slope = (gram * weights[:, None]).sum(2) + error
        least, into = slope.min(1, keepdim=True)
        most, out = slope.masked_fill(weights <= 0, -torch.inf).max(1, keepdim=True)
        one = torch.ones_like(least)
        trade = torch.zeros_like(weights).scatter_add(1, into, one).scatter_add(1, out, -one)
        bend = (trade * (gram * trade[:, None]).sum(2)).sum(1, keepdim=True)
        share = (most - least) / bend.clamp_min(torch.finfo(bend.dtype).tiny)
        weights = weights + torch.minimum(share, weights.gather(1, out)) * trade
    return weights
