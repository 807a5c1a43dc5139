"""Robust conformal sets: sets of classes that hold the label with probability 1 - alpha, also of an image that an
adversary moved by epsilon (L2).

The sets follow from the Lipschitz constants of the logits alone (lip-rcp: Massena et al., ICML 2025, arXiv 2506.05434).
"""

import copy
import math
from collections.abc import Callable, Sequence
from functools import partial

import pandas as pd
import torch
from scipy.stats import betabinom
from torch import Tensor, nn

from lipbench.certificate import gaps_of, layerwise, logit_bounds
from lipbench.certificate.float64 import Passes
from lipbench.certificate.lipschitz import OUTWARD
from lipbench.certificate.radius import is_another, read_exactly
from lipbench.data import Split
from lipbench.images import images_at_once, model_images, on_device
from lipbench.judge import Classifier
from lipbench.measures.descent import descend
from lipbench.modules import undisturbed
from lipbench.precision import float32_products
from lipbench.progress import SILENT, Progress
from lipbench.results import LawViolation

# The second one is that of the published numbers on CIFAR-10. L2, pixels in [0, 1].
EPSILONS = (0.0, 0.03, 0.1, 0.25, 0.5, 1.0)

# (logits [N, K], reach) -> [N, K]: the largest score that each class can have where every constant acts over a distance
# epsilon: reach is epsilon times the constants of the score; None at epsilon 0. A larger score conforms more.
Score = Callable[[Tensor, Tensor | None], Tensor]


def logit_score(logits: Tensor, reach: Tensor | None = None) -> Tensor:
    """z_k + reach_k.

    The score of the paper is sigmoid((z_k - b) / T), which has the same order for all b and T: with the constants of
    the logits its sets are these.
    """
    return logits if reach is None else logits + reach


def margin_score(logits: Tensor, reach: Tensor | None = None) -> Tensor:
    """min over j != k of z_k - z_j + reach_kj."""
    columns = []
    for k in range(logits.shape[1]):
        ahead = logits[:, k : k + 1] - logits
        ahead = ahead if reach is None else ahead + reach[k]
        columns.append(torch.cat([ahead[:, :k], ahead[:, k + 1 :]], 1).amin(1))
    return torch.stack(columns, 1)


SCORES: dict[str, Score] = {"logit": logit_score, "margin": margin_score}


