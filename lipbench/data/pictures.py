"""Image files as arrays: where they lie, and how one of them becomes pixels of a fixed shape."""

from __future__ import annotations

import errno
import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

# Bits of a pixel beyond eight would be lost silently.
DEEP_MODES = ("I", "F")
MODES = {1: "L", 3: "RGB"}
# Bytes and pixels of the largest image: a few kilobytes of PNG can hold gigabytes of one colour.
BYTES, PIXELS = 2**26, 2**26


class Pictures(Protocol):
    """Encoded images in a fixed order. `open` may be called from several threads at once."""

    @property
    def names(self) -> Sequence[str]:
        """One per image, for messages."""

    def identity(self) -> list[str]:
        """Changes when an image does: what a cache of them depends on."""

    def open(self, index: int) -> IO[bytes]:
        """The file's content, as a stream."""


@dataclass(frozen=True)
class FilePictures:
    """Files of one folder (or below), by their names relative to it."""

    folder: Path
    names: Sequence[str]

    def identity(self) -> list[str]:
        """Name, size and time of the last change of each file: contents are not read."""
        stats = ((name, (self.folder / name).stat()) for name in self.names)
        return [f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in stats]

    def open(self, index: int) -> IO[bytes]:
        """The file."""
        return (self.folder / self.names[index]).open("rb")


@dataclass(frozen=True)
class ZipPictures:
    """Members of one zip archive, read without unpacking it."""

    archive: zipfile.ZipFile
    names: Sequence[str]

    def identity(self) -> list[str]:
        """Name and checksum of each member, from the archive's directory."""
        members = (self.archive.getinfo(name) for name in self.names)
        return [f"{member.filename} {member.file_size} {member.CRC}" for member in members]

    def open(self, index: int) -> IO[bytes]:
        """The member; `zipfile` verifies its checksum at the end."""
        return self.archive.open(self.names[index])


def read_picture(pictures: Pictures, index: int) -> bytes:
    """The encoded image. Raises `BadPicture` where its archive is damaged or it is too large."""
    try:
        with pictures.open(index) as file:
            content = file.read(BYTES + 1)
    except Exception as error:  # of a damaged archive: zipfile's, zlib's, and what its parser raises besides
        # An archive may send a reader to a place before its beginning: that is no fault of the disk.
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno != errno.EINVAL):
            raise
        raise BadPicture(f"cannot be read ({error})") from None
    if len(content) > BYTES:
        raise BadPicture(f"has more than {BYTES:,} bytes")
    return content


class BadPicture(ValueError):
    """An image that cannot become an array of the shape asked for: the message says why, without its name."""


@dataclass(frozen=True)
class Preparation:
    """How an encoded image becomes uint8 pixels [C, H, W].

    The image is turned upright (EXIF), cut to the centre rectangle of the proportions of `size`, as large as it goes,
    and resized with a bilinear filter that averages where it shrinks: nothing is stretched.

    Attributes:
        size: (H, W) of the result.
        channels: 1 or 3. None: as in the image, which must have the channels of the first one.
        crop: side of a centre square, in pixels of the image, cut before anything else; None: the whole image.
        expected: (H, W) that the image must have; None: any.
    """

    size: tuple[int, int]
    channels: int | None = 3
    crop: int | None = None
    expected: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if min(self.size) < 1 or self.channels not in (None, *MODES) or (self.crop is not None and self.crop < 1):
            raise ValueError(
                f"An image has a size of at least 1x1, 1 or 3 channels, a crop of at least 1; got size={self.size}, "
                f"channels={self.channels}, crop={self.crop}."
            )

    def __call__(self, content: bytes) -> NDArray[np.uint8]:
        """The pixels [C, H, W]. Raises `BadPicture`."""
        try:
            return self._pixels(content)
        except UnidentifiedImageError:
            page = content.lstrip()[:1] == b"<"
            raise BadPicture("is a web page" if page else "is neither PNG nor JPEG") from None
        except (BadPicture, MemoryError):
            raise
        except Exception as error:  # a damaged image fails anywhere in Pillow
            raise BadPicture(f"cannot be decoded ({error})") from None

    def _pixels(self, content: bytes) -> NDArray[np.uint8]:
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as opened:
            height, width = opened.height, opened.width
            if height * width > PIXELS:
                raise BadPicture(f"is {width}x{height} pixels: more than {PIXELS:,} are not decoded")
            if self.expected is not None and (height, width) != self.expected:
                raise BadPicture(f"is {width}x{height} pixels, not {self.expected[1]}x{self.expected[0]}")
            if self.crop is not None and self.crop > min(height, width):
                raise BadPicture(f"is {width}x{height} pixels: a crop of {self.crop} does not fit")
            if self.crop is None:
                # A large JPEG is decoded at a half, a quarter or an eighth, never below twice the size asked for.
                opened.draft(None, (2 * self.size[1], 2 * self.size[0]))
            image = ImageOps.exif_transpose(opened)
            refuse_deep(image)
            channels = self.channels or channels_of(image)
            image = image.convert(MODES[channels])
        if self.crop is not None:
            image = _centre(image, self.crop, self.crop)
        scale = min(image.height / self.size[0], image.width / self.size[1])
        box_height, box_width = scale * self.size[0], scale * self.size[1]
        left, top = (image.width - box_width) / 2, (image.height - box_height) / 2
        image = image.resize(
            (self.size[1], self.size[0]), Image.Resampling.BILINEAR, (left, top, left + box_width, top + box_height)
        )
        return np.asarray(image).reshape(*self.size, channels).transpose(2, 0, 1)


def refuse_deep(image: Image.Image) -> None:
    """Pillow's conversion would cut values above 255 off. Raises `BadPicture`."""
    if image.mode.startswith(DEEP_MODES):
        raise BadPicture("has more than 8 bits per pixel and channel: convert it to 8 bits")


def channels_of(image: Image.Image) -> int:
    """1 or 3, as the image has them. Raises `BadPicture` for transparent or deep ones."""
    refuse_deep(image)
    if image.has_transparency_data:
        raise BadPicture("has an alpha channel: choose channels=3 (or 1) to drop it")
    return 1 if image.mode in ("1", "L") else 3


def _centre(image: Image.Image, height: int, width: int) -> Image.Image:
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))
