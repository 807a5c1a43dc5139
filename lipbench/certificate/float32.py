"""The method `certificate_float`: a certificate of the float32 network as deployed."""

import copy
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from lipbench.certificate.exactness import Unbounded, number
from lipbench.certificate.lipschitz import OUTWARD, LayerBound, Shape, flat, lipschitz
from lipbench.certificate.radius import Count, gaps_of, is_another, row_distances, uncounted
from lipbench.certificate.rounding import SLACK, TINY, UNIT, Affine, Link, dot_product, follow, norm, rounding
from lipbench.gate import logits_of
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
    count: Count = uncounted,
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
        progress, count: as in `certify`.

    Raises:
        TypeError, ValueError: as `certify`.
    """
    check_batch(x, y)
    shape = tuple(x.shape[1:])
    network = lipschitz.read(model, shape)
    constants = lipschitz.layerwise(network, shape)
    bounds = gaps_of(network, shape, constants)
    check_labels(y, len(bounds))
    return certify_float_by(model, network, x, y, constants, bounds, batch_size, progress, count)


@torch.no_grad()
def certify_float_by(
    model: nn.Module,
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    constants: Sequence[LayerBound],
    bounds: Tensor,
    batch_size: int | None = None,
    progress: Callable[..., Progress] = SILENT,
    count: Count = uncounted,
) -> Tensor:
    """`certify_float` of a model whose constants are there already, of images and labels that are checked.

    Args:
        network: what `lipbench.certificate.read` gives.
        constants: what `lipbench.certificate.layerwise` gives of it.
        bounds: what `lipbench.certificate.gaps` gives.
    """
    shape = tuple(x.shape[1:])
    nothing = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    if not bool(bounds.isfinite().all()) or why_not(model, x, network):
        return nothing
    exact = copy.deepcopy(network).double()
    try:
        head = Head(exact, shape, constants)
    except Unbounded:
        return nothing
    radii = []
    batch_size = batch_size or images_at_once(shape)
    with progress(len(x)) as bar:
        for images, labels in zip(x.split(batch_size), y.split(batch_size), strict=True):
            count((1 if network is model else 3) * len(images), 0)
            if network is not model and is_another(logits_of(model, images), exact(images.double())):
                return nothing
            radii.append(float_radii(head, images, labels, bounds)[0].amin(1))
            bar.update(len(images))
    return torch.cat(radii) if radii else nothing


def float_radii(head: "Head", x: Tensor, y: Tensor, gaps: Tensor) -> tuple[Tensor, Affine]:
    """Of each rival k the radius within which the float32 network gives it a smaller logit than y, [N, K] float64, inf
    for y itself; and [N, K] by how much the float32 difference z_y - z_k of an image can differ from the exact one,
    by the distance of that image.

    Args:
        head: of the float32 network.
        x, y: images, float32, and labels.
        gaps: see `lipbench.certificate.gaps`.
    """
    diagonal = math.sqrt(math.prod(x.shape[1:]))
    nothing = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    logits, shift, error = head(x.double(), y, Affine(nothing, torch.full_like(nothing, diagonal)))
    margins = logits.gather(1, y[:, None]) - logits - shift.at
    # Never less than what exact arithmetic needs, whatever underflows on the way.
    shares = margins.clamp_min(0) / torch.maximum(shift.slope, gaps[y] * diagonal)
    own = torch.zeros_like(margins, dtype=torch.bool).scatter(1, y[:, None], True)
    radii = shares.masked_fill(~(margins > 0), 0.0).nan_to_num(0.0).masked_fill(own, torch.inf)
    return radii * diagonal / OUTWARD, error


def float_layerwise(model: nn.Module, shape: Shape) -> list[LayerBound]:
    """`lipbench.certificate.layerwise`, with the constant infinite as well where the rounding of a layer is not known:
    layer by layer, why `certificate_float` is 0.
    """
    network = lipschitz.read(model, tuple(shape))
    return rounding.layerwise(copy.deepcopy(network).double(), tuple(shape))


def why_not(model: nn.Module, x: Tensor, network: nn.Module | None = None) -> str:
    """Why nothing is known of the float32 arithmetic that this model is computed in, or "".

    Args:
        x: its images.
        network: what its forward pass is read as; None: itself.
    """
    kinds = {t.dtype for t in tensors(model).values() if t.is_floating_point()} | {x.dtype}
    if kinds != {torch.float32}:
        return f"its numbers are {', '.join(sorted(map(str, kinds)))}, not float32 alone"
    devices = {t.device.type for t in tensors(model).values()} | {x.device.type}
    if not devices <= {"cpu", "cuda"}:
        return f"nothing is known of the arithmetic of {', '.join(sorted(devices))}"
    convolutions = any(isinstance(layer, nn.Conv2d) for layer in (network or model).modules())
    return next(filter(None, (other_products(device, convolutions) for device in devices)), "")


class Head:
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

    def __call__(self, x: Tensor, labels: Tensor, reach: Affine) -> tuple[Tensor, Affine, Affine]:
        """[N, K] logits in float64 of images x; [N, K] bounds of what z_k - z_y can grow by, from x in float64 to an
        image in float32, by the distance; and [N, K] the part of it that is rounding in float32: of z_k - z_y at one
        and the same image, at most so far away.
        """
        u, reach, rounded = follow(list(self.links), x, reach)
        if self.linear is not None:
            return self._dense(self.linear, u, labels, reach, rounded)
        shift, error = ((bound * math.sqrt(2)).plus(4 * TINY) for bound in (reach, rounded))
        return u, _wide(shift, u), _wide(error, u)

    def _dense(
        self, head: nn.Linear, u: Tensor, labels: Tensor, reach: Affine, rounded: Affine
    ) -> tuple[Tensor, Affine, Affine]:
        weight = head.weight
        of_sum, of_result = dot_product(weight.shape[1] + (head.bias is not None))
        bias = 0 if head.bias is None else head.bias.abs()
        logits, rows = head(u), weight.norm(dim=1)
        reach, rounded = (Affine(bound.at[:, None], bound.slope[:, None]) for bound in (reach, rounded))
        magnitude = (reach * rows).plus(u.abs() @ weight.abs().T + bias)
        moved = reach * rows
        given = reach.plus(norm(u)[:, None])
        lost = given.plus(1 + weight.abs().max()) * (8 * TINY * (weight.shape[1] + 1))
        error = magnitude * of_sum + (moved.plus(logits.abs())) * of_result + lost
        error = (error * SLACK).within(magnitude)
        apart = self.apart[labels]
        for factor in self.factors:
            flushed = (moved + error).plus(logits.abs() + 1 + factor) * (8 * TINY)
            logits, apart, moved = logits * factor, apart * factor, (moved + error) * factor
            magnitude = moved.plus(logits.abs())
            error = ((error * factor + magnitude * (2.1 * UNIT) + flushed) * SLACK).within(magnitude)
        own = Affine(error.at.gather(1, labels[:, None]), error.slope.gather(1, labels[:, None]))
        both = (error + own).plus(4 * TINY)
        return logits, reach * apart + both, rounded * apart + both


def _wide(bound: Affine, like: Tensor) -> Affine:
    """[N] -> [N, K]."""
    return Affine(bound.at[:, None].expand_as(like), bound.slope[:, None].expand_as(like))