@float32_products()
def conformal(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    validation: Split,
    alpha: float = 0.1,
    epsilons: Sequence[float] = EPSILONS,
    number: int | None = 1000,
    steps: int = 20,
    progress: Callable[..., Progress] = SILENT,
) -> pd.DataFrame:
    """Coverage (share of images whose set holds the label) and mean size of conformal sets, vanilla and robust, on
    clean images and under attack. Calibrated on all of the validation split, which the training must not have seen.

    The attack lowers the score of the label. Logits are those of the float64 weights, and the robust sets count what
    rounding can have added to them. Where a constant is unknown, these sets hold all classes.

    Args:
        model: baked, in evaluation mode, K logits.
        images: uint8, or float in [0, 1]; the first `number` of them are used (None: all).
        validation: given by the run.
        alpha: the share of labels that sets may miss.
        epsilons: L2, pixels in [0, 1].
        steps: of the attack, `lipbench.measures.descent`.
        progress: called with the number of rows of the table, gives what is told of them (`lipbench.progress`).

    Returns:
        the columns score ("logit", "margin"), sets ("vanilla", "robust"), images ("clean", "attacked"), epsilon,
        coverage, size, p_value (probability of so many covered labels or fewer where validation and test images are
        exchangeable), lipschitz (largest constant of the score), alpha, classes, calibration, test (numbers of images).

    Raises:
        ValueError: an alpha out of (0, 1).
        LawViolation: an attack drove a label out of a robust set that must hold it: a constant is wrong.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha={alpha}: give the share of labels that sets may miss, between 0 and 1.")
    x, y = on_device(model, images[:number], labels[:number])
    known, rows, broken = _Logits(model, x), [], []
    clean, calibration = known(x), known(validation.images)
    with progress(len(SCORES) * len(epsilons), "row") as bar:
        for name, score in SCORES.items():
            sets = _Sets(score, known.constants[name], *calibration, validation.labels.to(x.device), alpha)
            for epsilon in epsilons:
                moved = known(_attacked(model, x, y, score, epsilon, steps)) if epsilon > 0 else clean
                rows += [{"score": name, **row} for row in sets.rows(y, epsilon, {"clean": clean, "attacked": moved})]
                broken += [{"score": name, **row} for row in sets.broken(y, epsilon, clean, moved)]
                bar.update()
    return _lawful(pd.DataFrame(rows), pd.DataFrame(broken))


def _lawful(table: pd.DataFrame, broken: pd.DataFrame) -> pd.DataFrame:
    if len(broken):
        raise LawViolation(
            "THE LAW OF ROBUST CONFORMAL SETS IS VIOLATED: an attack drove the label out of a robust set that must "
            f"hold it. Check the bound of each layer. First images:\n{broken.head().to_string(index=False)}",
            table,
            broken,
        )
    return table


def smallest_kept(scores: Tensor, alpha: float) -> float:
    """The threshold of split conformal prediction: the k-th largest score of the n calibration labels, k =
    ceil((n + 1) (1 - alpha)); -inf, all classes, where n is too small for alpha.
    """
    rank = _rank(len(scores), alpha)
    return float(scores.sort(descending=True).values[rank - 1]) if rank <= len(scores) else -math.inf


def _rank(count: int, alpha: float) -> int:
    return math.ceil((count + 1) * (1 - alpha))


class _Logits:
    """The logits of float64 weights, what rounding can have added to a difference of two, and the constants.

    Attributes:
        constants: name of a score -> its Lipschitz constants, [K] or [K, K]; inf where they are unknown.
    """

    def __init__(self, model: nn.Module, x: Tensor):
        shape = tuple(x.shape[1:])
        self._model, self._classifier = model, Classifier(model)
        network = read_exactly(model, shape, x[:1])
        layers = layerwise(network, shape)
        constants = {"logit": logit_bounds(network, shape, layers), "margin": gaps_of(network, shape, layers)}
        self._passes: Passes | None = None
        if all(bool(c.isfinite().all()) for c in constants.values()):
            self._passes = Passes(copy.deepcopy(network).double(), shape, layers)
        if self._passes is not None and network is not model and self._is_misread(x[:500]):
            self._passes = None
        if self._passes is None:
            constants = {name: torch.full_like(c, torch.inf) for name, c in constants.items()}
        self.constants = constants

    def _is_misread(self, x: Tensor) -> bool:
        with torch.no_grad():
            return is_another(self._model(x.clone()), self(x)[0])

    @torch.no_grad()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """[N, K] and [N] of images, float64; the latter inf where the constants are unknown."""
        parts = []
        for part in images.split(images_at_once(tuple(images.shape[1:]))):
            xs = model_images(self._model, part)
            if self._passes is not None:
                parts.append(self._passes(xs.clone().double()))
                continue
            exact = self._classifier.exact(xs)
            logits = self._model(xs.clone()).double() if exact is None else exact
            parts.append((logits, torch.full_like(logits[:, 0], torch.inf)))
        logits, slack = (torch.cat(column) for column in zip(*parts, strict=True))
        return logits, slack


class _Sets:
    """The sets of one score, calibrated.

    Vanilla sets compare scores as they are. Robust ones are calibrated with the smallest scores that rounding allows
    and hold each class whose largest possible one reaches the threshold.
    """

    def __init__(self, score: Score, constants: Tensor, logits: Tensor, slack: Tensor, labels: Tensor, alpha: float):
        self._score, self._constants = score, constants
        own = _of(self._largest(logits, 0.0), labels)
        self._vanilla, self._robust = smallest_kept(own, alpha), smallest_kept(own - slack, alpha)
        self._alpha, self._count, self._rank = alpha, len(labels), _rank(len(labels), alpha)

    def _largest(self, logits: Tensor, epsilon: float) -> Tensor:
        return self._score(logits, self._constants * epsilon * OUTWARD if epsilon else None)

    def rows(self, labels: Tensor, epsilon: float, seen: dict[str, tuple[Tensor, Tensor]]) -> list[dict[str, object]]:
        """The rows of the table at one epsilon, but for the name of the score.

        Args:
            seen: name of the images -> their logits and slack.
        """
        found = []
        for images, (logits, slack) in seen.items():
            sets = {
                "vanilla": self._largest(logits, 0.0) >= self._vanilla,
                "robust": self._holding(logits, slack, epsilon),
            }
            for kind, held in sets.items():
                covered = _of(held, labels)
                count = int(covered.sum())
                found.append(
                    {
                        "sets": kind,
                        "images": images,
                        "epsilon": epsilon,
                        "coverage": count / len(labels),
                        "size": float(held.sum(1).double().mean()),
                        "p_value": self._chance(count, len(labels)),
                        "lipschitz": float(self._constants.max()),
                        "alpha": self._alpha,
                        "classes": held.shape[1],
                        "calibration": self._count,
                        "test": len(labels),
                    }
                )
        return found

    def _chance(self, covered: int, count: int) -> float:
        """P(so many labels or fewer in the vanilla sets): their number is beta-binomial, without ties of scores."""
        missed = self._count + 1 - self._rank
        return float(betabinom.cdf(covered, count, self._rank, missed)) if missed > 0 else 1.0

    def _holding(self, logits: Tensor, slack: Tensor, epsilon: float) -> Tensor:
        return self._largest(logits, epsilon) + slack[:, None] >= self._robust

    def broken(
        self, labels: Tensor, epsilon: float, clean: tuple[Tensor, Tensor], moved: tuple[Tensor, Tensor]
    ) -> list[dict[str, float]]:
        """The images whose label must be in the robust set after any move by epsilon, and is not."""
        surely = _of(self._largest(clean[0], 0.0), labels) - clean[1] >= self._robust
        lost = surely & ~_of(self._holding(*moved, epsilon), labels)
        return [{"epsilon": epsilon, "index": i, "label": int(labels[i])} for i in lost.nonzero()[:, 0].tolist()]


def _attacked(model: nn.Module, x: Tensor, y: Tensor, score: Score, epsilon: float, steps: int) -> Tensor:
    """Images of the ball whose label has a small score."""
    batch, parts = images_at_once(tuple(x.shape[1:])), []
    with undisturbed(model):
        for xs, ys in zip(x.split(batch), y.split(batch), strict=True):
            parts.append(descend(partial(_label_score, model, score, ys), xs, epsilon=epsilon, steps=steps))
    return torch.cat(parts)


def _label_score(model: nn.Module, score: Score, labels: Tensor, x: Tensor) -> Tensor:
    return _of(score(model(x.clone()), None), labels)


def _of(values: Tensor, labels: Tensor) -> Tensor:
    """[N, K] -> [N]: the column of each label."""
    return values.gather(1, labels[:, None])[:, 0]
