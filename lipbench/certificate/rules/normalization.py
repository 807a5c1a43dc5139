"""Rules for normalisation: by fixed numbers it is bounded, by a statistic of the image it is refused."""

import math

import torch
from torch import Tensor, nn

from lipbench.certificate.exactness import Unbounded, number
from lipbench.certificate.lipschitz import ConstantRule, Shape, lipschitz, outward
from lipbench.certificate.relaxation import affine, relaxation
from lipbench.certificate.rounding import (
    LARGEST,
    UNIT,
    Step,
    _of_the_result,
    _shifted,
    gamma,
    relative,
    rounding,
)
from lipbench.layers import (
    BatchCentering,
    LayerCentering,
    Normalize,
)

# Why, and what to do.
BY_THE_IMAGE = (
    "it divides by a statistic of the image, so that its slope at a nearly constant image is only limited by eps",
    "use lipbench.layers.LayerCentering, which divides by nothing, or certificate_local, which bounds it near an image",
)


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
    raise Unbounded(*BY_THE_IMAGE)


_KINDS: dict[ConstantRule, tuple[type, ...]] = {
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


@rounding.register(Normalize)
def _normalize_rounding(layer: Normalize, shape: Shape, constant: float) -> Step:
    """A difference and a quotient: two roundings of the result."""
    if constant > LARGEST:
        raise Unbounded("it divides by a number that may be flushed to 0", "use a larger std")
    return _of_the_result(layer, shape, constant, 2.1 * UNIT, constant + float(layer.mean.abs().max()))


@rounding.register(BatchCentering)
def _batch_centering_rounding(layer: BatchCentering, shape: Shape, constant: float) -> Step:
    """x + (bias - mean): the shift is rounded, and the sum."""
    shift = float((layer.bias - layer.running_mean).detach().norm()) * math.sqrt(math.prod(shape[1:]))
    return _shifted(relative(layer, shape, 2.1 * UNIT, shift), 2.1 * UNIT * shift)


def _batch_norm_rounding(layer: nn.BatchNorm2d, shape: Shape, constant: float) -> Step:
    """alpha x + beta, alpha = gamma / sqrt(var + eps), beta = bias - mean alpha, or any other order of these: 16
    roundings are enough for all.
    """
    mean, variance = layer.running_mean, layer.running_var
    assert mean is not None  # else it has no constant
    assert variance is not None
    variance = variance + number(layer, "eps")
    if not float(variance.min()) > 2.0**-60:
        raise Unbounded("its variance is nearly 0, so that its inverse may overflow", "use a larger eps")
    weight = torch.ones_like(variance) if layer.weight is None else layer.weight.detach()
    alpha = weight.abs() / variance.sqrt()
    shift = mean.abs() * alpha + (0 if layer.bias is None else layer.bias.detach().abs())
    added = float(shift.norm()) * math.sqrt(math.prod(shape[1:]))
    share = 16 * UNIT * float(alpha.max())
    return _shifted(relative(layer, shape, share, constant + added), 16 * UNIT * added)


@rounding.register(LayerCentering)
def _layer_centering(layer: LayerCentering, shape: Shape, constant: float) -> Step:
    """The mean of n numbers, n times: its error is n roundings of their mean magnitude, at most norm / sqrt n."""
    return relative(layer, shape, gamma(math.prod(shape) + 3) + 2 * UNIT)


rounding.register(nn.BatchNorm1d)(_batch_norm_rounding)

rounding.register(nn.BatchNorm2d)(_batch_norm_rounding)

rounding.register(nn.BatchNorm3d)(_batch_norm_rounding)

relaxation.register(Normalize)(affine)
