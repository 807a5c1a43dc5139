"""The method `certificate_local`: the radius within which bounds near the image prove the label."""

import math
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from lipbench.certificate.exactness import Unbounded
from lipbench.certificate.lipschitz import OUTWARD
from lipbench.certificate.local.program import program
from lipbench.certificate.local.ranges import Region
from lipbench.certificate.local.relaxed import HELD, Prepared, margins_of, prepared
from lipbench.certificate.radius import certify, is_another, read_exactly
from lipbench.gate import logits_of
from lipbench.images import check_batch, check_labels, model_images
from lipbench.modules import undisturbed
from lipbench.progress import SILENT, Progress


class LocalWarning(UserWarning):
    """A network that has no bounds near an image either, with the reason."""


def certify_local(
    model: nn.Module, x: Tensor, y: Tensor, *, rounds: int = 8, progress: Callable[..., Progress] = SILENT
) -> Tensor:
    """The method `certificate_local`: certified L2 radius of each image, [N] float64, never below that of `certify`; 0
    where the label is wrong or the network has no bound (`LocalWarning` says why).

    On the images of [0, 1]^n that are no farther than a radius from x, every activation lies between two numbers, and
    every step between two lines of its inputs. These are carried back from the differences of the logits to the image,
    as CROWN does (Zhang et al., 2018, arXiv 1811.00866), for any network that `lipbench.certificate.read` reads: with
    products of activations, attention, normalisation by the image. The radius is found by secants, and it is one
    whose bounds were positive. Everything is float64 on the CPU, rounded outward.

    Args:
        model: baked, images -> logits [N, K]. It is certified in evaluation mode, and left in the mode it was in.
        x: images [N, C, H, W], uint8 or float in [0, 1].
        y: labels [N].
        rounds: radii that are tried, one after another.
        progress: called with the number of images to be bounded, gives what is told of them (`lipbench.progress`).

    Raises:
        TypeError, ValueError: as `certify`; pixels outside of [0, 1]; no round.
    """
    if rounds < 1:
        raise ValueError(f"certificate_local tries at least one radius: rounds is 1 or more, not {rounds}.")
    check_batch(x, y)
    with undisturbed(model), torch.no_grad():
        return _certified(model, model_images(model, x) if x.dtype == torch.uint8 else x, y.long(), rounds, progress)


def _certified(model: nn.Module, x: Tensor, y: Tensor, rounds: int, progress: Callable[..., Progress]) -> Tensor:
    """`certify_local` of a model in evaluation mode, of float images."""
    radii, shape = certify(model, x, y), tuple(x.shape[1:])
    try:
        network = read_exactly(model, shape, x[:1])
        steps = prepared(program(network, shape))
    except Unbounded as error:
        warnings.warn(f"certificate_local is that of certificate alone: {error.reason}", LocalWarning, stacklevel=3)
        return radii
    check_labels(y, math.prod(steps[0][-1].shape))
    logits = logits_of(model, x)
    if network is not model and is_another(logits, network.double()(x.double())):
        return radii
    found, widest = torch.zeros(len(x), dtype=torch.float64), max(math.prod(op.shape) for op in steps[0])
    rows = (logits.argmax(1) == y).nonzero()[:, 0].cpu()
    if not len(rows):
        return radii
    with progress(len(rows)) as bar:
        for batch in rows.split(max(1, min(64, HELD // (64 * widest)))):
            found[batch] = _radii(steps, x[batch].double().cpu(), y[batch].cpu(), rounds)
            bar.update(len(batch))
    return torch.maximum(radii, found.to(radii.device))


def _radii(steps: Prepared, x: Tensor, y: Tensor, rounds: int) -> Tensor:
    """Of images that are labelled y, [N]."""

    def margin(radius: Tensor) -> Tensor:
        return margins_of(steps, Region(x, radius), y).margins.amin(1)

    low, tiny = torch.zeros(len(x), dtype=torch.float64), torch.full((len(x),), 1e-9, dtype=torch.float64)
    value = margin(low)
    above = value
    # How fast the margin falls at x says where to begin; no image of the box is farther than its diagonal.
    ahead = value / ((value - margin(tiny)) / tiny).clamp_min(0)
    high = (2 * ahead).nan_to_num(nan=0.0, posinf=math.inf).clamp(0, math.sqrt(x[0].numel())).masked_fill(value <= 0, 0)
    below = torch.full_like(value, -torch.inf)
    for _ in range(rounds):
        # Where the line through both ends is 0; where one of them is not known yet, that through x.
        guess = torch.where(
            below.isfinite(),
            low + (high - low) * above / (above - below),
            torch.where(low > 0, low * value / (value - above).clamp_min(1e-300), high / 2),
        )
        middle = torch.minimum(torch.maximum(guess, low + (high - low) / 8), high - (high - low) / 32)
        found = margin(middle)
        proved = (found > 0) & (value > 0)
        low, above = torch.where(proved, middle, low), torch.where(proved, found, above)
        high, below = torch.where(proved, high, middle), torch.where(proved, below, found)
    return low / OUTWARD
