"""An attack of our own: x is projected on the tangent plane of the boundary, again and again."""

import torch
from torch import Tensor, nn

from lipbench.attacks.deepfool import walk
from lipbench.attacks.engine import minimum_distance
from lipbench.attacks.engine.boundary import nearest, to_boundary
from lipbench.attacks.engine.sliding import slide
from lipbench.attacks.engine.starting import adversarial_start
from lipbench.judge import Classifier


@minimum_distance
def tangent(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    steps: int = 60,
    reach: tuple[float, float] = (0.5, 0.005),
    warm_reach: tuple[float, float] = (0.03, 0.001),
    memory: float = 0.5,
    start: Tensor | None = None,
) -> Tensor:
    """Sequential projection on the linearised boundary, with a shrinking trust region and averaged normals.

    At an image z near the boundary the margin is about m + <g, z' - z>. The nearest image of the box to x on which
    that vanishes is one projection away (`onto_halfspace`); z moves towards it, by at most a share of its distance
    that shrinks as `reach` says. At a minimum z is that projection. Where the boundary has an edge, as
    those of piecewise linear networks have everywhere, single normals would throw z from side to side: averaged ones
    settle on the edge.

    A relative of FAB (Croce and Hein, 2020, arXiv 1907.02044), which projects without trust region and average and
    pulls back to x by a fixed bias. One forward and one backward pass a step.

    Args:
        steps: at most; an image that has stopped moving leaves the batch.
        reach: longest step, relative to the distance from x, at the start and at the end.
        warm_reach: the same for images that have a `start`: a long reach would leave its basin.
        memory: weight of the earlier normals in the average; 0: the last normal alone, best on smooth boundaries.
        start: images to begin at; None: DeepFool's, and `adversarial_start` where it finds none.
    """
    classifier = Classifier.of(model)
    first = _first(classifier, x, y, start)
    warm = torch.zeros(len(x), dtype=torch.bool, device=x.device) if start is None else _moved(x, start)
    reaches = [torch.where(warm, *ends) for ends in zip(warm_reach, reach, strict=True)]
    best, rows = first.clone(), _moved(x, first).nonzero()[:, 0]
    if len(rows):
        best[rows], _ = slide(
            classifier,
            x[rows],
            y[rows],
            first[rows],
            steps=steps,
            first_reach=reaches[0][rows],
            last_reach=reaches[1][rows],
            memory=memory,
        )
    return nearest(x, to_boundary(classifier, x, best, y), first)


def _first(model: nn.Module, x: Tensor, y: Tensor, start: Tensor | None) -> Tensor:
    """Boundary points: from `start`, DeepFool or `adversarial_start`, the first that knows one; else x."""
    first = x if start is None else to_boundary(model, x, start, y)
    for find in (walk, adversarial_start):
        lost = (~_moved(x, first)).nonzero()[:, 0]
        if len(lost):
            first = first.index_copy(0, lost, to_boundary(model, x[lost], find(model, x[lost], y[lost]), y[lost]))
    return first


def _moved(x: Tensor, images: Tensor) -> Tensor:
    return (images != x).flatten(1).any(1)
