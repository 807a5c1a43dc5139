"""`lipbench data NAME [--root DIR]`: fetch a data set's files."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import pooch

from lipbench.commands.mistakes import CommandError
from lipbench.configuration import unknown
from lipbench.data.celeba.check import check_celeba
from lipbench.data.celeba.drawn import write_faces
from lipbench.data.download import MNIST_MIRRORS, fetch_cifar, fetch_mnist, prepare_cifar10_jpeg

NAMES = (
    "mnist (four files, 11 MB), cifar10 (one archive, 163 MB), cifar100 (one archive, 161 MB), "
    "cifar10_jpeg (made from cifar10-jpeg.tar.xz), celeba (how to get it, and a check of every file), "
    "celeba_drawn (drawn faces in its layout, 14 kB each), digits (embedded, nothing to fetch)"
)


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    found = argparse.ArgumentParser(prog="lipbench data")
    found.add_argument("name", help=NAMES)
    found.add_argument("--root", help="folder of all data files; default: $LIPBENCH_DATA, else your cache")
    found.add_argument(
        "--mirror",
        action="append",
        metavar="URL",
        help="ask this address instead of the official ones; may be given several times",
    )
    found.add_argument("--archive", help="of cifar10_jpeg; default: cifar10-jpeg.tar.xz in the root")
    found.add_argument("--number", type=int, default=20_000, help="of faces of celeba_drawn; default: 20000")
    found.add_argument("--seed", type=int, default=0, help="of celeba_drawn; default: 0")
    return found


def main(arguments: Sequence[str]) -> int:
    """The command `lipbench data`: 0 where the files are there and valid.

    Raises:
        CommandError: there is no such data set.
        OSError, ValueError: a file cannot be had or is broken.
    """
    options = parser().parse_args(arguments)
    if options.name == "digits":
        print("digits is embedded in scikit-learn: nothing needs to be fetched.")
        return 0
    actions = {
        "mnist": lambda: fetch_mnist(options.root, options.mirror or MNIST_MIRRORS),
        "cifar10": lambda: fetch_cifar("cifar10", options.root, options.mirror or ()),
        "cifar100": lambda: fetch_cifar("cifar100", options.root, options.mirror or ()),
        "cifar10_jpeg": lambda: prepare_cifar10_jpeg(options.root, options.archive),
        "celeba": lambda: check_celeba(options.root),
        "celeba_drawn": lambda: print(
            f"{write_faces(options.number, options.seed, options.root)}: drawn faces, no photographs"
        ),
    }
    if options.name not in actions:
        raise CommandError(unknown("data set", options.name, [*actions, "digits"]))
    pooch.get_logger().setLevel("WARNING")  # the progress bar and our own lines say the same
    actions[options.name]()
    return 0
