"""Fetching the files of data sets. Nothing else in the package opens a connection."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pooch

from lipbench.data.idx import DataError, read_idx
from lipbench.data.mnist import FILES, File, find, raw_folder

MNIST_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)


def fetch_mnist(
    root: str | Path | None = None, mirrors: Sequence[str] = MNIST_MIRRORS, progressbar: bool = True
) -> None:
    """Make the four files of MNIST lie in `<root>/MNIST/raw`, where `mnist` looks, and print what is done.

    A file that is there and valid, plain or .gz, is kept. A broken one is renamed to `<file>.broken` and
    fetched anew. The mirrors (folders' addresses) are asked in turn for each file; a file appears whole,
    with its official md5 sum, or not at all.

    Raises `ConnectionError` when no mirror has a file, other `OSError` when the folder cannot be written.
    """
    folder = raw_folder(root)
    folder.mkdir(parents=True, exist_ok=True)
    for file in FILES.values():
        if (path := _valid(folder, file)) is not None:
            print(f"{path}: already there and valid, kept")
        else:
            print(f"{_download(f'{file.name}.gz', file.archive_md5, folder, mirrors, progressbar)}: fetched")


def _valid(folder: Path, file: File) -> Path | None:
    """The file as `mnist` would find it; what it would find and refuse is put out of its way first."""
    while (path := find(folder, file.name)) is not None:
        try:
            read_idx(path, file.shape, file.md5)
        except DataError:
            aside = path.with_name(f"{path.name}.broken")
            path.replace(aside)
            print(f"{path}: broken, renamed to {aside.name}")
        else:
            return path
    return None


def _download(name: str, md5: str, folder: Path, mirrors: Sequence[str], progressbar: bool) -> Path:
    failures = []
    for mirror in mirrors:
        url = f"{mirror.rstrip('/')}/{name}"
        try:
            # pooch downloads to a temporary file and renames it only if the sum is right.
            path = Path(pooch.retrieve(url, f"md5:{md5}", name, folder, progressbar=progressbar))
        except (OSError, ValueError) as error:  # requests' errors are OSErrors; a wrong sum is a ValueError
            failures.append(f"{url} ({error})")
        else:
            path.chmod(0o644)  # the temporary file was its owner's alone, but data folders are often shared
            return path
    raise ConnectionError(
        f"{name} could not be fetched from any mirror: {'; '.join(failures)}. Check the connection and the "
        f"proxy settings (HTTPS_PROXY), or copy the file by hand into {folder}."
    )
