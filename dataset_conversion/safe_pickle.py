"""Pickles that hold numpy arrays of numbers, opened without running anything that is in them.

A pickle is a small program: `pickle.load` calls whatever function it names. Here a name stands for
one of a handful of builders below or is refused, and numpy itself never sees the file's claims:
even numpy's own way of restoring an array can be told to treat numbers as addresses.
"""

import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Never

import numpy as np
from numpy.typing import NDArray

from autoreg.errors import DataError

# Little and big endian, native, not applicable.
_BYTE_ORDERS = frozenset("<>=|")
_TYPES = frozenset("b1 i1 i2 i4 i8 u1 u2 u4 u8 f2 f4 f8".split())

# What pickle raises for files that it did not write.
_DAMAGED = (
    pickle.UnpicklingError, EOFError, AttributeError, LookupError, TypeError, ValueError,
    MemoryError, OverflowError, RecursionError,
)  # fmt: skip


def read_arrays(path: Path) -> tuple[NDArray[Any], ...]:
    """The numpy arrays of a pickled tuple or list, or the one array of a pickle.

    Args:
        path: Written by `pickle.dump` with any protocol, from any numpy, by Python 2 or 3.

    Returns:
        The arrays; they own their memory.

    Raises:
        DataError: if the file is missing, damaged, names anything but numpy's arrays of whole or
            real numbers (in which case nothing of it was run), or holds anything else.
    """
    try:
        with path.open("rb") as file:
            content = _Unpickler(file).load()
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except _ForbiddenError as error:
        raise DataError(
            f"{path}: refused: this pickle {error}, expected nothing but numpy arrays of numbers "
            "(nothing in it was run); do not open it by other means, fetch the published file"
        ) from error
    except _DAMAGED as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"{path}: not a complete pickle ({reason}); fetch the file again"
        ) from error
    items = content if isinstance(content, tuple | list) else (content,)
    arrays = [item.array for item in items if isinstance(item, _Array) and item.array is not None]
    if not arrays or len(arrays) != len(items):
        kinds = ", ".join(type(item).__name__.strip("_") for item in items)
        raise DataError(f"{path}: holds {kinds or 'nothing'}, expected numpy arrays")
    return tuple(arrays)


class _ForbiddenError(Exception):
    """The pickle asks for something that plain arrays do not need."""


class _Dtype:
    """Stands for a numpy dtype while a file is read; takes its byte order only."""

    def __init__(self, code: object, *_: object) -> None:
        code = code.decode("ascii") if isinstance(code, bytes) else code
        if not isinstance(code, str) or code.lstrip("<>=|") not in _TYPES:
            raise _ForbiddenError(f"holds an array of the type {code!r}")
        self.code = code.lstrip("<>=|")
        self.order = code[0] if code[0] in _BYTE_ORDERS else "="

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) not in (8, 9):
            raise _ForbiddenError("holds an array of an unknown type")
        if state[2:5] != (None, None, None):
            raise _ForbiddenError("holds an array of records")
        order = state[1].decode("ascii") if isinstance(state[1], bytes) else state[1]
        if order not in _BYTE_ORDERS:
            raise _ForbiddenError(f"holds an array of the byte order {order!r}")
        self.order = order

    def read(self, buffer: object, shape: object, order: str) -> NDArray[Any]:
        """An array of its own memory from the bytes of a file."""
        if isinstance(buffer, str):  # bytes of Python 2
            buffer = buffer.encode("latin1")
        if not isinstance(buffer, bytes | bytearray):
            raise _ForbiddenError("holds an array without numbers")
        dtype: np.dtype[Any] = np.dtype(self.order + self.code)
        sides = _sides(shape)
        if sides is None or len(buffer) != math.prod(sides) * dtype.itemsize:
            raise ValueError(f"{len(buffer)} bytes for an array of the shape {shape}")
        flat: NDArray[Any] = np.frombuffer(buffer, dtype).astype(dtype.newbyteorder("="))
        return flat.reshape(sides, order="F" if order == "F" else "C")


def _sides(shape: object) -> tuple[int, ...] | None:
    """A shape, if it is one."""
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
        return None
    return shape


class _Array:
    """Stands for a numpy array while a file is read.

    Attributes:
        array: None until the numbers have come.
    """

    def __init__(self) -> None:
        self.array: NDArray[Any] | None = None

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) not in (4, 5):
            raise _ForbiddenError("holds an array in an unknown form")
        shape, dtype, fortran, content = state[-4:]
        if not isinstance(dtype, _Dtype):
            raise _ForbiddenError("holds an array without a type")
        self.array = dtype.read(content, shape, "F" if fortran else "C")


class _Builder:
    """What a pickle gets for a name; can be called and not be changed."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., object]) -> None:
        self._function = function

    def __call__(self, *arguments: object) -> object:
        return self._function(*arguments)

    def __setstate__(self, state: object) -> Never:
        raise _ForbiddenError("changes a function")


def _from_buffer(buffer: object, dtype: object, shape: object, order: object = "C") -> _Array:
    """Protocol 5's way of storing an array."""
    if not isinstance(dtype, _Dtype):
        raise _ForbiddenError("holds an array without a type")
    array = _Array()
    array.array = dtype.read(buffer, shape, str(order))
    return array


def _encode(text: object, encoding: object = "latin1") -> bytes:
    """Python 3's way of storing bytes in protocols 0 to 2."""
    if not isinstance(text, str) or encoding != "latin1":
        raise _ForbiddenError("encodes text")
    return text.encode("latin1")


def _refuse(*_: object) -> Never:
    raise _ForbiddenError("calls numpy.ndarray")


def _empty(*_: object) -> _Array:
    """Protocols 0 to 4: an array whose numbers come later."""
    return _Array()


# numpy 2 has renamed its module core to _core.
_NAMES: dict[tuple[str, str], Callable[..., object]] = {
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _refuse,  # only ever an argument of _reconstruct
    ("_codecs", "encode"): _encode,
    ("numpy.core.multiarray", "_reconstruct"): _empty,
    ("numpy._core.multiarray", "_reconstruct"): _empty,
    ("numpy.core.numeric", "_frombuffer"): _from_buffer,
    ("numpy._core.numeric", "_frombuffer"): _from_buffer,
}


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, encoding="latin1")

    def find_class(self, module: str, name: str) -> object:
        function = _NAMES.get((module, name))
        if function is None:
            raise _ForbiddenError(f"names {module}.{name}")
        return _Builder(function)

    def persistent_load(self, pid: object) -> Never:
        raise _ForbiddenError("refers to something outside of the file")
