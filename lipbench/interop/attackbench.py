"""Distances of attacks in the format of AttackBench: the JSON files of `attackbenchlib` 2, one per attack.

Samples are known by the SHA-512 of their float32 pixels, so distances that others computed meet ours image by image.
`attackbenchlib` (Cina et al., AAAI 2025, https://doi.org/10.1609/aaai.v39i3.32263) reads and writes them with
`load_precompiled_distances` and `save_precompiled_distances`.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from lipbench.files import ResultsError, read_json, write_text
from lipbench.images import as_pixels
from lipbench.interop.formats import ExportError
from lipbench.results import NORMS, bounds_table

# Of attackbenchlib 2: distances are those of the best image that an attack found.
PROTOCOL, SEMANTICS = 2, "best_observed"
LIBRARY = "lipbench"
# Columns of the table that say which image is meant.
FACTS = ["index", "label", "prediction"]


def sample_hashes(images: Tensor) -> list[str]:
    """SHA-512 of each image as `attackbenchlib` computes it: of the bytes of its float32 pixels [C, H, W].

    Args:
        images: [N, C, H, W], uint8 or float in [0, 1].
    """
    pixels = as_pixels(images).float().contiguous().numpy()
    return [hashlib.sha512(image.tobytes()).hexdigest() for image in pixels]


def write_distances(table: pd.DataFrame, images: Tensor, folder: Path, *, dataset: str, network: str) -> list[Path]:
    """One file per attack, `<dataset>-l2-<network>-<attack>-lipbench-<images>.json`, as `attackbenchlib` names them.

    Args:
        table: rows of one network.
        images: the test images, of which the index of the table counts.
        dataset, network: names for the files and their metadata.

    Raises:
        ExportError: the table has no attack.
    """
    upper, written = table[table["side"] == "upper"], []
    for attack, rows in upper.groupby("method", sort=True, observed=True):
        first = rows[rows["norm"] == "l2"].sort_values("index")
        hashes = sample_hashes(images[first["index"].tolist()])
        content = _content(rows, first, hashes, {"dataset": dataset, "model_name": network, "attack_name": str(attack)})
        name = "-".join((dataset, "l2", network, str(attack), LIBRARY, str(len(first))))
        path = folder / f"{name.replace('/', '_')}.json"
        write_text(path, _json(content))
        written.append(path)
    if not written:
        raise ExportError("attackbench=true writes the distances of attacks, and the run has none.")
    return written


def _content(rows: pd.DataFrame, first: pd.DataFrame, hashes: list[str], names: Mapping[str, str]) -> dict[str, Any]:
    correct = (first["label"] == first["prediction"]).tolist()
    found = np.isfinite(first["distance"])
    distances = {
        norm: rows[rows["norm"] == norm].sort_values("index")["distance"].tolist()
        for norm in NORMS
        if norm in set(rows["norm"])
    }
    about = {"attack_lib": LIBRARY, "threat_model": "l2", "n_samples": len(first), "query_budget": None}
    return {
        "distances": distances,
        "adv_success": found.tolist(),
        "ori_success": [not right for right in correct],
        "correct": correct,
        "hashes": hashes,
        "original_predictions": first["prediction"].tolist(),
        "targeted": False,
        "query_budget": None,
        "threat_model": "l2",
        "metadata": {**names, **about, "protocol_version": PROTOCOL, "distance_semantics": SEMANTICS},
        "ASR": float(found.mean()),
        "accuracy": float(np.mean(correct)),
    }


def _json(content: Mapping[str, Any]) -> str:
    """As Python's own JSON, with `Infinity` for an image that an attack did not break: `attackbenchlib` reads that."""
    return json.dumps(content, indent=2) + "\n"


def read_distances(path: str | Path, table: pd.DataFrame, images: Tensor) -> pd.DataFrame:
    """The distances of a file of `attackbenchlib` as rows of a table, for the images that the table has. They are what
    the file says: lipbench has no image to judge. So they are for comparison, and are no part of a run.

    Args:
        path: of a JSON file.
        table: rows of one network on a test set: which images there are, and their labels.
        images: the test images.

    Returns:
        rows of the method `<library>_<attack>`, one per image and norm that the file has.

    Raises:
        ResultsError: no such file, distances that are none, or no image of the table.
    """
    path = Path(path)
    held = read_json(path)
    if not isinstance(held, dict) or not isinstance(held.get("distances"), dict) or not held.get("hashes"):
        raise ResultsError(f"{path} has no distances and hashes, as files of attackbenchlib 2 have.")
    about = held.get("metadata") or {}
    method = f"{about.get('attack_lib', 'unknown')}_{about.get('attack_name', path.stem)}"
    known = table.drop_duplicates("index").sort_values("index")[FACTS]
    rows = known.assign(hash=sample_hashes(images[known["index"].tolist()])).drop_duplicates("hash")
    parts = [
        _rows(path, method, norm, held["hashes"], values, rows)
        for norm, values in held["distances"].items()
        if norm in NORMS
    ]
    if not parts or not len(parts[0]):
        raise ResultsError(f"{path}: none of its {len(held['hashes'])} images is an image of the table.")
    return pd.concat(parts, ignore_index=True)


def _rows(path: Path, method: str, norm: str, hashes: Any, values: Any, known: pd.DataFrame) -> pd.DataFrame:
    if not isinstance(values, list) or len(values) != len(hashes):
        raise ResultsError(f"{path}: it has {len(hashes)} hashes and other numbers of distances in {norm}.")
    try:
        distances = np.array([math.inf if value is None else value for value in values], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ResultsError(f"{path}: a distance in {norm} is no number.") from error
    found = pd.DataFrame({"hash": hashes, "distance": distances}).merge(known, on="hash")
    index, label, prediction = (found[name].to_numpy() for name in FACTS)
    return bounds_table(index, label, prediction, method, "upper", found["distance"].to_numpy(), norm)
