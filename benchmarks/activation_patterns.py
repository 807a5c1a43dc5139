"""`exact` on convolutions with max pooling, against a program for every activation pattern.

    python benchmarks/activation_patterns.py --images 10

The networks are a convolution, ReLU, max pooling and a dense layer, trained on digits. Where each window of the pooling
has its largest value, or that all its values are negative, makes a linear piece of the network. Of each piece, the
nearest adversarial image is a least distance problem (Lawson and Hanson, 1974, chapter 23), which `scipy.optimize.nnls`
solves. This shares nothing with `lipbench.certificate.exact`: no bounds, no branches, no PIQP. Prints Markdown.
"""

import argparse
import copy
import itertools
import math
import sys
import time

import numpy as np
import pandas as pd
import torch
from scipy.optimize import nnls
from torch import Tensor, nn

from lipbench import layers, losses
from lipbench.attacks.exact import exact
from lipbench.certificate.exact.solve import certify_exact
from lipbench.data import Dataset, digits
from lipbench.training import adam, fit, spectral

# Channels, kernel, stride, padding, pooling: (windows' size + 1) ** windows patterns.
NETWORKS = {
    "2 of 3x3, stride 2, pooling 4": (2, 3, 2, 1, 4),
    "4 of 4x4, stride 4, pooling 2": (4, 4, 4, 0, 2),
    "1 of 3x3, stride 3, pooling 2 at stride 1": (1, 3, 3, 1, 2),
}
NO_RESIDUAL = 1e-9


def network(
    channels: int, kernel: int, stride: int, padding: int, pooling: int, classes: int, size: int = 8
) -> nn.Module:
    """An untrained one for images of size x size."""
    conv = nn.Conv2d(1, channels, kernel, stride, padding)
    body = nn.Sequential(conv, nn.ReLU(), nn.MaxPool2d(pooling, stride=1), nn.Flatten())
    features = body(torch.zeros(1, 1, size, size)).shape[1]
    return nn.Sequential(*body, nn.Linear(features, classes))


def nearest(model: nn.Sequential, x: Tensor, y: int) -> float:
    """The distance of an image [1, H, W] to the nearest image of the box that another class wins, float64; inf where
    there is none.

    Args:
        model: convolution, ReLU, max pooling, `nn.Flatten`, dense layer.
    """
    conv, _, pooling, _, head = copy.deepcopy(model).double()
    x = x.double()
    rows = torch.autograd.functional.jacobian(lambda z: conv(z[None])[0], x).flatten(3).detach()
    shift = conv(x[None])[0].detach()
    slopes_of, values_of = (_windows(part, pooling) for part in (rows.movedim(3, 1), shift[:, None]))
    windows = [(part.numpy(), values[:, 0].numpy()) for part, values in zip(slopes_of, values_of, strict=True)]
    box = np.concatenate([np.eye(x.numel()), -np.eye(x.numel())])
    sides = np.concatenate([-x.flatten().numpy(), x.flatten().numpy() - 1])
    weight, bias = head.weight.detach().numpy(), head.bias.detach().numpy()
    shortest = math.inf
    for pattern in itertools.product(*(range(len(values) + 1) for _, values in windows)):
        pieces = [_piece(*window, chosen) for window, chosen in zip(windows, pattern, strict=True)]
        slopes, offsets = np.stack([piece[2] for piece in pieces]), np.array([piece[3] for piece in pieces])
        for other in {*range(len(bias))} - {y}:
            win = weight[other] - weight[y]
            above = (box, *(piece[0] for piece in pieces), (win @ slopes)[None])
            right = (sides, *(piece[1] for piece in pieces), [-(win @ offsets + bias[other] - bias[y])])
            shortest = min(shortest, least_distance(np.concatenate(above), np.concatenate(right)))
    return shortest


