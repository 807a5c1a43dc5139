"""Judging methods on one network: the rows of the table, what they cost, and the two laws."""

import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from lipbench import attacks as attack_room
from lipbench import norms
from lipbench.attacks import Float64, Judge, distance, margin, undisturbed, warm
from lipbench.batching import HELD, images_at_once
from lipbench.certificate import certify, gaps
from lipbench.health import Flag, HealthWarning, model_flags, returned_flags, table_flags
from lipbench.layers import bake
from lipbench.losses import binary_function
from lipbench.results import LawViolation, best, bounds_table, violations
from lipbench.state import duplicate, float32_products, same_random_numbers
from lipbench.transport import wasserstein

Attack = Callable[..., Tensor]
Certificate = Callable[..., Tensor]

ATTACKS: dict[str, Attack] = {
    "fgsm": attack_room.fgsm,
    "fgm": attack_room.fgm,
    "l2_pgd": attack_room.l2_pgd,
    "deepfool": attack_room.deepfool,
    "carlini_wagner": attack_room.carlini_wagner,
    "lipbench": attack_room.strongest,
}
CERTIFICATES: dict[str, Certificate] = {"certificate": certify}


@dataclass(frozen=True)
class Judged:
    """One method on one set of images.

    Attributes:
        table: its rows.
        images: the adversarial images of an attack, [N, C, H, W] on the CPU; None for a certificate.
        seconds: wall time.
        passes: images that went through the network forwards, per image judged.
    """

    table: pd.DataFrame
    images: Tensor | None
    seconds: float
    passes: float


class _Counter:
    """A count that copies of a model share."""

    def __init__(self) -> None:
        self.images = 0

    def __deepcopy__(self, memo: dict) -> "_Counter":
        return self


