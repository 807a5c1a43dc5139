"""The exact distance of a small network on test images of digits: seconds, regions, and what attack and certificates
leave. Run: python benchmarks/exact.py [experiment] [images] [overrides ...]
"""

import sys
import time

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from lipbench.attacks import strongest
from lipbench.attacks.exact import exact
from lipbench.certificate import certify, certify_crown
from lipbench.configuration import CONF
from lipbench.judge import Classifier, distance
from lipbench.layers import bake
from lipbench.training import fit


def network(experiment: str, overrides: list[str]):
    """Trained by the recipe of the experiment, and its data set."""
    with initialize_config_dir(str(CONF), version_base=None):
        options = compose("config", [f"experiment={experiment}", *overrides])
    torch.manual_seed(options.seed)
    data = instantiate(options.dataset)
    model = instantiate(options.model, data.shape, len(data.classes), constraint=instantiate(options.constraint))
    recipe = {name: value for name, value in options.training.items() if name in ("epochs", "batch_size")}
    fit(model, data, instantiate(options.loss), instantiate(options.optimizer), **recipe, progress=False)
    return bake(model).eval(), data


@torch.no_grad()
def main() -> None:
    experiment = sys.argv[1] if len(sys.argv) > 1 else "digits08/exact_mlp"
    number = int(sys.argv[2]) if len(sys.argv) > 2 else 60
    model, data = network(experiment, sys.argv[3:])
    x, y = data.test.images[:number].float() / 255, data.test.labels[:number]
    attacked = distance(x, strongest(Classifier(model), x, y)).numpy()
    lower, upper, seconds = [], [], []
    for i in range(len(x)):
        started = time.perf_counter()
        found = exact(model, x[i : i + 1], y[i : i + 1])
        seconds.append(time.perf_counter() - started)
        lower.append(float(found.lower[0]))
        upper.append(float(found.upper[0]))
    low, high, right = np.array(lower), np.array(upper), np.array(lower) > 0
    print(f"{experiment}, {number} images, {right.sum()} of them with their label; ratios: median (largest)")
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
