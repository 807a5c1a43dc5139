"""Finished runs without a network, for the tests of what reads them."""

from pathlib import Path
from typing import Any

import numpy as np

from lipbench.files import write_json, write_text
from lipbench.results import bounds_table, write_bounds, write_manifest, write_summary

IMAGES = 40


def make(root: Path, name: str, shift: float = 0.0, seed: int = 0, dataset: str = "data", **facts: Any) -> Path:
    """A run without a network: a certificate, and two attacks that keep the law."""
    folder = root / dataset / name / str(seed) if "/" in name else root / dataset / name / "default" / str(seed)
    random = np.random.default_rng([len(name), seed])
    lower = np.round(random.uniform(0.1, 2.0, IMAGES) + shift, 3)
    labels = np.arange(IMAGES) % 2
    for method, side, distances in (
        ("certificate", "lower", lower),
        ("fgm", "upper", lower * 1.5),
        ("alma", "upper", lower * 1.1),
    ):
        images = None if side == "lower" else IMAGES
        table = bounds_table(range(IMAGES), labels, labels, method, side, distances)
        write_bounds(folder, table, {"network": "0", "method": method, "options": {}, "images": images})
    write_text(folder / "config.yaml", f"loss:\n  margin: 1.0\nmodel:\n  widths:\n  - 64\n  - 32\nseed: {seed}\n")
    write_json(folder / "environment.json", {"python": "3.11", "packages": {"torch": "2.13"}, "commit": "abc"})
    write_text(folder / "costs.csv", "method,seconds,passes\ntraining,12.5,1000\nfgm,0.5,12\n")
    write_json(folder / "data.json", {"shape": [1, 2, 2], "test": {"images": IMAGES, "hash": "00"}})
    write_summary(folder, {"lipschitz": 1.0, "flags": [], **facts}, {"training": 12.5, "fgm": 0.5})
    write_manifest(folder)
    return folder
