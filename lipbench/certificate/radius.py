"""From Lipschitz constants to distances: `gaps` of pairs of logits, `radius` of images, `certify`."""

import copy
import math
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from lipbench.certificate.exactness import Unbounded, unknown
from lipbench.certificate.float64 import LOGIT_SLACK, Passes
from lipbench.certificate.lipschitz import OUTWARD, SMALLEST, LayerBound, Shape, flat, lipschitz, output_shape, product
from lipbench.certificate.tracing.steps import LogSoftmax, Refused, Shift
from lipbench.gate import logits_of, told
from lipbench.images import check_batch, check_labels, images_at_once
from lipbench.layers import Antipodal, Scale
from lipbench.modules import duplicate, evaluation_mode, exactly
from lipbench.progress import SILENT, Progress

# The largest change of a logit that rounding can make, relative to the largest one of an image.
TRACED = 1e-3

# Called with how many images went forwards through the network, in either precision, and how many gradients came back.
Count = Callable[[int, int], object]


def uncounted(forwards: int, backwards: int) -> None:
    """The `Count` of those who do not ask."""


@torch.no_grad()
def gaps(model: nn.Module, shape: Shape) -> Tensor:
    """[K, K] float64: entry (i, j) bounds the Lipschitz constant of logit_i - logit_j; `inf` where it is unknown, 0 on
    the diagonal.

    L(backbone) * ||w_i - w_j|| where the last layer is exactly an `nn.Linear`; L(f) where it is `Antipodal`, whose
    logits differ by f; a `Scale` after them counts once; else sqrt 2 * L(model), because |a_i - a_j| <= sqrt 2 ||a||.

    Args:
        model: baked, in evaluation mode.
        shape: of one image, (C, H, W).
    """
    model = lipschitz.read(model, shape)
    return gaps_of(model, shape, lipschitz.layerwise(model, shape))


@torch.no_grad()
def gaps_of(model: nn.Module, shape: Shape, bounds: Sequence[LayerBound]) -> Tensor:
    """`gaps` of a model whose layerwise bounds are there already.

    Args:
        bounds: what `lipbench.certificate.layerwise(model, shape)` gives.

    Raises:
        TypeError: bounds of another type. Those of `lipbench.certificate.local` hold near an image alone, and the gaps
            are used on all of R^n.
    """
    if not all(type(bound) is LayerBound for bound in bounds):
        raise TypeError(
            "Gaps hold on all of R^n: they are computed from the LayerBound of each layer, not from others."
        )
    model = lipschitz.read(model, shape)
    head = (flat(model) or [model])[-1]
    known = not any(map(unknown, (*_containers(model), head)))
    if known and exactly(head, LogSoftmax, Shift):
        return gaps_of(_without_head(model), shape, bounds[:-1])
    if known and type(head) is Scale:
        inner = gaps_of(_without_head(model), shape, bounds[:-1])
        return _known(inner * (bounds[-1].bound * OUTWARD), inner > 0)
    # Where no container is unknown, every layer of nested Sequentials has its own entry, the head the last one.
    constant = product(bounds[:-1])
    if known and type(head) is nn.Linear:
        if not head.weight.isfinite().all() or not math.isfinite(constant):
            return _full(len(head.weight), math.inf, head.weight.device)
        distances = row_distances(head.weight)
        return _known(distances * constant * OUTWARD, (distances > 0) & (constant > 0))
    if known and type(head) is Antipodal:
        return _full(2, constant * OUTWARD, _device(model))
    whole = product(bounds)
    return _full(_classes(model, shape), math.sqrt(2) * whole * OUTWARD, _device(model))


@torch.no_grad()
def logit_bounds(model: nn.Module, shape: Shape, bounds: Sequence[LayerBound]) -> Tensor:
    """[K] float64: entry k bounds the Lipschitz constant of logit k; `inf` where it is unknown.

    L(backbone) * ||w_k|| where the last layer is exactly an `nn.Linear`; L(f) / 2 where it is `Antipodal`; a `Scale`
    after them counts once; else L(model).

    Args:
        model, shape, bounds: as of `gaps_of`.
    """
    model = lipschitz.read(model, shape)
    head = (flat(model) or [model])[-1]
    known = not any(map(unknown, (*_containers(model), head)))
    if known and type(head) is Scale:
        inner = logit_bounds(_without_head(model), shape, bounds[:-1])
        return _known(inner * (bounds[-1].bound * OUTWARD), inner > 0)
    if known and type(head) is nn.Linear:
        # The norm of a row is its distance from a row of zeros.
        rows = torch.cat([head.weight.detach(), torch.zeros_like(head.weight[:1])])
        padded = nn.Linear(rows.shape[1], len(rows), bias=False, device=rows.device, dtype=rows.dtype)
        padded.weight.copy_(rows)
        return gaps_of(nn.Sequential(*_without_head(model), padded).eval(), shape, bounds)[:-1, -1]
    pairs = gaps_of(model, shape, bounds)
    if known and type(head) is Antipodal:
        return pairs.amax(1) / 2
    return torch.full_like(pairs[0], product(bounds) * OUTWARD)


