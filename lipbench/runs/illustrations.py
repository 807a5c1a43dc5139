"""What figures need of a network besides its tables: a few images and what it makes of them, in one small file. The
figures themselves load no network.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from lipbench.certificate import gaps, input_shapes, radius
from lipbench.data import Dataset, Split
from lipbench.images import as_pixels, images_at_once, model_images
from lipbench.layers.spectrum import layers_with_matrix, singular_values
from lipbench.losses import binary_function
from lipbench.margins import gradient_of, predict
from lipbench.modules import undisturbed
from lipbench.precision import float32_products
from lipbench.transport import equal_samples, matching

# Of the images, and of what they are made of: 16 images of MNIST, 5 of 3x128x128.
IMAGES, VALUES = 16, 2**18
# Steps t of the counterfactuals x - t f grad f / ||grad f||^2.
STEPS = np.arange(0, 5.01, 0.25)
GRADIENTS, TRAINING, PAIRS, SINGULAR = 500, 2000, 8, 256
# A change of what is stored here makes the files of older versions anew.
VERSION = 1


@float32_products()
def illustrate(model: nn.Module, dataset: Dataset, attacked: int) -> dict[str, np.ndarray]:
    """Everything but the adversarial images (see `nearest_images`), as arrays for an npz file.

    f is the margin of the predicted class p over its strongest rival r, z_p - z_r; of two classes |z_1 - z_0|.

    Args:
        model: baked, in evaluation mode.
        attacked: how many images of the test set are attacked: the first ones.

    Returns:
        images [n, C, H, W] uint8, labels, predictions, rivals [n], margins [n]: f;
        gradients [n, C, H, W] float16: grad f, of length 1, and gradient_norms [n];
        steps [T], path_margins [n, T]: f at x - t f grad f / ||grad f||^2, clipped to [0, 1];
        norms [m], norm_bounds [m]: ||grad f|| at the attacked images (at most 500) and the bound of it;
        train_radii [k]: certified radii, 0 where misclassified, of training images (at most 2000, from all of the set),
        and train_correct [k];
        singular/<layer>: its singular values, ascending (at most 256, the ends among them), where they are known;
        for two classes: pair_images [2, 8, C, H, W], pair_distances [j], pair_rises [j], f_bound, wasserstein,
        validation_wasserstein (see `_transport`).
    """
    test, shape = dataset.test, dataset.shape
    count = min(IMAGES, len(test), max(1, VALUES // test.images[0].numel()))
    bounds = gaps(model, shape)
    shown = _margins(model, test.images[:count])
    attacked = min(attacked, GRADIENTS, len(test))
    all_shown = shown if attacked <= count else _margins(model, test.images[:attacked])
    gradients = shown["gradients"]
    directions = gradients / shown["norms"].clamp_min(torch.finfo(gradients.dtype).tiny)[:, None, None, None]
    return {
        "images": test.images[:count].numpy(),
        "labels": test.labels[:count].numpy(),
        "predictions": shown["predictions"].numpy(),
        "rivals": shown["rivals"].numpy(),
        "margins": shown["margins"].numpy(),
        "gradients": directions.numpy().astype(np.float16),
        "gradient_norms": shown["norms"].numpy(),
        "steps": STEPS,
        "path_margins": _path(model, test.images[:count], shown, directions),
        "norms": all_shown["norms"][:attacked].numpy(),
        "norm_bounds": bounds[all_shown["predictions"], all_shown["rivals"]][:attacked].cpu().numpy(),
        **_training(model, dataset.train, bounds),
        **_singular(model, shape),
        **_transport(model, dataset, bounds),
    }


def nearest_images(gallery: Mapping[str, np.ndarray], table: pd.DataFrame, model: nn.Module) -> dict[str, np.ndarray]:
    """Of the images of `gallery.npz` the nearest adversarial ones of any attack.

    Args:
        gallery: images, labels, and under the name of each attack its images [n, C, H, W].
        table: the rows of the run.

    Returns:
        adversarial [n, C, H, W] float16 (the image itself where every attack failed), adversarial_predictions [n],
        adversarial_distances [n] (L2; inf where every attack failed, 0 where the image was misclassified).
    """
    rows = table[(table["side"] == "upper") & (table["norm"] == "l2") & table["method"].isin(list(gallery))]
    if rows.empty:
        return {}
    count = min(len(gallery["images"]), max(1, VALUES // gallery["images"][0].size), rows["index"].nunique())
    distances = rows.pivot_table(index="index", columns="method", values="distance", dropna=False).iloc[:count]
    images = as_pixels(torch.from_numpy(gallery["images"][:count])).numpy()
    for i, method in enumerate(distances.idxmin(axis=1).astype(str)):
        if 0 < distances[method].iloc[i] < np.inf:
            images[i] = gallery[method][i]
    return {
        "adversarial": images.astype(np.float16),
        "adversarial_predictions": predict(model, model_images(model, torch.from_numpy(images))).cpu().numpy(),
        "adversarial_distances": distances.min(axis=1).to_numpy(),
    }


def _margins(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """predictions, rivals, margins, norms [N], gradients [N, C, H, W] on the CPU."""
    parts: dict[str, list[Tensor]] = {}
    with undisturbed(model):
        for batch in images.split(images_at_once(images.shape[1:])):
            x = model_images(model, batch).requires_grad_()
            top, order = model(x.clone()).topk(2, dim=1)
            margin = top[:, 0] - top[:, 1]
            gradient = gradient_of(margin.sum(), x)
            found = {
                "predictions": order[:, 0],
                "rivals": order[:, 1],
                "margins": margin.detach(),
                "gradients": gradient,
                "norms": gradient.flatten(1).norm(dim=1),
            }
            for name, value in found.items():
                parts.setdefault(name, []).append(value.cpu())
    return {name: torch.cat(values) for name, values in parts.items()}


@torch.no_grad()
def _path(model: nn.Module, images: Tensor, shown: dict[str, Tensor], directions: Tensor) -> np.ndarray:
    """f along the line from x to its counterfactual, [n, T], for the pair of classes of x."""
    x = as_pixels(images)
    lengths = (shown["margins"] / shown["norms"]).nan_to_num(0.0, 0.0, 0.0)
    values = []
    for t in STEPS:
        moved = (x - t * lengths[:, None, None, None] * directions).clamp(0, 1)
        logits = model(model_images(model, moved)).cpu()
        pairs = logits.gather(1, torch.stack((shown["predictions"], shown["rivals"]), dim=1))
        values.append(pairs[:, 0] - pairs[:, 1])
    return torch.stack(values, dim=1).numpy()


@torch.no_grad()
def _training(model: nn.Module, train: Split, bounds: Tensor) -> dict[str, np.ndarray]:
    rows = torch.from_numpy(np.linspace(0, len(train) - 1, min(TRAINING, len(train))).round().astype(np.int64))
    images, labels = train.images[rows], train.labels[rows]
    batches = images.split(images_at_once(images.shape[1:]))
    logits = torch.cat([model(model_images(model, batch)).double().cpu() for batch in batches])
    return {
        "train_radii": radius(logits, labels, bounds.cpu()).numpy(),
        "train_correct": (logits.argmax(1) == labels).numpy(),
    }


def _singular(model: nn.Module, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    shapes, found = input_shapes(model, shape), {}
    for name, layer in layers_with_matrix(model).items():
        values = singular_values(layer, shapes[name]).sort().values.cpu().numpy() if name in shapes else np.empty(0)
        if len(values):
            kept = np.linspace(0, len(values) - 1, min(SINGULAR, len(values))).round().astype(int)
            found[f"singular/{name or 'model'}"] = values[kept]
    return found


def _transport(model: nn.Module, dataset: Dataset, bounds: Tensor) -> dict[str, Any]:
    """The optimal plan between the classes of a two-class data set, and what f = z_1 - z_0 makes of it; nothing where
    the network has more logits than two.

    Returns:
        pair_images: the first pairs of the test set's plan, [2, 8, C, H, W] uint8, of class 0 and of class 1;
        pair_distances [j]: lengths of all pairs (at most 500); pair_rises [j]: f of class 1 minus f of class 0, which
        the optimal f makes equal to the length; f_bound: bound of f; wasserstein: of these samples, and
        validation_wasserstein: of those of the validation set, the most that `wasserstein_bound` of a history can be.
    """
    if len(bounds) != 2:
        return {}
    plans = [_plan(part) for part in (dataset.test, dataset.validation)]
    if plans[0] is None or plans[1] is None:
        return {}
    zeros, ones, distances = plans[0]
    images = dataset.test.images
    values = []
    with torch.no_grad():
        for rows in (zeros, ones):
            batches = images[torch.from_numpy(rows)].split(images_at_once(images.shape[1:]))
            values.append(torch.cat([binary_function(model(model_images(model, batch))).cpu() for batch in batches]))
    return {
        "pair_images": torch.stack([images[torch.from_numpy(rows[:PAIRS])] for rows in (zeros, ones)]).numpy(),
        "pair_distances": distances,
        "pair_rises": (values[1] - values[0]).double().numpy(),
        "f_bound": np.array(float(bounds[0, 1])),
        "wasserstein": np.array(distances.mean()),
        "validation_wasserstein": np.array(plans[1][2].mean()),
    }


def _plan(part: Split) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Rows of class 0, their partners of class 1, their distances [j]."""
    samples = equal_samples(part.labels.numpy())
    if samples is None:
        return None
    pixels = [as_pixels(part.images[torch.from_numpy(rows)]).flatten(1).numpy() for rows in samples]
    partners, distances = matching(*pixels)
    return samples[0], samples[1][partners], distances
