"""The table of explanations: every attribution, judged by every metric, image by image."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import pandas as pd
import torch
from torch import Tensor, nn

from lipbench.images import images_at_once, on_device
from lipbench.margins import predict
from lipbench.measures import attributions, metrics
from lipbench.measures.metrics import Attribution
from lipbench.modules import undisturbed
from lipbench.precision import float32_products
from lipbench.progress import SILENT, Progress

COLUMNS = ["index", "label", "prediction", "attribution", "metric", "baseline", "value"]
# Black and grey.
BASELINES = (0.0, 0.5)
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
    baselines: Sequence[float] = BASELINES,
    steps: int = 28,
    subsets: int = 200,
    share: float = 0.2,
    cells: int | None = None,
    radius: float = 0.5,
    samples: int = 4,
    seed: int = 0,
    progress: Callable[..., Progress] = SILENT,
) -> pd.DataFrame:
    """Deletion, insertion, mu-fidelity and stability (`lipbench.measures.metrics`) of the explanations of a network's
    own predictions, in float32 and evaluation mode; the network is left as it was.

    What removed pixels become decides much. Black removes nothing from a black background, so that an attribution there
    (a stroke that would change the class, were it drawn) is never tried; grey changes every pixel.

    Args:
        model: baked.
        images: uint8, or float in [0, 1]; the first `number` of them are used.
        attributions: name -> function (model, x, y) -> [N, C, H, W]; None: `ATTRIBUTIONS`. One with a parameter
            `baseline` is given that of the metric.
        baselines: values of removed pixels, in [0, 1]; everything but stability is there for each of them.
        steps: of deletion and insertion.
        subsets, share, cells: of `mu_fidelity`.
        radius, samples: of `stability`, whose explanations are those of the first baseline.
        seed: of everything random.
        progress: called with the number of explanations, gives what is told of them (`lipbench.progress`).

    Returns:
        the columns index, label, prediction, attribution, metric, baseline, value.
    """
    chosen = dict(ATTRIBUTIONS if attributions is None else attributions)
    x, y = on_device(model, images[:number], labels[:number])
    predictions = predict(model, x)
    parts = []
    count = len(x) * len(chosen) * len(baselines)
    with undisturbed(model), progress(count, "explanation") as bar:
        for name, explain in chosen.items():
            for baseline in baselines:
                at = _at(explain, baseline)
                judges = {
                    "deletion": partial(metrics.deletion, steps=steps, baseline=baseline),
                    "insertion": partial(metrics.insertion, steps=steps, baseline=baseline),
                    "mu_fidelity": partial(
                        metrics.mu_fidelity, subsets=subsets, share=share, cells=cells, baseline=baseline, seed=seed
                    ),
                }
                if baseline == baselines[0]:
                    judges["stability"] = partial(
                        metrics.stability, explain=at, radius=radius, samples=samples, seed=seed
                    )
                for metric, values in _judged(model, x, predictions, at, judges, bar).items():
                    parts.append(_rows(y, predictions, name, metric, baseline, values))
    return pd.concat(parts, ignore_index=True)


def _at(explain: Attribution, baseline: float) -> Attribution:
    """The attribution relative to a baseline, where it has one."""
    if "baseline" not in inspect.signature(explain).parameters:
        return explain
    return partial(explain, baseline=baseline)  # type: ignore[call-arg]


def _judged(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    explain: Attribution,
    judges: Mapping[str, Callable[..., Tensor]],
    bar: Progress,
) -> dict[str, Tensor]:
    """Metric -> its values [N], computed in batches."""
    size, found = images_at_once(tuple(x.shape[1:])), []
    for xs, ys in zip(x.split(size), y.split(size), strict=True):
        attribution = explain(model, xs, ys)
        found.append({metric: judge(model, xs, ys, attribution) for metric, judge in judges.items()})
        bar.update(len(xs))
    return {metric: torch.cat([batch[metric].cpu() for batch in found]) for metric in judges}


def _rows(
    y: Tensor, predictions: Tensor, attribution: str, metric: str, baseline: float, values: Tensor
) -> pd.DataFrame:
    columns = (range(len(y)), y.cpu(), predictions.cpu(), attribution, metric, baseline, values)
    return pd.DataFrame(dict(zip(COLUMNS, columns, strict=True)))
