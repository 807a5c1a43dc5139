"""The adapter for torchattacks, and the attacks that go through it: FGSM, its L2 form and L2-PGD."""

import contextlib
import io
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torchattacks
from torch import Tensor, nn

from lipbench.attacks.boundary import nearest, to_boundary
from lipbench.attacks.judging import Judge, distance, margin, undisturbed


class _Cured(nn.Module):
    """The same classifier with logits that torchattacks can read: >= 0, with a spread of 1.

    torchattacks' losses take 0 for the smallest logit and lose their gradient on large ones; a positive scale and a
    shift per image change no decision and, held constant, no direction of the gradient of a two-class network.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return _rescale(self.model(x))


class _Versus(nn.Module):
    """The two-class question "is it labelled y?": logits (z_y, max of the others), rescaled, for labels of 0.

    The cross-entropy of many classes pulls towards all of them; the nearest boundary is that of the best other one.
    Only
    for attacks that pass the whole batch in its order.
    """

    def __init__(self, model: nn.Module, y: Tensor):
        super().__init__()
        self.model, self.y = model, y

    def forward(self, x: Tensor) -> Tensor:
        value = margin(self.model(x), self.y)
        return _rescale(torch.stack((value / 2, -value / 2), 1))


def _rescale(logits: Tensor) -> Tensor:
    low, high = logits.detach().amin(1, keepdim=True), logits.detach().amax(1, keepdim=True)
    return (logits - low) / (high - low).clamp_min(torch.finfo(logits.dtype).tiny)


def torchattack(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    attack: Callable[[nn.Module], Any],
    boundary: bool = True,
    versus: bool = False,
) -> Tensor:
    """Runs any attack of torchattacks, with the cures that it needs, and brings its images to the boundary.

    Logits are shifted and rescaled (see `_Cured`), the attack is run through its `forward` (its own call restores
    modes at the root only),
    and its return value is not trusted: an image that is not adversarial is replaced by x.

    Args:
        x: images [N, C, H, W] in [0, 1].
        attack: model -> attack, such as `functools.partial(torchattacks.PGDL2, eps=1.0)`.
        boundary: bisect to the boundary; else return the attack's images as they are.
        versus: ask the attack the two-class question y against the best other class; only for attacks that pass the
            whole batch in its order, as FGSM and PGD do.
    """
    with undisturbed(model):
        margin(model(x[:1]), y[:1])  # refuses a network with one logit, by name
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            instance = attack(_Versus(model, y) if versus else _Cured(model))
            instance.set_device(x.device)
            images = instance.forward(x, torch.zeros_like(y) if versus else y).detach().clamp(0, 1)
        # An attack that divides by a gradient of zero returns NaN: such an image is a failure.
        images = torch.where(images.isnan(), x, images)
        return to_boundary(model, x, images, y) if boundary else images


def fgsm(model: nn.Module, x: Tensor, y: Tensor, *, sizes: int = 12) -> Tensor:
    """Fast gradient sign method, x + eps sign(grad) (Goodfellow et al., 2015, arXiv 1412.6572), eps the smallest that
    succeeds.

    Args:
        sizes: step sizes tried, doubling up to 1 in L-infinity; the nearest success is then bisected to the boundary.
    """
    steps = [2.0**-k for k in reversed(range(sizes))]
    return _smallest(model, x, y, [partial(torchattacks.FGSM, eps=eps) for eps in steps])


def fgm(model: nn.Module, x: Tensor, y: Tensor, *, sizes: int = 12) -> Tensor:
    """Fast gradient method, x + eps grad / ||grad||_2 (the L2 step of FGSM), eps the smallest that succeeds.

    Args:
        sizes: step sizes tried, doubling up to 1.5 times the diagonal of the box; the nearest success is then bisected
            to the boundary.
    """
    longest = 1.5 * x[0].numel() ** 0.5
    steps = [longest * 2.0**-k for k in reversed(range(sizes))]
    single = partial(torchattacks.PGDL2, steps=1, random_start=False)
    return _smallest(model, x, y, [partial(single, eps=eps, alpha=eps) for eps in steps])


def l2_pgd(model: nn.Module, x: Tensor, y: Tensor, *, steps: int = 20, rounds: int = 12) -> Tensor:
    """Projected gradient descent in L2 balls (Madry et al., 2018, arXiv 1706.06083) with a search over the radius of
    each image.

    Each round runs PGD in a ball per image: twice the last radius while none has succeeded, else between the largest
        radius that failed and
    the nearest success. Without a random start: the result depends on the image alone.

    Args:
        steps: gradient steps a round, each 2.5 radius / steps long.
        rounds: radii tried per image.
    """
    with undisturbed(model):
        judge = Judge(model)
        limit = x[0].numel() ** 0.5
        low = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        high = torch.full_like(low, torch.inf)
        radius = torch.full_like(low, limit / 16)
        best = x.clone()
        for _ in range(rounds):
            eps = radius.to(x.dtype).view(-1, 1, 1, 1)
            pgd = partial(torchattacks.PGDL2, alpha=2.5 * eps / steps, steps=steps, random_start=False)
            # torchattacks projects with shape [N], and steps with shape [N, 1, 1, 1].
            images = torchattack(model, x, y, attack=partial(pgd, eps=eps.flatten()), boundary=False, versus=True)
            images = to_boundary(model, x, images, y, steps=8)
            length = distance(x, images)
            success = judge(images, y)
            better = success & (length < high)
            best = torch.where(better.view(-1, 1, 1, 1), images, best)
            high = torch.where(better, length, high)
            low = torch.where(success & (length <= radius), low, torch.maximum(low, torch.minimum(radius, high)))
            between = low + (high - low) * 0.7
            radius = torch.where(high.isinf(), (2 * radius).clamp(max=limit), torch.minimum(between, 0.98 * high))
        return to_boundary(model, x, best, y)


def _smallest(model: nn.Module, x: Tensor, y: Tensor, attacks: list[Callable[[nn.Module], Any]]) -> Tensor:
    """The nearest success of attacks of growing size, bisected to the boundary. Larger sizes run only on images that
    are still open.
    """
    with undisturbed(model):
        best, todo = x.clone(), torch.arange(len(x), device=x.device)
        for attack in attacks:
            images = torchattack(model, x[todo], y[todo], attack=attack, boundary=False, versus=True)
            success = Judge.misclassified(model(images).detach(), y[todo])
            best[todo[success]] = images[success]
            todo = todo[~success]
            if not len(todo):
                break
        return nearest(model, x, y, to_boundary(model, x, best, y))
