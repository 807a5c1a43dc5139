"""Images of known values."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from lipbench.data import Dataset


def values(dataset: Dataset) -> list[tuple[int, int]]:
    """(grey, label) of every image."""
    parts = (dataset.train, dataset.validation, dataset.test)
    return [pair for p in parts for pair in zip(p.images[:, 0, 0, 0].tolist(), p.labels.tolist(), strict=True)]


def image(value: int, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (value, value, value)).save(buffer, form)
    return buffer.getvalue()


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def fill(place: Path, number: int = 4, first: int = 20) -> None:
    """Two classes of images; those of the second are brighter by 100."""
    for label, name in enumerate(("oak", "yew")):
        for n in range(number):
            put(place / name / f"{n}.png", image(first + 100 * label + n))


def number(dataset: Dataset) -> int:
    return len(dataset.train) + len(dataset.validation) + len(dataset.test)
