"""The bounds of one method on one network: its rows of the table, its images, and what they cost."""

import inspect
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from lipbench.certificate.lipschitz import OUTWARD
from lipbench.evaluation import norms
from lipbench.gate import checked_images, checked_radii, named
from lipbench.images import HELD, as_pixels, check_batch, images_at_once, on_device, to_device
from lipbench.judge import Classifier, Judge, distance
from lipbench.margins import predict
from lipbench.modules import tensors, undisturbed, weights_hash
from lipbench.precision import float32_products
from lipbench.progress import Progress, reporting
from lipbench.results import FLOAT32_FALSIFIER, bounds_table
from lipbench.results.flags import Flag

# Images whose logits tell whether an attack changed the model.
PROBED = 4
# Images that a certificate gets at once which does not report its progress.
PART = 500
# Certificates that cost up to minutes an image: in a run they judge the attacked images alone.
COSTLY = ("certificate_crown", "certificate_exact", "certificate_local")

Attack = Callable[..., Tensor]
Certificate = Callable[..., Tensor]


@dataclass(frozen=True)
class Judged:
    """One method on one set of images.

    Attributes:
        table: its rows.
        images: the adversarial images of an attack, [N, C, H, W] on the CPU; None for a certificate.
        seconds: wall time.
        passes: images that went through the network forwards, per image judged; NaN where they were not counted.
        why_not_float64: why the network as deployed judged the images of an attack alone, or the last of them; "" where
            the float64 weights judged all.
        flags: what its images and distances show.
        backward_passes: gradients through the network, per image judged.
    """

    table: pd.DataFrame
    images: Tensor | None
    seconds: float
    passes: float
    why_not_float64: str = ""
    flags: tuple[Flag, ...] = ()
    backward_passes: float = 0.0

    @property
    def name(self) -> str:
        """Of the method."""
        return str(self.table["method"].iloc[0])


@float32_products()
def certify_images(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    certificate: Certificate,
    name: str = "certificate",
    progress: bool = False,
) -> Judged:
    """Lower bounds of one certificate, which gives L2 radii, on a baked network in evaluation mode: N rows per norm.

    Images of a mapped file (`lipbench.data`) are read part by part, never as a whole. A certificate with an option
    `progress` reports its own, others get `PART` images at once. One with an option `count` says how many images
    passed through the network forwards, and backwards; the passes of others are not known.

    Raises:
        ValueError: the certificate fails, returns no radii, or changes the model.
    """
    check_batch(images, labels)
    shape = images.shape[1:]
    reports = reporting(certificate, name, progress)
    size = images_at_once(shape, HELD, len(images) if reports else PART)
    passes = torch.zeros(2, dtype=torch.float64)
    parts, seconds = [], 0.0
    count = {"count": lambda forwards, backwards=0: passes.add_(torch.tensor([forwards, backwards]))}
    counting = count if "count" in inspect.signature(certificate).parameters else {}
    with Progress(name, len(images), show=progress and not reports) as bar:
        for first in range(0, len(images), size):
            part = images[first : first + size]
            x, y = on_device(model, part, labels[first : first + size])
            predictions = predict(model, x, first, labels=y)
            unchanged = _Unchanged(model, x[:PROBED])
            started = time.perf_counter()
            with undisturbed(model), named("certificate", name):
                returned = certificate(model, x.clone(), y.clone(), **reports, **counting)
            seconds += time.perf_counter() - started
            unchanged.check(name)
            distances = less_rounding(checked_radii(name, returned, len(x)).to(x.device), part, x)
            parts.append((y, predictions, distances.masked_fill(predictions != y, 0.0)))
            bar.update(len(x))
    y, predictions, distances = (torch.cat(column) for column in zip(*parts, strict=True))
    table = _table(y, predictions, name, "lower", norms.radii(distances, shape.numel()))
    forwards, backwards = (passes / len(images)).tolist() if counting else (math.nan, math.nan)
    return Judged(table, None, seconds, forwards, backward_passes=backwards)


