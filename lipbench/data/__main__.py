"""`python -m lipbench.data NAME [--root DIR]`: fetch a data set's files."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import pooch

from lipbench.data.download import MNIST_MIRRORS, fetch_cifar, fetch_mnist, prepare_cifar10_jpeg
from lipbench.data.idx import DataError

NAMES = (
    "mnist (four files, 11 MB), cifar10 (one archive, 163 MB), cifar100 (one archive, 161 MB), "
    "cifar10_jpeg (made from cifar10-jpeg.tar.xz), digits (embedded, nothing to fetch)"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 0, or 1 (a file cannot be had or is broken), or 2 (wrong usage)."""
    parser = argparse.ArgumentParser(prog="python -m lipbench.data", description="Fetch a data set's files.")
    parser.add_argument("name", help=NAMES)
    parser.add_argument("--root", help="folder of all data files; default: $LIPBENCH_DATA, else your cache")
    parser.add_argument(
        "--mirror",
        action="append",
        metavar="URL",
        help="ask this address instead of the official ones; may be given several times",
    )
    parser.add_argument("--archive", help="of cifar10_jpeg; default: cifar10-jpeg.tar.xz in the root")
    options = parser.parse_args(arguments)
    if options.name == "digits":
        print("digits is embedded in scikit-learn: nothing needs to be fetched.")
        return 0
    actions = {
        "mnist": lambda: fetch_mnist(options.root, options.mirror or MNIST_MIRRORS),
        "cifar10": lambda: fetch_cifar("cifar10", options.root, options.mirror or ()),
        "cifar100": lambda: fetch_cifar("cifar100", options.root, options.mirror or ()),
        "cifar10_jpeg": lambda: prepare_cifar10_jpeg(options.root, options.archive),
    }
    if options.name not in actions:
        parser.error(f"there is no data set {options.name!r}; there are: {NAMES}")
    pooch.get_logger().setLevel("WARNING")  # the progress bar and our own lines say the same
    try:
        actions[options.name]()
    except (OSError, DataError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
