"""Names in figures, shown letter by letter: fonts for other scripts, and escapes for what no font has."""

from collections.abc import Callable
from functools import cache

from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.font_manager import fontManager, get_font
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter

from lipbench.escapes import escaped, printable

# The font of all figures. It comes with matplotlib and has Latin, Greek, Cyrillic and Arabic letters.
FAMILY = "DejaVu Sans"
# A font that has a box for every character, and letters for none.
PLACEHOLDER = "Last Resort"


def make_legible(figure: Figure) -> None:
    """Gives every text of a figure fonts that have its letters; letters that no font has become escapes."""
    texts = [text for text in figure.findobj(Text) if isinstance(text, Text)]
    shown = [printable(text.get_text(), keep="\n") for text in texts]
    lacking = frozenset("".join(shown)) - letters(FAMILY) - {"\n"}
    families = [FAMILY, *fallbacks(lacking)]
    unknown = lacking.difference(*map(letters, families))

    def legible(text: str) -> str:
        return "".join(escaped(c) if c in unknown else c for c in printable(text, keep="\n"))

    for text in texts:
        if text.get_text() != (words := legible(text.get_text())):
            text.set_text(words)
        if lacking:
            text.set_fontfamily(families)
    for axis in (one for axes in figure.axes for one in (axes.xaxis, axes.yaxis)):
        _name_ticks(axis, legible)
        if lacking:
            axis.set_tick_params(labelfontfamily=families)


def _name_ticks(axis: Axis, legible: Callable[[str], str]) -> None:
    """Ticks take their names from a function whenever they are drawn."""
    names = axis.get_major_formatter()
    if isinstance(names, FuncFormatter):
        axis.set_major_formatter(FuncFormatter(lambda value, position: legible(names(value, position))))


@cache
def fallbacks(lacking: frozenset[str]) -> list[str]:
    """Installed fonts that have letters which `FAMILY` lacks, those that have most of them first."""
    if not lacking:
        return []
    names = sorted({font.name for font in fontManager.ttflist if not font.name.startswith(PLACEHOLDER)})
    chosen: list[str] = []
    while lacking and (best := max(names, key=lambda name: len(lacking & letters(name)))):
        found = lacking & letters(best)
        if not found:
            break
        chosen.append(best)
        lacking -= found
    return chosen


@cache
def letters(family: str) -> frozenset[str]:
    """The characters that a font can draw; none where matplotlib cannot use the font, as those of coloured signs."""
    faces = [face for face in fontManager.ttflist if face.name == family and face.style == "normal"]
    faces.sort(key=lambda face: (face.weight not in (400, "normal"), face.fname))
    try:
        font = get_font(faces[0].fname)
        codes = list(font.get_charmap())
        font.set_size(8, 100)
        font.load_char(codes[-1])
    except (OSError, RuntimeError, ValueError, LookupError):
        return frozenset()
    return frozenset(map(chr, codes))
