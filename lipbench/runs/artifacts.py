"""Files of a run that are not its tables: costs, the health flags of attacks, a gallery of their images, pairs that
break a law.

All of a method is written before its table: where the table lies, nothing that belongs to it is missing.
"""

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from torch import Tensor

from lipbench.data import Split
from lipbench.files import atomic, read_arrays, read_json, write_json, write_text
from lipbench.results.flags import Flag

GALLERY = 16


def read_costs(folder: Path) -> pd.DataFrame:
    """`costs.csv`: method, seconds in all, passes per image (of the training in all)."""
    path = folder / "costs.csv"
    return pd.read_csv(path) if path.exists() else pd.DataFrame(columns=["method", "seconds", "passes"])


def add_cost(folder: Path, method: str, seconds: float, passes: float) -> None:
    """Seconds, and images through the network: in all for the training, per judged image for a method."""
    rows = [row for row in read_costs(folder).to_dict("records") if row["method"] != method]
    rows.append({"method": method, "seconds": round(seconds, 3), "passes": round(passes, 1)})
    write_text(folder / "costs.csv", pd.DataFrame(rows).to_csv(index=False, lineterminator="\n"))


def read_flags(folder: Path, methods: Collection[str]) -> list[Flag]:
    """What was seen on the images of these attacks, which are not stored themselves."""
    path = folder / "flags.json"
    flags = [Flag(**flag) for flag in (read_json(path) if path.exists() else [])]
    return [flag for flag in flags if flag.method in methods]


def add_flags(folder: Path, method: str, flags: Collection[Flag]) -> None:
    """Puts those of one attack in the place of older ones."""
    path = folder / "flags.json"
    kept = [flag for flag in (read_json(path) if path.exists() else []) if flag["method"] != method]
    if kept or flags or path.exists():
        write_json(path, [*kept, *(flag.as_dict() for flag in flags)])


def add_to_gallery(folder: Path, attacked: Split, method: str, images: Tensor) -> None:
    """The first images with what each attack made of them, for figures."""
    path = folder / "gallery.npz"
    arrays = read_arrays(path) if path.exists() else {}
    arrays["images"] = attacked.images[:GALLERY].numpy()
    arrays["labels"] = attacked.labels[:GALLERY].numpy()
    arrays[method] = images[:GALLERY].numpy()
    write_npz(path, arrays)


def write_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Arrays in one file, whole or not at all."""
    with atomic(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