def row_distances(weight: Tensor) -> Tensor:
    """[K, K] float64: the distances of the rows of a weight [K, D], rounded outward; 0 where two rows are the same,
    `inf` where float64 cannot hold them. It takes memory for K K + K D numbers.
    """
    rows = weight.detach().double()
    count, size = rows.shape
    # A power of two changes no digit, and keeps squares from overflowing. Those of far smaller numbers may underflow.
    top = float(rows.abs().max()) if rows.numel() else 0.0
    scale = math.ldexp(1.0, math.frexp(top)[1] - 1) if top else 1.0
    found = torch.pdist(rows / scale) * scale
    small = found <= scale * 1e-130
    if small.any():
        largest = torch.pdist(rows, torch.inf)
        found = torch.where(small, largest * math.sqrt(size) * OUTWARD, found)
        found = _known(found * OUTWARD, largest > 0)
    distances = rows.new_zeros(count, count)
    upper = torch.ones(count, count, dtype=torch.bool, device=rows.device).triu(1)
    distances[upper] = _known(found * OUTWARD, found > 0)
    return distances + distances.T


def _known(found: Tensor, positive: Tensor) -> Tensor:
    """Bounds; `inf` where they are not numbers, or should be positive and lost digits by underflow."""
    return found.nan_to_num(nan=math.inf, posinf=math.inf).masked_fill(positive & (found < SMALLEST), math.inf)


def radius(logits: Tensor, labels: Tensor, gaps: Tensor, slack: Tensor | None = None) -> Tensor:
    """Certified radius per image, [N] float64: min over k != y of (z_y - z_k) / gap[y, k] (Tsuzuku et al., 2018, arXiv
    1802.04034).

    0 for mistakes, ties, NaN and unknown gaps. The margins are reduced by the rounding of the forward pass.

    Args:
        logits: [N, K], from a float64 forward pass.
        labels: [N].
        gaps: [K, K], see `gaps`.
        slack: [N], what rounding can add to a difference of two logits; None: 1e-10 of the largest logit, which says
            nothing of larger numbers that cancelled before the logits (`certify` takes these into account).

    Raises:
        ValueError: fewer than two logits, labels or gaps that are not those of the logits.
    """
    return rival_radii(logits, labels, gaps, slack).amin(1)


def rival_radii(logits: Tensor, labels: Tensor, gaps: Tensor, slack: Tensor | None = None) -> Tensor:
    """The radii whose minimum over the classes is `radius`, [N, K] float64: (z_y - z_k) / gap[y, k] of each rival k,
    rounded down; inf for the label itself.

    Args, Raises:
        as `radius`.
    """
    if logits.ndim != 2 or gaps.shape != (logits.shape[1], logits.shape[1]) or labels.shape != logits.shape[:1]:
        raise ValueError(
            f"Logits are [N, K], labels [N], gaps [K, K]; got {list(logits.shape)}, {list(labels.shape)}, "
            f"{list(gaps.shape)}."
        )
    if len(labels):
        check_labels(labels, logits.shape[1])
    logits, gaps = logits.double(), gaps.to(logits.device)
    if slack is None:
        slack = LOGIT_SLACK * logits.abs().amax(1)
    margins = logits.gather(1, labels[:, None]) - logits - slack[:, None]
    own = torch.zeros_like(margins, dtype=torch.bool).scatter(1, labels[:, None], True)
    radii = (margins.clamp_min(0) / gaps[labels]).masked_fill(margins <= 0, 0.0).masked_fill(own, torch.inf)
    known = logits.isfinite().all(1, keepdim=True)
    return torch.where(known, radii.nan_to_num(nan=0.0, posinf=torch.inf), 0.0) / OUTWARD


@torch.no_grad()
def certify(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    batch_size: int | None = None,
    progress: Callable[..., Progress] = SILENT,
    count: Count = uncounted,
) -> Tensor:
    """The method `certificate`: certified L2 radius of each image, [N] float64; 0 where it is unknown or the label is
    wrong.

    The logits and the constants are those of the same weights in float64; an image whose label the model as deployed
    does not give is not certified either. Neither the model nor the images are changed.

    The margins are reduced by what rounding can add in the float64 forward pass, layer by layer: see
    `lipbench.certificate.float64`, which also says for which layers that is an estimate.

    Args:
        model: baked, in evaluation mode, images -> logits [N, K].
        x: images [N, C, H, W] in [0, 1].
        y: labels [N].
        batch_size: images computed at once; None: so many that memory stays bounded.
        progress: called with the number of images, gives what is told of them (`lipbench.progress`).
        count: called with the numbers of images that went through the network, forwards and backwards.

    Raises:
        TypeError, ValueError: images or labels that cannot be judged (see `lipbench.images`), a model of one logit, or
            one that does not take images of this shape and precision.
    """
    check_batch(x, y)
    shape = tuple(x.shape[1:])
    network = read_exactly(model, shape, x[:1])
    layers = lipschitz.layerwise(network, shape)
    bounds = gaps_of(network, shape, layers)
    check_labels(y, len(bounds))
    return certify_by(model, network, x, y, layers, bounds, batch_size, progress, count)


