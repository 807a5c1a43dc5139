"""What results depend on, as it reads from a file: data sets and configurations."""

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from omegaconf import OmegaConf
from torch import Tensor

from lipbench.data import Dataset, Split

# Bytes of images that one thread hashes at once: what a mapped data set needs of the memory, times the threads.
BLOCK, THREADS = 2**26, 8


def described(dataset: Dataset) -> dict[str, Any]:
    """Name, classes and shape of a data set; of each split the number of images and a hash of all labels and of all
    pixels. Images of a mapped file are read part by part.
    """

    def split(part: Split) -> dict[str, Any]:
        return {"images": len(part), "sha256": _hash(part)}

    parts = {name: split(getattr(dataset, name)) for name in ("train", "validation", "test")}
    return {"name": dataset.name, "classes": list(dataset.classes), "shape": list(dataset.shape), **parts}


def _hash(part: Split) -> str:
    """SHA-256 of the hashes of the labels and of the blocks of the images, 64 hexadecimal digits."""
    images = max(1, BLOCK // part.images[0].numel())
    with ThreadPoolExecutor(THREADS) as pool:
        digests = pool.map(_digest, [part.labels, *part.images.split(images)])
        return hashlib.sha256(b"".join(digests)).hexdigest()


def _digest(tensor: Tensor) -> bytes:
    return hashlib.sha256(tensor.contiguous().numpy().data).digest()


def read_back(value: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration as it reads from a file: plain containers, keys as strings."""
    return OmegaConf.to_container(OmegaConf.create(OmegaConf.to_yaml(OmegaConf.create(dict(value)))))  # type: ignore[return-value]
