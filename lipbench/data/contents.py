"""What a file is by its first bytes, not its name: loaders refuse files in these words."""

from __future__ import annotations

# Bytes that are enough to tell.
START = 512
# The first bytes of formats that lie where a loader expects another format.
KINDS = {
    b"\x89PNG\r\n\x1a\n": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"GIF8": "a GIF image",
    b"BM": "a BMP image",
    b"II*\x00": "a TIFF image",
    b"MM\x00*": "a TIFF image",
    b"<svg": "an SVG drawing",
    b"%PDF": "a PDF document",
    b"\x93NUMPY": "a single array (.npy)",
    b"MATLAB": "a MATLAB file",
    b"\x89HDF": "an HDF5 file",
    b"\x1f\x8b": "a gzip archive",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ\x00": "an xz archive",
    b"PK\x03\x04": "a zip archive",
    b"7z\xbc\xaf\x27\x1c": "a 7-Zip archive",
    b"Rar!": "a RAR archive",
}
# Formats that a container names after its own first bytes.
INSIDE = {
    b"WEBP": "a WebP image",
    b"avif": "an AVIF image",
    b"heic": "a HEIC image",
    b"heix": "a HEIC image",
    b"mif1": "a HEIC image",
    b"ustar": "a tar archive",
}


def looks_like_html(start: bytes) -> bool:
    """Whether this is a web page: what a server sends, with any name, instead of a file that it does not give."""
    return start[:200].lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype", b"<html", b"<?xml", b"<head"))


def what_it_is(start: bytes) -> str | None:
    """What a file is, as the end of a sentence that begins with its name; None: no format that is known here.

    Args:
        start: the first `START` bytes, or all of a smaller file.
    """
    if not start:
        return "is empty"
    if start.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, which only names the file: get the file with `git lfs pull`"
    if b"/annex/objects/" in start:
        return "is a git-annex pointer, which only names the file: get the file with `git annex get` or `datalad get`"
    if looks_like_html(start):
        return "is a web page (HTML): the server did not give the file"
    inside = {start[8:12], start[257:262]}
    found = [kind for magic, kind in KINDS.items() if start.startswith(magic)]
    found += [kind for magic, kind in INSIDE.items() if magic in inside]
    return f"is {found[0]}" if found else None
