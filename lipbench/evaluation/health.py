"""Health flags: signs that a table says less than it seems to. They read and judge; they change nothing.

A *warning* says that distances may be larger than they look, or mean something else. A *note* is something to know.
The signs of masked gradients follow Athalye et al., 2018, arXiv 1802.00420, section 3.1.
"""

from collections.abc import Collection, Iterator

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from lipbench.evaluation.scaling import range_flags
from lipbench.gate import is_memory, told
from lipbench.geometry import unit
from lipbench.judge import Classifier
from lipbench.margins import margin, margin_and_gradient
from lipbench.modules import undisturbed
from lipbench.results import FLOAT32_CERTIFICATES, IMBALANCED, best
from lipbench.results.flags import Flag

# Attacks that use no gradient, by how their names end (foolbox_hop_skip_jump too): where they find nearer images than
# all others, the gradients are masked.
BLACK_BOX = ("hop_skip_jump", "square", "boundary", "pixle")
# A black-box attack is ahead where its distance is this much shorter, and ahead of the others as a family where it is
# so on this share of the images: below, it is luck.
NEARER, SHARE = 0.99, 0.05
OURS = "lipbench"
# The attack `lipbench` is weak where another one is nearer by this.
WEAK = 0.95
# An accuracy is near chance where it is at most this share of the way from a guess to 1, or within the error of a guess
# on at least so many images.
GUESSED, COUNTED = 0.1, 30
# A gradient is right where a short step along it changes the margin by what it predicts, up to this factor.
RIGHT = 2.0
# Length of that step: short against a distance, long against rounding.
STEP = 1e-3
# Points of a segment at which the gradient is held against the change of the margin along it.
POINTS = 64
# Units of the precision within which two forward passes of the same images agree.
ROUNDING = 64


class HealthWarning(UserWarning):
    """A flag of the severity "warning"."""


def model_flags(model: nn.Module, x: Tensor, y: Tensor, limit: int = 100) -> list[Flag]:
    """What can be seen before any attack: `randomised`, `batch_dependent`, `probabilities`, `input_range`,
    `zero_gradients`, `saturated_gradients`, `nan_gradients`, `no_gradients`, `wrong_gradients`, `float64`,
    `float64_differs`.

    Args:
        model: images -> logits [N, K]; it is left as it was.
        x: images [N, C, H, W] in [0, 1], on the device and in the precision of the model.
        y: labels [N].
        limit: only so many first images are looked at, but for `input_range`; and at once.
    """
    many, x, y = (x, y), x[:limit], y[:limit]
    with undisturbed(model):
        classifier = Classifier.of(model)
        model = classifier.model
        outputs = list(_outputs(model, x))
        random = any(flag.name == "randomised" for flag in outputs)
        # Two draws of noise differ in any precision.
        still = () if random else (*_wrong_gradients(classifier, x, y), *_precision(classifier, x))
        return [*outputs, *range_flags(classifier, *many, limit), *_gradients(model, x, y), *still]


def returned_flags(model: nn.Module, method: str, images: Tensor, batch_size: int = 500) -> list[Flag]:
    """What an attack's images show: `outside_box` and `nan_logits`.

    Args:
        images: what it returned, [N, C, H, W], on any device.
    """
    flags = []
    valid = ((images >= 0) & (images <= 1)).flatten(1).all(1)
    outside = int((~valid).sum())
    if outside:
        flags.append(
            Flag(
                "outside_box",
                "warning",
                f"{outside} of {len(images)} images that it returned have pixels outside [0, 1] or NaN. They count as "
                "failures: clamp them in the attack.",
                method,
            )
        )
    place = next(iter([*model.parameters(), *model.buffers()]), torch.zeros(()))
    broken = 0
    with undisturbed(model), torch.no_grad():
        for batch in images[valid].split(batch_size):
            broken += int(model(batch.to(place.device, copy=True)).isnan().any(1).sum())
    if broken:
        flags.append(
            Flag(
                "nan_logits",
                "warning",
                f"the logits of {broken} of {len(images)} images that it returned are NaN: they label nothing and "
                "count as failures. The model overflows or divides by zero there.",
                method,
            )
        )
    return flags


