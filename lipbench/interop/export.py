"""A trained network as ONNX and torch.export files that carry the constants of its certificate."""

import copy
import hashlib
import math
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from lipbench.certificate import certify, gaps, layerwise, lipschitz, radius
from lipbench.images import as_pixels
from lipbench.interop.formats import (
    CERTIFICATE,
    FILES,
    Batch,
    ExportError,
    Logits,
    all_or_none,
    check,
    content_of,
    quiet,
    read_back,
    to_json,
    traced,
)
from lipbench.layers import bake

FORMULA = (
    "radius = min over k != y of (z_y - z_k) / gaps[y][k], z the logits and y the class of the largest; "
    "0 where gaps[y][k] is null (unknown)"
)
# The largest difference between an exported network and torch's: of a logit relative to the largest of its image (at
# least 1), of a radius relative to itself (at least 1).
LOGIT_TOLERANCE, RADIUS_TOLERANCE = 1e-5, 1e-4


def export(
    model: nn.Module,
    shape: Sequence[int],
    folder: str | Path,
    *,
    formats: Sequence[str] = ("onnx", "torch"),
    metadata: Mapping[str, Any] | None = None,
    images: Tensor | None = None,
    opset: int | None = None,
    batch: Batch = "dynamic",
) -> list[Path]:
    """Writes a network in float32 as `model.onnx` and `model.pt2`, its certificate inside and in `certificate.json`.

    Every file is read back before it gets its name: on random images its logits must agree with torch's, and the radii
    from its logits and its own constants with `lipbench.certificate.certify`. Otherwise nothing is written.

    Args:
        model: images [N, *shape] in [0, 1] -> logits [N, K]. It is not changed: a copy is baked.
        shape: of one image, (C, H, W).
        formats: of "onnx" (needs the extra lipbench[onnx]) and "torch" (torch.export).
        metadata: further JSON values for the files, under names that the certificate does not use.
        images: real images to verify on besides the random ones, uint8 or float in [0, 1].
        opset: version of the ONNX operators; None: torch's choice.
        batch: "dynamic" (any number of images), or the number of images of every call.

    Returns:
        the files written.

    Raises:
        ExportError: an unknown format, missing packages, a model that torch cannot export, or a file that does not
            compute what the model computes.
    """
    check(formats, batch)
    folder, shape = Path(folder), tuple(shape)
    network = bake(copy.deepcopy(model)).cpu().float()
    certificate = certificate_of(network, shape)
    if clash := sorted(set(certificate) & set(metadata or {})):
        raise ExportError(f"metadata cannot replace what the certificate says: {', '.join(clash)}. Use other names.")
    entries = {**certificate, **(metadata or {})}
    with quiet():
        program = traced(network, shape, batch)
        contents = {name: content_of(name, program, entries, batch, opset) for name in formats}
    trials = _trials(shape, batch, images)
    with all_or_none(folder, [CERTIFICATE, *(FILES[name] for name in formats)]) as paths:
        paths[CERTIFICATE].write_text(to_json(entries, indent=2) + "\n", encoding="utf-8")
        for name, content in contents.items():
            paths[FILES[name]].write_bytes(content)
            with quiet():
                _verify(FILES[name], *read_back(name, paths[FILES[name]]), network, trials)
    return [folder / name for name in paths]


def certificate_of(model: nn.Module, shape: tuple[int, ...]) -> dict[str, Any]:
    """What a file says of its network, as JSON values: null stands for an infinite bound.

    Args:
        model: baked, in float32.
        shape: of one image.

    Raises:
        ExportError: the model is no classifier of such images.
    """
    try:
        with torch.no_grad():
            logits = model(torch.zeros(1, *shape))
    except (RuntimeError, ValueError) as error:
        raise ExportError(f"The model refuses an image of shape {list(shape)}: {error}") from error
    if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[1] < 2:
        got = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ExportError(f"A classifier gives logits [N, K], K >= 2, not {got}. One logit: lipbench.antipodal(model).")
    bounds, constant = gaps(model, shape), lipschitz(model, shape)
    weights = {name: t.detach().clone().contiguous() for name, t in model.state_dict().items()}
    return {
        "certified": bool(bounds.isfinite().all()),
        "lipschitz": constant if math.isfinite(constant) else None,
        "gaps": [[gap if math.isfinite(gap) else None for gap in row] for row in bounds.tolist()],
        "formula": FORMULA,
        "norm": "l2",
        "pixels": [0, 1],
        "shape": list(shape),
        "classes": logits.shape[1],
        "unbounded": {layer.name: layer.reason for layer in layerwise(model, shape) if layer.reason},
        "weights_sha256": hashlib.sha256(safetensors.torch.save(weights)).hexdigest(),
        "lipbench": version("lipbench"),
    }


def _trials(shape: tuple[int, ...], batch: Batch, images: Tensor | None) -> list[Tensor]:
    """Batches to verify on: of random images, a black and a white one, and the given ones."""
    random = torch.rand(5, *shape, generator=torch.Generator().manual_seed(0))
    seven = torch.cat((random, torch.zeros(1, *shape), torch.ones(1, *shape)))
    given = seven[:0] if images is None else as_pixels(images).cpu()
    if batch == "dynamic":
        return [x for x in (seven[:1], seven, given) if len(x)]
    every = torch.cat((seven, given))
    return list(every[torch.arange(len(every) + -len(every) % batch) % len(every)].split(batch))


@torch.no_grad()
def _verify(name: str, run: Logits, entries: Mapping[str, Any], model: nn.Module, trials: Sequence[Tensor]) -> None:
    """Whether a file's network and constants give the logits and the radii of the model.

    Raises:
        ExportError: they do not.
    """
    bounds = torch.tensor([[math.inf if gap is None else gap for gap in row] for row in entries["gaps"]]).double()
    for x in trials:
        expected, found = model(x), run(x)
        scale = expected.abs().amax(1, keepdim=True).clamp_min(1)
        _agree(name, "logits", found, expected, LOGIT_TOLERANCE * scale)
        y = expected.argmax(1)
        certified = certify(model, x, y)
        _agree(name, "radii", radius(found, y, bounds), certified, RADIUS_TOLERANCE * certified.clamp_min(1))


def _agree(name: str, what: str, found: Tensor, expected: Tensor, tolerance: Tensor) -> None:
    if found.shape != expected.shape:
        raise ExportError(f"{name} gives {what} {list(found.shape)}, the model {list(expected.shape)}: not written.")
    difference = (found - expected).abs().masked_fill(found == expected, 0.0)  # infinite radii may be equal
    if not bool((difference <= tolerance).all()):
        raise ExportError(
            f"{name} gives other {what} than the model, by up to {float(difference.max()):.2g} on {len(expected)} "
            "images: not written. Tracing fixes Python branches and random draws of forward: remove them."
        )
