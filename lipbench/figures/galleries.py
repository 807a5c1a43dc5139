"""Networks side by side on the same images: adversarial images, saliency maps, counterfactuals."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lipbench.figures.recipes import Recipe
from lipbench.figures.sheet import Sheet, full_scale, is_picture
from lipbench.figures.style import network_look
from lipbench.results.runs import Runs
from lipbench.results.selection import first_seeds

# Images of a gallery; of the counterfactuals, which take a row per network.
ROWS, PATHS = 4, 2
# Letters of two class names that fit one line of a label.
LINE = 14
# Times f(x) / ||grad f||: at 1 a network that is linear would be undecided.
TIMES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0)


@dataclass(frozen=True)
class _Shown:
    """A network's `illustrations.npz` (see `lipbench.runs.illustrations`)."""

    experiment: str
    arrays: dict[str, np.ndarray]

    @property
    def heading(self) -> str:
        return network_look(self.experiment).label.replace(", ", "\n").replace("adversarially ", "adversarially\n")

    def name(self, label: int) -> str:
        """Of a class; a smoothed network that abstains gives the label after the last."""
        classes = self.arrays["classes"]
        return str(classes[label]) if label < len(classes) else "none"

    def pixels(self, image: int) -> np.ndarray:
        """[C, H, W] in [0, 1]."""
        return self.arrays["images"][image].astype(float) / 255


def adversarial_images(results: Runs) -> tuple[Figure, pd.DataFrame] | None:
    """Per image the original, and per network the nearest adversarial image of any attack and its difference to the
    original, in one scale of colours per image.

    Returns:
        the figure, and columns dataset, index, label, experiment, prediction, distance (L2).
    """
    networks = [network for network in _networks(results) if "adversarial" in network.arrays]
    rows = _chosen(networks, ROWS, adversarial=True)
    if not rows:
        return None
    sheet = Sheet([("original", 1), *((network.heading, 2) for network in networks)], len(rows), largest=0.8)
    table = []
    for row, image in enumerate(rows):
        x = networks[0].pixels(image)
        sheet.picture(row, 0, x, _class(networks[0], image))
        changes = [network.arrays["adversarial"][image].astype(float) - x for network in networks]
        scale = max(map(full_scale, changes))
        for i, (network, change) in enumerate(zip(networks, changes, strict=True)):
            prediction = int(network.arrays["adversarial_predictions"][image])
            distance = float(network.arrays["adversarial_distances"][image])
            sheet.picture(row, 1 + 2 * i, x + change, f"\u201c{network.name(prediction)}\u201d")
            sheet.change(row, 2 + 2 * i, change, scale, f"L2 {distance:.2f}")
            table.append(_row(results, network, image, prediction=prediction, distance=distance))
    return sheet.figure, pd.DataFrame(table)


def saliency_maps(results: Runs) -> tuple[Figure, pd.DataFrame] | None:
    """Per image and network the gradient of f, each in its own scale of colours.

    f is the margin of the predicted class over its strongest rival. Red: more of this pixel speaks for the class.

    Returns:
        the figure, and columns dataset, index, label, experiment, prediction, gradient_norm.
    """
    networks = _networks(results)
    rows = _chosen(networks, ROWS)
    if not rows:
        return None
    sheet = Sheet([("original", 1), *((network.heading, 1) for network in networks)], len(rows), largest=1.05)
    table = []
    for row, image in enumerate(rows):
        sheet.picture(row, 0, networks[0].pixels(image), _class(networks[0], image))
        for i, network in enumerate(networks):
            gradient = network.arrays["gradients"][image].astype(float)
            norm = float(network.arrays["gradient_norms"][image])
            sheet.change(row, 1 + i, gradient, full_scale(gradient), f"norm {norm:.2f}")
            prediction = int(network.arrays["predictions"][image])
            table.append(_row(results, network, image, prediction=prediction, gradient_norm=norm))
    return sheet.figure, pd.DataFrame(table)


