"""The Python interface: a classifier, judged by several methods, and its certified radii."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import lipbench.attacks as package
from lipbench import configuration
from lipbench.certificate import certify, certify_float, certify_inscribed, certify_inscribed_float
from lipbench.data.dataset import Dataset, Split, tensors_of
from lipbench.evaluation.bounds import Attack, Certificate, Judged, less_rounding
from lipbench.evaluation.health import HealthWarning, table_flags
from lipbench.evaluation.loop import OURS, health, judge
from lipbench.gate import EXPECTED, logits_of
from lipbench.images import MOST, as_pixels, check_batch, check_labels, images_at_once, model_images, to_device
from lipbench.judge import Classifier
from lipbench.layers import bake_as_it_is
from lipbench.margins import margin, predict
from lipbench.modules import duplicate, undisturbed
from lipbench.precision import float32_products
from lipbench.randomness import same_random_numbers
from lipbench.results.flags import Flag
from lipbench.results.laws import check

Images = Tensor | np.ndarray | Split | Dataset | DataLoader
ATTACKS: dict[str, Attack] = {
    "fgsm": package.fgsm,
    "fgm": package.fgm,
    "l2_pgd": package.l2_pgd,
    "deepfool": package.deepfool,
    "carlini_wagner": package.carlini_wagner,
    OURS: package.lipbench,
}
CERTIFICATES: dict[str, Certificate] = {
    "certificate": certify,
    "certificate_float": certify_float,
    "certificate_inscribed": certify_inscribed,
    "certificate_inscribed_float": certify_inscribed_float,
}


@torch.inference_mode(False)  # in the caller's, no attack would see a gradient
def evaluate(
    model: nn.Module,
    images: Images,
    labels: Tensor | np.ndarray | None = None,
    attacks: Mapping[str, Attack] | list[str] | None = None,
    certificates: Mapping[str, Certificate] | list[str] | None = None,
    *,
    batch_size: int = 500,
    progress: bool = True,
) -> pd.DataFrame:
    """How far is the nearest adversarial example? One row per image, method and norm, for anyone's classifier.

    The model is judged in evaluation mode and in float32 (no TF32, no autocast from outside), with live
    parametrizations baked in a copy. The model and the generators of random numbers are left as they were.

    Args:
        model: images [N, C, H, W] in [0, 1] -> logits [N, K], K >= 2, on any device.
        images: a tensor or numpy array, uint8 or float in [0, 1]; or, with their labels, a `Split`, a `Dataset` (its
            test split) or a `DataLoader`. Where the model takes float32 alone, float64 images are rounded for it;
            bounds are of the given ones.
        labels: integers [N]; None for data that have labels.
        attacks: some of `lipbench.attacks.names()`, or a mapping from your own names to functions (model, x, y) ->
            images; None: all of `ATTACKS`; [] for none.
        certificates: names of the files in `conf/certificate`, or a mapping from your own names to functions
            (model, x, y) -> L2 distances [N]; None: `CERTIFICATES`.

    Returns:
        the table with the columns index, label, prediction, method, side, norm, distance. Most methods
            work in l2, from which linf and l1 follow (see `norms`). `table.attrs["flags"]` lists the health flags as
            dictionaries; those of severity "warning" are issued as `HealthWarning` as well.

    Raises:
        TypeError: no module, images of another type, no labels, labels that are no integers.
        ValueError: images (NaN, out of [0, 1], none, of a shape that the model refuses), labels or logits of a wrong
            kind (float32 and float64 are judged), an unknown name, an attack or a certificate that fails, returns
            something else than images or radii, or changes the model.
        BakingError: a baked copy of the model gives other logits.
        LawViolation: a certificate exceeds an attack's distance; it carries the table.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"The model is a {type(model).__name__}, not a torch.nn.Module: wrap it in one.")
    if batch_size < 1:
        raise ValueError(f"batch_size is the number of images attacked at once, 1 or more, not {batch_size}.")
    given, truth = tensors_of(images, labels)
    if truth is None:
        raise TypeError("There are images without labels: evaluate(model, images, labels).")
    check_batch(given, truth)
    methods = _methods(certificates, attacks)
    x, y = as_pixels(given), truth.long()
    # Not a decorator, so that warnings point to the caller.
    with float32_products(), _baked(model, x, batch_size) as baked:
        _check_labels(baked, x, y)
        classifier = Classifier(baked)
        flags = health(classifier, x, y, batch_size)
        judged = list(judge(classifier, x, y, *methods, before=flags, batch_size=batch_size, progress=progress))
    return _collected(judged, flags)