@torch.no_grad()
def certify_by(
    model: nn.Module,
    network: nn.Module,
    x: Tensor,
    y: Tensor,
    layers: Sequence[LayerBound],
    bounds: Tensor,
    batch_size: int | None = None,
    progress: Callable[..., Progress] = SILENT,
    count: Count = uncounted,
) -> Tensor:
    """`certify` of a model whose constants are there already, of images and labels that are checked.

    Args:
        network: what `read_exactly` gives.
        layers: what `lipbench.certificate.layerwise` gives of it.
        bounds: what `gaps` gives.
    """
    if not bool(bounds.isfinite().all()):
        return torch.zeros(len(x), dtype=torch.float64, device=x.device)
    shape = tuple(x.shape[1:])
    batch_size = batch_size or images_at_once(shape)
    passes, radii = Passes(copy.deepcopy(network).double(), shape, layers), []
    with progress(len(x)) as bar:
        for images, labels in zip(x.split(batch_size), y.split(batch_size), strict=True):
            # A copy: a first layer with inplace=True would overwrite the caller's images.
            logits, slack = passes(images.clone().double())
            certified = radius(logits, labels, bounds, slack)
            said = logits_of(model, images)
            count(2 * len(images), 0)
            if network is not model and is_another(said, logits):
                return torch.zeros(len(x), dtype=torch.float64, device=x.device)
            radii.append(certified.masked_fill(said.argmax(1) != labels, 0.0))
            bar.update(len(images))
    return torch.cat(radii)


class TracedWarning(UserWarning):
    """A network whose traced forward pass computes something else than the network itself."""


def read_exactly(model: nn.Module, shape: Shape, x: Tensor) -> nn.Module:
    """The network as layers that have rules (`lipschitz.read`); where it is traced, that of its float64 copy, since
    what its code computes weights from is in float64 as well. Where no such copy runs, the network as deployed judges
    attacks alone, and rounds as no certificate in float64 knows: it has no bound.
    """
    network = lipschitz.read(model, shape)
    if network is model or any(isinstance(step, Refused) for step in network.modules()):
        return network
    try:
        exact = duplicate(model).double()
        exact(x.double())
    except Exception as error:
        return nn.Sequential(
            Refused(type(model).__name__, Unbounded(f"no float64 copy runs ({told(error)})"), model)
        ).eval()
    return lipschitz.read(exact, shape)


def is_another(said: Tensor, traced: Tensor) -> bool:
    """Whether the logits [N, K] of the traced network are not those of the network itself on the same images, by more
    than rounding; then a `TracedWarning` says so.
    """
    change = (traced - said).abs().amax(1)
    other = ~(change <= TRACED * said.abs().amax(1).clamp_min(1e-30)) & said.isfinite().all(1)
    if bool(other.any()):
        warnings.warn(
            f"The certificate is 0: the forward pass as it was read gives other logits on {int(other.sum())} of "
            f"{len(said)} images, by up to {float(change[other].max()):.2g}. The code does not do the same for every "
            "image and every batch, or rounds by more than 1e-3: write it as an nn.Sequential of its layers.",
            TracedWarning,
            stacklevel=3,
        )
    return bool(other.any())


def _without_head(model: nn.Module) -> nn.Sequential:
    backbone = nn.Sequential(*flat(model)[:-1])
    backbone.training = False  # of the new container alone: .eval() would change the model's layers
    return backbone


def _containers(model: nn.Module) -> list[nn.Module]:
    if type(model) is not nn.Sequential:
        return []
    return [model, *(inner for child in model for inner in _containers(child))]


def _classes(model: nn.Module, shape: Shape) -> int:
    training = [(m, m.training) for m in model.modules()]
    try:
        return output_shape(evaluation_mode(model), shape)[0]
    finally:
        for module, mode in training:
            module.training = mode


def _full(classes: int, value: float, device: torch.device) -> Tensor:
    matrix = torch.full((classes, classes), value, dtype=torch.float64, device=device)
    return matrix.fill_diagonal_(0.0)


def _device(model: nn.Module) -> torch.device:
    return next(iter([*model.parameters(), *model.buffers()]), torch.zeros(())).device
