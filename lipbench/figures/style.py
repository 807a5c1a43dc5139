"""One look for all figures: colours that colour-blind readers can tell apart, embedded fonts."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from lipbench.figures.data import drawn
from lipbench.results import atomic, write_text

# Okabe and Ito (2008), without yellow, which is too light for lines on white. Black is kept for the headline.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")

STYLE = {
    "pdf.fonttype": 42,  # TrueType: editors and publishers can use the text
    "ps.fonttype": 42,
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}


@contextmanager
def style() -> Iterator[None]:
    """The project's matplotlib settings, inside the block."""
    with mpl.rc_context(STYLE):  # type: ignore[arg-type]
        yield


def save_figure(
    figure: Figure, path: Path, *, title: str = "", alt: str = "", data: pd.DataFrame | None = None
) -> list[Path]:
    """Writes `path` with the suffixes .png (200 dpi), .pdf (fonts embedded) and .csv, each whole or not at all.

    The words travel inside of the pictures (PNG: Title and Description; PDF: Title and Subject), where the report finds
    them.

    Args:
        title: a caption of one line.
        alt: what the figure shows, in a sentence or two, for readers who do not see it.
        data: the numbers behind it; None: those that it draws, see `lipbench.figures.data.drawn`. Empty: no file.

    Returns:
        the files written.
    """
    words = {"Title": title, "Description": alt}
    png = {"dpi": 200, "metadata": {key: text for key, text in words.items() if text}}
    pdf = {"metadata": {"CreationDate": None, "Title": title or None, "Subject": alt or None}}
    written = []
    for suffix, options in ((".png", png), (".pdf", pdf)):
        target = path.with_name(path.name + suffix)
        with atomic(target) as temporary, style():
            figure.savefig(temporary, format=suffix[1:], **options)
        written.append(target)
    table = drawn(figure) if data is None else data
    if len(table):
        target = path.with_name(f"{path.name}.csv")
        write_text(target, table.to_csv(index=False, float_format="%.6g", lineterminator="\n"))
        written.append(target)
    return written
