"""The loop of the benchmark: every certificate and every attack judges one network."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from functools import partial

import pandas as pd
import torch
from torch import Tensor, nn

from lipbench.attacks import hop_skip_jump
from lipbench.evaluation.bounds import COSTLY, Attack, Certificate, Judged, attack_images, certify_images
from lipbench.evaluation.health import (
    NEARER,
    OURS,
    float64_flags,
    masked_flag,
    model_flags,
    returned_flags,
    table_flags,
)
from lipbench.evaluation.scaling import ENOUGH
from lipbench.images import HELD, check_batch, images_at_once, on_device
from lipbench.judge import Classifier
from lipbench.margins import predict
from lipbench.modules import undisturbed
from lipbench.precision import float32_products
from lipbench.results import best
from lipbench.results.flags import Flag

# Images on which `lipbench` is compared with an attack that uses no gradient: some 350 forward passes each.
CHECKED = 10


def judge(
    model: Classifier,
    images: Tensor,
    labels: Tensor,
    certificates: Mapping[str, Certificate],
    attacks: Mapping[str, Attack],
    *,
    attacked: int | None = None,
    kept: Collection[str] = (),
    before: Collection[Flag] = (),
    batch_size: int = 500,
    progress: bool = False,
) -> Iterator[Judged]:
    """Yields the bounds of each method with its health flags, as soon as they are known: certificates, then attacks.

    Attacks are told nothing of the certificates, so that they can break one that is too large.

    Args:
        model: of a baked network in evaluation mode. Certificates get the network, attacks the `Classifier`.
        images: [N, C, H, W], uint8 or float in [0, 1].
        labels: [N].
        attacked: how many images the attacks and the costly certificates judge, the first ones; None: all.
        kept: names of methods that were judged before. They are skipped.
        before: the flags of the model (`health`).

    Raises:
        ValueError: a method fails, returns something else than radii or images, or changes the model.
    """
    first = slice(attacked)
    for name, certificate in certificates.items():
        if name not in kept:
            some = first if name in COSTLY else slice(None)
            yield certify_images(model.model, images[some], labels[some], certificate, name, progress)
    x, y = images[first], labels[first]
    for name, attack in attacks.items():
        if name not in kept:
            judged = attack_images(model, x, y, attack, name, batch_size=batch_size, progress=progress)
            yield replace(judged, flags=_flags(model, x, y, name, judged, before, batch_size))


@float32_products()
def health(model: nn.Module, images: Tensor, labels: Tensor, batch_size: int = 500) -> list[Flag]:
    """The flags of a baked network in evaluation mode before it is attacked, from its first images: at most 100, and
    1,000 for `input_range`.
    """
    check_batch(images, labels)
    model, first = Classifier.of(model), slice(images_at_once(images.shape[1:], HELD, ENOUGH))
    x, y = on_device(model.model, images[first], labels[first])
    predict(model.model, x[:100], batch_size=batch_size, labels=y[:100])  # refuses logits that are not finite
    return model_flags(model, x, y, min(100, batch_size))


def _flags(
    model: Classifier, x: Tensor, y: Tensor, name: str, judged: Judged, before: Collection[Flag], batch_size: int
) -> tuple[Flag, ...]:
    """What an attack's images and distances show."""
    assert judged.images is not None  # of an attack
    return (
        *_masked_gradients(model, x, y, name, judged),
        *returned_flags(model.model, name, judged.images, batch_size),
        *float64_flags(name, judged.why_not_float64, before),
    )


def _masked_gradients(model: Classifier, images: Tensor, labels: Tensor, name: str, judged: Judged) -> list[Flag]:
    """Where decisions alone find nearer images than the attack `lipbench` did: `black_box_wins` if the gradients
    contradict the margin on the way to these images, else `black_box_nearer`. Runs a short `hop_skip_jump` on the first
    `CHECKED` images, from those of `lipbench`. Nothing for other attacks.
    """
    if name != OURS:
        return []
    first, wanted = images[:CHECKED], labels[:CHECKED]
    assert judged.images is not None  # of an attack
    start = judged.images[:CHECKED]
    black = attack_images(
        model, first, wanted, partial(_few_decisions, start=start), "hop_skip_jump", batch_size=CHECKED
    )
    own = judged.table[judged.table["index"] < CHECKED]
    flags = [flag for flag in table_flags(pd.concat([own, black.table])) if flag.name == "black_box_nearer"]
    if not flags:
        return []
    assert black.images is not None  # of an attack
    distances = [best(table[table["norm"] == "l2"], "upper").sort_index().to_numpy() for table in (black.table, own)]
    rows = torch.from_numpy((distances[0] < NEARER * distances[1]) & (distances[0] > 0)).nonzero()[:, 0]
    x, y = on_device(model.model, first[rows], wanted[rows])
    with undisturbed(model):
        masked = masked_flag(model, x, y, black.images[rows].to(x), len(first))
    return masked or [replace(flag, method=OURS) for flag in flags]


def _few_decisions(model: nn.Module, x: Tensor, y: Tensor, *, start: Tensor) -> Tensor:
    """`hop_skip_jump` from the images of the attack that it checks: some 350 forward passes."""
    return hop_skip_jump(model, x, y, steps=4, queries=50, start=start.to(x))
