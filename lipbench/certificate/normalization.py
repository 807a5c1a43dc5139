"""Rules for normalisation: by fixed numbers it is bounded, by a statistic of the image it is refused."""

import math

import torch
from torch import Tensor, nn

from lipbench.certificate.core import Rule, Shape, lipschitz, outward
from lipbench.certificate.exactness import Unbounded, number
from lipbench.layers import BatchCentering, Normalize


@lipschitz.register(Normalize)
def _normalize(layer: Normalize, shape: Shape) -> float:
    fitting = ((1, 1, 1), (shape[0], 1, 1))
    if len(shape) != 3 or any(tuple(t.shape) not in fitting for t in (layer.mean, layer.std)):
        raise Unbounded(
            f"its mean or std does not fit {shape}, so that broadcasting would repeat the image",
            "give one number, or one per channel",
        )
    return outward(float((1 / layer.std.double().abs()).max()))


@lipschitz.register(BatchCentering)
def _batch_centering(layer: BatchCentering, shape: Shape) -> float:
    """In evaluation a shift, by one number per channel."""
    for name in ("running_mean", "bias"):
        size = tuple(getattr(layer, name).shape)
        if size != (shape[0],):
            raise Unbounded(
                f"its {name} has the shape {list(size)} for {shape[0]} channels: broadcasting would repeat it",
                "give one number per channel",
            )
    return 1.0


def _batch_norm(layer: nn.BatchNorm2d, shape: Shape) -> float:
    """In evaluation an affine map: max |gamma| / sqrt(var + eps)."""
    if layer.running_mean is None or layer.running_var is None:
        raise Unbounded(
            "without running statistics it depends on the batch",
            "use track_running_stats=True, or lipbench.layers.BatchCentering",
        )
    gamma: Tensor = torch.ones_like(layer.running_var) if layer.weight is None else layer.weight.detach()
    if not gamma.any():
        return 0.0
    slopes = gamma.double().abs() / (layer.running_var.double() + number(layer, "eps")).sqrt()
    # The largest slope may be so small that its quotient is 0.
    return outward(max(float(slopes.max()), math.ulp(0.0)))


def _by_the_image(layer: nn.Module, shape: Shape) -> float:
    raise Unbounded(
        "it divides by a statistic of the image, so that its slope at a nearly constant image is only limited by eps",
        "use lipbench.layers.LayerCentering, which subtracts the mean and divides by nothing",
    )


_KINDS: dict[Rule, tuple[type, ...]] = {
    _batch_norm: (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d),
    _by_the_image: (
        nn.LayerNorm,
        nn.RMSNorm,
        nn.GroupNorm,
        nn.InstanceNorm1d,
        nn.InstanceNorm2d,
        nn.InstanceNorm3d,
        nn.LocalResponseNorm,
    ),
}
for _rule, _kinds in _KINDS.items():
    for _kind in _kinds:
        lipschitz.register(_kind)(_rule)
