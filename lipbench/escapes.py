"""Text from files and folders, shown as data: it never acts as markup, as a formula, or as a command to a terminal."""

import os
import re
import sys
import unicodedata
from functools import lru_cache
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    import pandas as pd

# Python keeps the bytes of a file name that it cannot decode as these characters.
UNDECODED = re.compile("[\udc80-\udcff]+")
# What Markdown reads as markup inside of a line. An underscore inside of a word, as in hkr_cnn, is none.
MARKUP = re.compile(r"[\\`*|~$#]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|\](?=[(\[:])")
# What a spreadsheet reads as a formula, at the beginning of a cell.
FORMULA = ("=", "+", "-", "@")


def printable(text: str, keep: str = "") -> str:
    r"""The text without characters that control a terminal, change the direction of writing, or are no characters:
    they become escapes such as `\x1b`. Bytes of UTF-8 that the system did not decode become the characters they are.

    Args:
        keep: control characters that stay, such as a newline in a text of several lines.
    """
    if text.isascii() and text.isprintable():  # nearly all are
        return text
    text = UNDECODED.sub(lambda found: _decoded(found[0]), text)
    return "".join(c if c in keep or _is_visible(c) else escaped(c) for c in text)


def file_name(text: str) -> str:
    """The name of a file whose bytes are the text in UTF-8, on a system of any encoding."""
    return os.fsdecode(text.encode("utf-8", "surrogateescape"))


def escaped(character: str) -> str:
    r"""A character as Python writes it in ASCII, such as `\u4e2d`."""
    return character.encode("unicode_escape").decode("ascii")


def markdown(text: str) -> str:
    """One line of Markdown that shows the text letter by letter."""
    text = MARKUP.sub(lambda found: "\\" + found[0], printable(text))
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def csv(table: "pd.DataFrame", float_format: str | None = None) -> str:
    """A table as CSV. Words that a spreadsheet would read as a formula begin with an apostrophe."""
    shown = table.rename(columns=_cell)
    words = shown.select_dtypes(exclude="number").columns
    shown = shown.assign(**{column: shown[column].map(_cell) for column in words})
    return shown.to_csv(index=False, float_format=float_format, lineterminator="\n")


def say(text: object, file: TextIO | None = None) -> None:
    """Prints a text for people. Characters that the terminal has not become escapes."""
    stream = file or sys.stdout
    shown = printable(str(text), keep="\n\t")
    encoding = getattr(stream, "encoding", None) or "utf-8"
    print(shown.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)


def _decoded(text: str) -> str:
    return text.encode("ascii", "surrogateescape").decode("utf-8", "backslashreplace")


def _is_visible(character: str) -> bool:
    category = unicodedata.category(character)
    return category[0] != "C" and category not in ("Zl", "Zp")


def _cell(value: object) -> object:
    return _word(value) if isinstance(value, str) else value


@lru_cache(1024)  # tables say the same words on every line
def _word(value: str) -> str:
    text = printable(value)
    # A spreadsheet passes over blanks, and reads the wide letters of Chinese and Japanese like the narrow ones.
    begins = unicodedata.normalize("NFKC", text.strip())
    return f"'{text}" if begins.startswith(FORMULA) else text
