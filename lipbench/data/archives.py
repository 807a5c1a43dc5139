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
from typing import IO, cast

from lipbench.data.contents import START, what_it_is
from lipbench.data.idx import GZIP_MAGIC, DataError

XZ_MAGIC = b"\xfd7zXZ\x00"
CHUNK = 1 << 20
# Bytes of an archive unpacked, of its largest file, and of what stands between two files.
TOTAL, LIMIT, HEADERS = 2**30, 2**28, 2**20


def read_members(archive: Path, limit: int = LIMIT) -> Iterator[tuple[str, bytes]]:
    """(name, content) of each file in a tar archive, plain, gzipped or xz, one after the other, to its very end.

    Nothing is unpacked to the disk. What an archive of data has no use for is refused all the same: links, devices,
    sparse files, names that lead out of a folder.

    Args:
        limit: bytes of the largest file. All together may have `TOTAL`.

    Raises:
        DataError: it is no such archive (an HTML page, for example), truncated, corrupt, or one that unpacks to more.
        OSError: it cannot be read.
    """
    with ExitStack() as stack:
        file = stack.enter_context(archive.open("rb"))
        with _refusals(archive):
            stream = _Metered(_uncompressed(file, archive))
            # "r|" reads forwards only: nothing but the file at hand is kept in memory.
            tar = stack.enter_context(tarfile.open(fileobj=cast("IO[bytes]", stream), mode="r|"))
        while True:
            with _refusals(archive):
                stream.allow(HEADERS)
                if (member := tar.next()) is None:
                    break
                content = _content(tar, member, stream, limit)
                tar.members.clear()  # type: ignore[attr-defined]
            if content is not None:
                yield member.name.removeprefix("./"), content
        with _refusals(archive):
            stream.allow(TOTAL)
            while stream.read(CHUNK):  # the check sum of the compressed stream comes last
                pass


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo, stream: _Metered, limit: int) -> bytes | None:
    """Of a file; None for a folder. Raises `DataError` for anything else."""
    name = f"its member {member.name[:100]!r}"
    if member.name.startswith(("/", "\\")) or ".." in member.name.replace("\\", "/").split("/"):
        raise DataError(f"{name} leads out of the archive's folder")
    if member.isdir():
        return None
    if not member.isreg() or member.issparse():
        raise DataError(f"{name} is a link, a device or a sparse file, which no data set has")
    if member.size > limit:
        raise DataError(f"{name} has {member.size:,} bytes; the largest file of a data set has at most {limit:,}")
    stream.allow(member.size + HEADERS)
    reader = tar.extractfile(member)
    return b"" if reader is None else reader.read()


class _Metered:
    """A stream that gives so many bytes until it is allowed to go on: headers of an archive may promise anything."""

    def __init__(self, stream: IO[bytes]):
        self._stream, self._left, self._total = stream, HEADERS, TOTAL

    def allow(self, size: int) -> None:
        """Gives at most `size` bytes from here on."""
        self._left = size

    def read(self, size: int) -> bytes:
        """At most `size` bytes. Raises `DataError`."""
        content = self._stream.read(min(size, CHUNK))
        self._left -= len(content)
        self._total -= len(content)
        if min(self._left, self._total) < 0:
            raise DataError("it unpacks to far more than a data set has")
        return content


def md5_of(path: Path) -> str:
    """The md5 sum of a file, which is not held in memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _uncompressed(file: IO[bytes], archive: Path) -> IO[bytes]:
    # By content, not by name: browsers and unpackers leave names that do not fit.
    start = file.read(START)
    file.seek(0)
    if start.startswith(GZIP_MAGIC):
        return gzip.open(file)  # type: ignore[return-value]
    if start.startswith(XZ_MAGIC):
        return lzma.open(file)
    if start[257:262] != b"ustar":
        found = what_it_is(start) or f"begins with 0x{start[:6].hex()}"
        raise DataError(f"{archive} is no tar archive, plain, gzipped or xz: it {found}")
    return file


@contextmanager
def _refusals(archive: Path) -> Iterator[None]:
    try:
        yield
    except DataError as error:
        raise error if str(archive) in str(error) else DataError(f"{archive} is refused: {error}") from None
    except EOFError:
        raise DataError(f"{archive} is a truncated archive") from None
    except (gzip.BadGzipFile, zlib.error, lzma.LZMAError) as error:
        raise DataError(f"{archive} is a corrupt archive ({error})") from None
    except OSError:
        raise
    except Exception as error:  # tarfile's own, and what its parser of headers raises besides
        raise DataError(f"{archive} is a truncated or corrupt tar archive ({error})") from None
