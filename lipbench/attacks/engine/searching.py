"""What every attack of lipbench has in common: solved images are removed from the batch, the result is moved to the
boundary, and the best image known is never lost.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from lipbench.attacks.engine.boundary import nearest, to_boundary
from lipbench.attacks.engine.starting import adversarial_start
from lipbench.gate import logits_of
from lipbench.geometry import per_image
from lipbench.images import check_attacked, check_labels
from lipbench.judge import Classifier, Judge, distance
from lipbench.modules import undisturbed

Attack = Callable[..., Tensor]

# An image whose distance is within this of its certificate is finished.
FINISHED = 1e-3


def minimum_distance(core: Attack, norm: str = "l2") -> Attack:
    """Makes an attack of a search: `core(model, x, y, **options) -> images`, good or not, for images that are
    classified as y.

    The attack takes `start` and `lower` besides the options of the search:

    * start: images [N, C, H, W], the best known so far. The result is never farther; a search that has an argument
      `start` also begins there. Where it is not adversarial the search begins at x. None: a cold start.
    * lower: certified L2 distances [N]. No search in L2 where `start` is within 0.1 % of it. From a start, a search
      that has an argument `lower` stops there; a cold one does not, so that its result tells nothing of certificates.

    Where a search that has an argument `start` finds nothing, it is run again from an `adversarial_start`.

    It leaves the model as it was (modes, gradients, flags), runs under `torch.no_grad()`, passes only images on
    whose distance is still open, and ends with `to_boundary`.

    Raises:
        TypeError, ValueError: images that are no floats in [0, 1]; labels, logits or a `start` of a wrong kind.
    """
    signature = inspect.signature(core)
    takes_start = "start" in signature.parameters

    @functools.wraps(core)
    def attack(
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        *,
        start: Tensor | None = None,
        lower: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        check_attacked(x, y)
        with undisturbed(model):
            model = Classifier.of(model)
            # What was made in inference mode has no gradients, but its copy has.
            x, y = x.detach().clone(), y.clone().long()
            start = None if start is None else usable(model, x, y, start)
            rows = _open(model, x, y, start, lower if norm == "l2" else None).nonzero()[:, 0]
            result = x.clone() if start is None else start
            if len(rows):
                begin = None if start is None else start[rows]
                options |= _told(signature, start, lower, rows)
                result[rows] = _searched(core, takes_start, norm, model, x[rows], y[rows], begin, options)
            return result

    own = [p for name, p in signature.parameters.items() if name not in ("start", "lower")]
    extra = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in ("start", "lower")]
    attack.__signature__ = signature.replace(parameters=[*own, *extra])  # type: ignore[attr-defined]
    return attack


def warm(attack: Attack, **options: Tensor | None) -> dict[str, Tensor | None]:
    """Those of the options `start` and `lower` that the attack takes: a function of a user's own may take neither."""
    try:
        known = inspect.signature(attack).parameters
    except (TypeError, ValueError):  # some callables written in C have none
        return {}
    return {name: value for name, value in options.items() if name in known}


def _searched(
    core: Attack,
    takes_start: bool,
    norm: str,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    start: Tensor | None,
    options: dict[str, Any],
) -> Tensor:
    """The nearest image that the search finds, at the boundary, or `start`; x where there is none."""
    if takes_start:
        options["start"] = start
    found = to_boundary(model, x, core(model, x, y, **options).detach(), y)
    if takes_start:
        lost = (found == x).flatten(1).all(1).nonzero()[:, 0]
        found[lost] = _from_any_image(core, norm, model, x[lost], y[lost], {**options, **_rows_of(options, lost)})
    return found if start is None else nearest(x, found, start, norm=norm)


def _from_any_image(core: Attack, norm: str, model: nn.Module, x: Tensor, y: Tensor, options: dict[str, Any]) -> Tensor:
    """A second search, for images where the first found nothing: from some adversarial image; x where none is known."""
    result = adversarial_start(model, x, y) if len(x) else x
    known = (result != x).flatten(1).any(1).nonzero()[:, 0]
    if len(known):
        origin, labels, first = x[known], y[known], result[known]
        images = core(model, origin, labels, **{**options, "start": first, **_rows_of(options, known)}).detach()
        result[known] = nearest(origin, to_boundary(model, origin, images, labels), first, norm=norm)
    return result


def _told(
    signature: inspect.Signature, start: Tensor | None, lower: Tensor | None, rows: Tensor
) -> dict[str, Tensor | None]:
    """The option `lower` of a search that has it."""
    if "lower" not in signature.parameters:
        return {}
    return {"lower": None if lower is None or start is None else lower.to(rows.device)[rows]}


def _rows_of(options: dict[str, Any], rows: Tensor) -> dict[str, Tensor]:
    """The certified distances of some images only."""
    return {} if options.get("lower") is None else {"lower": options["lower"][rows]}


def usable(model: nn.Module, x: Tensor, y: Tensor, start: Tensor) -> Tensor:
    """`start` in the box; x itself where it is no image or not adversarial, as if no attack had found one."""
    if start.shape != x.shape:
        raise ValueError(f"start= holds images of shape {list(start.shape)}, the images are {list(x.shape)}.")
    start = start.detach().to(x).clamp(0, 1)
    known = start.isfinite().flatten(1).all(1)
    start = torch.where(per_image(known, x), start, x)
    return torch.where(per_image(Judge(model)(start, y), x), start, x)


def _open(model: nn.Module, x: Tensor, y: Tensor, start: Tensor | None, lower: Tensor | None) -> Tensor:
    """Images still to be attacked, bool [N]: labelled right, and not finished by a certificate."""
    judge = Judge(model)
    with torch.no_grad():
        logits = logits_of(model, x)
        check_labels(y, logits.shape[1])
    if logits.isnan().any():
        bad = logits.isnan().any(1).nonzero()[:, 0]
        raise ValueError(f"The model gives NaN logits on {len(bad)} of {len(x)} images: there is nothing to attack.")
    open_ = ~judge(x, y)
    if start is not None and lower is not None:
        known = distance(x, start).where(judge(start, y), torch.inf)
        open_ &= known > lower.to(known) * (1 + FINISHED)
    return open_
