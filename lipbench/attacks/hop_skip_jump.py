"""HopSkipJump: needs decisions alone, so no masked gradient deceives it."""

import torch
from torch import Tensor, nn

from lipbench.attacks.engine import minimum_distance
from lipbench.attacks.engine.boundary import nearest, to_boundary
from lipbench.attacks.engine.starting import adversarial_start
from lipbench.geometry import per_image, unit
from lipbench.judge import Judge, distance
from lipbench.randomness import keys, normal


@minimum_distance
def hop_skip_jump(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    steps: int = 10,
    queries: int = 60,
    seed: int = 0,
    start: Tensor | None = None,
) -> Tensor:
    """HopSkipJump in L2 (Chen et al., 2020, arXiv 1904.02144, algorithm 2), all images side by side.

    At a boundary point the normal is estimated from the decisions at `queries` sqrt(step) points around it; then a step
    of distance / sqrt(step), halved until it is adversarial, then a bisection back to the boundary. Its distances are
    far from minimal: it is the check that nearer images are not hidden from the gradients.

    Args:
        steps, queries: of the order of 2000 forward passes an image by default.
        seed: of the directions, keyed by (seed, image).
        start: images to begin at; None: see `adversarial_start`.
    """
    key = keys(x, seed)
    z = x.clone() if start is None else start.clone()
    lost = (z == x).flatten(1).all(1).nonzero()[:, 0]
    if len(lost):
        z[lost] = adversarial_start(model, x[lost], y[lost], seed)
    rows = Judge(model)(z, y).nonzero()[:, 0]
    draw = 0
    with torch.no_grad():
        for step in range(1, steps + 1):
            if not len(rows):
                break
            origin, here, labels = x[rows], z[rows], y[rows]
            length = distance(origin, here).to(x.dtype)
            count = int(queries * step**0.5)
            normal_ = _normal(model, here, labels, 0.01 * length, key[rows], range(draw, draw + count))
            draw += count
            moved = _jump(model, here, labels, normal_, length / step**0.5)
            z[rows] = nearest(origin, to_boundary(model, origin, moved, labels), here)
    return z


def _normal(model: nn.Module, z: Tensor, y: Tensor, radius: Tensor, key: Tensor, draws: range) -> Tensor:
    """The direction in which the label is lost, estimated from decisions at a distance of `radius` (equation 9 of the
    paper).
    """
    total, signs, weighted = torch.zeros_like(z), torch.zeros_like(radius), torch.zeros_like(z)
    for draw in draws:
        direction, _ = unit(normal(key, tuple(z.shape[1:]), draw).to(z))
        probe = (z + per_image(radius, z) * direction).clamp(0, 1)
        sign = 2 * Judge.misclassified(model(probe.clone()), y).to(z) - 1
        total, weighted, signs = total + direction, weighted + per_image(sign, z) * direction, signs + sign
    # The mean decision is a baseline: it lowers the variance.
    return unit(weighted - per_image(signs / len(draws), z) * total)[0]


def _jump(model: nn.Module, z: Tensor, y: Tensor, direction: Tensor, length: Tensor) -> Tensor:
    """A step along the direction, halved until it is adversarial; z where it never is."""
    result, open_ = z.clone(), torch.ones(len(z), dtype=torch.bool, device=z.device)
    for halving in range(10):
        moved = (z + per_image(length / 2**halving, z) * direction).clamp(0, 1)
        found = open_ & Judge.misclassified(model(moved.clone()), y)
        result = torch.where(per_image(found, z), moved, result)
        open_ &= ~found
        if not open_.any():
            break
    return result
