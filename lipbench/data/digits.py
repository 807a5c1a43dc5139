"""The digits inside scikit-learn: real handwriting, 8x8, no file to fetch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from lipbench.data.dataset import Dataset, Split, hold_out, restrict

# Part of the data set's definition: changing one changes every result on it.
TEST_FRACTION, TEST_SEED = 0.2, 0
VALIDATION_FRACTION, VALIDATION_SEED = 0.15, 1


def digits(keep: Sequence[int] | None = None, name: str | None = None) -> Dataset:
    """1,797 handwritten digits [1, 8, 8] of 17 grey levels, which are spread over 0..255.

    The split into train, validation and test is always the same one, stratified, and made before classes are
    chosen: the splits for `keep=(0, 8)` are subsets of the full ones. Label i is then the digit `keep[i]`.

    `name` defaults to "digits" followed by the digits kept. Raises `ValueError` for impossible `keep`.

    Source: Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI repository, 1998
    (its test set, as `sklearn.datasets.load_digits` has it).
    """
    # scikit-learn takes a second to import, and only this function needs it.
    from sklearn.datasets import load_digits

    bunch = load_digits()
    pixels = np.rint(bunch.images * 255 / 16).astype(np.uint8)
    everything = Split(torch.from_numpy(pixels).unsqueeze(1), torch.from_numpy(bunch.target.astype(np.int64)))
    rest, test = hold_out(everything, TEST_FRACTION, TEST_SEED)
    train, validation = hold_out(rest, VALIDATION_FRACTION, VALIDATION_SEED)
    classes = tuple(str(digit) for digit in range(10))
    return restrict(Dataset("digits", classes, train, validation, test), keep, name)
