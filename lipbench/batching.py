"""How many images are computed at once, so that memory is bounded whatever their number and size."""

import math
from collections.abc import Sequence

# Values of 1000 images of 3x32x32: a network's activations are some tens of times as many.
VALUES = 1000 * 3 * 32 * 32
# Images, however small they are.
MOST = 1000
# Values of the images that lie on the device as floats at once, between the batches: 256 MiB.
HELD = 2**26


def images_at_once(shape: Sequence[int], values: int = VALUES, most: int = MOST) -> int:
    """The number of images of a shape (C, H, W) that have at most so many values together: 1 to `most`."""
    return max(1, min(most, values // max(1, math.prod(shape))))
