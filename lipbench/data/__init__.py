"""Data sets: three splits of uint8 images with int64 labels, read from files that are checked."""

from lipbench.data.cifar import cifar10, cifar10_jpeg, cifar100
from lipbench.data.dataset import Dataset, Split, hold_out, keep_classes
from lipbench.data.digits import digits
from lipbench.data.idx import DataError
from lipbench.data.mnist import mnist

__all__ = [
    "DataError",
    "Dataset",
    "Split",
    "cifar10",
    "cifar10_jpeg",
    "cifar100",
    "digits",
    "hold_out",
    "keep_classes",
    "mnist",
]