@float32_products()
def attack_images(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    attack: Attack,
    name: str,
    *,
    batch_size: int = 500,
    progress: bool = False,
) -> Judged:
    """Upper bounds of one attack, N rows per norm. Its images are checked: in the box, misclassified in both
    precisions, distance in float64. An attack of the name `falsifier_float32` is judged by the model as deployed alone.

    Args:
        model: baked, in evaluation mode; a `Classifier`, or one is made of it.

    The distance is 0 where the image itself is misclassified, inf where the attack fails or its image is non-finite or
    out of the box. Where the model takes a rounded image, distances are those from the given one.

    Raises:
        ValueError: the attack fails, returns no images of the right shape, or changes the model.
    """
    classifier = Classifier.of(model)
    x, y = on_device(classifier.model, images, labels)
    given = to_device(classifier.model, as_pixels(images))
    predictions = predict(classifier.model, x, batch_size=batch_size, labels=y)
    unchanged = _Unchanged(classifier.model, x[: min(PROBED, batch_size)])
    found, lengths = [], []
    started = time.perf_counter()
    batches = zip(*(column.split(batch_size) for column in (x, given, y)), strict=True)
    judge, handed = Judge(classifier), Classifier(classifier)
    wrong = judge.deployed if name == FLOAT32_FALSIFIER else judge
    with Progress(name, len(x), show=progress) as bar:
        for xs, gs, ys in batches:  # copies of the images: the attack may overwrite what it gets
            with undisturbed(handed), named("attack", name):
                answer = attack(handed, xs.clone(), ys.clone())
            returned = checked_images(name, answer, xs)
            unchanged.check(name)
            lengths.append(_lengths(wrong, xs, gs, ys, returned))
            found.append(returned.cpu())
            bar.update(len(xs))
    seconds, adversarial = time.perf_counter() - started, torch.cat(found)
    side = "upper" if wrong is judge else "upper_float32"
    table = _table(y, predictions, name, side, norms.distances(given.cpu(), adversarial, torch.cat(lengths).cpu()))
    passes = (handed.passes / max(1, len(x)), handed.backward_passes / max(1, len(x)))
    return Judged(table, adversarial, seconds, passes[0], classifier.why_not, backward_passes=passes[1])


def _lengths(wrong: Callable[[Tensor, Tensor], Tensor], x: Tensor, given: Tensor, y: Tensor, found: Tensor) -> Tensor:
    """Distances of what an attack returned, [N]: inf where it failed, 0 where x itself is misclassified."""
    valid = ((found >= 0) & (found <= 1)).flatten(1).all(1)
    length = distance(given, found).where(wrong(found, y) & valid, torch.inf)
    return length.masked_fill(wrong(x, y), 0.0)


class _Unchanged:
    """Whether a model still has the same weights, and says the same of images x as at first: what a forward pass reads
    besides weights cannot be compared, and some of it may change, such as a count of the calls. A model that draws
    random numbers, or keeps a state, is never said to differ.
    """

    def __init__(self, model: nn.Module, x: Tensor):
        self._model, self._images = model, x.clone()
        self._weights = weights_hash(tensors(model))
        self._before = self._logits()
        self._is_steady = not self._moved(self._logits())

    def check(self, name: str) -> None:
        """
        Raises:
            ValueError: the model is another one since the method of this name ran.
        """
        if weights_hash(tensors(self._model)) != self._weights:
            raise ValueError(f"{name} changed the weights of the model: what comes after would judge another network.")
        if self._is_steady and self._moved(self._logits()):
            raise ValueError(
                f"{name} changed the model: the logits of the same images are others than before. What comes after "
                "would judge another network. Leave the attributes and hooks of the model as they are."
            )

    @torch.no_grad()
    def _logits(self) -> Tensor:
        return self._model(self._images.clone()).double()

    def _moved(self, logits: Tensor) -> bool:
        scale = Judge.ROUNDING * torch.finfo(self._images.dtype).eps * self._before.abs().amax(1, keepdim=True)
        return not bool(((logits - self._before).abs() <= scale).all())


def less_rounding(distances: Tensor, images: Tensor, x: Tensor) -> Tensor:
    """Radii around the given images, [N], from those around the images x that the model takes: less the distance that
    the rounding of the images made.

    Args:
        distances: [N] float64.
        images: as they were given, a tensor of uint8 or float.
    """
    if images.dtype != torch.float64 or x.dtype == torch.float64:
        return distances
    return (distances - distance(images.detach().to(x.device), x) * OUTWARD).clamp_min(0)


def _table(y: Tensor, predictions: Tensor, name: str, side: str, distances: Mapping[str, Tensor]) -> pd.DataFrame:
    """The rows of one method: those of each norm together.

    Args:
        distances: norm -> [N].
    """
    index, labels, predicted = np.arange(len(y)), y.cpu().numpy(), predictions.cpu().numpy()
    return pd.concat(
        [
            bounds_table(index, labels, predicted, name, side, values.cpu().numpy(), norm)
            for norm, values in distances.items()
        ],
        ignore_index=True,
    )
