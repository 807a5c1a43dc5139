"""Sheets of pictures: rows of small images with a word below each, laid out in inches so that nothing overlaps."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lipbench.figures.style import TWO_COLUMNS, style

# Inches: between pictures, between blocks of columns, below a picture for its caption, above all for headings.
GAP, BLOCK_GAP, CAPTION, HEADING = 0.05, 0.14, 0.15, 0.36
# And on both sides, so that no border is cut.
EDGE = 0.02
# Share of the largest absolute values that may be out of the range of colours: one pixel would pale the others.
CLIPPED = 0.002
# Pixels.
SMALLEST_SIDE = 4


class Sheet:
    """A grid of pictures as wide as a page.

    Args:
        blocks: heading -> number of its columns; a heading of two lines is one with a newline.
        rows: how many.
        group: how many rows are together: after each group there is a gap.
        label: inches on the left for the names of rows.
        largest: inches of a picture at most.
    """

    def __init__(
        self,
        blocks: Sequence[tuple[str, int]],
        rows: int,
        *,
        group: int = 1000,
        label: float = 0.0,
        largest: float = 1.1,
    ):
        self._group = group
        counts = [count for _, count in blocks]
        room = TWO_COLUMNS - 2 * EDGE - label - BLOCK_GAP * (len(blocks) - 1) - GAP * (sum(counts) - len(blocks))
        self._size = min(largest, room / sum(counts))
        self._lefts, left = [], label + EDGE
        starts = []
        for count in counts:
            starts.append(left)
            for _ in range(count):
                self._lefts.append(left)
                left += self._size + GAP
            left += BLOCK_GAP - GAP
        self._width = left - BLOCK_GAP + EDGE
        self._height = HEADING + rows * (self._size + CAPTION) + (rows - 1) // group * BLOCK_GAP
        with style():
            self.figure = Figure(figsize=(self._width, self._height))
            self.figure.set_layout_engine("none")
            # One for all pictures, in inches: the ticks of one each would take most of the time.
            self._axis = self.figure.add_axes((0, 0, 1, 1))
            self._axis.set(xlim=(0, self._width), ylim=(0, self._height))
            self._axis.axis("off")
            for (heading, count), start in zip(blocks, starts, strict=True):
                middle = start + (count * self._size + (count - 1) * GAP) / 2
                self._text(middle, self._height - HEADING / 2, heading, 7, "center")

    def row_label(self, row: int, text: str) -> None:
        """The name of a row, to the left of it."""
        with style():
            self._text(EDGE, self._top(row) - self._size / 2, text, 7, "left")

    def picture(self, row: int, column: int, image: np.ndarray, caption: str = "") -> None:
        """An image [C, H, W] in [0, 1]: dark ink on white where it has one channel."""
        if image.shape[0] == 1:
            self._show(row, column, image[0], caption, cmap="gray_r", vmin=0, vmax=1)
        else:
            self._show(row, column, np.clip(image.transpose(1, 2, 0), 0, 1), caption)

    def change(self, row: int, column: int, change: np.ndarray, scale: float, caption: str = "") -> None:
        """A signed image [C, H, W]: red above 0, blue below, white at 0; of several channels the strongest.

        Args:
            scale: the value of the fullest colour.
        """
        limit = scale or 1.0
        self._show(row, column, strongest(change), caption, cmap="RdBu_r", vmin=-limit, vmax=limit)

    def _top(self, row: int) -> float:
        return self._height - HEADING - row * (self._size + CAPTION) - row // self._group * BLOCK_GAP

    def _show(self, row: int, column: int, image: np.ndarray, caption: str, **options: object) -> None:
        left, low = self._lefts[column], self._top(row) - self._size
        box = (left, left + self._size, low, low + self._size)
        with style():
            self._axis.imshow(image, extent=box, aspect="auto", interpolation="nearest", **options)  # type: ignore[arg-type]
            border = Rectangle((left, low), self._size, self._size, fill=False, linewidth=0.4, edgecolor="0.7")
            self._axis.add_patch(border)
            self._axis.set(xlim=(0, self._width), ylim=(0, self._height))  # imshow changes them
            self._text(left + self._size / 2, low - CAPTION / 2 - 0.005, caption, 6.5, "center")

    def _text(self, x: float, y: float, text: str, size: float, side: str) -> None:
        self._axis.text(x, y, text, fontsize=size, ha=side, va="center")


def is_picture(images: np.ndarray) -> bool:
    """Whether images [..., H, W] are to look at: points of the plane are not."""
    return min(images.shape[-2:]) >= SMALLEST_SIDE


def strongest(change: np.ndarray) -> np.ndarray:
    """[C, H, W] -> [H, W]: of each pixel the channel with the largest absolute value, signed."""
    return np.take_along_axis(change, np.abs(change).argmax(0)[None], axis=0)[0]


def full_scale(change: np.ndarray) -> float:
    """The value of the fullest colour for a signed image [C, H, W]."""
    return float(np.quantile(np.abs(strongest(change)), 1 - CLIPPED))
