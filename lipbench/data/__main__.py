"""`python -m lipbench.data NAME [--root DIR]`: fetch a data set's files."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import pooch

from lipbench.data.download import MNIST_MIRRORS, fetch_mnist

NAMES = "mnist (four files, 11 MB), digits (embedded, nothing to fetch)"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 0, or 1 when a file could not be fetched, or 2 for a wrong usage."""
    parser = argparse.ArgumentParser(prog="python -m lipbench.data", description="Fetch a data set's files.")
    parser.add_argument("name", help=NAMES)
    parser.add_argument("--root", help="folder of all data files; default: $LIPBENCH_DATA, else your cache")
    parser.add_argument(
        "--mirror",
        action="append",
        metavar="URL",
        help="ask this address instead of the official ones; may be given several times",
    )
    options = parser.parse_args(arguments)
    if options.name == "digits":
        print("digits is embedded in scikit-learn: nothing needs to be fetched.")
        return 0
    if options.name != "mnist":
        parser.error(f"there is no data set {options.name!r}; there are: {NAMES}")
    pooch.get_logger().setLevel("WARNING")  # the progress bar and our own lines say the same
    try:
        fetch_mnist(options.root, options.mirror or MNIST_MIRRORS)
    except OSError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
