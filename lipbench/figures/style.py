"""One look for all figures: colours that colour-blind readers can tell apart, one per network and method, embedded
fonts, sizes of paper.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib import rc_context
from matplotlib import style as matplotlib_style
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from lipbench.escapes import csv, printable
from lipbench.figures.lettering import FAMILY, make_legible
from lipbench.figures.numbers import drawn
from lipbench.files import atomic, write_text
from lipbench.results.looks import AMBER, BLUE, GREEN, GREY, NETWORKS, ORANGE, PALETTE, PINK, SKY, Look, network_look

__all__ = [
    "METHODS",
    "NETWORKS",
    "ONE_COLUMN",
    "PALETTE",
    "TWO_COLUMNS",
    "Look",
    "legend_below",
    "method_look",
    "network_look",
    "plain_log",
    "save_figure",
    "style",
]

# Widths in inches: one column of a paper, and a page.
ONE_COLUMN, TWO_COLUMNS = 3.3, 6.9

STYLE = {
    "pdf.fonttype": 42,  # TrueType: editors and publishers can use the text
    "ps.fonttype": 42,
    "text.parse_math": False,  # names are shown letter by letter: "US$100$" is no formula
    "font.family": FAMILY,
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "lines.linewidth": 1.3,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}


METHODS = {
    "lipbench": Look("lipbench", ORANGE, "*"),
    "fgsm": Look("FGSM", AMBER, "v"),
    "fgm": Look("FGM", GREY, "<"),
    "l2_pgd": Look("L2-PGD", SKY, "s"),
    "apgd": Look("APGD", SKY, "D"),
    "apgd_linf": Look("APGD, L-infinity", SKY, "d"),
    "apgd_l1": Look("APGD, L1", SKY, "h"),
    "deepfool": Look("DeepFool", GREEN, "^"),
    "carlini_wagner": Look("Carlini-Wagner", PINK, "o"),
    "ddn": Look("DDN", BLUE, "P"),
    "alma": Look("ALMA", BLUE, "h"),
    "tangent": Look("tangent", ORANGE, "X"),
    "hop_skip_jump": Look("HopSkipJump", GREY, "p"),
    "transport_path": Look("transport path", AMBER, "d"),
}


def method_look(method: str) -> Look:
    """How an attack is drawn; those of other libraries as ours of the same name."""
    if method in METHODS:
        return METHODS[method]
    kin = next((look for name, look in METHODS.items() if method.endswith(f"_{name}")), Look("", GREY, "."))
    return Look(method.replace("_", " "), kin.color, kin.marker)


def plain_log(axis: Axis, numbers: int = 8, span: tuple[float, float] | None = None) -> None:
    """A logarithmic axis whose numbers are written out: 0.5, 1, 2, 5, ...; or 1, 10, ... where these are too many.

    Args:
        numbers: that have room.
        span: smallest and largest value, where other panels share the axis.
    """
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})  # type: ignore[attr-defined]
    low, high = span or axis.get_data_interval()
    # Three per factor of ten.
    few = high < 10 ** (numbers / 3) * low
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if few else (1.0,)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def legend_below(figure: Figure, handles: Mapping[str, Any]) -> None:
    """A legend below all panels, in as many columns as fit.

    Args:
        handles: label -> artist.
    """
    # At 7 points 16 letters fill an inch; the sample of a line and the gaps take the room of 8.
    fitting = max(1, int(16 * figure.get_figwidth() / (8 + max(map(len, handles), default=0))))
    # In as few lines, as full as each other.
    lines = -(-len(handles) // fitting)
    columns = max(1, -(-len(handles) // max(1, lines)))
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=columns)


@contextmanager
def style() -> Iterator[None]:
    """The project's matplotlib settings, inside the block. Those of the user, such as text.usetex, do not count."""
    with matplotlib_style.context(["default", STYLE]):
        yield


def save_figure(
    figure: Figure, path: Path, *, title: str = "", alt: str = "", source: str = "", data: pd.DataFrame | None = None
) -> list[Path]:
    """Writes `path` with the suffixes .png (200 dpi), .pdf (fonts embedded) and .csv, each whole or not at all.

    The words travel inside of the pictures (PNG: Title, Description and Source; PDF: Title and Subject), where the
    report finds them.

    Args:
        title: a caption of one line.
        alt: what the figure shows, in a sentence or two, for readers who do not see it.
        source: what wrote it, where that is to be known again.
        data: the numbers behind it; None: those that it draws, see `lipbench.figures.numbers.drawn`. Empty: no file.

    Returns:
        the files written.
    """
    title, alt = printable(title), printable(alt)
    words = {"Title": title, "Description": alt, "Source": source}
    png = {"dpi": 200, "metadata": {key: text for key, text in words.items() if text}}
    pdf = {"metadata": {"CreationDate": None, "Title": title or None, "Subject": alt or None}}
    table = drawn(figure) if data is None else data
    with style():
        make_legible(figure)
        figure.draw_without_rendering()
    written = []
    # Laid out now, not once more for every file. With any engine, even "none", matplotlib draws each file twice.
    with style(), rc_context({"figure.constrained_layout.use": False}):
        figure.set_layout_engine(None)
        for suffix, options in ((".png", png), (".pdf", pdf)):
            target = path.with_name(path.name + suffix)
            with atomic(target) as temporary:
                figure.savefig(temporary, format=suffix[1:], **options)
            written.append(target)
    if len(table):
        target = path.with_name(f"{path.name}.csv")
        write_text(target, csv(table, "%.6g"))
        written.append(target)
    return written
