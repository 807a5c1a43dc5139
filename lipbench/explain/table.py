"""The table of explanations: every attribution, judged by every metric, image by image."""

from collections.abc import Mapping
from functools import partial

import pandas as pd
import torch
from torch import Tensor, nn

from lipbench.attacks import undisturbed
from lipbench.batching import images_at_once
from lipbench.bounds import on_device, predict
from lipbench.explain import attributions, metrics
from lipbench.explain.metrics import Attribution
from lipbench.state import float32_products

COLUMNS = ["index", "label", "prediction", "attribution", "metric", "value"]
ATTRIBUTIONS: dict[str, Attribution] = {
    "gradient": attributions.gradient,
    "smooth_gradient": attributions.smooth_gradient,
    "integrated_gradients": attributions.integrated_gradients,
}


@float32_products()
def explanations(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    number: int = 200,
    attributions: Mapping[str, Attribution] | None = None,
    baseline: float = 0.0,
    steps: int = 28,
    subsets: int = 200,
    share: float = 0.2,
    cells: int | None = None,
    radius: float = 0.5,
    samples: int = 8,
    seed: int = 0,
) -> pd.DataFrame:
    """Deletion, insertion, mu-fidelity and stability (`lipbench.explain.metrics`) of the explanations of a network's
    own predictions, in float32 and evaluation mode; the network is left as it was.

    Args:
        model: baked.
        images: uint8, or float in [0, 1]; the first `number` of them are used.
        attributions: name -> function (model, x, y) -> [N, C, H, W]; None: `ATTRIBUTIONS`.
        baseline: the value of removed pixels, and of the image from which gradients are integrated by default.
        steps: of deletion and insertion.
        subsets, share, cells: of `mu_fidelity`.
        radius, samples: of `stability`.
        seed: of everything random.

    Returns:
        the columns index, label, prediction, attribution, metric, value.
    """
    chosen = dict(ATTRIBUTIONS if attributions is None else attributions)
    x, y = on_device(model, images[:number], labels[:number])
    predictions = predict(model, x)
    size = images_at_once(tuple(x.shape[1:]))
    judges = {
        "deletion": partial(metrics.deletion, steps=steps, baseline=baseline),
        "insertion": partial(metrics.insertion, steps=steps, baseline=baseline),
        "mu_fidelity": partial(
            metrics.mu_fidelity, subsets=subsets, share=share, cells=cells, baseline=baseline, seed=seed
        ),
    }
    parts = []
    with undisturbed(model):
        for name, explain in chosen.items():
            found: dict[str, list[Tensor]] = {metric: [] for metric in (*judges, "stability")}
            for xs, ps in zip(x.split(size), predictions.split(size), strict=True):
                attribution = explain(model, xs, ps)
                for metric, judge in judges.items():
                    found[metric].append(judge(model, xs, ps, attribution))
                found["stability"].append(
                    metrics.stability(model, xs, ps, attribution, explain, radius=radius, samples=samples, seed=seed)
                )
            for metric, values in found.items():
                parts.append(_rows(y, predictions, name, metric, torch.cat(values)))
    return pd.concat(parts, ignore_index=True)


def _rows(y: Tensor, predictions: Tensor, attribution: str, metric: str, values: Tensor) -> pd.DataFrame:
    columns = (range(len(y)), y.cpu().numpy(), predictions.cpu().numpy(), attribution, metric, values.cpu().numpy())
    return pd.DataFrame(dict(zip(COLUMNS, columns, strict=True)))