def float64_flags(method: str, why_not: str, before: Collection[Flag]) -> list[Flag]:
    """`float64_lost`: the float64 copy judged at first, and failed while the images of an attack were judged.

    Args:
        why_not: why it did (see `lipbench.judge.Classifier`); "" where it did not.
        before: the flags of the model. Where `float64` is among them, there never was one.
    """
    if not why_not or any(flag.name == "float64" for flag in before):
        return []
    return [
        Flag(
            "float64_lost",
            "warning",
            f"{why_not}, though it did on the first images: the images of this attack are judged by the network as "
            "deployed alone from there on, and some may be misclassified by rounding only.",
            method,
        )
    ]


def table_flags(table: pd.DataFrame, black_box: Collection[str] = BLACK_BOX) -> list[Flag]:
    """What the rows of one run show (L2): `low_accuracy`, `never_certified`, `never_succeeded`, `unbroken`,
    `weak_attack`, `black_box_nearer`.

    Args:
        table: the rows of all methods, with the columns of `lipbench.results.COLUMNS`.
        black_box: how the names of methods that use no gradient end.
    """
    table = table[table["norm"] == "l2"]
    right = table[table["label"] == table["prediction"]]
    return [*_accuracy(table), *_never(right), *_unbroken(right), *_weak(right), *_black_box(right, black_box)]


def masked_flag(model: Classifier, x: Tensor, y: Tensor, images: Tensor, checked: int) -> list[Flag]:
    """`black_box_wins`: on the way to images that decisions alone found, the gradients contradict the margin.

    Along a segment the directional derivative adds up to the change of the margin, wherever gradients are right. The
    midpoint rule at `POINTS` points stands for the integral; an error of more than half of the change contradicts, on
    half of the images or more.

    Args:
        x, y: images [N, C, H, W] and their labels [N].
        images: of a black-box attack, nearer than those of all attacks with gradients.
        checked: how many images the black-box attack was run on.
    """
    way, total = images - x, torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for point in range(POINTS):
        _, gradient = margin_and_gradient(model, x + (point + 0.5) / POINTS * way, y)
        total += (gradient * way).flatten(1).double().sum(1) / POINTS
    with torch.no_grad():
        change = (margin(model(images), y) - margin(model(x), y)).double()
    wrong = ~((total - change).abs() <= 0.5 * change.abs())
    if 2 * int(wrong.sum()) < len(x):
        return []
    return [
        Flag(
            "black_box_wins",
            "warning",
            f"decisions alone found nearer images than the gradients on {len(x)} of {checked} images, and "
            f"on {int(wrong.sum())} of them the gradients contradict the margin between image and adversarial example: "
            "the gradients are masked, and the distances too large. Judge by black-box attacks.",
            OURS,
        )
    ]


def _outputs(model: nn.Module, x: Tensor) -> Iterator[Flag]:
    with torch.no_grad():
        first, second = (model(x.clone()).double() for _ in range(2))
        alone = model(x[:1].clone()).double()
    scale = first.abs().amax(1, keepdim=True)
    precision = torch.finfo(x.dtype).eps
    moved = int(((first - second).abs() > ROUNDING * precision * scale).any(1).sum())
    if moved:
        yield Flag(
            "randomised",
            "warning",
            f"two forward passes give other logits on {moved} of {len(x)} images. An image is judged by one draw: "
            "its distance is no property of the model, and attacks through the noise are too weak. Fix the noise, or "
            "put the model in evaluation mode before it is exported.",
        )
    # Half of the digits: other batches are other sums, and no two of them round alike.
    elif bool(((first[:1] - alone).abs() > precision**0.5 * scale[:1]).any()):
        yield Flag(
            "batch_dependent",
            "warning",
            "the logits of an image depend on the other images of its batch (BatchNorm without running statistics?): "
            "so do the distances.",
        )
    sums = first.sum(1)
    if bool(((first >= 0) & (first <= 1)).all()) and bool(((sums - 1).abs() <= 1e-3).all()):
        yield Flag(
            "probabilities",
            "warning",
            "the outputs are probabilities, not logits: they saturate, and their gradients vanish. Leave out the last "
            "softmax or sigmoid: the labels are the same.",
        )


