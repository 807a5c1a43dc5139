"""What the plain distance to the nearest training image certifies, one digit of MNIST against the rest.

f(x) = -min_i ||x - x_i|| over the inliers x_i of the training set is exactly 1-Lipschitz and needs no training: what a
one-class network must beat. Prints a table in Markdown: `python benchmarks/one_class.py > benchmarks/one_class.md`.
"""

import argparse

import numpy as np
import torch

from lipbench.data import mnist, one_class
from lipbench.images import as_pixels
from lipbench.measures.one_class import EPSILONS, auroc

# Certified AUROC, mean of the ten digits (Béthune et al., 2023, arXiv 2303.01978).
PUBLISHED = (95.5, 93.2, 89.9, 78.4, 57.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--number", type=int, default=1000, help="test images of each label: the first ones")
    parser.add_argument("--root", help="folder of the data sets")
    options = parser.parse_args()
    whole, rows = mnist(root=options.root), []
    for inlier in range(10):
        data = one_class(whole, inlier)
        known = as_pixels(data.train.images[data.train.labels == 1]).flatten(1)
        scores = []
        for label in (1, 0):
            chosen = data.test.images[data.test.labels == label][: options.number]
            scores.append(-torch.cdist(as_pixels(chosen).flatten(1), known).amin(1).double().numpy())
        rows.append([100 * auroc(*scores, 2 * epsilon) for epsilon in EPSILONS])
    print("# The nearest training image as a one-class score\n")
    print("Certified AUROC, %, on MNIST: one digit against the rest, the first", options.number, "test images of each")
    print(
        "label. f(x) = -min ||x - x_i|| over the training images of the digit: exactly 1-Lipschitz, nothing is trained."
    )
    print("`python benchmarks/one_class.py`\n")
    print("| inliers |", " | ".join(f"{255 * epsilon:.0f}/255" for epsilon in EPSILONS), "|")
    print("|---|" + "---|" * len(EPSILONS))
    mean = np.mean(rows, axis=0)
    for name, values in [*enumerate(rows), ("**mean**", mean), ("published networks, mean (2303.01978)", PUBLISHED)]:
        print(f"| {name} |", " | ".join(f"{value:.1f}" for value in values), "|")


if __name__ == "__main__":
    main()
