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

# Seconds after which a temporary file counts as left behind.
FORGOTTEN = 600
# Pixels of a page per pixel of a picture: at 200 dpi the letters of 8 points of a figure are then as large as the text
# around it, and screens of twice the density still show every pixel.
SCALE = 0.65
# The figures of a data set that a reader needs, by the first word of their names; all others are diagnostics.
MAIN = ("overview", "sandwich", "adversarial")
# Those that show images: they keep their colours on a dark page.
IMAGES = ("adversarial", "saliency", "counterfactuals", "transport")
# Colours of a figure of lines.
COLORS = 64
# Of WebP, from 0 to 100.
QUALITY = 68

# What opening a file raises that is no picture, or is cut.
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


@dataclass(frozen=True)
class Picture:
    """A picture for a page.

    Attributes:
        name: of its file, without the suffix.
        kind: the first word of its name, where it is one of those of the report; else "".
        title: its caption.
        alt: what it shows.
        width, height: in the pixels of a page.
        source: the picture itself, as an address (data:).
        files: the names of all its files, and their addresses as seen from the page.
    """

    name: str
    kind: str
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

    def kind(path: Path) -> str:
        return max((word for word in order if f"{path.stem}_".startswith(f"{word}_")), key=len, default="")

    def rank(path: Path) -> tuple[int, str]:
        return (order.index(kind(path)) if kind(path) else len(order), path.name)

    paths = sorted(folder.glob("*.png"), key=rank)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(_readable, paths, map(kind, paths)))
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


def _readable(path: Path, kind: str) -> Picture | None:
    try:
        return _picture(path, kind)
    except UNREADABLE:
        return None


def _picture(path: Path, kind: str) -> Picture:
    with Image.open(path) as image:
        image.load()
        words = _words(image)
        source = _source(image, kind)
    names = [other.name for other in sorted(path.parent.iterdir()) if other.stem == path.stem]
    title = words.get("Title") or path.stem.replace("_", " ")
    return Picture(
        name=path.stem,
        kind=kind,
        title=title,
        alt=words.get("Description") or f"Figure: {title}.",
        width=round(SCALE * image.width),
        height=round(SCALE * image.height),
        source=source,
        files=[(name, f"{path.parent.name}/{_quoted(name)}") for name in names],
    )


def _quoted(name: str) -> str:
    """The name of a file as a part of an address; its bytes, where they are no text."""
    return quote(os.fsencode(name))


def _source(image: Image.Image, kind: str) -> str:
    """The picture on white as an address. A page of a hundred figures stays small: diagnostics are as large as they are
    shown, the others keep their size: those of lines are PNG files of few colours. The files in `figures/` have every
    pixel.
    """
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image.convert("RGBA"))
    shown, file = white.convert("RGB"), io.BytesIO()
    if not kind or (kind in MAIN and kind not in IMAGES):
        media = "png"
        shown.quantize(COLORS if kind else 256, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    else:
        media = "webp"
        scale = 1 if kind in MAIN else SCALE
        size = (max(1, round(scale * image.width)), max(1, round(scale * image.height)))
        shown.resize(size, Image.Resampling.LANCZOS).save(file, "WEBP", quality=QUALITY)
    return f"data:image/{media};base64,{base64.b64encode(file.getvalue()).decode()}"
