"""The files of a data set, from its folder or from the archive that holds the folder."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from lipbench.data.idx import GZIP_MAGIC, DataError

XZ_MAGIC = b"\xfd7zXZ\x00"
CHUNK = 1 << 20


def read_members(archive: Path) -> Iterator[tuple[str, bytes]]:
    """(name, content) of each file in a tar archive, plain, gzipped or xz, one after the other, to its very end.

    Raises:
        DataError: it is no such archive (an HTML page, for example), or truncated or corrupt.
        OSError: it cannot be read.
    """
    with ExitStack() as stack:
        file = stack.enter_context(archive.open("rb"))
        with _refusals(archive):
            stream = _uncompressed(file, archive)
            # "r|" reads forwards only: nothing but the file at hand is kept in memory.
            tar = stack.enter_context(tarfile.open(fileobj=stream, mode="r|"))
        while True:
            with _refusals(archive):
                if (member := tar.next()) is None:
                    break
                reader = tar.extractfile(member) if member.isfile() else None
                content = b"" if reader is None else reader.read()
            if reader is not None:
                yield member.name.removeprefix("./"), content
        with _refusals(archive):
            while stream.read(CHUNK):  # the check sum of the compressed stream comes last
                pass


def md5_of(path: Path) -> str:
    """The md5 sum of a file, which is not held in memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def looks_like_html(content: bytes) -> bool:
    """Whether this is a web page: what a server sends, with any name, instead of a file that it does not give."""
    return content[:200].lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype", b"<html", b"<?xml", b"<head"))


def _uncompressed(file: IO[bytes], archive: Path) -> IO[bytes]:
    # By content, not by name: browsers and unpackers leave names that do not fit.
    start = file.read(512)
    file.seek(0)
    if start.startswith(GZIP_MAGIC):
        return gzip.open(file)  # type: ignore[return-value]
    if start.startswith(XZ_MAGIC):
        return lzma.open(file)
    if looks_like_html(start):
        raise DataError(f"{archive} is a web page (HTML), not an archive: the server did not give the file")
    if start[257:262] != b"ustar":
        raise DataError(
            f"{archive} is no tar archive: it begins with 0x{start[:6].hex()}, a gzipped one with 0x{GZIP_MAGIC.hex()}"
        )
    return file


@contextmanager
def _refusals(archive: Path) -> Iterator[None]:
    try:
        yield
    except EOFError:
        raise DataError(f"{archive} is a truncated archive") from None
    except (gzip.BadGzipFile, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"{archive} is a corrupt archive ({error})") from None
    except tarfile.TarError as error:
        raise DataError(f"{archive} is a truncated or corrupt tar archive ({error})") from None
