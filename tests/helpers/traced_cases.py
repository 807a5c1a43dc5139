"""Random networks whose forward is Python code: chains of steps, with branches, in every style that users write."""

import math
import random
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Step = Callable[[nn.Module, Tensor], Tensor]
SHAPE = (2, 6, 6)


POINTWISE = (
    *(F.relu, torch.tanh, torch.sigmoid, F.gelu, F.hardswish, F.mish, torch.sin, torch.abs, F.selu),
    lambda x: F.leaky_relu(x, 0.2),
    lambda x: x.clamp(-0.5, 0.7),
    lambda x: torch.relu_(x * 1.5),
    lambda x: F.elu(x, 1.3),
    lambda x: torch.softmax(x, dim=1),
)


class Net(nn.Module):
    """Runs steps of Python code one after another.

    Args:
        rng: says which steps, with which weights.
        length: number of steps before the head.
        classes: number of logits.
    """

    def __init__(self, rng: random.Random, length: int = 5, classes: int = 3):
        super().__init__()
        self.weights = nn.ParameterList()
        self.layers = nn.ModuleList()
        self.rng = rng
        x, self.steps = torch.zeros(1, *SHAPE), []
        for _ in range(length):
            step = self.draw(tuple(x.shape[1:]))
            x = step(self, x)
            self.steps.append(step)
        self.head = nn.Linear(x[0].numel(), classes)
        del self.rng

    def forward(self, x: Tensor) -> Tensor:
        for step in self.steps:
            x = step(self, x)
        return self.head(x.flatten(1))

    def draw(self, shape: tuple[int, ...], depth: int = 0) -> Step:
        """A step for inputs of this shape; below the first depth one that keeps it."""
        kinds = [self.pointwise, self.weighted, self.module]
        if depth < 2:
            kinds += [self.residual, self.concatenated, self.split, self.pair, self.arithmetic]
        if depth == 0:
            kinds += [self.reduced, self.moved]
        return self.rng.choice(kinds)(shape, depth)

    def weight(self, *shape: int) -> int:
        seed = torch.Generator().manual_seed(self.rng.randrange(2**31))
        self.weights.append(nn.Parameter(torch.randn(*shape, generator=seed) / math.sqrt(max(1, math.prod(shape[1:])))))
        return len(self.weights) - 1

    def pointwise(self, shape: tuple[int, ...], depth: int) -> Step:
        function = self.rng.choice(POINTWISE)
        return lambda n, x: function(x)

    def weighted(self, shape: tuple[int, ...], depth: int) -> Step:
        if len(shape) == 3 and self.rng.random() < 0.7:
            weight, bias = self.weight(shape[0], shape[0], 3, 3), self.weight(shape[0])
            return lambda n, x: F.conv2d(x, n.weights[weight], n.weights[bias], padding=1)
        weight = self.weight(shape[-1], shape[-1])
        if len(shape) > 1 and self.rng.random() < 0.5:
            mixer = self.weight(shape[-2], shape[-2])
            return lambda n, x: (F.linear(x.transpose(-1, -2), n.weights[mixer]).transpose(-1, -2)) @ n.weights[weight]
        return lambda n, x: x @ n.weights[weight] + 0.1

    def module(self, shape: tuple[int, ...], depth: int) -> Step:
        if len(shape) == 3:
            layer: nn.Module = self.rng.choice(
                [
                    nn.Conv2d(shape[0], shape[0], 3, padding=1),
                    nn.BatchNorm2d(shape[0]),
                    nn.Conv2d(shape[0], shape[0], 1),
                ]
            )
        else:
            layer = nn.Linear(shape[-1], shape[-1])
        with torch.no_grad():
            for parameter in layer.parameters():
                parameter.copy_(self.weights[self.weight(*parameter.shape)])
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_var.copy_(torch.rand(shape[0]) + 0.5)
        self.layers.append(layer)
        place = len(self.layers) - 1
        return lambda n, x: n.layers[place](x)

    def residual(self, shape: tuple[int, ...], depth: int) -> Step:
        inner, factor = self.draw(shape, depth + 1), self.rng.uniform(-1, 1)
        other = self.draw(shape, depth + 1)
        return self.rng.choice(
            [
                lambda n, x: x + inner(n, x),
                lambda n, x: x - factor * inner(n, x),
                lambda n, x: other(n, x).add(inner(n, other(n, x)), alpha=0.5),
            ]
        )

    def concatenated(self, shape: tuple[int, ...], depth: int) -> Step:
        inner, other = self.draw(shape, depth + 1), self.draw(shape, depth + 1)
        if depth:
            return lambda n, x: torch.cat((inner(n, x), other(n, x)), dim=1).unflatten(1, (2, -1)).mean(1)
        return lambda n, x: torch.cat((inner(n, x), other(n, x), x), dim=-1)

    def split(self, shape: tuple[int, ...], depth: int) -> Step:
        if shape[0] % 2:
            return lambda n, x: x.flip(1)
        inner = self.draw((shape[0] // 2, *shape[1:]), depth + 1)

        def step(n: nn.Module, x: Tensor) -> Tensor:
            a, b = x.chunk(2, dim=1)
            return torch.cat((b, a + inner(n, b)), dim=1)

        return step

    def pair(self, shape: tuple[int, ...], depth: int) -> Step:
        inner = self.draw(shape, depth + 1)
        return self.rng.choice(
            [lambda n, x: torch.maximum(x, inner(n, x)), lambda n, x: torch.min(inner(n, x), 0.3 * x)]
        )

    def arithmetic(self, shape: tuple[int, ...], depth: int) -> Step:
        scale, shift = self.weight(shape[0], *(1,) * (len(shape) - 1)), self.weight(*shape)
        return self.rng.choice(
            [
                lambda n, x: (x - n.weights[shift]) / 0.7,
                lambda n, x: 1 - n.weights[scale] * x,
                lambda n, x: (x * n.weights[scale]).sub_(n.weights[shift]),
                lambda n, x: x - x.mean(dim=-1, keepdim=True),
                lambda n, x: x.sort(dim=1).values,
            ]
        )

    def reduced(self, shape: tuple[int, ...], depth: int) -> Step:
        if len(shape) == 3 and min(shape[1:]) >= 4:
            return self.rng.choice(
                [
                    lambda n, x: F.max_pool2d(x, 2),
                    lambda n, x: F.avg_pool2d(x, 3, stride=1),
                    lambda n, x: F.adaptive_avg_pool2d(x, 2),
                ]
            )
        return self.rng.choice([lambda n, x: x.amax(-1, keepdim=True), lambda n, x: x.sum(-1, keepdim=True)])

    def moved(self, shape: tuple[int, ...], depth: int) -> Step:
        if len(shape) == 3:
            return self.rng.choice(
                [
                    lambda n, x: x.permute(0, 2, 3, 1),
                    lambda n, x: x.flatten(2),
                    lambda n, x: F.pad(x, (1, 0, 0, 1)),
                    lambda n, x: x.reshape(x.shape[0], -1),
                    lambda n, x: x[:, :, 1:],
                    lambda n, x: x.roll(1, dims=2),
                ]
            )
        return lambda n, x: x.reshape(len(x), -1)


def network(seed: int, length: int = 5) -> Net:
    """The random network of a seed, in evaluation mode."""
    torch.manual_seed(seed)
    return Net(random.Random(seed), length).eval()


def jacobian_norm(model: nn.Module, x: Tensor) -> float:
    """The largest norm of the Jacobian at images [N, C, H, W], in float64: the constant is not below it."""

    def one(image: Tensor) -> Tensor:
        return model(image[None])[0]

    norms = [torch.autograd.functional.jacobian(one, image).reshape(-1, image.numel()) for image in x]
    return max(float(torch.linalg.matrix_norm(matrix, 2)) for matrix in norms)
