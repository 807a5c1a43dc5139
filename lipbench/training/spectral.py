"""The optimiser of orthonormal matrices: a step of constant spectral norm along the manifold, then a retraction."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.optim import Optimizer

from lipbench.layers import bjorck, into_basin, newton_schulz, tangent


class SpectralDescent(Optimizer):
    """Steepest descent under the spectral norm on orthonormal matrices; Adam for everything else.

    Each matrix W has orthonormal columns (tall) or rows (wide). Its gradient is averaged (momentum), projected on the
    tangent space, and orthogonalised by Newton-Schulz steps (Muon; Jordan et al., 2024), so that every singular
    direction moves by about `lr`; then W - lr U is retracted by one Björck step. No orthogonalisation is
    differentiated through.

    Args:
        matrices: weights to keep orthonormal, as matrices or as kernels [out, in, ...], which are reshaped to [out, in
            * ...]. A pair (weight, groups) is treated as `groups` matrices.
        others: biases and free weights, updated by Adam.
        lr: length of a step in spectral norm (0.02 to 0.3 do alike).
        momentum: of the averaged gradient.
        other_lr: Adam's learning rate for `others`.
    """

    def __init__(
        self,
        matrices: Iterable[Tensor | tuple[Tensor, int]],
        others: Iterable[Tensor] = (),
        *,
        lr: float = 0.05,
        momentum: float = 0.9,
        other_lr: float = 2e-3,
        betas: tuple[float, float] = (0.9, 0.999),
    ):
        pairs = [m if isinstance(m, tuple) else (m, 1) for m in matrices]
        groups: list[dict] = [
            {"params": [weight], "lr": lr, "momentum": momentum, "blocks": blocks} for weight, blocks in pairs
        ]
        rest = list(others)
        if rest:
            groups.append({"params": rest, "lr": other_lr, "betas": tuple(betas), "blocks": 0})
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
            for p in group["params"]:
                if p.grad is None:
                    continue
                if group["blocks"]:
                    self._step_matrix(p, group)
                else:
                    self._step_adam(p, group)
        return loss

    def _step_matrix(self, p: Tensor, group: dict) -> None:
        average = self.state[p].setdefault("momentum", torch.zeros_like(p))
        assert p.grad is not None  # `step` asks only for those
        average.lerp_(p.grad, 1 - group["momentum"])
        shape = (group["blocks"], p.shape[0] // group["blocks"], -1)
        matrix = p.reshape(shape)
        direction = newton_schulz(tangent(matrix, average.reshape(shape)))
        p.copy_(bjorck(into_basin(matrix - group["lr"] * direction)).view_as(p))

    def _step_adam(self, p: Tensor, group: dict) -> None:
        state = self.state[p]
        if not state:
            state.update(step=0, mean=torch.zeros_like(p), square=torch.zeros_like(p))
        assert p.grad is not None
        beta1, beta2 = group["betas"]
        state["step"] += 1
        state["mean"].lerp_(p.grad, 1 - beta1)
        state["square"].mul_(beta2).addcmul_(p.grad, p.grad, value=1 - beta2)
        mean = state["mean"] / (1 - beta1 ** state["step"])
        square = state["square"] / (1 - beta2 ** state["step"])
        p.sub_(group["lr"] * mean / (square.sqrt() + 1e-8))
