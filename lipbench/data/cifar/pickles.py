"""Pickles of others, read without giving them anything to run."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lipbench.data.idx import DataError


def read_pickle(content: bytes, where: str) -> dict[str, Any]:
    """The dictionary in a pickle; its values are arrays of uint8 (read-only), lists, numbers and strings. Nothing else
    can be made, and the memory that it takes is bounded by the pickle's length.

    The three names of numpy that a pickled array mentions stand for classes of this file: no code of numpy, and none of
    the pickle's choice, is called. Strings of Python 2 become bytes; the keys of the dictionary become str.

    Args:
        where: how messages call the pickle, for example its path.

    Raises:
        DataError: the pickle mentions any other name, is truncated or malformed, or holds something else.
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
    return {_text(key): value.array if isinstance(value, _Array) else value for key, value in found.items()}


def _text(key: Any) -> str:
    return key.decode("latin1") if isinstance(key, bytes) else str(key)


class _ForbiddenError(pickle.UnpicklingError):
    """A name that no pickled array needs."""


# Classes, not functions, and with a __setstate__ each: a pickle cannot set attributes of what it is given.
class _Type:
    """Stands for numpy.dtype."""

    __slots__ = ("code",)

    def __init__(self, code: Any, *flags: Any):
        self.code = _text(code)

    def __setstate__(self, state: Any) -> None:
        """Byte order and alignment, which mean nothing for single bytes."""


class _Array:
    """Stands for numpy.ndarray and for the function that makes an empty one, to be filled by __setstate__."""

    __slots__ = ("array",)

    def __init__(self, *empty: Any):
        self.array: NDArray[np.uint8] = np.empty(0, np.uint8)

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, by_columns, data = state
        if kind.code != "u1":
            raise ValueError(f"an array of type {kind.code} instead of u1")
        # A view: many arrays of one string would be many copies of it.
        self.array = np.frombuffer(data, np.uint8).reshape(shape, order="F" if by_columns else "C")


NAMES = {
    ("numpy", "dtype"): _Type,
    ("numpy", "ndarray"): _Array,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
}


# Numbers, strings, lists, dictionaries, tuples, the memo, and what makes an array; no sets, no other instances, nothing
# that doubles what is there, no codes of a registry, no persistent ids.
OPCODES = "".join(
    (
        "\x80\x95.(",  # protocol, frame, stop, mark
        "N\x88\x89IJKML\x8aFG",  # None, booleans, numbers
        "STUBC\x8eVX\x8c\x8d",  # strings
        "]ael})t\x85\x86\x87",  # lists, an empty dictionary, tuples
        "ghjpqr\x94",  # the memo
        "c\x93Rb",  # a name, its call, its state
    )
)


class _Unpickler(pickle._Unpickler):
    """Python's own unpickler in Python, with the opcodes of data alone.

    The one in C makes room for whatever a pickle announces: nine bytes ask it for a memo of 32 GB. This one keeps what
    it reads, so that it takes a small multiple of the pickle's length. Opcodes that hash what lies on the stack are
    left out or take strings alone: the hash of a tuple nested a million times deep ends the process.
    """

    stack: list[Any]
    pop_mark: Callable[[], list[Any]]
    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        ord(code): pickle._Unpickler.dispatch[ord(code)] for code in OPCODES
    }

    def find_class(self, module: str, name: str) -> type:
        try:
            return NAMES[module, name]
        except KeyError:
            raise _ForbiddenError(f"{module}.{name}") from None

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set(self.stack[-1], [key, value])

    def load_setitems(self) -> None:
        items = self.pop_mark()
        self._set(self.stack[-1], items)

    def load_dict(self) -> None:
        items = self.pop_mark()
        found: dict[Any, Any] = {}
        self.stack.append(found)
        self._set(found, items)

    @staticmethod
    def _set(target: Any, items: list[Any]) -> None:
        if not isinstance(target, dict) or not all(isinstance(key, bytes | str) for key in items[::2]):
            raise pickle.UnpicklingError("a dictionary whose keys are no strings")
        target.update(zip(items[::2], items[1::2], strict=True))

    dispatch |= {ord("s"): load_setitem, ord("u"): load_setitems, ord("d"): load_dict}
