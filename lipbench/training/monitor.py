"""What a history row says of the network, measured on the validation set, baked as it would be if training ended
there.
"""

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from lipbench.certificate import LayerBound, gaps_of, layerwise, lipschitz, product, radius
from lipbench.data import Split
from lipbench.images import images_at_once, pixels
from lipbench.layers import bake
from lipbench.layers.spectrum import layers_with_matrix, singular_range
from lipbench.losses import binary_function, kr
from lipbench.results import class_accuracies
from lipbench.transport import equal_samples

# Images over which gradients are averaged.
GRADIENTS = 256

Shape = tuple[int, ...]


def monitor(
    model: nn.Module, validation: Split, loss: Callable[[Tensor, Tensor], Tensor], epsilon: float
) -> dict[str, float]:
    """One history row's validation part.

    Returns:
        validation_loss, validation_accuracy, validation_balanced_accuracy, and for two classes validation_sensitivity
        (of class 1) and validation_specificity (see `lipbench.results.class_accuracies`);
        kr: the Kantorovich-Rubinstein estimate of the logits (summed over classes one-vs-all);
        wasserstein_bound (two classes): what the network says of the Wasserstein-1 distance of the classes, the KR
        estimate of equal samples (see `lipbench.transport.equal_samples`) divided by the bound of f = z_1 - z_0.
        The exact distance of these samples is the most that it can be;
        mean_certificate: mean certified radius (0 for mistakes); certified_accuracy at `epsilon`, over the images,
        and balanced_certified_accuracy, the mean over the classes; lipschitz: bound of the whole network;
        gradient_norm: mean L2 norm of the input gradient of the margin z_y - max_k z_k over the first 256 images.

        For each layer with a matrix (see `spectrum.layers_with_matrix`), named by its dotted path in the baked model
        ("model" where it is the model itself):
        <layer>.sigma_min, <layer>.sigma_max: its singular values (see `spectrum.singular_range`);
        <layer>.lipschitz: its certified bound, `inf` where it has none;
        <layer>.gradient: mean L2 norm of the margin's gradient with respect to the layer's input. Where it falls from
            the last layer to the first, the layers between lose the gradient's norm; orthogonal ones keep it.
        What is unknown is NaN.
    """
    baked = bake(copy.deepcopy(model))
    device = next(baked.parameters()).device
    labels = validation.labels.to(device)
    size = images_at_once(validation.images.shape[1:])
    with torch.no_grad():
        logits = torch.cat([baked(pixels(batch, device)) for batch in validation.images.split(size)])
    shape = tuple(validation.images.shape[1:])
    # Once for the network, its layers and the gaps of its logits.
    bounds = layerwise(baked, shape)
    gaps = gaps_of(baked, shape, bounds).to(device)
    radii = radius(logits.double(), labels, gaps)
    x, y = pixels(validation.images[:GRADIENTS], device), labels[:GRADIENTS]
    layers = layers_with_matrix(baked)
    gradient, inputs = _gradients(baked, x, y, layers)
    predictions = logits.argmax(1)
    by_class = class_accuracies(validation.labels.numpy(), predictions.cpu().numpy(), logits.shape[1])
    return {
        "validation_loss": float(loss(logits, labels)),
        "validation_accuracy": float((predictions == labels).float().mean()),
        **{f"validation_{name}": value for name, value in by_class.items()},
        "kr": -float(kr(logits, labels)),
        **_wasserstein_bound(logits, validation.labels, gaps),
        "mean_certificate": float(radii.mean()),
        "certified_accuracy": float((radii > epsilon).double().mean()),
        "balanced_certified_accuracy": _balanced(radii > epsilon, labels),
        "lipschitz": product(bounds),
        "gradient_norm": gradient,
        **_per_layer(layers, inputs, bounds),
    }


def _balanced(right: Tensor, labels: Tensor) -> float:
    """The mean over the classes of the shares of their images, [N] bool, [N]."""
    shares = [right[labels == label].double().mean() for label in labels.unique()]
    return float(torch.stack(shares).mean())


def _wasserstein_bound(logits: Tensor, labels: Tensor, gaps: Tensor) -> dict[str, float]:
    rows = equal_samples(labels.numpy())
    if logits.shape[1] != 2 or rows is None:
        return {}
    f = binary_function(logits).double()
    zeros, ones = (f[torch.from_numpy(r).to(f.device)].mean() for r in rows)
    return {"wasserstein_bound": float((ones - zeros) / gaps[0, 1])}


def _per_layer(
    layers: dict[str, nn.Module], inputs: dict[str, tuple[Shape, float]], bounds: list[LayerBound]
) -> dict[str, float]:
    known = {layer.name: layer.bound for layer in bounds}
    columns = {}
    for name, layer in layers.items():
        title = name or "model"
        low = high = bound = gradient = math.nan
        if name in inputs:
            shape, gradient = inputs[name]
            low, high = singular_range(layer, shape)
            # A layer inside a module that has one bound for all of it, such as a residual sum, has no entry.
            bound = known[name] if name in known else lipschitz(layer, shape)
        columns[f"{title}.sigma_min"] = low
        columns[f"{title}.sigma_max"] = high
        columns[f"{title}.lipschitz"] = bound
        columns[f"{title}.gradient"] = gradient
    return columns


def _gradients(
    model: nn.Module, x: Tensor, y: Tensor, layers: dict[str, nn.Module]
) -> tuple[float, dict[str, tuple[Shape, float]]]:
    """Mean norm of the margin's gradient with respect to the images; and for each layer that is used, by name, the
    shape of its (first) input and the mean norm with respect to that.
    """
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            seen.setdefault(name, arguments[0])

        return hook

    hooks = [layer.register_forward_pre_hook(keep(name)) for name, layer in layers.items()]
    try:
        with torch.enable_grad():
            x = x.clone().requires_grad_()
            logits = model(x)
            true = logits.gather(1, y[:, None])[:, 0]
            others = logits.scatter(1, y[:, None], -torch.inf).amax(1)
            gradients = torch.autograd.grad((true - others).sum(), [x, *seen.values()], allow_unused=True)
    finally:
        for hook in hooks:
            hook.remove()
    norms = [math.nan if g is None else float(g.flatten(1).norm(dim=1).mean()) for g in gradients]
    shapes = [tuple(tensor.shape[1:]) for tensor in seen.values()]
    return norms[0], dict(zip(seen, zip(shapes, norms[1:], strict=True), strict=True))
