"""Outlier detection by one function f: AUROC, certified and under attack.

f is the score of being an inlier (label 1). An adversary who may move every image by epsilon (L2) lowers the score of
an inlier and raises that of an outlier, each by at most epsilon times the Lipschitz constant of f.
"""

import copy
import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from lipbench.certificate import gaps, layerwise
from lipbench.certificate.float64 import Passes
from lipbench.images import images_at_once, on_device
from lipbench.judge import Classifier
from lipbench.losses import binary_function
from lipbench.measures.descent import descend
from lipbench.modules import undisturbed
from lipbench.precision import float32_products
from lipbench.progress import SILENT, Progress
from lipbench.results import LawViolation

# Those of the paper, L2, pixels in [0, 1].
EPSILONS = tuple(number / 255 for number in (0, 8, 16, 36, 72))


def auroc(inliers: np.ndarray, outliers: np.ndarray, shift: float = 0.0) -> float:
    """The probability that an inlier's score, lowered by `shift`, exceeds an outlier's; ties count one half.

    Args:
        inliers, outliers: scores, [N] and [M], at least one each.
        shift: 0 gives the AUROC; 2 epsilon L the certified AUROC at epsilon (Béthune et al., 2023, arXiv 2303.01978,
            proposition 3): each of the two scores moves by epsilon L at most.

    Raises:
        ValueError: there is no inlier, or no outlier; a score is not finite.
    """
    if not len(inliers) or not len(outliers):
        raise ValueError(f"AUROC needs inliers and outliers; got {len(inliers)} and {len(outliers)}.")
    if not (np.isfinite(inliers).all() and np.isfinite(outliers).all()):
        raise ValueError("Scores of inliers and outliers are finite; some are NaN or infinite.")
    if not np.isfinite(shift):
        return 0.0
    ordered, lowered = np.sort(outliers), inliers - shift
    below = np.searchsorted(ordered, lowered, side="left") + np.searchsorted(ordered, lowered, side="right")
    return float(below.mean() / (2 * len(ordered)))


@float32_products()
def one_class(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epsilons: Sequence[float] = EPSILONS,
    number: int | None = None,
    steps: int = 10,
    progress: Callable[..., Progress] = SILENT,
) -> pd.DataFrame:
    """AUROC of f = z_1 - z_0 at every epsilon: certified, and under `score_attack`. Label 1 marks the inliers.

    Scores are those of the float64 weights; the network is left as it was. The certified AUROC counts what rounding can
    have added to the scores, also at epsilon 0.

    Args:
        model: baked, in evaluation mode, two logits.
        images: uint8, or float in [0, 1].
        epsilons: L2, pixels in [0, 1].
        number: of the first images of each label that are used; None: all.
        steps: of the attack.
        progress: called with the number of epsilons, gives what is told of them (`lipbench.progress`).

    Returns:
        the columns epsilon, certified_auroc, attacked_auroc, lipschitz (bound of f), inliers, outliers.

    Raises:
        LawViolation: an AUROC under attack is smaller than the certified one: the bound is wrong.
        ValueError: not two logits, or a label without an image.
    """
    chosen = torch.cat([(labels == label).nonzero()[:number, 0] for label in (0, 1)])
    x, y = on_device(model, images[chosen], labels[chosen])
    bound = float(gaps(model, tuple(x.shape[1:]))[0, 1])
    clean, rows, slack = _by_label(_scores(model, x), y), [], _slack(model, x) if np.isfinite(bound) else np.inf
    with progress(len(epsilons), "epsilon") as bar:
        for epsilon in epsilons:
            shift, attacked = 2 * (epsilon * bound + slack), clean
            if epsilon > 0:
                attacked = _by_label(_scores(model, score_attack(model, x, y, epsilon=epsilon, steps=steps)), y)
            rows.append((epsilon, auroc(*clean, shift), auroc(*attacked), bound, *map(len, clean)))
            bar.update()
    columns = ["epsilon", "certified_auroc", "attacked_auroc", "lipschitz", "inliers", "outliers"]
    table = pd.DataFrame(rows, columns=columns)
    broken = table[table["attacked_auroc"] < table["certified_auroc"]]
    if len(broken):
        raise LawViolation(
            f"THE LAW OF CERTIFIED AUROC IS VIOLATED: an attack leaves less than what is certified.\n{broken}",
            table,
            broken,
        )
    return table


def score_attack(model: nn.Module, x: Tensor, y: Tensor, *, epsilon: float, steps: int = 10) -> Tensor:
    """`descend` on f = z_1 - z_0 where y = 1, on -f where y = 0: images [N, C, H, W] of the L2 balls of radius epsilon
    around the images, and of the box.
    """
    batch, parts = images_at_once(tuple(x.shape[1:])), []
    with undisturbed(model):
        for xs, ys in zip(x.split(batch), y.split(batch), strict=True):
            sign = 2 * ys.to(xs) - 1
            value = partial(_signed, model, sign)
            parts.append(descend(value, xs, epsilon=epsilon, steps=steps))
    return torch.cat(parts)


def _signed(model: nn.Module, sign: Tensor, x: Tensor) -> Tensor:
    return sign * binary_function(model(x.clone()))


@torch.no_grad()
def _scores(model: nn.Module, x: Tensor) -> Tensor:
    """f of images by the float64 weights, [N]."""
    classifier = Classifier(model)
    parts = []
    for xs in x.split(images_at_once(tuple(x.shape[1:]))):
        logits = classifier.exact(xs)
        parts.append(binary_function(model(xs.clone()).double() if logits is None else logits))
    return torch.cat(parts)


@torch.no_grad()
def _slack(model: nn.Module, x: Tensor) -> float:
    """What rounding can add to a score, layer by layer: large numbers may cancel. `inf` without a float64 copy."""
    if Classifier(model).exact(x[:1]) is None:
        return math.inf
    shape = tuple(x.shape[1:])
    passes = Passes(copy.deepcopy(model).double(), shape, layerwise(model, shape))
    return float(torch.cat([passes(xs.double())[1] for xs in x.split(images_at_once(shape))]).max())


def _by_label(scores: Tensor, y: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Scores of the inliers and of the outliers."""
    return scores[y == 1].cpu().numpy(), scores[y == 0].cpu().numpy()
