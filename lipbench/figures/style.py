"""One look for all figures: colours that colour-blind readers can tell apart, embedded fonts."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from lipbench.results import atomic

# Okabe and Ito (2008), without yellow, which is too light for lines on white. Black is kept for the headline.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")

# Widths in inches: one column of a paper, and a page.
ONE_COLUMN, TWO_COLUMNS = 3.3, 6.9

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


def save_figure(figure: Figure, path: Path) -> list[Path]:
    """Writes `path` with the suffixes .png (200 dpi) and .pdf (fonts embedded), each whole or not at all."""
    written = []
    for suffix, options in ((".png", {"dpi": 200}), (".pdf", {"metadata": {"CreationDate": None}})):
        target = path.with_name(path.name + suffix)
        with atomic(target) as temporary, style():
            figure.savefig(temporary, format=suffix[1:], **options)
        written.append(target)
    return written