def least_distance(rows: np.ndarray, sides: np.ndarray) -> float:
    """The least norm of z with rows z >= sides; inf where there is no such z."""
    target = np.zeros(rows.shape[1] + 1)
    target[-1] = 1
    stacked = np.concatenate([rows.T, sides[None]])
    multipliers, norm = nnls(stacked, target)
    residual = stacked @ multipliers - target
    return math.inf if norm < NO_RESIDUAL else float(np.linalg.norm(residual[:-1] / residual[-1]))


def _windows(values: Tensor, pooling: nn.MaxPool2d) -> list[Tensor]:
    """[channels, m, H, W] -> for each channel and place of a window [window, m]."""
    size, step = int(pooling.kernel_size), int(pooling.stride)
    parts = values.unfold(2, size, step).unfold(3, size, step).movedim(1, -1)
    return [*parts.flatten(0, 2).flatten(1, 2)]


def _piece(rows: np.ndarray, values: np.ndarray, chosen: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Where one window has its largest value at `chosen`, as rows z >= sides, and what it gives there, slope and shift;
    `chosen` = the size of the window: where all are negative, and it gives 0.
    """
    if chosen == len(values):
        return -rows, values, np.zeros(rows.shape[1]), 0.0
    rest = np.arange(len(values)) != chosen
    larger = np.concatenate([rows[chosen] - rows[rest], rows[[chosen]]])
    return larger, -np.concatenate([values[chosen] - values[rest], values[[chosen]]]), rows[chosen], values[chosen]


def trained(shape: tuple[int, int, int, int, int], data: Dataset, hkr: bool) -> nn.Sequential:
    torch.manual_seed(0)
    model = network(*shape, len(data.classes))
    if hkr:
        for i in (0, len(model) - 1):
            model[i] = layers.constrain(model[i], layers.Orthogonal)
    loss, optimizer = (losses.hkr, spectral) if hkr else (losses.cross_entropy, adam)
    fit(model, data, loss, optimizer, epochs=15, batch_size=32, progress=False)
    baked = layers.bake(model).eval()
    assert isinstance(baked, nn.Sequential)
    return baked


def compared(model: nn.Sequential, x: Tensor, y: Tensor) -> dict[str, object]:
    """The row of one network."""
    kept = (model(x).argmax(1) == y).nonzero()[:, 0]
    x, y = x[kept], y[kept]
    started = time.process_time()
    found, lower = exact(model, x, y), certify_exact(model, x, y)
    middle = time.process_time()
    distances = [nearest(model, image, int(label)) for image, label in zip(x, y, strict=True)]
    truth = torch.tensor(distances, dtype=torch.float64)
    end = time.process_time()

    def span(above: Tensor, below: Tensor) -> str:
        # Where no image of the box is adversarial both are infinite, and agree.
        excess = torch.where(above == below, 0.0, above / below - 1)
        return f"{excess.min():.1e} to {excess.max():.1e}"

    return {
        "images": len(x),
        "never": int(truth.isinf().sum()),
        "distance, median": f"{truth.median():.4f}",
        "patterns / exact - 1": span(truth, found.lower),
        "patterns / certificate_exact - 1": span(truth, lower),
        "image / patterns - 1": span(found.upper, truth),
        "exact, s an image": f"{(middle - started) / 2 / len(x):.2f}",
        "patterns, s an image": f"{(end - middle) / len(x):.2f}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10, help="the first ones of the test set")
    options = parser.parse_args()
    rows = []
    for keep in ((0, 8), (0, 3, 8)):
        data = digits(keep=keep)
        x, y = data.test.images[: options.images].float() / 255, data.test.labels[: options.images]
        for (name, shape), hkr in itertools.product(NETWORKS.items(), (False, True)):
            head = {"network": name, "classes": len(data.classes), "training": "HKR" if hkr else "cross-entropy"}
            rows.append({**head, **compared(trained(shape, data, hkr), x, y)})
            print(rows[-1], file=sys.stderr, flush=True)
    print(pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True))


if __name__ == "__main__":
    main()
