"""How large `certificate_local` is on networks that lipbench did not train, next to the other certificates.

    LIPBENCH_NETWORKS=/path/to/networks python benchmarks/local.py      # the table goes to docs/baselines.md
    python benchmarks/local.py --networks mnist_relu_256x2 --images 20 --print

For each network: the first images that it classifies rightly. `slopes` is what is left out of lipbench, the product of
norms with the slopes of the activations restricted to their ranges on the ball around x, of dense networks.
"""

import argparse
import time
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from panel_networks import PUBLIC, Skipped, public, right_images
from torch import Tensor, nn

import lipbench
from lipbench.certificate import certify, certify_crown, spectral_norm
from lipbench.certificate.local import Region, certify_local
from lipbench.certificate.local.program import Op, program
from lipbench.certificate.local.relaxed import Relaxed, prepared
from lipbench.certificate.radius import read_exactly
from lipbench.files import write_text
from lipbench.judge import Classifier

PAGE = Path(__file__).parent.parent / "docs" / "baselines.md"
MARK = "<!-- local -->"
# Networks that take a minute an image.
FEW = ("mnist_convnet_maxpool", "cifar10_resnet_2b", "cifar10_provable_base", "cifar10_channels_last")
# A matrix of a convolution is too large for linear relaxation, or takes hours.
SLOW = (
    "mnist_convnet_maxpool",
    "mnist_small_0_3",
    "mnist_diffai",
    "cifar10_resnet_2b",
    "cifar10_provable_base",
    "cifar10_channels_last",
)


def restricted(ops: list[Op], x: Tensor, radius: float) -> tuple[float, float]:
    """The constant of a chain of dense layers and activations but for its head, with slopes restricted to the ranges of
    the ball, and the share of activations whose slope is 0, or no longer its largest.
    """
    relaxed = Relaxed(*prepared(ops), Region(x[None], torch.full((1,), radius, dtype=torch.float64)))
    constant, matrix, restricted_, total = 1.0, None, 0, 0
    for op in ops[:-1]:
        ranges = relaxed.ranges[op.inputs[0]]
        if isinstance(op.step, nn.Linear):
            matrix = op.step.weight if matrix is None else op.step.weight @ matrix
        elif isinstance(op.step, nn.ReLU | nn.Sigmoid | nn.Tanh):
            inner = torch.zeros(()).double().clamp(ranges.low, ranges.high).requires_grad_()
            with torch.enable_grad():
                (slope,) = torch.autograd.grad(op.step(inner).sum(), inner)
            if isinstance(op.step, nn.ReLU):
                slope = (ranges.high > 0).double()
            restricted_ += int((slope < 0.99 * op.constant).sum())
            total += slope.numel()
            assert matrix is not None
            matrix = slope.flatten()[:, None] * matrix
            constant, matrix = constant * spectral_norm(matrix), torch.eye(len(matrix), dtype=torch.float64)
        elif op.constant != 1:
            constant *= op.constant
    return constant, restricted_ / max(1, total)


def by_slopes(model: nn.Module, x: Tensor, y: Tensor) -> tuple[float, float, float]:
    """Of a chain of dense layers: the median radius by restricted slopes, the same with the slopes of the whole box,
    and the share of activations that the box restricts.
    """
    network = read_exactly(model, tuple(x.shape[1:]), x[:1])
    ops = program(network, tuple(x.shape[1:]))
    last = max(k for k, op in enumerate(ops) if isinstance(op.step, nn.Linear))
    head, ops = ops[last].step, ops[: last + 1]
    found, boxed, shares = [], [], []
    for image, label in zip(x.double(), y, strict=True):
        logits = network.double()(image[None])[0]
        away = head.weight[label] - head.weight
        ahead = ((logits[label] - logits) / away.norm(dim=1)).nan_to_num(nan=torch.inf).amin()
        constant, share = restricted(ops, image, 100.0)
        boxed.append(float(ahead) / constant)
        shares.append(share)
        low, high = 0.0, 20 * boxed[-1]
        for _ in range(10):
            middle = (low + high) / 2
            proved = restricted(ops, image, middle)[0] * middle < ahead
            low, high = (middle, high) if proved else (low, middle)
        found.append(low)
    return pd.Series(found).median(), pd.Series(boxed).median(), pd.Series(shares).mean()


def row(name: str, count: int, slopes: int) -> dict[str, object]:
    """One line of the table: medians over the images."""
    model, images, labels = public(name)
    x, y = right_images(model, images, labels, max(3, count // 6) if name in FEW else count)
    result: dict[str, Any] = {"network": name, "images": len(x)}
    methods = {"certificate": certify, "crown": certify_crown, "local": certify_local}
    radii = {}
    for method, certificate in methods.items():
        start = time.perf_counter()
        if method == "crown" and name in SLOW:
            continue
        radii[method] = certificate(model, x, y)
        result[method] = float(radii[method].median())
        if method == "local":
            result["seconds an image"] = (time.perf_counter() - start) / len(x)
    attacked = lipbench.attacks.lipbench(model, x, y)
    distance = (attacked - x).double().flatten(1).norm(dim=1)
    distance[~(Classifier(model)(attacked).argmax(1) != y)] = torch.inf
    result["attack"] = float(distance.median())
    result["tightness"] = float((distance / radii["local"]).median())
    result["violations"] = int((radii["local"] > distance).sum())
    if slopes:
        try:
            found = by_slopes(model, x[:slopes], y[:slopes])
            result |= dict(zip(("slopes", "slopes of the box", "restricted by the box"), found, strict=True))
        except (AttributeError, AssertionError, RuntimeError) as error:
            print(f"{name}: no chain of dense layers ({error})")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", default=",".join(PUBLIC))
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--slopes", type=int, default=0, help="images whose restricted slopes are measured")
    parser.add_argument("--print", action="store_true", help="leave the page as it is")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = []
    for name in options.networks.split(","):
        try:
            rows.append(row(name, options.images, options.slopes))
        except Skipped as skipped:
            print(f"{name}: {skipped}")
            continue
        print({k: round(v, 5) if isinstance(v, float) else v for k, v in rows[-1].items()}, flush=True)
    if options.print:
        return
    table = pd.DataFrame(rows)
    head, _, rest = PAGE.read_text(encoding="utf-8").partition(MARK)
    cells = [
        ["" if pd.isna(value) else f"{value:.2g}" if isinstance(value, float) else str(value) for value in values]
        for values in table.to_numpy()
    ]
    lines = [list(table.columns), ["---"] * len(table.columns), *cells]
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    write_text(PAGE, f"{head}{MARK}\n\n{text}\n\n{MARK}{rest.partition(MARK)[2]}")


if __name__ == "__main__":
    main()
