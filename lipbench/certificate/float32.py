"""The method `certificate_float`: a certificate of the float32 network as deployed."""

import copy
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from lipbench.certificate.exactness import Unbounded, number
from lipbench.certificate.lipschitz import OUTWARD, LayerBound, Shape, flat, lipschitz
from lipbench.certificate.radius import gaps_of, row_distances
from lipbench.certificate.rounding import SLACK, TINY, UNIT, Affine, Link, dot_product, follow, norm, rounding
from lipbench.images import check_batch, check_labels, images_at_once
from lipbench.layers import Scale
from lipbench.modules import tensors
from lipbench.precision import other_products
from lipbench.progress import SILENT, Progress


@torch.no_grad()
def certify_float(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    batch_size: int | None = None,
    progress: Callable[..., Progress] = SILENT,
) -> Tensor:
    """The method `certificate_float`: an L2 radius of each image, [N] float64, such that the float32 network gives no
    image of [0, 1] within it another label than y; 0 where it is unknown or the label is wrong.

    It is the radius of `certify` less what the float32 forward pass can add to a difference of two logits by rounding,
    at x and at every other image within the radius: bounded a priori, layer by layer, for float32 dot products in any
    order of summation (docs/rounding.md). Layers whose rounding is not known make it 0; `float_layerwise` says which.

    Args:
        model: baked, in evaluation mode, of float32 weights, images -> logits [N, K].
        x: images [N, C, H, W] in [0, 1], float32.
        y: labels [N].
        batch_size: images computed at once; None: so many that memory stays bounded.
        progress: as in `certify`.

    Raises:
        TypeError, ValueError: as `certify`.
    """
    check_batch(x, y)
    shape = tuple(x.shape[1:])
    nothing = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    constants = lipschitz.layerwise(model, shape)
    bounds = gaps_of(model, shape, constants)
    check_labels(y, len(bounds))
    if not bool(bounds.isfinite().all()) or why_not(model, x):
        return nothing
    try:
        head = _Head(copy.deepcopy(model).double(), shape, constants)
    except Unbounded:
        return nothing
    diagonal, radii = math.sqrt(math.prod(shape)), []
    batch_size = batch_size or images_at_once(shape)
    with progress(len(x)) as bar:
        for images, labels in zip(x.split(batch_size), y.split(batch_size), strict=True):
            reach = Affine(nothing[: len(images)], torch.full_like(nothing[: len(images)], diagonal))
            logits, shift = head(images.double(), labels, reach)
            margins = logits.gather(1, labels[:, None]) - logits - shift.at
            # Never less than what exact arithmetic needs, whatever underflows on the way.
            shares = margins.clamp_min(0) / torch.maximum(shift.slope, bounds[labels] * diagonal)
            own = torch.zeros_like(margins, dtype=torch.bool).scatter(1, labels[:, None], True)
            radii.append(shares.masked_fill(~(margins > 0), 0.0).nan_to_num(0.0).masked_fill(own, torch.inf).amin(1))
            bar.update(len(images))
    return torch.cat(radii) * diagonal / OUTWARD if radii else nothing


def float_layerwise(model: nn.Module, shape: Shape) -> list[LayerBound]:
    """`lipbench.certificate.layerwise`, with the constant infinite as well where the rounding of a layer is not known:
    layer by layer, why `certificate_float` is 0.
    """
    return rounding.layerwise(copy.deepcopy(model).double(), tuple(shape))


def why_not(model: nn.Module, x: Tensor) -> str:
    """Why nothing is known of the float32 arithmetic that this model is computed in, or "".

    Args:
        x: its images.
    """
    kinds = {t.dtype for t in tensors(model).values() if t.is_floating_point()} | {x.dtype}
    if kinds != {torch.float32}:
        return f"its numbers are {', '.join(sorted(map(str, kinds)))}, not float32 alone"
    devices = {t.device.type for t in tensors(model).values()} | {x.device.type}
    if not devices <= {"cpu", "cuda"}:
        return f"nothing is known of the arithmetic of {', '.join(sorted(devices))}"
    convolutions = any(isinstance(layer, nn.Conv2d) for layer in model.modules())
    return next(filter(None, (other_products(device, convolutions) for device in devices)), "")


class _Head:
    """The differences of the logits of a float32 network, and by how much they can change.

    A dense head is bounded by the differences of its rows, and its rounding logit by logit; every other one by the norm
    of the change of all logits.

    Raises:
        Unbounded: a layer whose rounding is not known.
    """

    def __init__(self, exact: nn.Module, shape: Shape, constants: Sequence[LayerBound]):
        layers = flat(exact)
        links = rounding.chain(exact, shape, constants)
        self.factors: list[float] = []
        count = len(layers)
        while count and type(layers[count - 1]) is Scale:
            count -= 1
        linear = layers[count - 1] if count else None
        self.linear: nn.Linear | None = linear if type(linear) is nn.Linear else None
        if self.linear is not None:
            self.factors = [abs(number(layer, "factor")) for layer in layers[count:] if isinstance(layer, Scale)]
            self.apart = row_distances(self.linear.weight)
            links = links[: count - 1]
        self.links: Sequence[Link] = links

    def __call__(self, x: Tensor, labels: Tensor, reach: Affine) -> tuple[Tensor, Affine]:
        """[N, K] logits in float64, and [N, K] what can be added to z_k - z_y, by the distance."""
        u, reach, _ = follow(list(self.links), x, reach)
        if self.linear is not None:
            return self._dense(self.linear, u, labels, reach)
        shift = (reach * math.sqrt(2)).plus(4 * TINY)
        return u, Affine(shift.at[:, None].expand_as(u), shift.slope[:, None].expand_as(u))

    def _dense(self, head: nn.Linear, u: Tensor, labels: Tensor, reach: Affine) -> tuple[Tensor, Affine]:
        weight = head.weight
        of_sum, of_result = dot_product(weight.shape[1] + (head.bias is not None))
        bias = 0 if head.bias is None else head.bias.abs()
        logits, rows = head(u), weight.norm(dim=1)
        reach = Affine(reach.at[:, None], reach.slope[:, None])
        magnitude = (reach * rows).plus(u.abs() @ weight.abs().T + bias)
        moved = reach * rows
        given = reach.plus(norm(u)[:, None])
        lost = given.plus(1 + weight.abs().max()) * (8 * TINY * (weight.shape[1] + 1))
        error = magnitude * of_sum + (moved.plus(logits.abs())) * of_result + lost
        error = (error * SLACK).within(magnitude)
        difference = reach * self.apart[labels]
        for factor in self.factors:
            flushed = (moved + error).plus(logits.abs() + 1 + factor) * (8 * TINY)
            logits, difference, moved = logits * factor, difference * factor, (moved + error) * factor
            magnitude = moved.plus(logits.abs())
            error = ((error * factor + magnitude * (2.1 * UNIT) + flushed) * SLACK).within(magnitude)
        own = Affine(error.at.gather(1, labels[:, None]), error.slope.gather(1, labels[:, None]))
        return logits, (difference + error + own).plus(4 * TINY)