def counterfactuals(results: Runs) -> tuple[Figure, pd.DataFrame] | None:
    """Images x - t f(x) grad f(x) / ||grad f(x)||^2 for growing t, clipped to [0, 1]; where ||grad f|| = 1, as of the
    optimal network of HKR, these are the source's x - t f(x) grad f(x). Below each is f of the image: negative beyond
    the boundary.

    Returns:
        the figure, and columns dataset, index, label, experiment, prediction, t, f.
    """
    # Of colour images the steps are too small to be seen in print.
    networks = [network for network in _networks(results) if network.arrays["images"].shape[1] == 1]
    images = _chosen(networks, PATHS)
    if not images:
        return None
    headings = [(f"t = {t:g}", 1) for t in TIMES]
    sheet = Sheet(headings, len(images) * len(networks), group=len(networks), label=0.9, largest=0.8)
    table = []
    for number, image in enumerate(images):
        for i, network in enumerate(networks):
            row = number * len(networks) + i
            rival = network.name(int(network.arrays["rivals"][image]))
            label = _class(network, image)
            # Long names of classes would run into the first picture.
            between = " to " if len(label + rival) < LINE else " to\n" if len(label) < LINE else "\nto "
            sheet.row_label(row, f"{network.heading}\n{label}{between}\u201c{rival}\u201d")
            for column, t in enumerate(TIMES):
                f = _margin_at(network, image, t)
                sheet.picture(row, column, _moved(network, image, t), f"f = {f:.2f}".replace("-", "\u2212"))
                prediction = int(network.arrays["predictions"][image])
                table.append(_row(results, network, image, prediction=prediction, t=t, f=f))
    return sheet.figure, pd.DataFrame(table)


def _networks(results: Runs) -> list[_Shown]:
    """Those whose images are there: of images that may not be passed on, results keep the numbers alone."""
    known = {name: run.arrays("illustrations.npz") for name, run in first_seeds(results).items()}
    return [
        _Shown(name, arrays) for name, arrays in known.items() if "images" in arrays and is_picture(arrays["images"])
    ]


def _chosen(networks: Sequence[_Shown], count: int, adversarial: bool = False) -> list[int]:
    """Images that every network labels right (and of which it has an adversarial image), of as many classes as can be,
    the first of each; sorted by class.
    """
    if not networks:
        return []
    labels = networks[0].arrays["labels"]
    fit = np.ones(len(labels), dtype=bool)
    for network in networks:
        fit &= network.arrays["predictions"] == labels
        if adversarial:
            distances = network.arrays["adversarial_distances"]
            fit[len(distances) :] = False
            fit[: len(distances)] &= (distances > 0) & np.isfinite(distances)
    # The first of every class, then the second ones.
    order = sorted(fit.nonzero()[0], key=lambda i: (int(fit[:i][labels[:i] == labels[i]].sum()), i))
    return sorted(map(int, order[:count]), key=lambda i: (labels[i], i))


def _margin_at(network: _Shown, image: int, t: float) -> float:
    column = int(np.abs(network.arrays["steps"] - t).argmin())
    return float(network.arrays["path_margins"][image, column])


def _moved(network: _Shown, image: int, t: float) -> np.ndarray:
    arrays = network.arrays
    norm = float(arrays["gradient_norms"][image])
    length = float(arrays["margins"][image]) / norm if norm > 0 else 0.0
    return np.clip(network.pixels(image) - t * length * arrays["gradients"][image].astype(float), 0, 1)


def _class(network: _Shown, image: int) -> str:
    return f"\u201c{network.name(int(network.arrays['labels'][image]))}\u201d"


def _row(results: Runs, network: _Shown, image: int, **values: Any) -> dict[str, Any]:
    label = int(network.arrays["labels"][image])
    return {"dataset": results.datasets[0], "index": image, "label": label, "experiment": network.experiment, **values}


RECIPES = (
    Recipe(
        "adversarial",
        "Nearest adversarial images",
        "One row per test image: the original, then for each network the nearest adversarial image of all attacks with "
        "the label that it gets, and the difference: red was added, blue was removed. Below it is the L2 distance.",
        adversarial_images,
    ),
    Recipe(
        "saliency",
        "Saliency maps: gradients of the margin in the image",
        "One row per test image: the original, then for each network the gradient of the margin of its prediction. "
        "Red: more of this pixel speaks for the class; blue: against it. An attack goes the opposite way.",
        saliency_maps,
    ),
    Recipe(
        "counterfactuals",
        "Counterfactuals: x - t f(x) grad f(x) for growing t",
        "One row per image and network: from left to right the image moves further against the gradient of the margin "
        "f. Below each image is f; it is negative once the label has changed.",
        counterfactuals,
    ),
)
