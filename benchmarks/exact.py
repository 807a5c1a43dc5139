"""The exact distance on test images of digits: seconds, and what the attack `lipbench` and the certificates leave.

Run: python benchmarks/exact.py [--classes 2] [--activation ReLU] [--widths 32 16] [--images 60] [--hkr]
"""

import argparse
import time

import numpy as np
import torch

from lipbench import layers, losses
from lipbench.attacks import lipbench
from lipbench.attacks.exact import exact
from lipbench.certificate import certify, certify_crown
from lipbench.data import Dataset, digits
from lipbench.judge import Classifier, distance
from lipbench.models import mlp
from lipbench.training import adam, fit, spectral


def network(options: argparse.Namespace) -> tuple[torch.nn.Module, Dataset]:
    """Trained in seconds: cross-entropy and Adam, or HKR and orthonormal weights."""
    torch.manual_seed(0)
    data = digits(keep=(0, 8)) if options.classes == 2 else digits()
    activation = getattr(torch.nn, options.activation, None) or getattr(layers, options.activation)
    constraint = layers.Orthogonal if options.hkr else torch.nn.Identity
    model = mlp((1, 8, 8), options.classes, widths=options.widths, constraint=constraint, activation=activation)
    loss, optimizer = (losses.hkr, spectral) if options.hkr else (losses.cross_entropy, adam)
    fit(model, data, loss, optimizer, epochs=15, batch_size=32, progress=False)
    return layers.bake(model).eval(), data


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--classes", type=int, default=2)
    parser.add_argument("--activation", default="ReLU")
    parser.add_argument("--widths", type=int, nargs="*", default=[32, 16])
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--hkr", action="store_true")
    options = parser.parse_args()
    model, data = network(options)
    x, y = data.test.images[: options.images].float() / 255, data.test.labels[: options.images]
    attacked = distance(x, lipbench(Classifier.of(model), x, y)).numpy()
    lower, upper, seconds = [], [], []
    for i in range(len(x)):
        started = time.perf_counter()
        found = exact(model, x[i : i + 1], y[i : i + 1], seconds=options.seconds)
        seconds.append(time.perf_counter() - started)
        lower.append(float(found.lower[0]))
        upper.append(float(found.upper[0]))
    low, high, right = np.array(lower), np.array(upper), np.array(lower) > 0
    print(f"{vars(options)}: {right.sum()} of {len(x)} images have their label; median (largest)")
    print(f"seconds an image (with the attack)  {np.median(seconds):.2f} ({max(seconds):.2f})")
    rows = {
        "upper / lower - 1": high / np.maximum(low, 1e-300) - 1,
        "attack lipbench / exact": attacked / np.maximum(low, 1e-300),
        "exact / certificate": high / certify(model, x, y).numpy().clip(1e-300),
        "exact / certificate_crown": high / certify_crown(model, x, y).numpy().clip(1e-300),
    }
    for name, values in rows.items():
        print(f"{name:35} {np.median(values[right]):.7g} ({values[right].max():.7g})")
    print(f"attack farther than exact by 0.1 %: {(attacked[right] > 1.001 * low[right]).sum()} images")


if __name__ == "__main__":
    main()
