"""The second law: no Kantorovich-Rubinstein estimate exceeds the Wasserstein-1 distance times the Lipschitz bound."""

from typing import Any

import torch
from torch import Tensor, nn

from lipbench.certificate import gaps
from lipbench.images import images_at_once, model_images
from lipbench.judge import Classifier
from lipbench.losses import binary_function
from lipbench.precision import float32_products
from lipbench.results import transport_holds
from lipbench.transport import LIMIT, equal_samples, wasserstein


@float32_products()
def transport_law(model: nn.Module, images: Tensor, labels: Tensor, limit: int = LIMIT) -> dict[str, Any]:
    """The second law, for a two-class network: KR estimate / Lipschitz bound <= exact Wasserstein-1 distance of the
    classes.

    Uses the first n images of each class, n the size of the smaller class and at most `limit`.

    Returns:
        kr: mean of f = z_1 - z_0 on class 1 minus on class 0; lipschitz: bound of f; wasserstein; transport_law:
            whether it holds.
        Empty for more than two classes, or where a class is missing.
    """
    rows = equal_samples(labels.numpy(), limit)
    if rows is None:
        return {}
    classifier = Classifier.of(model)
    model = classifier.model
    samples = [model_images(model, images[torch.from_numpy(chosen)]) for chosen in rows]
    with torch.no_grad():
        if model(samples[0][:1].clone()).shape[1] != 2:
            return {}
        at_once = images_at_once(images.shape[1:])
        f = [torch.cat([_binary(classifier, part) for part in x.split(at_once)]) for x in samples]
    kr = float(f[1].mean() - f[0].mean())
    bound = float(gaps(model, tuple(images.shape[1:]))[0, 1])
    distance_ = wasserstein(*(sample.double().flatten(1).cpu().numpy() for sample in samples))
    return {
        "kr": kr,
        "lipschitz": bound,
        "wasserstein": distance_,
        "transport_law": transport_holds(kr, bound, distance_),
    }


def _binary(model: Classifier, x: Tensor) -> Tensor:
    """f = z_1 - z_0 of images, [N] float64; from the model as deployed where it has no float64 copy (nor, then, a
    certificate).
    """
    logits = model.exact(x)
    return binary_function(model(x).double() if logits is None else logits)