@float32_products()
def certify_model(
    model: nn.Module, images: Images, labels: Tensor | np.ndarray | None = None, *, steps: int = 0
) -> Tensor:
    """Certified radius of each image, [N] float64 in L2: no image of [0, 1] nearer than it changes the model's label.

    Args:
        model: as in `evaluate`; a copy is baked and put in evaluation mode.
        images: as in `evaluate`.
        labels: radius 0 where the model disagrees with them; None: those of the data, else the model's predictions.
        steps: forward and backward passes of an image, at most, for a larger radius (`certify_inscribed`); 0: one
            forward pass.

    Raises:
        TypeError, ValueError: as `evaluate`.
    """
    given, truth = tensors_of(images, labels)
    check_batch(given, truth)
    with _baked(model, given) as baked:
        x = model_images(baked, given)
        y = None if truth is None else to_device(baked, truth.long())
        own = predict(baked, x, labels=y)
        method = partial(certify_inscribed, steps=steps) if steps else certify
        return less_rounding(method(baked, x, own if y is None else y), given, x)


@contextmanager
def _baked(model: nn.Module, images: Tensor, batch_size: int = MOST) -> Iterator[nn.Module]:
    """A baked copy in evaluation mode that gives the same logits for the images; or, where the model cannot be copied,
    the model itself, left as it was.
    """

    def logits(network: nn.Module) -> Tensor:
        with same_random_numbers():
            parts = images.split(images_at_once(images.shape[1:], most=batch_size))
            return torch.cat([logits_of(network, model_images(network, part)) for part in parts])

    with same_random_numbers():
        try:
            copied: nn.Module | None = duplicate(model)
        except Exception:  # a user's module can raise anything
            copied = None
        with undisturbed(model):
            if copied is None:
                yield model
                return
            baked = bake_as_it_is(model, copied, logits)
        yield baked


def _check_labels(model: nn.Module, x: Tensor, y: Tensor) -> None:
    """
    Raises:
        ValueError: no logits, one logit, or labels that are not those of the logits.
    """
    with torch.no_grad():
        logits = logits_of(model, model_images(model, x[:1]))
    margin(logits, torch.zeros(1, dtype=torch.long, device=logits.device))  # refuses one logit, by name
    check_labels(y, logits.shape[1])


def _methods(certificates: Any, attacks: Any) -> tuple[dict[str, Callable], dict[str, Callable]]:
    """Certificates and attacks by their names.

    Raises:
        ValueError: as `_named`; a name of both, so that their rows are not told apart.
    """
    methods = _named(certificates, CERTIFICATES, "certificate"), _named(attacks, ATTACKS, "attack")
    if twice := sorted(methods[0].keys() & methods[1].keys()):
        raise ValueError(f"{', '.join(twice)}: a certificate and an attack have this name. Give each one of its own.")
    return methods


def _collected(judged: Sequence[Judged], flags: Sequence[Flag]) -> pd.DataFrame:
    """The table of all methods with its flags, of which the warnings are issued.

    Raises:
        ValueError: no method.
        LawViolation: a certificate exceeds an attack's distance.
    """
    if not judged:
        raise ValueError("Nothing to evaluate: give at least one attack or certificate.")
    table = pd.concat([method.table for method in judged], ignore_index=True)
    known = [*flags, *(flag for method in judged for flag in method.flags), *table_flags(table)]
    table.attrs["flags"] = [flag.as_dict() for flag in known]
    for flag in known:
        if flag.severity == "warning":
            warnings.warn(str(flag), HealthWarning, stacklevel=4)  # over `evaluate` and its decorator, to the caller
    check(table)
    return table


def _named(chosen: Any, default: Mapping[str, Callable], kind: str) -> dict[str, Callable]:
    """
    Raises:
        ValueError: names that are unknown or whose library is missing, or functions without a name.
    """
    if chosen is None:
        return dict(default)
    if isinstance(chosen, Mapping):
        wrong = [name for name, function in chosen.items() if not isinstance(name, str) or not callable(function)]
        if wrong:
            raise ValueError(
                f"{kind}s={chosen!r} maps names to functions; {wrong[0]!r} is no such pair. {EXPECTED[kind]}"
            )
        return dict(chosen)
    if isinstance(chosen, str) or not isinstance(chosen, Iterable):
        raise ValueError(f'{kind}s={chosen!r}: give a list of names, or {{"a name": function}}. {EXPECTED[kind]}')
    asked, known = list(chosen), configuration.names(kind)
    answers = [configuration.unknown(kind, str(name), known) for name in asked if name not in known]
    if answers:
        raise ValueError(f'{" ".join(answers)} For a function of your own give {{"a name": function}}.')
    return {name: default.get(name) or configuration.method(kind, name) for name in asked}
