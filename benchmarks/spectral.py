"""Why the spectral step wins: validation results of `SpectralDescent` around its default, and of what it replaces.

    python benchmarks/spectral.py                 # needs MNIST; the table goes to benchmarks/spectral.md

The network of mnist08/hkr_mlp, HKR with margin 2, batches of 128. All numbers are of the validation set: the test set
chooses nothing. Seconds are those of the training alone, medians over the seeds; the variants run interleaved.
"""

import argparse
import platform
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from torch import nn
from torch.optim import Optimizer

import lipbench
from lipbench import layers, losses, training
from lipbench.data import Dataset, mnist
from lipbench.files import write_text
from lipbench.models import mlp

EPSILON = 2.0
spectral, adam = training.spectral, training.adam
Variant = tuple[Callable[..., nn.Module], Callable[[nn.Module], Optimizer]]
DEFAULT = "default: lr 0.05, momentum 0.9, 4 Newton-Schulz steps, every batch"

VARIANTS: dict[str, Variant] = {
    DEFAULT: (layers.Orthogonal, spectral),
    **{f"lr {lr}": (layers.Orthogonal, partial(spectral, lr=lr)) for lr in (0.01, 0.02, 0.1, 0.2, 0.4)},
    **{f"momentum {m}": (layers.Orthogonal, partial(spectral, momentum=m)) for m in (0.0, 0.8, 0.95)},
    **{f"{s} Newton-Schulz steps": (layers.Orthogonal, partial(spectral, steps=s)) for s in (1, 2, 3, 6)},
    **{f"a step every {k} batches": (layers.Orthogonal, partial(spectral, every=k)) for k in (2, 4, 8, 16)},
    **{
        f"a step every {k} batches, lr {lr}": (layers.Orthogonal, partial(spectral, every=k, lr=lr))
        for k, lr in ((4, 0.1), (8, 0.1))
    },
    **{f"Adam {lr:g} and retraction": (layers.Orthogonal, partial(adam, lr=lr)) for lr in (1e-3, 5e-3, 2e-2)},
    **{f"Adam {lr:g}, Björck in the forward pass": (layers.Bjorck, partial(adam, lr=lr)) for lr in (1e-3, 5e-3)},
}


def one(dataset: Dataset, variant: Variant, seed: int, epochs: int) -> dict[str, float]:
    """The last row of the history of one training, and its seconds."""
    constraint, optimizer = variant
    torch.manual_seed(seed)
    model = mlp(dataset.shape, 2, widths=[128, 64, 32], constraint=constraint, activation=layers.FullSort)
    history = lipbench.fit(
        model,
        dataset,
        partial(losses.hkr, margin=2.0),
        optimizer,
        epochs=epochs,
        seed=seed,
        epsilon=EPSILON,
        progress=False,
    )
    last = history[-1]
    return {
        "accuracy": 100 * last["validation_accuracy"],
        "certified": 100 * last["certified_accuracy"],
        "seconds": sum(row["seconds"] for row in history),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".md"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    dataset = mnist(keep=(0, 8))
    results: dict[str, list[dict[str, float]]] = {name: [] for name in VARIANTS}
    for seed in range(options.seeds):
        for name, variant in VARIANTS.items():
            results[name].append(one(dataset, variant, seed, options.epochs))
            print(seed, name, results[name][-1], flush=True)
    rows = []
    for name, found in results.items():
        certified = [r["certified"] for r in found]
        rows.append(
            {
                "variant": name,
                "accuracy": statistics.mean(r["accuracy"] for r in found),
                f"certified at {EPSILON:g}": statistics.mean(certified),
                "spread over seeds": max(certified) - min(certified),
                "seconds": statistics.median(r["seconds"] for r in found),
            }
        )
    text = (
        f"# Spectral descent, around its default\n\n`python benchmarks/spectral.py`: MNIST 0 vs 8, 784-128-64-32-1 "
        f"FullSort, HKR margin 2, {options.epochs} epochs, means of seeds 0 to {options.seeds - 1}, validation set, %. "
        f"{platform.machine()}, {options.threads} threads, torch {torch.__version__}.\n\n"
    )
    write_text(options.out, text + pd.DataFrame(rows).to_markdown(index=False, floatfmt=".2f") + "\n")


if __name__ == "__main__":
    main()
