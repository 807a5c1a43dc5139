"""From an image to where it leaves a ball without misclassified images: near the boundary of a straight network."""

import torch
from torch import Tensor

from lipbench.certificate.inscribed_ball import clipped_ray
from lipbench.certificate.inscribed_search import Search
from lipbench.geometry import unit
from lipbench.judge import Classifier
from lipbench.margins import margin_and_gradient


def leave(model: Classifier, x: Tensor, y: Tensor, *, steps: int) -> Tensor:
    """The images in which the rays from x leave their inscribed balls (`lipbench.certificate.inscribed_search`), if the
    margin were nowhere steeper than at x. It need not be so: the image is where a search begins. x itself where no ball
    is larger than the one around x.

    Args:
        x: images [N, C, H, W], N >= 1, that are classified as y.
        steps: of the search for the centre, a forward and a backward pass each.
    """
    flat, rows = x.flatten(1), torch.arange(len(x), device=x.device)
    value, gradient = margin_and_gradient(model, x, y)
    slope = unit(gradient)[1]
    slope = slope.where(slope > 0, torch.inf)

    def depth(points: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
        found, steep = margin_and_gradient(model, points.view(-1, *x.shape[1:]), y[chosen])
        return found / slope[chosen], steep.flatten(1) / slope[chosen, None]

    search = Search(depth, flat, rows, value / slope)
    search.run(steps)
    return (flat + clipped_ray(flat, search.centre - flat, search.t.nan_to_num(0.0))).view_as(x)
