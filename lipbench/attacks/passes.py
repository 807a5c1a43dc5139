"""How near attacks are after how many passes: the measure `anytime`."""

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
from torch import Tensor, nn

from lipbench import configuration
from lipbench.attacks.engine.budget import anytime
from lipbench.images import on_device
from lipbench.margins import predict
from lipbench.precision import float32_products
from lipbench.progress import SILENT

COLUMNS = ["attack", "index", "propagations", "distance"]


@float32_products()
def distance_by_passes(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    attacks: Sequence[str] = ("fgm", "deepfool", "ddn", "alma", "lipbench"),
    number: int = 20,
    budget: int = 1000,
    progress: Callable[..., Any] = SILENT,
) -> pd.DataFrame:
    """The record of each attack on the first images that are classified rightly: a row whenever it passed a nearer
    image that the network as deployed misclassifies (`anytime`). Each image is attacked alone, with no certificate.

    Args:
        model: baked, in evaluation mode.
        images: uint8 [N, C, H, W], with their labels [N].
        attacks: names of the files in `conf/attack`.
        number: of images, at most.
        budget: propagations per image and attack, forward and backward passes.
        progress: shows how far it is.

    Returns:
        the columns attack, index, propagations, distance (L2).

    Raises:
        ValueError: an unknown attack, or one whose library is missing.
    """
    known = configuration.names("attack")
    if unknown := [name for name in attacks if name not in known]:
        raise ValueError(f"attacks: there is no attack {', '.join(unknown)}. There are {', '.join(known)}.")
    rows: list[tuple[str, int, int, float]] = []
    x, y = on_device(model, images[: 2 * number], labels[: 2 * number])
    right = (predict(model, x, labels=y) == y).nonzero()[:number, 0]
    with progress(len(attacks) * len(right), "image") as bar:
        for name in attacks:
            attack = configuration.method("attack", name)
            for index in right.tolist():
                (trace,) = anytime(attack, model, x[index : index + 1], y[index : index + 1], budget)
                rows += [(name, index, passes, distance) for passes, distance in trace]
                bar.update(1)
    return pd.DataFrame(rows, columns=COLUMNS)
