"""Layers after some steps, and their singular values."""

import copy

import torch
from torch import Tensor, nn


def singular_values(layer: nn.Module, shape: tuple[int, ...]) -> torch.Tensor:
    """Exact singular values of the layer's linear map, in float64."""
    layer = copy.deepcopy(layer).double()
    jacobian = torch.autograd.functional.jacobian(
        lambda x: layer(x[None])[0].flatten(), torch.zeros(*shape, dtype=torch.float64)
    )
    return torch.linalg.svdvals(jacobian.reshape(jacobian.shape[0], -1))


def train(layer: nn.Module, shape: tuple[int, ...], optimizer, steps: int = 30) -> None:
    torch.manual_seed(1)
    chosen = optimizer(layer)
    for _ in range(steps):
        loss = (layer(torch.rand(16, *shape)) ** 2).mean() - layer(torch.rand(16, *shape)).mean()
        chosen.zero_grad()
        loss.backward()
        chosen.step()
        assert all(p.grad.isfinite().all() for p in layer.parameters() if p.grad is not None)


def jacobians(module: nn.Module, shape: tuple[int, ...], points: int = 20) -> list[Tensor]:
    """Jacobians [outputs, inputs] at random points, in float64."""
    exact, found = copy.deepcopy(module).double(), []
    for seed in range(points):
        x = 2 * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        jacobian = torch.autograd.functional.jacobian(lambda x: exact(x[None])[0].flatten(), x)
        found.append(jacobian.reshape(len(jacobian), -1))
    return found


def steepest(module: nn.Module, shape: tuple[int, ...], points: int = 20) -> float:
    return max(float(torch.linalg.matrix_norm(j, 2)) for j in jacobians(module, shape, points))


def largest_jacobian_norm(layer: nn.Module, shape: tuple[int, ...]) -> float:
    """Over points far out, where an activation inside is off or on."""
    layer = copy.deepcopy(layer).double()
    points = [scale * torch.randn(*shape, dtype=torch.float64) for scale in (0.1, 1.0, 10.0)]
    jacobians = [torch.autograd.functional.jacobian(lambda x: layer(x[None])[0].flatten(), p) for p in points]
    return max(float(torch.linalg.matrix_norm(j.flatten(1), 2)) for j in jacobians)
