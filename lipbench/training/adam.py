"""Adam for the parameters that no manifold holds, as one function over lists of tensors."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


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
