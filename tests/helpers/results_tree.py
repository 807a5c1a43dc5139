"""A made-up results folder, small and without any network: what figures are drawn from."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from lipbench.files import read_json, write_json, write_text
from lipbench.results import bounds_table, run_folders, run_key, write_bounds, write_manifest, write_summary
from lipbench.results.runs import Run, Runs

IMAGES, GREY = 8, (1, 6, 6)
Shape = tuple[int, int, int]
ATTACKS = {"fgm": 1.5, "deepfool": 1.1, "lipbench": 1.0}
# Experiment -> (certificate as a share of the distance, Lipschitz bounds over the epochs).
NETWORKS = {
    "plain_cnn": (0.1, [20.0, 40.0, 80.0]),
    "ce_cnn": (0.9, [1.0, 1.0, 1.0]),
    "hkr_cnn": (0.95, [1.0, 1.0, 1.0]),
}


def make_results(
    root: Path,
    dataset: str = "made08",
    illustrated: bool = True,
    shape: Shape = GREY,
    classes: Sequence[str] = ("0", "8"),
) -> Path:
    """Writes the runs of `NETWORKS` and returns the root."""
    for number, name in enumerate(NETWORKS):
        make_run(root / dataset / name / "default" / "0", number, illustrated, shape, classes)
    return root


def make_run(
    folder: Path,
    number: int,
    illustrated: bool = True,
    shape: Shape = GREY,
    classes: Sequence[str] = ("0", "8"),
) -> None:
    generator = np.random.default_rng(number)
    share, bounds = NETWORKS.get(folder.parts[-3], NETWORKS["hkr_cnn"])
    labels = np.arange(IMAGES) % 2
    nearest = generator.uniform(1, 3, IMAGES)
    methods = {"certificate": ("lower", share * nearest)}
    methods |= {name: ("upper", factor * nearest) for name, factor in ATTACKS.items()}
    methods["fgm"][1][0] = np.inf  # a failure
    for name, (side, distances) in methods.items():
        write_bounds(folder, bounds_table(range(IMAGES), labels, labels, name, side, distances), {})
    costs = pd.DataFrame({"method": list(methods), "seconds": [0.1, 0.2, 0.1, 3.0], "passes": 1})
    write_text(folder / "costs.csv", costs.to_csv(index=False))
    history = {"epoch": [1, 2, 3], "lipschitz": bounds, "wasserstein_bound": [0.5, 1.0, 1.5]}
    write_text(folder / "history.csv", pd.DataFrame(history).to_csv(index=False))
    write_summary(folder, {"lipschitz": bounds[-1]}, {})
    if illustrated:
        np.savez_compressed(
            folder / "illustrations.npz",
            **{**illustrations(labels, nearest, generator, shape), "classes": np.array(classes)},
        )
    write_manifest(folder)


def runs_of(folders: Iterable[Path]) -> Runs:
    """The runs in some folders, none of which is checked."""
    found = []
    for folder in sorted(folders):
        path = folder / "summary.json"
        found.append(Run(folder, (read_json(path) if path.exists() else {}) | run_key(folder), []))
    return Runs(Path("results"), found)


def runs_in(root: Path) -> Runs:
    """The runs of a results folder, none of which is checked."""
    return runs_of(run_folders(root))


def make_sweep(root: Path) -> Path:
    """Runs of one experiment that differ in the margin of their loss: the larger, the more is certified."""
    for margin, accuracy, certified in ((0.5, 0.99, 0.5), (1.0, 0.98, 0.7), (2.0, 0.9, 0.6)):
        folder = root / "made08" / "hkr_mlp" / f"loss.margin={margin}" / "0"
        make_run(folder, 0)
        write_text(folder / "config.yaml", f"loss: {{_target_: hkr, margin: {margin}, alpha: 0.9}}\nseed: 0\n")
        summary = {"accuracy": accuracy, "certified_accuracy": {"0.5": accuracy, "1": certified}}
        write_json(folder / "summary.json", summary)
        write_manifest(folder)
    return root


def illustrations(
    labels: np.ndarray, nearest: np.ndarray, generator: np.random.Generator, shape: Shape
) -> dict[str, np.ndarray]:
    """Arrays as `lipbench.runs.illustrations.illustrate` makes them."""
    images = np.random.default_rng(99).integers(0, 256, (IMAGES, *shape), dtype=np.uint8)  # those of the data set
    gradients = generator.normal(size=images.shape)
    gradients /= np.sqrt((gradients**2).sum((1, 2, 3), keepdims=True))
    steps = np.arange(0, 5.01, 0.25)
    distances = generator.uniform(2, 3, 5)
    return {
        "images": images,
        "labels": labels,
        "predictions": labels,
        "rivals": 1 - labels,
        "margins": nearest,
        "gradients": gradients.astype(np.float16),
        "gradient_norms": generator.uniform(0.5, 1, IMAGES),
        "steps": steps,
        "path_margins": nearest[:, None] * (1 - steps),
        "norms": generator.uniform(0.5, 1, 20),
        "norm_bounds": np.ones(20),
        "train_radii": generator.uniform(0, 3, 30),
        "train_correct": np.arange(30) > 0,
        "singular/0": np.array([0.5, 1.0, 1.5]),
        "singular/2": np.array([1.0, 1.0]),
        "pair_images": images[:6].reshape(2, 3, *shape),
        "pair_distances": distances,
        "pair_rises": 0.8 * distances,
        "f_bound": np.array(2.0),
        "wasserstein": np.array(distances.mean()),
        "validation_wasserstein": np.array(2.5),
        "adversarial": np.clip(images / 255 + 0.1, 0, 1).astype(np.float16),
        "adversarial_predictions": 1 - labels,
        "adversarial_distances": nearest,
        "classes": np.array(["0", "8"]),
    }
