"""The pictures in a results folder, with the words that travel inside of them (see `lipbench.figures.save_figure`)."""

import base64
import io
import os
import time
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from PIL import Image

from lipbench.files import unfinished

# Seconds after which nobody is writing a temporary file any more.
FORGOTTEN = 600
# Pixels of a page per pixel of a picture: at 200 dpi the letters of 8 points of a figure are then as large as the text
# around it, and screens of twice the density still show every pixel.
SCALE = 0.65


# What opening a file raises that is no picture, or is cut.
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


@dataclass(frozen=True)
class Picture:
    """A picture for a page.

    Attributes:
        name: of its file, without the suffix.
        title: its caption.
        alt: what it shows.
        width, height: in the pixels of a page.
        source: the picture itself, as an address (data:).
        files: the names of all its files, and their addresses as seen from the page.
    """

    name: str
    title: str
    alt: str
    width: int
    height: int
    source: str
    files: list[tuple[str, str]]

    @property
    def anchor(self) -> str:
        """Its place in the page."""
        return "figure-" + _quoted(self.name)


def pictures(folder: Path, order: Sequence[str] = ()) -> tuple[list[Picture], list[str]]:
    """Every PNG file of a folder, and the names of those that are no pictures.

    Args:
        order: the first words of names, as they are to follow each other; all others come last, by name.
    """

    def rank(path: Path) -> tuple[int, str]:
        known = [i for i, word in enumerate(order) if f"{path.stem}_".startswith(f"{word}_")]
        return (known[0] if known else len(order), path.name)

    paths = sorted(folder.glob("*.png"), key=rank)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(_readable, paths))
    broken = [path.name for path, picture in zip(paths, found, strict=True) if picture is None]
    return [picture for picture in found if picture is not None], broken


def discard_stale(folder: Path, written: Collection[Path], source: str) -> None:
    """Removes the figures of a source (see `lipbench.figures.save_figure`) that are not among those written now: the
    PNG file that names the source, and the files of the same name and kinds next to it; and temporary files that a
    killed report left. Nothing else is touched.
    """
    for path in unfinished(folder):
        with suppress(FileNotFoundError):  # whoever was at it is ready
            if time.time() - path.stat().st_mtime > FORGOTTEN:
                path.unlink()
    for path in sorted(folder.glob("*.png")):
        try:
            with Image.open(path) as image:
                mine = _words(image).get("Source") == source
        except UNREADABLE:
            continue
        if mine:
            # The one that is known again goes last: what is stopped in between is finished next time.
            for suffix in (".csv", ".pdf", ".png"):
                other = path.with_name(path.stem + suffix)
                if other not in written:
                    other.unlink(missing_ok=True)


def _words(image: Image.Image) -> dict[str, str]:
    """Those that travel inside of a PNG file."""
    return {str(key): str(text) for key, text in getattr(image, "text", {}).items()}


def _readable(path: Path) -> Picture | None:
    try:
        return _picture(path)
    except UNREADABLE:
        return None


def _picture(path: Path) -> Picture:
    with Image.open(path) as image:
        image.load()
        words = _words(image)
        small = _small(image)
    names = [other.name for other in sorted(path.parent.iterdir()) if other.stem == path.stem]
    title = words.get("Title") or path.stem.replace("_", " ")
    return Picture(
        name=path.stem,
        title=title,
        alt=words.get("Description") or f"Figure: {title}.",
        width=round(SCALE * image.width),
        height=round(SCALE * image.height),
        source="data:image/png;base64," + base64.b64encode(small).decode(),
        files=[(name, f"{path.parent.name}/{_quoted(name)}") for name in names],
    )


def _quoted(name: str) -> str:
    """The name of a file as a part of an address; its bytes, where they are no text."""
    return quote(os.fsencode(name))


def _small(image: Image.Image) -> bytes:
    """A PNG file of at most 256 colours on white: a third of the bytes, and to the eye the same."""
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image.convert("RGBA"))
    file = io.BytesIO()
    white.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    return file.getvalue()
