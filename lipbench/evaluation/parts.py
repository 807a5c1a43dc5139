"""What keeps the certificate and the attack apart, image by image: the measure `bracket`."""

import warnings
from collections.abc import Callable
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from lipbench.certificate import certify
from lipbench.evaluation.bracket import Bracket, bracket
from lipbench.evaluation.health import HealthWarning
from lipbench.images import on_device
from lipbench.margins import predict
from lipbench.precision import float32_products
from lipbench.progress import SILENT

COLUMNS = ["index", "certificate", "inscribed", "rival", "distance"]
# Images whose sides are searched at once, between two signs of progress.
AT_ONCE = 100


@float32_products()
def parts_of_the_gap(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    number: int = 100,
    attacked: int | None = None,
    progress: Callable[..., Any] = SILENT,
) -> pd.DataFrame:
    """Four distances of each image, none below the one before (L2):

    * certificate: abs(f(x)) / L, the ball around x;
    * inscribed: the certified radius of `lipbench.bracket`, the smallest of its balls. What it adds to the one before
      is due to the box;
    * rival: the ball of the class that wins at the adversarial image. Where it is larger than the one before, another
      rival, which wins at no image so near, has the smallest ball;
    * distance: of the adversarial image of `lipbench.bracket`. What is left to it is due to layers that do not keep
      the norm of the gradient, to kinks, and to both searches.

    Args:
        model: baked, in evaluation mode.
        images: uint8 [N, C, H, W], with their labels [N].
        number: of images, at most: the first ones that are classified rightly.
        attacked: they are among so many first images; None: no limit. A run gives its option `images`.
        progress: shows how far it is.

    Returns:
        the columns index, certificate, inscribed, rival, distance: one row per image that has a certificate and an
        adversarial image.
    """
    first = 2 * number if attacked is None else min(2 * number, attacked)
    x, y = on_device(model, images[:first], labels[:first])
    rows = (predict(model, x, labels=y) == y).nonzero()[:number, 0]
    tables = []
    with progress(len(rows), "image") as bar:
        for part in rows.split(AT_ONCE) if len(rows) else ():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", HealthWarning)  # the run itself says what the model shows
                sides = bracket(model, x[part].cpu(), y[part].cpu())
            tables.append(_distances(model, x[part], y[part], sides).assign(index=part.tolist()))
            bar.update(len(part))
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=COLUMNS)
    known = (table["certificate"] > 0) & (table["distance"] < float("inf"))
    return table.loc[known, COLUMNS].reset_index(drop=True)


def _distances(model: nn.Module, x: Tensor, y: Tensor, sides: Bracket) -> pd.DataFrame:
    """The distances, none below the one before: rounding, and an attack that is nearer than a ball, lower a ball's."""
    upper, lower = sides.upper.cpu(), sides.lower.cpu()
    flat = certify(model, x, y).cpu().clamp(max=lower)
    rival = lower
    if sides.proof is not None:
        winner = predict(model, sides.images)
        rival = sides.proof.radii().gather(1, winner[:, None])[:, 0].cpu()
    rival = torch.where(rival.isfinite(), rival, lower).clamp(max=upper)
    found = torch.stack([flat, lower, torch.maximum(rival, lower), upper], 1)
    return pd.DataFrame(found.numpy(), columns=COLUMNS[1:])