def _gradients(model: nn.Module, x: Tensor, y: Tensor) -> Iterator[Flag]:
    images = x.detach().requires_grad_()
    try:
        value = margin(model(images.clone()), y)
        found = torch.autograd.grad(value.sum(), images, allow_unused=True)[0] if value.requires_grad else None
        why = "something in its forward detaches the images, works under no_grad or outside of torch"
    except Exception as error:  # a user's module can raise anything
        if is_memory(error):
            raise
        found, why = None, told(error)
    if found is None:
        yield Flag(
            "no_gradients",
            "warning",
            f"the logits have no gradient in the image ({why}): attacks by gradients see nothing. Fix that, or judge "
            "by black-box attacks.",
        )
        return
    gradient = found.flatten(1)
    flat = int((gradient == 0).all(1).sum())
    if flat:
        yield Flag(
            "zero_gradients",
            "warning",
            f"the gradient of the margin is 0 on {_share(flat, len(x))} images: attacks by gradients see nothing there "
            "(rounding, saturation, a softmax of large logits?). Distances may be far too large; add hop_skip_jump.",
        )
    # A boundary farther than the diagonal of the box is none: the linearisation says nothing.
    linear = value.detach().abs() / unit(gradient)[1]
    saturated = int(((linear > gradient.shape[1] ** 0.5) & (gradient != 0).any(1)).sum())
    if saturated:
        yield Flag(
            "saturated_gradients",
            "note",
            f"on {_share(saturated, len(x))} images the gradient is so small that the linearised boundary lies outside "
            "[0, 1] in every direction: units are saturated there. One-step attacks say nothing of them.",
        )
    broken = int((~gradient.isfinite()).any(1).sum())
    if broken:
        yield Flag(
            "nan_gradients",
            "warning",
            f"the gradient of the margin is NaN or infinite on {broken} of {len(x)} images: attacks by it fail there.",
        )


def _share(count: int, of: int) -> str:
    return f"{count} of {of} ({100 * count / of:.0f} %)"


def _wrong_gradients(model: Classifier, x: Tensor, y: Tensor) -> Iterator[Flag]:
    _, gradient = margin_and_gradient(model, x, y)  # 0 where there is none, which `no_gradients` says
    direction = -unit(gradient)[0] * STEP
    # In the box, where a model may clamp its input.
    move = (x + direction).clamp(0, 1) - x
    predicted = (gradient * move).flatten(1).sum(1).double()
    with torch.no_grad():
        before, after = model.exact(x), model.exact(x + move)
        if before is None or after is None:
            before, after = model(x.clone()), model(x + move)
        rounding = ROUNDING * torch.finfo(before.dtype).eps * before.abs().amax(1).double()
    change = (margin(after, y) - margin(before, y)).double()
    same = before.argmax(1) == model(x.clone()).detach().argmax(1)  # else float64 is another function
    asked = same & predicted.isfinite() & (predicted.abs() > RIGHT * rounding)
    wrong = asked & ~((change / predicted > 1 / RIGHT) & (change / predicted < RIGHT))
    count, of = int(wrong.sum()), int(asked.sum())
    if 2 * count > of:
        yield Flag(
            "wrong_gradients",
            "warning",
            f"on {count} of {of} images a step of {STEP:g} along the gradient changes the margin by less than half or "
            "more than twice of what it says (a backward pass of its own, quantisation, noise?): attacks by gradients "
            "are misled, and distances may be far too large. Add attack hop_skip_jump, which uses none.",
        )


def _precision(model: Classifier, x: Tensor) -> Iterator[Flag]:
    with torch.no_grad():
        deployed = model(x).argmax(1)
        exact = model.exact(x)
    if exact is None:
        yield Flag(
            "float64",
            "note",
            f"{model.why_not}: adversarial images are judged by the network as deployed alone, and some may be "
            "misclassified by rounding only.",
        )
        return
    differs = int((exact.argmax(1) != deployed).sum())
    if differs:
        yield Flag(
            "float64_differs",
            "warning",
            f"the same weights in float64 label {differs} of {len(x)} images otherwise: an image counts as adversarial "
            "only where both precisions misclassify it.",
        )


