"""The files of a data set, from its folder or from the archive that holds the folder."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from lipbench.data.contents import START, what_it_is
from lipbench.data.idx import GZIP_MAGIC, DataError

XZ_MAGIC = b"\xfd7zXZ\x00"
CHUNK = 1 << 20
# Bytes of all files in an archive, and of its largest one.
TOTAL, LIMIT = 2**30, 2**28


def read_members(archive: Path, limit: int = LIMIT) -> Iterator[tuple[str, bytes]]:
    """(name, content) of each file in a tar archive, plain, gzipped or xz, one after the other, to its very end.

    Nothing is unpacked to the disk. Links, devices and sparse files are refused.

    Args:
        limit: bytes of the largest file. All together may have `TOTAL`.

    Raises:
        DataError: it is no such archive (an HTML page, for example), truncated, corrupt, or one that unpacks to more.
        OSError: it cannot be read.
    """
    with archive.open("rb") as file, _refusals(archive):
        stream, left = _uncompressed(file, archive), TOTAL
        # "r|" reads forwards only: nothing but the file at hand is kept in memory.
        with tarfile.open(fileobj=stream, mode="r|") as tar:
            for member in tar:
                name = f"its member {member.name[:100]!r}"
                if member.isdir():
                    continue
                if not member.isreg() or member.issparse():
                    raise DataError(f"{name} is a link, a device or a sparse file, which no data set has")
                left -= member.size
                if member.size > limit or left < 0:
                    raise DataError(
                        f"{name} has {member.size:,} bytes; a file of a data set has at most {limit:,}, all of them "
                        f"{TOTAL:,}"
                    )
                reader = tar.extractfile(member)
                yield member.name.removeprefix("./"), b"" if reader is None else reader.read()
        while stream.read(CHUNK):  # the check sum of the compressed stream comes last
            pass


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
