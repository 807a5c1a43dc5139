"""DeepFool, batched, with steps that respect the box."""

import inspect

import torch
from torch import Tensor, nn

from lipbench.attacks.engine import minimum_distance
from lipbench.geometry import onto_halfspace, unit
from lipbench.judge import Judge, distance
from lipbench.margins import gradients_of, with_gradient

# No step is shorter than this share of the distance from x, but the one that crosses the boundary.
CRAWL = 0.05


@minimum_distance
def deepfool(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    steps: int = 50,
    share: float = 0.3,
    overshoot: float = 0.02,
    candidates: int = 10,
) -> Tensor:
    """DeepFool (Moosavi-Dezfooli et al., 2016, arXiv 1511.04599, algorithm 2): to the nearest linearised boundary,
    again and again.

    Differs from the paper in two points. The step is the shortest one *inside the box* that gets so far towards the
    linearised boundary (the paper's is clipped and falls short on images of 0s and 1s). And it goes only a `share` of
    the way: whole steps follow the first gradient to a far point of a curved boundary (MNIST, 100 images, share 1 to
    0.3: a plain network's median distance 3.24 to 2.75, a Lipschitz network's 3.55 to 3.44).

    Args:
        steps: at most; an image leaves the batch once it is misclassified.
        share: of the way to the linearised boundary that a step goes, in (0, 1]; 1 as in the paper. Near the boundary
            steps are longer, at least a twentieth of the distance covered: it is crossed in finitely many.
        overshoot: relative, so that the boundary is crossed and not only reached.
        candidates: classes with the largest logits that are considered, one backward pass each.
    """
    images = x.clone()
    todo = torch.arange(len(x), device=x.device)
    for _ in range(steps):
        logits, gaps, gradients = _linearize(model, images[todo], y[todo], candidates)
        open_ = ~Judge.misclassified(logits, y[todo])
        todo, gaps, gradients = todo[open_], gaps[open_], gradients[open_]
        if not len(todo):
            break
        rows = torch.arange(len(todo), device=x.device)
        _, norms = unit(gradients.flatten(0, 1))
        norms = norms.view(gaps.shape)
        nearest_class = (gaps / norms.where(norms > 0, 1.0)).masked_fill(norms == 0, torch.inf).argmin(1)
        normal, norm = unit(gradients[rows, nearest_class])
        whole = gaps[rows, nearest_class] / norm.where(norm > 0, torch.inf)
        here = images[todo]
        least = CRAWL * (distance(x[todo], here).to(whole) + whole)
        descent = torch.maximum(share * whole, torch.minimum((1 + overshoot) * whole, least))
        images[todo] = onto_halfspace(here, normal, (normal * here).flatten(1).sum(1) - descent)
    return images


# The search alone: its last images, not moved to the boundary; those that were never misclassified included.
walk = inspect.unwrap(deepfool)


def _linearize(model: nn.Module, x: Tensor, y: Tensor, candidates: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits [N, K]; for the best other classes z_y - z_k [N, M] and its gradient [N, M, C, H, W]."""
    seen: list[Tensor] = []

    def gaps(images: Tensor) -> Tensor:
        logits = with_gradient(model, images)
        seen.append(logits.detach())
        others = seen[0].scatter(1, y[:, None], -torch.inf)
        classes = others.topk(min(candidates, logits.shape[1] - 1), dim=1).indices
        return logits.gather(1, y[:, None]) - logits.gather(1, classes)

    found, gradients = gradients_of(gaps, x)
    return seen[0], found, gradients
