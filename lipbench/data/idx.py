"""Reader of idx files (the format of MNIST), which says what is wrong with a file that it cannot trust."""

from __future__ import annotations

import gzip
import hashlib
import math
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lipbench.data.contents import START, what_it_is

GZIP_MAGIC = b"\x1f\x8b"
UNSIGNED_BYTES = 0x08
# Bytes too many that are counted.
SURPLUS = 2**16


class DataError(ValueError):
    """A data file is there, but its content is not what it must be. The message names the file."""


def read_idx(path: Path, shape: tuple[int, ...], md5: str) -> NDArray[np.uint8]:
    """The unsigned bytes of an idx file, plain or gzipped, as a writable array of exactly `shape`.

    `md5` is the sum of the *uncompressed* file: the same numbers may be compressed in many ways.

    Raises `FileNotFoundError`, or `DataError` for a truncated or corrupt archive, a wrong magic number,
    too few or too many bytes, another shape, or another sum: the structure is looked at first, because
    "truncated" helps more than "other sum".
    """
    content, more = _uncompressed(path, 4 + 4 * len(shape) + math.prod(shape) + SURPLUS)
    if more:
        raise _broken(path, f"has more than {SURPLUS} bytes too many for an array of shape {shape}")
    if kind := what_it_is(content[:START]):
        raise _broken(path, kind)
    dimensions = _dimensions(path, content)
    header = 4 + 4 * len(dimensions)
    expected, found = math.prod(dimensions), len(content) - header
    if found < expected:
        raise _broken(path, f"is truncated: its header promises {expected} bytes of data, it has {found}")
    if found > expected:
        raise _broken(path, f"has {found - expected} trailing bytes after the {expected} bytes of data")
    if dimensions != shape:
        raise _broken(path, f"holds an array of shape {dimensions} instead of {shape}")
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if digest != md5:
        raise _broken(path, f"has the uncompressed md5 sum {digest} instead of {md5}")
    # Copied, because an array over bytes is read-only and torch warns about those.
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape).copy()


def _uncompressed(path: Path, limit: int) -> tuple[bytes, bool]:
    """The first `limit` bytes, and whether there are more: a small archive may hold gigabytes of zeros."""
    with path.open("rb") as file:
        # By content, not by name: browsers and unpackers leave names that do not fit.
        packed = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        file.seek(0)
        try:
            stream = gzip.GzipFile(fileobj=file) if packed else file
            return stream.read(limit), bool(stream.read(1))
        except EOFError:
            raise _broken(path, "is a truncated gzip archive") from None
        except (gzip.BadGzipFile, zlib.error) as error:
            raise _broken(path, f"is a corrupt gzip archive ({error})") from None


def _dimensions(path: Path, content: bytes) -> tuple[int, ...]:
    if len(content) < 4:
        raise _broken(path, f"is truncated: {len(content)} bytes cannot even hold the header")
    zeros, kind, count = struct.unpack_from(">HBB", content)
    if (zeros, kind) != (0, UNSIGNED_BYTES) or count == 0:
        raise _broken(
            path,
            f"has the magic number 0x{content[:4].hex()}; an idx file of unsigned bytes begins with "
            f"0x0000{UNSIGNED_BYTES:02x} and then its number of dimensions",
        )
    if len(content) < 4 + 4 * count:
        raise _broken(path, f"is truncated: {len(content)} bytes cannot hold {count} dimensions")
    return struct.unpack_from(f">{count}I", content, 4)


def _broken(path: Path, problem: str) -> DataError:
    return DataError(f"{path} {problem}. Delete the file and fetch it again, for example: make data DATA=mnist")
