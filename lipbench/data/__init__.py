"""Data sets: three splits of uint8 images with int64 labels, read from files that are checked."""

from lipbench.data.celeba.reader import celeba, celeba_drawn
from lipbench.data.cifar.reader import cifar10, cifar10_jpeg, cifar100
from lipbench.data.dataset import Dataset, Split, hold_out, keep_classes
from lipbench.data.digits import digits
from lipbench.data.idx import DataError
from lipbench.data.mnist import mnist
from lipbench.data.one_class import digits_one_class, mnist_one_class, one_class
from lipbench.data.own.arrays import arrays
from lipbench.data.own.folder import folder
from lipbench.data.points import two_circles, two_moons, two_spirals
from lipbench.data.shapes import shapes

__all__ = [
    "DataError",
    "Dataset",
    "Split",
    "arrays",
    "celeba",
    "celeba_drawn",
    "cifar10",
    "cifar10_jpeg",
    "cifar100",
    "digits",
    "digits_one_class",
    "folder",
    "hold_out",
    "keep_classes",
    "mnist",
    "mnist_one_class",
    "one_class",
    "shapes",
    "two_circles",
    "two_moons",
    "two_spirals",
]