def _accuracy(table: pd.DataFrame) -> Iterator[Flag]:
    images = table.drop_duplicates("index")
    right, counts = images["label"] == images["prediction"], images["label"].value_counts()
    name, accuracy, most = "accuracy", float(right.mean()), float(counts.max() / len(images))
    effective = float(len(images))
    if counts.max() >= IMBALANCED * counts.min():  # each class counts alike
        name, accuracy, most = "balanced accuracy", float(right.groupby(images["label"]).mean().mean()), 1 / len(counts)
        effective = len(counts) ** 2 / (1 / counts).sum()
    # Two standard deviations of a guess; of a few images they would say nothing.
    error = 2 * (most * (1 - most) / effective) ** 0.5 if len(images) >= COUNTED else 0.0
    if most < 1 and accuracy < 1 and accuracy <= most + max(GUESSED * (1 - most), error):
        compared = "worse" if accuracy < most else "hardly better"
        yield Flag(
            "low_accuracy",
            "note",
            f"{name} {100 * accuracy:.1f} %, {compared} than always answering the most frequent label, which gives "
            f"{100 * most:.1f} %. Check that the pixels are in the range that the model was trained for (put "
            "its normalisation inside the model), that height and width are not exchanged, and that the labels are in "
            "the same order.",
        )


def _never(right: pd.DataFrame) -> Iterator[Flag]:
    failed = {}
    for method, rows in right.groupby("method", sort=False):
        name, count = str(method), len(rows)
        if rows["side"].iloc[0] == "upper" and np.isinf(rows["distance"]).all():
            failed[name] = count
        # An inscribed certificate is 0 where the one of the same name without it is, and is not named twice.
        repeated = "certificate_inscribed" in name
        if rows["side"].iloc[0] == "lower" and (rows["distance"] == 0).all() and not repeated:
            yield Flag(
                "never_certified",
                "note",
                f"it is 0 on all of {count} images: a layer has no finite bound"
                + (", or how it rounds is not known" if name in FLOAT32_CERTIFICATES else "")
                + ". Which, and why: lipbench.certificate."
                + f"{'float_layerwise' if name in FLOAT32_CERTIFICATES else 'layer_table'}(model, shape).",
                name,
            )
    if failed:
        yield Flag(
            "never_succeeded",
            "warning",
            f"an adversarial image was found for 0 of {max(failed.values())} images: a curve of such an attack says "
            "nothing about the model.",
            ", ".join(failed),
        )


def _unbroken(right: pd.DataFrame) -> Iterator[Flag]:
    combined = best(right, "upper")
    failed = int(np.isinf(combined).sum())
    if failed:
        yield Flag(
            "unbroken",
            "note",
            f"no attack found an adversarial image for {failed} of {len(combined)} images: their distance is unknown, "
            "not infinite.",
        )


def _weak(right: pd.DataFrame) -> Iterator[Flag]:
    """The attack `lipbench` should be the nearest of all; where another one is, its own distances are too large."""
    ours = right["method"] == OURS
    blind = right["method"].map(lambda name: name.endswith(BLACK_BOX)).astype(bool)
    own, others = best(right[ours], "upper"), best(right[~ours & ~blind], "upper")
    both = pd.concat({"own": own, "others": others}, axis=1, join="inner")
    ahead = both["others"] < WEAK * both["own"]
    if ahead.sum() > SHARE * len(both):
        yield Flag(
            "weak_attack",
            "warning",
            f"other attacks are nearer than the attack {OURS} by 5 % or more on {ahead.sum()} of {len(both)} images: "
            "its distances are too large there. Take the nearest of all attacks, and name more of them "
            f"(attack=[{OURS},ddn,apgd,alma]).",
            OURS,
        )


def _black_box(right: pd.DataFrame, black_box: Collection[str]) -> Iterator[Flag]:
    mine = right["method"].map(lambda name: name.endswith(tuple(black_box))).astype(bool)
    black, white = best(right[mine], "upper"), best(right[~mine], "upper")
    both = pd.concat({"black": black, "white": white}, axis=1, join="inner")
    both = both[np.isfinite(both["black"])]
    ahead = int((both["black"] < NEARER * both["white"]).sum())
    alone = int(np.isinf(both["white"]).sum())
    if alone or ahead > SHARE * len(both):
        yield Flag(
            "black_box_nearer",
            "warning",
            f"attacks without gradients found nearer images than those with them on {ahead} of {len(both)} images, on "
            f"{alone} of them the only ones: the attacks with gradients are too weak here, or gradients are masked "
            "(then `black_box_wins` says so of the attack lipbench). Take the nearest of all attacks.",
            ", ".join(sorted(set(right.loc[mine, "method"]))),
        )
