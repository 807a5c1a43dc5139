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

from lipbench.data.contents import START, what_it_is
from lipbench.data.idx import DataError

# Modes of Pillow with more than eight bits per pixel and channel.
DEEP_MODES = ("I", "F")
MODES = {1: "L", 3: "RGB"}
# Bytes and pixels of the largest image: a few kilobytes of PNG can hold gigabytes of one colour.
BYTES, PIXELS = 2**26, 2**26
DANGLING = "is a link whose file is missing: remove the link, or get the file (of git-annex or datalad: `datalad get`)"


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
        """Name, size and time of the last change of each file: contents are not read. Raises `DataError` for a link
        whose file is missing.
        """
        lines = []
        for name in self.names:
            try:
                stat = (self.folder / name).stat()
            except FileNotFoundError:
                raise DataError(f"{self.folder / name} {DANGLING}.") from None
            lines.append(f"{name} {stat.st_size} {stat.st_mtime_ns}")
        return lines

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
    and resized with a bilinear filter that averages where it shrinks: nothing is stretched. What eight bits per
    channel cannot hold is refused: deeper pixels, transparent pixels, several frames.

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
            raise BadPicture(_not_read(content)) from None
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
            refuse_deep(opened)
            if opened.format == "PNG" and getattr(opened, "n_frames", 1) > 1:
                raise BadPicture("is an animation: save the frame that you want as an image of its own")
            channels = self.channels or channels_of(opened)
            image = ImageOps.exif_transpose(opened)
            _refuse_transparent(image)
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
    """Pillow cuts the bits beyond eight off, of coloured PNGs while it reads them.

    Args:
        image: as it was opened, before its pixels are read.

    Raises:
        BadPicture: more than 8 bits per pixel and channel.
    """
    if image.mode.startswith(DEEP_MODES) or any("16" in str(tile[3]) for tile in getattr(image, "tile", ())):
        raise BadPicture(
            "has more than 8 bits per pixel and channel: convert it to 8 bits (ImageMagick: mogrify -depth 8 FILE)"
        )


def channels_of(image: Image.Image) -> int:
    """1 (grey) or 3 (colour), by the header of the image. An alpha channel is none of them."""
    return 1 if image.mode in ("1", "L", "LA") else 3


def _refuse_transparent(image: Image.Image) -> None:
    """What a transparent pixel shows depends on the background. An alpha channel that is opaque throughout hides
    nothing, and is dropped.
    """
    if image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema() != (255, 255):
        raise BadPicture(
            "has transparent pixels: lay it on a background (ImageMagick: mogrify -background white -alpha remove "
            "-alpha off FILE)"
        )


def _not_read(content: bytes) -> str:
    """Why Pillow finds no image in this content."""
    kind = what_it_is(content[:START])
    if kind in ("is a PNG image", "is a JPEG image"):
        return f"{kind} that is damaged, or of a kind that Pillow does not read (12 bits, for example)"
    return f"{kind or 'is of an unknown format'}; images are PNG or JPEG"


def _centre(image: Image.Image, height: int, width: int) -> Image.Image:
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))
