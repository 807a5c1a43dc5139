"""Figures of a table that `lipbench.evaluate` returned, for notebooks and scripts.

    table = lipbench.evaluate(model, images, labels)
    lipbench.plot.curves(table)

A notebook shows each figure without `%matplotlib`; `figure.savefig("curves.pdf")` writes it to a file.
"""

import io
import math

import pandas as pd
from matplotlib.figure import Figure

from lipbench.evaluation.bracket import Bracket
from lipbench.figures.curves import accuracy_curves
from lipbench.figures.lettering import make_legible
from lipbench.figures.sandwich import sandwich_of, tightness_of
from lipbench.figures.style import style
from lipbench.results import COLUMNS, RUN_COLUMNS

__all__ = ["bracket", "curves", "tightness"]

DPI = 120


def curves(table: pd.DataFrame, norm: str = "l2") -> Figure:
    """Accuracy (%) against epsilon: a curve per attack, the smallest distance of all attacks (black), and the
    certificate (black, dashed).

    Args:
        table: of `lipbench.evaluate`; or of `lipbench.read`, with a panel per network.
        norm: of the distances, "l2", "linf" or "l1". Most attacks minimise L2.

    Raises:
        ValueError: another table.
        ResultsError: the table has no rows of this norm.
    """
    missing = {name: "" for name in RUN_COLUMNS if name not in _checked(table)}
    named = table.assign(**{**missing, "variant": table.get("variant", "default")})
    return _shown(accuracy_curves(named, norm=norm, balanced=False))


def bracket(table: pd.DataFrame | Bracket) -> Figure:
    """Each image that is labelled right as a point: its certificate against its smallest attack distance, in L2. No
    point lies below the line.

    Args:
        table: of `lipbench.evaluate`, or the rows of one run of `lipbench.read`; or what `lipbench.bracket` gives.

    Raises:
        ValueError: another table, several runs, or no image with a certificate and a successful attack.
    """
    table = _rows(table) if isinstance(table, Bracket) else table
    drawn = sandwich_of({_network(table): table})
    if drawn is None:
        raise ValueError("No image has both bounds: evaluate a certificate and an attack, on images labelled right.")
    return _shown(drawn[0])


def tightness(table: pd.DataFrame) -> Figure:
    """How near each attack comes to the certificate: distance / certificate in L2, its median (upright), quartiles
    (thick) and the 5 % and 95 % of the images with a certificate (thin). 1 is perfect.

    Args:
        table: of `lipbench.evaluate`, or the rows of one run of `lipbench.read`.

    Raises:
        ValueError: another table, several runs, or no image with a certificate above 0 and an attack.
    """
    drawn = tightness_of({_network(table): table}, loose=math.inf)
    if drawn is None:
        raise ValueError("No image has a certificate above 0 and an attack: evaluate both, on images labelled right.")
    return _shown(drawn[0])


class _Shown(Figure):
    """A figure that a notebook shows by itself, in the style of all figures."""

    def _repr_png_(self) -> bytes:
        picture = io.BytesIO()
        with style():
            make_legible(self)
            self.savefig(picture, format="png", dpi=DPI)
        return picture.getvalue()


def _shown(figure: Figure) -> Figure:
    figure.__class__ = _Shown
    return figure


def _rows(found: Bracket) -> pd.DataFrame:
    """The table of both bounds. A misclassified image has the distance 0."""
    wrong = (found.upper == 0).int().cpu().numpy()
    same = {"label": 0, "prediction": wrong, "method": "bracket", "norm": "l2"}
    sides = {"lower": found.lower, "upper": found.upper}
    frames = [pd.DataFrame({**same, "side": side, "distance": far.cpu().numpy()}) for side, far in sides.items()]
    return pd.concat(frames).rename_axis("index").reset_index()


def _network(table: pd.DataFrame) -> str:
    """The name of the only network of a table; empty where it has none."""
    if "experiment" not in _checked(table):
        return ""
    runs = table[RUN_COLUMNS].drop_duplicates()
    if len(runs) > 1:
        raise ValueError(
            f"This figure shows one run, but the table has the rows of {len(runs)}. "
            "Choose one, such as table[(table.experiment == 'hkr_mlp') & (table.seed == 0)]."
        )
    return str(runs["experiment"].iloc[0])


def _checked(table: pd.DataFrame) -> pd.DataFrame:
    if not isinstance(table, pd.DataFrame) or not set(COLUMNS) <= set(table) or table.empty:
        raise ValueError(f"A table of lipbench.evaluate has rows and the columns {', '.join(COLUMNS)}.")
    return table
