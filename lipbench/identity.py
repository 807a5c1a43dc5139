"""What results depend on, as it reads from a file: data sets and configurations."""

import hashlib
from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf

from lipbench.data import Dataset, Split

# Images of a split that enter its hash: all of a large one would be read for it.
HASHED = 16


def described(dataset: Dataset) -> dict[str, Any]:
    """Name, classes and shape of a data set; of each split the number of images and a hash of all labels and of its
    first images.
    """

    def split(part: Split) -> dict[str, Any]:
        digest = hashlib.sha256(part.labels.numpy().tobytes())
        digest.update(part.images[:HASHED].contiguous().numpy().tobytes())
        return {"images": len(part), "hash": digest.hexdigest()[:16]}

    parts = {name: split(getattr(dataset, name)) for name in ("train", "validation", "test")}
    return {"name": dataset.name, "classes": list(dataset.classes), "shape": list(dataset.shape), **parts}


def read_back(value: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration as it reads from a file: plain containers, keys as strings."""
    return OmegaConf.to_container(OmegaConf.create(OmegaConf.to_yaml(OmegaConf.create(dict(value)))))  # type: ignore[return-value]
