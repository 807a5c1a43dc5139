"""Optimiser factories: model -> optimiser whose every step ends on the constraint set of the model."""

import torch
from torch import nn
from torch.optim import Optimizer

from lipbench.layers import Orthogonal, constrained_weights, retract
from lipbench.training.spectral_descent import SpectralDescent


def adam(model: nn.Module, *, lr: float = 1e-3, weight_decay: float = 0.0) -> Optimizer:
    """Adam (decoupled weight decay), then a retraction of the constrained weights."""
    return _retracting(torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=weight_decay), model)


def sgd(model: nn.Module, *, lr: float = 0.1, momentum: float = 0.9, weight_decay: float = 0.0) -> Optimizer:
    """SGD with momentum, then a retraction of the constrained weights."""
    return _retracting(torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum, weight_decay=weight_decay), model)


def spectral(
    model: nn.Module,
    *,
    lr: float = 0.05,
    momentum: float = 0.9,
    steps: int = 4,
    every: int = 1,
    other_lr: float = 2e-3,
) -> SpectralDescent:
    """`SpectralDescent` on the weights under an `Orthogonal` constraint; Adam on all others, with the retraction of
    their constraint.

    Raises:
        ValueError: no weight is under an `Orthogonal` constraint.
    """
    orthogonal, names, rest = [], set(), []
    for constraint, weight in constrained_weights(model):
        if type(constraint) is Orthogonal:
            orthogonal.append((weight, constraint.groups))
            names.add(id(weight))
        else:
            rest.append((constraint, weight))
    if not orthogonal:
        raise ValueError(
            "optimizer=spectral moves weights under constraint=orthogonal, and this model has none: use optimizer=adam."
        )
    others = [p for p in model.parameters() if id(p) not in names]
    optimizer = SpectralDescent(
        orthogonal, others, lr=lr, momentum=momentum, steps=steps, every=every, other_lr=other_lr
    )

    def retract_rest(*_: object) -> None:
        for constraint, weight in rest:
            constraint.retract_(weight)

    optimizer.register_step_post_hook(retract_rest)
    return optimizer


def auto(
    model: nn.Module, *, lr: float = 0.05, every: int = 1, adam_lr: float = 2e-3, weight_decay: float = 0.0
) -> Optimizer:
    """The optimiser that suits the constraints of a model: `spectral` where a weight is under an `Orthogonal`
    constraint, else `adam` with `adam_lr`.
    """
    if any(type(constraint) is Orthogonal for constraint, _ in constrained_weights(model)):
        return spectral(model, lr=lr, every=every, other_lr=adam_lr)
    return adam(model, lr=adam_lr, weight_decay=weight_decay)


def _retracting(optimizer: Optimizer, model: nn.Module) -> Optimizer:
    optimizer.register_step_post_hook(lambda *_: retract(model))
    return optimizer
