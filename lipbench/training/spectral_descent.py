"""The optimiser of orthonormal matrices: a step of constant spectral norm along the manifold, then a retraction."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class SpectralDescent(Optimizer):
    """Steepest descent under the spectral norm on orthonormal matrices; Adam for everything else.

    Each matrix W has orthonormal rows (or columns: it is then transposed). Its gradient is averaged (momentum) into D,
    projected on the tangent space, T = D - sym(D W^T) W, and orthogonalised by Newton-Schulz steps (Muon; Jordan et
    al., 2024), U = P T, so that every singular direction moves by about `lr`; W - lr U is then pulled back to
    orthonormal rows. No orthogonalisation is differentiated through.

    The Newton-Schulz steps and the retraction act on the small Gram matrices: six products of full size instead of more
    than twenty, the rest is m x m. Matrices of one shape are treated as one batch.

    Args:
        matrices: weights to keep orthonormal, as matrices or as kernels [out, in, ...], which are reshaped to [out, in
            * ...]. A pair (weight, blocks) is treated as that many matrices, stacked along the first dimension.
        others: biases and free weights, updated by Adam.
        lr: length of a step in spectral norm, at most 0.5 (0.02 to 0.3 do alike).
        momentum: of the averaged gradient.
        steps: of Newton-Schulz.
        every: mini-batches between two steps; those between only enter the average, which costs next to nothing.
        other_lr: Adam's learning rate for `others`.
    """

    def __init__(
        self,
        matrices: Iterable[Tensor | tuple[Tensor, int]],
        others: Iterable[Tensor] = (),
        *,
        lr: float = 0.05,
        momentum: float = 0.9,
        steps: int = 4,
        every: int = 1,
        other_lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
    ):
        if not 0 <= lr <= 0.5:
            raise ValueError(f"lr is the length of a step in spectral norm, 0 to 0.5, not {lr}: try 0.05.")
        batches: dict[tuple[int, int], list[tuple[Tensor, int]]] = {}
        for item in matrices:
            weight, blocks = item if isinstance(item, tuple) else (item, 1)
            rows, columns = weight.shape[0] // blocks, weight[0].numel()
            batches.setdefault((rows, columns), []).append((weight, blocks))
        groups: list[dict] = [
            {
                "params": [weight for weight, _ in pairs],
                "blocks": [blocks for _, blocks in pairs],
                "lr": lr,
                "momentum": momentum,
                "steps": steps,
                "every": every,
                "count": 0,
            }
            for pairs in batches.values()
        ]
        rest = list(others)
        if rest:
            groups.append({"params": rest, "lr": other_lr, "betas": tuple(betas), "blocks": []})
        if not groups:
            raise ValueError("SpectralDescent got no parameters.")
        super().__init__(groups, {})

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            if group["blocks"]:
                self._step_matrices(group)
            else:
                adam_(group["params"], self.state, group["lr"], group["betas"])
        return loss

    def _step_matrices(self, group: dict) -> None:
        live = [(p, blocks) for p, blocks in zip(group["params"], group["blocks"], strict=True) if p.grad is not None]
        if not live:
            return
        averages = [self.state[p].setdefault("momentum", torch.zeros_like(p)) for p, _ in live]
        torch._foreach_lerp_(averages, [p.grad for p, _ in live], 1 - group["momentum"])
        group["count"] += 1
        if group["count"] % group["every"]:
            return
        weight = _stack([_matrices(p, blocks) for p, blocks in live])
        average = _stack([_matrices(a, blocks) for a, (_, blocks) in zip(averages, live, strict=True)])
        moved = spectral_step(weight, average, group["lr"], group["steps"])
        parts = moved.reshape(-1, *moved.shape[-2:]).split([blocks for _, blocks in live])
        for (p, _), part in zip(live, parts, strict=True):
            p.copy_(part.reshape(p.shape))


def spectral_step(weight: Tensor, direction: Tensor, lr: float, steps: int) -> Tensor:
    """One step of `SpectralDescent` on orthonormal matrices, [..., m, n] -> [..., m, n]."""
    if weight.shape[-2] > weight.shape[-1]:
        return spectral_step(weight.mT, direction.mT, lr, steps).mT
    cross = direction @ weight.mT
    # Sums of a matrix and a product: torch makes them without a matrix in between.
    plus = torch.addmm if weight.ndim == 2 else torch.baddbmm
    tangent = plus(direction, cross + cross.mT, weight, alpha=-0.5)
    moved = plus(weight, _inverse_root(tangent @ tangent.mT, steps), tangent, alpha=-lr)
    del tangent  # the product below takes its memory
    return _retraction(moved @ moved.mT) @ moved


def _retraction(gram: Tensor) -> Tensor:
    """Two steps of Björck, as one factor: it is at most 1 for all that a step of the longest `lr` leads to, and what
    is left of an excess e is of the order e^4.
    """
    first = -0.5 * gram
    first.diagonal(dim1=-2, dim2=-1).add_(1.5)
    second = -0.5 * (first @ gram @ first)
    second.diagonal(dim1=-2, dim2=-1).add_(1.5)
    return second @ first


def _inverse_root(gram: Tensor, steps: int) -> Tensor:
    """P, so that the singular values of P T lie in about [0.7, 1.2], from G = T T^T, by the quintic of Muon in P and
    G.
    """
    # ||G||_F^(1/2) is an upper bound of ||T||_2.
    scale = gram.norm(dim=(-2, -1), keepdim=True).clamp_min(torch.finfo(gram.dtype).tiny)
    gram = gram / scale
    polar = None
    for step in range(steps):
        factor = -4.7750 * gram + 2.0315 * (gram @ gram)
        factor.diagonal(dim1=-2, dim2=-1).add_(3.4445)
        polar = factor if polar is None else factor @ polar
        if step < steps - 1:
            gram = factor @ gram @ factor
    assert polar is not None
    return polar / scale.sqrt()


def _matrices(tensor: Tensor, blocks: int) -> Tensor:
    return tensor.reshape(blocks, tensor.shape[0] // blocks, -1)


def _stack(parts: list[Tensor]) -> Tensor:
    """One batch of matrices, or the matrix itself: two dimensions are multiplied faster than a batch of one."""
    stacked = parts[0] if len(parts) == 1 else torch.cat(parts)
    return stacked[0] if len(stacked) == 1 else stacked


def adam_(parameters: list[Tensor], state: Mapping[Any, dict], lr: float, betas: tuple[float, float]) -> None:
    """One step of Adam (Kingma and Ba, 2015) in place, with its averages kept in `state[p]`."""
    parameters = [p for p in parameters if p.grad is not None]
    if not parameters:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    for p in parameters:
        if not state[p]:
            state[p].update(step=0, mean=torch.zeros_like(p), square=torch.zeros_like(p))
        state[p]["step"] += 1
    means = [state[p]["mean"] for p in parameters]
    squares = [state[p]["square"] for p in parameters]
    torch._foreach_lerp_(means, gradients, 1 - betas[0])
    torch._foreach_mul_(squares, betas[1])
    torch._foreach_addcmul_(squares, gradients, gradients, 1 - betas[1])
    roots = torch._foreach_sqrt(squares)
    torch._foreach_div_(roots, [(1 - betas[1] ** state[p]["step"]) ** 0.5 for p in parameters])
    torch._foreach_add_(roots, 1e-8)
    torch._foreach_addcdiv_(parameters, means, roots, [-lr / (1 - betas[0] ** state[p]["step"]) for p in parameters])
