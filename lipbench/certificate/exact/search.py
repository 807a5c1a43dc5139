"""Branch and bound over the signs of relus: the distance to the nearest adversarial image of a region, proved."""

import heapq
import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lipbench.certificate.exact.program import Solution, minimise
from lipbench.certificate.exact.region import Array, Region, region
from lipbench.certificate.exact.tightening import tightened
from lipbench.certificate.relaxation.crown import Relaxed
from lipbench.certificate.relaxation.piecewise import Step

# Rounds of tightening before the first branch. In the parts after it, tightening takes longer than it saves.
ROUNDS = 4
# A part with fewer open relus is branched at once: a program of each relu would take longer.
FEW = 3
# A round that raises the bound by less than this share of what is left is the last one.
GAIN = 0.2
# Relus that lose less than this share of the largest loss are not tightened.
SHARE = 0.1
# With more open relus a region is not searched: its program takes a minute.
MOST = 2000
# The relus are relaxed again when the radius has shrunk by more than this before the search of another class, and a
# search begins afresh when it has shrunk by more than that: within the smaller radius fewer relus are open.
CLOSER, AFRESH = 0.99, 0.9
# The largest computed margin of an image that counts as adversarial, relative to the sizes that were added up. It
# decides where the search goes, and no bound rests on it.
FEASIBLE = 1e-9


@dataclass
class Found:
    """What is known of the distance of an image.

    Attributes:
        radius: of the nearest adversarial image known, or where the search for one was bounded.
        delta: the perturbation of that image, [n]; None: none was found within the radius.
        lower: no adversarial image is nearer; proved. At most the radius.
        nodes: regions whose program was solved by the search, besides those of the tightening.
    """

    radius: float
    delta: Array | None = None
    lower: float = math.inf
    nodes: int = 0


def search(
    steps: Sequence[Step],
    x: Array,
    own: int,
    others: Sequence[int],
    found: Found,
    gap: float,
    until: float,
    margin: float = 0.0,
) -> Found:
    """Looks within found.radius for images whose logit of another class is not below the own one.

    Args:
        steps: of the network (`steps_of`).
        x: the image [n], float64.
        found: what is known; it is updated.
        gap: the search ends where lower >= (1 - gap) radius.
        until: of `time.monotonic`, when the search ends with what is proved by then.
        margin: only images whose other logit is larger by so much count.
    """
    relaxed, left, proved = None, list(others), 0.0
    while left and found.radius > 0:
        if relaxed is None or found.radius < CLOSER * float(relaxed.radius[0]):
            relaxed = Relaxed(steps, torch.from_numpy(x)[None], torch.tensor([found.radius], dtype=torch.float64))
        root = region(relaxed, own, left[0], MOST, margin) if time.monotonic() < until else None
        if root is None:
            # Of the other classes that are left nothing is known.
            found.lower = min(found.lower, proved) if len(left) == 1 else 0.0
            break
        branches = _Search(root, found, gap, until)
        if branches.run(proved):
            left.pop(0)
            proved = 0.0
        else:
            proved = min(found.lower, branches.heap[0][0])
    found.lower = min(found.lower, found.radius)
    return found


class _Search:
    def __init__(self, root: Region, found: Found, gap: float, until: float):
        self.root, self.found, self.gap, self.until = root, found, gap, until
        self.afresh = AFRESH * found.radius
        self.tried: set[bytes] = set()
        self.heap: list[tuple[float, int, Region, Solution]] = []
        self.count = itertools.count()

    def run(self, proved: float = 0.0) -> bool:
        """Whether it came to its end: False where the radius has shrunk so much that it should begin afresh.

        Args:
            proved: no adversarial image of the class is nearer, by a search that began before.
        """
        self._add(self.root, proved, ROUNDS)
        while self.heap and self.heap[0][0] < self._target() and time.monotonic() < self.until:
            if self.found.radius < self.afresh:
                return False
            bound, _, part, solution = heapq.heappop(self.heap)
            j = _branching(part, solution)
            sign = np.arange(len(part.low)) == j
            nothing = np.zeros_like(sign)
            for child in (part.fixed(sign, nothing), part.fixed(nothing, sign)):
                self._add(child, bound, 0)
        if self.heap:
            self.found.lower = min(self.found.lower, self.heap[0][0])
        return True

    def _target(self) -> float:
        """A part whose bound is this large need not be searched."""
        return self.found.radius * (1 - self.gap / 4)

    def _add(self, part: Region, bound: float, rounds: int) -> None:
        """Bounds a part, after it was tightened, and queues it unless its bound is final."""
        solution = self._solve(part)
        new = max(bound, _root(solution.bound))
        for _ in range(rounds):
            if part.empty or new >= self._target() or part.open.sum() <= FEW or time.monotonic() > self.until:
                break
            losses = _losses(part, solution)
            part = tightened(part, losses > SHARE * losses.max(), self.found.radius, self.until)
            solution = self._solve(part)
            before, new = new, max(new, _root(solution.bound))
            if new - before < GAIN * (self._target() - before):
                break
        if part.empty:
            return
        if new >= self._target() or not part.open.any():
            self.found.lower = min(self.found.lower, new)
        else:
            heapq.heappush(self.heap, (new, next(self.count), part, solution))

    def _solve(self, part: Region) -> Solution:
        solution = minimise(part)
        self.found.nodes += 1
        self._try(solution.point)
        return solution

    def _try(self, point: Array) -> None:
        """Looks for the nearest adversarial image on the linear piece of the network at a point."""
        for _ in range(2):
            signs = self.root.values(point)[self.root.pixels :] > 0
            if signs.tobytes() in self.tried:
                return
            self.tried.add(signs.tobytes())
            point = minimise(self.root.fixed(signs, ~signs)).point
            self._keep(point)

    def _keep(self, point: Array) -> None:
        values = self.root.values(point)
        margin = self.root.cuts[0] @ values - self.root.levels[0]
        size = abs(self.root.cuts[0]) @ abs(values) + abs(self.root.levels[0])
        delta = values[: self.root.pixels]
        length = float(np.linalg.norm(delta))
        if margin <= FEASIBLE * size and length < self.found.radius:
            self.found.radius, self.found.delta = length, delta


def _branching(part: Region, solution: Solution) -> int:
    """The open relu by whose chord the bound loses most at its minimiser; where none does, the widest one."""
    loss = _losses(part, solution)
    if loss.max() > 1e-9 * solution.bound:
        return int(loss.argmax())
    return int(np.where(part.open, np.minimum(part.high, -part.low), -np.inf).argmax())


def _losses(part: Region, solution: Solution) -> Array:
    """By how much the bound would grow, to first order, if each y_j at its minimiser were relu(u_j), [k]."""
    inner = part.inner @ solution.point + part.shift
    chords = solution.weights[len(solution.weights) - len(inner) :]
    return np.where(part.open, chords * (solution.point[part.pixels :] - inner.clip(min=0)), 0.0)


def _root(square: float) -> float:
    """Rounded down; 0 of what is negative."""
    return math.sqrt(max(0.0, square)) * (1 - 1e-15)