class _Counted(nn.Module):
    """The same classifier, counting the images that pass; it gets copies of them, which it may overwrite."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        self.counter = _Counter()

    def forward(self, x: Tensor) -> Tensor:
        self.counter.images += len(x)
        return self.model(x.clone())


def as_pixels(images: Tensor) -> Tensor:
    """uint8 or float images [N, C, H, W] -> float32 in [0, 1].

    Raises:
        ValueError: another type, or floats outside [0, 1].
    """
    if images.ndim != 4:
        raise ValueError(f"Images are [N, C, H, W]; got {list(images.shape)}.")
    if images.dtype == torch.uint8:
        return images.float() / 255
    if not images.is_floating_point():
        raise ValueError(f"Images are uint8 in 0..255 or float in [0, 1]; got {images.dtype}.")
    if len(images) and (not images.isfinite().all() or images.min() < 0 or images.max() > 1):
        raise ValueError(
            f"Float images are in [0, 1]; these span [{float(images.min()):g}, {float(images.max()):g}]. "
            "Put the normalisation inside the model: lipbench.layers.Normalize."
        )
    return images.float()


@float32_products()
def certify_images(
    model: nn.Module, images: Tensor, labels: Tensor, certificate: Certificate, name: str = "certificate"
) -> Judged:
    """Lower bounds of one certificate, which gives L2 radii, on a baked network in evaluation mode: N rows per norm.

    Images of a mapped file (`lipbench.data`) are read part by part, never as a whole.
    """
    shape = images.shape[1:]
    size = images_at_once(shape, HELD, len(images))
    parts, seconds = [], 0.0
    for first in range(0, len(images), size):
        x, y = _on_device(model, images[first : first + size], labels[first : first + size])
        predictions = predict(model, x, first)
        started = time.perf_counter()
        distances = certificate(model, x, y)
        seconds += time.perf_counter() - started
        parts.append((y, predictions, distances.masked_fill(predictions != y, 0.0)))
    y, predictions, distances = (torch.cat(column) for column in zip(*parts, strict=True))
    table = _table(y, predictions, name, "lower", norms.radii(distances, shape.numel()))
    return Judged(table, None, seconds, 1.0)


@float32_products()
def attack_images(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    attack: Attack,
    name: str,
    *,
    lower: Tensor | None = None,
    batch_size: int = 500,
    progress: bool = False,
) -> Judged:
    """Upper bounds of one attack, N rows per norm. What it returns is judged afresh: in the box, misclassified in both
    precisions, distance in float64.

    Args:
        lower: certified distances [N], for attacks that take them (see `lipbench.attacks.minimum_distance`).

    An image that is misclassified as it is has distance 0; an attack that fails has inf. A non-finite or out-of-box
    image is a failure.
    """
    x, y = _on_device(model, images, labels)
    predictions = predict(model, x)
    judge, counted = Judge(model), _Counted(model)
    found, lengths = [], []
    started = time.perf_counter()
    bounds = torch.zeros(len(x)) if lower is None else lower
    batches = zip(x.split(batch_size), y.split(batch_size), bounds.to(x.device).split(batch_size), strict=True)
    for xs, ys, ls in tqdm(
        batches, total=-(-len(x) // batch_size), desc=name, disable=None if progress else True, leave=False
    ):
        with undisturbed(model):
            returned = attack(counted, xs, ys, **warm(attack, lower=ls)).detach().to(xs)
        if returned.shape != xs.shape:
            raise ValueError(f"{name} returned images of shape {list(returned.shape)} for {list(xs.shape)}.")
        valid = ((returned >= 0) & (returned <= 1)).flatten(1).all(1)
        success = judge(returned, ys) & valid
        length = distance(xs, returned).where(success, torch.inf)
        lengths.append(length.masked_fill(judge(xs, ys), 0.0))
        found.append(returned.cpu())
    seconds = time.perf_counter() - started
    adversarial = torch.cat(found)
    table = _table(y, predictions, name, "upper", norms.distances(x.cpu(), adversarial, torch.cat(lengths).cpu()))
    return Judged(table, adversarial, seconds, counted.counter.images / max(1, len(x)))


def certified(table: pd.DataFrame) -> Tensor:
    """The largest certified L2 distance of each image of a table, in the order of their indices, float64 [N]."""
    return torch.from_numpy(best(table, "lower").sort_index().to_numpy().copy())


@torch.no_grad()
def predict(model: nn.Module, x: Tensor, first: int = 0) -> Tensor:
    """Labels given by the model as deployed, [N].

    Args:
        first: number of the first image, for messages.

    Raises:
        ValueError: the logits are not [N, K >= 2], or not finite: with the images.
    """
    predictions, batch_size = [], images_at_once(x.shape[1:])
    for start, xs in zip(range(0, len(x), batch_size), x.split(batch_size), strict=True):
        logits = model(xs.clone())  # a first layer with inplace=True would overwrite the images
        margin(logits, torch.zeros(len(xs), dtype=torch.long, device=xs.device))
        bad = (~logits.isfinite()).any(1).nonzero()[:, 0]
        if len(bad):
            raise ValueError(
                f"The model gives NaN or infinite logits on {len(bad)} images, the first is "
                f"image {first + start + int(bad[0])}: there is no distance to judge."
            )
        predictions.append(logits.argmax(1))
    return torch.cat(predictions)


def evaluate(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    attacks: Mapping[str, Attack] | list[str] | None = None,
    certificates: Mapping[str, Certificate] | list[str] | None = None,
    *,
    batch_size: int = 500,
    progress: bool = True,
) -> pd.DataFrame:
    """How far is the nearest adversarial example? One row per image, method and norm, for anyone's classifier.

    The model is judged in evaluation mode and in float32 (no TF32, no autocast from outside), and left as it was:
    modes, gradients, flags, and the generators of random numbers. Live parametrizations are baked in a copy.

    Args:
        model: images [N, C, H, W] in [0, 1] -> logits [N, K], K >= 2, on any device.
        images: uint8, or float in [0, 1].
        labels: integers [N].
        attacks: names of `ATTACKS`, or a mapping from your own names to functions (model, x, y) -> images; None: all
            of `ATTACKS`; [] for none.
        certificates: likewise, functions (model, x, y) -> L2 distances [N]; None: `CERTIFICATES`.

    Returns:
        the table with the columns index, label, prediction, method, side, norm, distance. Of the norms l2, linf and l1
            the first is what attacks minimise and certificates bound; the others follow from it (see `lipbench.norms`).
            `table.attrs["flags"]` lists the health flags (`lipbench.health`) as dictionaries; those of severity
            "warning" are issued as `HealthWarning` as well.

    Raises:
        ValueError: images, labels or logits of a wrong kind, an unknown name.
        LawViolation: a certificate exceeds an attack's distance; it carries the table.
    """
    if len(images) != len(labels) or not len(images):
        raise ValueError(f"As many labels as images, at least one: got {len(images)} images and {len(labels)} labels.")
    chosen_attacks = _named(attacks, ATTACKS, "attack")
    chosen_certificates = _named(certificates, CERTIFICATES, "certificate")
    x, y = as_pixels(images), labels.long()
    # Not a decorator, so that warnings point to the caller.
    with float32_products(), _baked(model) as baked:
        _check_labels(baked, x, y)
        flags = health(baked, x, y, batch_size)
        tables = [certify_images(baked, x, y, function, name).table for name, function in chosen_certificates.items()]
        lower = certified(pd.concat(tables)) if tables else None
        for name, attack in chosen_attacks.items():
            judged = attack_images(baked, x, y, attack, name, lower=lower, batch_size=batch_size, progress=progress)
            tables.append(judged.table)
            assert judged.images is not None  # of an attack
            flags += returned_flags(baked, name, judged.images, batch_size)
    if not tables:
        raise ValueError("Nothing to evaluate: give at least one attack or certificate.")
    table = pd.concat(tables, ignore_index=True)
    flags += table_flags(table)
    table.attrs["flags"] = [flag.as_dict() for flag in flags]
    for flag in flags:
        if flag.severity == "warning":
            warnings.warn(str(flag), HealthWarning, stacklevel=2)
    check(table)
    return table


@float32_products()
def health(model: nn.Module, images: Tensor, labels: Tensor, batch_size: int = 500) -> list[Flag]:
    """The flags of a baked network in evaluation mode before it is attacked, from its first images (at most 100)."""
    x, y = _on_device(model, images[:100], labels[:100])
    predict(model, x)  # refuses logits that are not finite
    return model_flags(model, x, y, min(100, batch_size))


@float32_products()
def certify_model(model: nn.Module, images: Tensor, labels: Tensor | None = None) -> Tensor:
    """Certified radius of each image, [N] float64 in L2: no image of [0, 1] nearer than it changes the model's label.

    Args:
        model: as in `evaluate`; a copy is baked and put in evaluation mode.
        images: uint8, or float in [0, 1].
        labels: radius 0 where the model disagrees with them; None: the model's own predictions.
    """
    with _baked(model) as baked:
        x = _model_images(baked, images)
        y = predict(baked, x) if labels is None else _to_device(baked, labels.long())
        return certify(baked, x, y)


def check(table: pd.DataFrame) -> None:
    """The sandwich law over all rows of one run.

    Raises:
        LawViolation: with the table and the offending pairs.
    """
    pairs = violations(table)
    if len(pairs):
        raise LawViolation(
            f"The sandwich law is violated on {pairs['index'].nunique()} images: a certificate exceeds an "
            "adversarial distance. "
            f"Either a bound is wrong or the table is. First pairs:\n{pairs.head().to_string(index=False)}",
            table,
            pairs,
        )


@float32_products()
def transport_law(model: nn.Module, images: Tensor, labels: Tensor, limit: int = 500) -> dict[str, Any]:
    """The second law, for a two-class network: KR estimate / Lipschitz bound <= exact Wasserstein-1 distance of the
    classes.

    Uses the first n images of each class, n the size of the smaller class and at most `limit`.

    Returns:
        kr: mean of f = z_1 - z_0 on class 1 minus on class 0; lipschitz: bound of f; wasserstein; transport_law:
            whether it holds.
        Empty for more than two classes, or where a class is missing.
    """
    first = [(labels == k).nonzero()[:limit, 0] for k in (0, 1)]
    size = min(len(rows) for rows in first)
    if int(labels.max()) > 1 or not size:
        return {}
    samples = [_model_images(model, images[rows[:size]]) for rows in first]
    with torch.no_grad():
        if model(samples[0][:1].clone()).shape[1] != 2:
            return {}
        exact, at_once = Float64(model), images_at_once(images.shape[1:])
        f = [torch.cat([_binary(model, exact, part) for part in x.split(at_once)]) for x in samples]
    kr = float(f[1].mean() - f[0].mean())
    bound = float(gaps(model, tuple(images.shape[1:]))[0, 1])
    distance_ = wasserstein(*(sample.double().flatten(1).cpu().numpy() for sample in samples))
    # Both sides are means of n float64 numbers.
    return {
        "kr": kr,
        "lipschitz": bound,
        "wasserstein": distance_,
        "transport_law": kr / bound <= distance_ * (1 + 1e-9),
    }


@contextmanager
def _baked(model: nn.Module) -> Iterator[nn.Module]:
    """A baked copy in evaluation mode; or, where it cannot be copied, the model itself, left as it was."""
    with same_random_numbers():
        try:
            copied: nn.Module | None = duplicate(model)
        except Exception:  # whatever somebody else's module raises
            copied = None
        if copied is not None:
            yield bake(copied)
        else:
            with undisturbed(model):
                yield model


def _binary(model: nn.Module, exact: Float64, x: Tensor) -> Tensor:
    """f = z_1 - z_0 of images, [N] float64; from the model as deployed where it has no float64 copy (nor, then, a
    certificate).
    """
    logits = exact(x)
    return binary_function(model(x.clone()).double() if logits is None else logits)


def _check_labels(model: nn.Module, x: Tensor, y: Tensor) -> None:
    """
    Raises:
        ValueError: no logits, one logit, or labels that are not those of the logits.
    """
    with torch.no_grad():
        logits = model(_model_images(model, x[:1]).clone())
    if not isinstance(logits, Tensor):
        kind = type(logits).__name__
        raise ValueError(
            f"A classifier gives a tensor of logits [N, K]; this one a {kind}. Wrap it in a module of one."
        )
    margin(logits, torch.zeros(1, dtype=torch.long, device=logits.device))  # refuses one logit, by name
    classes = logits.shape[1]
    if int(y.min()) < 0 or int(y.max()) >= classes:
        raise ValueError(f"Labels are 0..{classes - 1} for {classes} logits; got {int(y.min())}..{int(y.max())}.")


def _named(chosen: Any, known: Mapping[str, Callable], kind: str) -> dict[str, Callable]:
    if chosen is None:
        return dict(known)
    if isinstance(chosen, Mapping):
        return dict(chosen)
    unknown = [name for name in chosen if name not in known]
    if unknown:
        raise ValueError(f"Unknown {kind} {', '.join(map(repr, unknown))}: there are {', '.join(known)}.")
    return {name: known[name] for name in chosen}


def _on_device(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    return _model_images(model, images), _to_device(model, labels.long())


def _model_images(model: nn.Module, images: Tensor) -> Tensor:
    """Pixels on the device and in the precision of the model."""
    x = _to_device(model, as_pixels(images))
    kinds = [t.dtype for t in _tensors(model) if t.is_floating_point()]
    return x.to(kinds[0]) if kinds else x


def _to_device(model: nn.Module, tensor: Tensor) -> Tensor:
    return tensor.to(next(_tensors(model), torch.zeros(())).device)


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    yield from model.parameters()
    yield from model.buffers()


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
