"""Pickles of published data sets, which can run no code."""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np

from lipbench.data.idx import DataError

# What a pickled array names, under the names of numpy 1 and 2. The function makes an empty array.
_RECONSTRUCT = np.empty(0).__reduce__()[0]
NAMES = {
    ("numpy", "dtype"): np.dtype,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
}


def read_pickle(content: bytes, where: str) -> dict[str, Any]:
    """The dictionary in a pickle. Its arrays are of uint8. The strings of Python 2 become bytes, the keys str.

    A pickle may name the type, the class and the constructor of numpy's arrays, and nothing else.

    Args:
        where: how messages call the pickle, for example its path.

    Raises:
        DataError: the pickle names anything else, is truncated or malformed, or holds something else.
    """
    try:
        found = _Unpickler(io.BytesIO(content), encoding="bytes").load()
    except _ForbiddenError as error:
        raise DataError(
            f"{where} asks for {error}, which is no part of a data set: such a pickle could run any command. "
            "It was not loaded, and nothing of it was run."
        ) from None
    except Exception as error:  # a damaged pickle can fail in any way
        raise DataError(f"{where} is no complete pickle of a data set ({type(error).__name__}: {error})") from error
    if not isinstance(found, dict):
        raise DataError(f"{where} holds a {type(found).__name__} instead of a dictionary")
    for value in found.values():
        if isinstance(value, np.ndarray) and value.dtype != np.uint8:
            raise DataError(f"{where} holds an array of type {value.dtype} instead of uint8")
    return {key.decode("latin1") if isinstance(key, bytes) else str(key): value for key, value in found.items()}


class _ForbiddenError(pickle.UnpicklingError):
    """A name that no pickled array needs."""


class _Unpickler(pickle._Unpickler):
    """Python's own unpickler in Python. The one in C takes 32 GB of memory for a damaged pickle of nine bytes."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return NAMES[module, name]
        except KeyError:
            raise _ForbiddenError(f"{module}.{name}") from None
