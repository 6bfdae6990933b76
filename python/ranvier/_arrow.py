"""What sources need of pyarrow: the package when it is there, its columns as NumPy's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ._arrays import Array
from .errors import MissingDependencyError

# Columns that are spread over the rows of an array together, and rows at a time: both fit the
# second-level cache, so a cache line of the array is written once.
GROUP = 16
_ROWS = 2048

_DTYPES = {"halffloat": "float16", "float": "float32", "double": "float64", "bool": "uint8"}


def import_arrow(user: str, extra: str = "data") -> Any:
    """The optional package."""
    try:
        import pyarrow
    except ImportError as error:
        raise MissingDependencyError(
            f"{user} needs pyarrow: pip install 'ranvier[{extra}]'"
        ) from error
    return pyarrow


def dtype_of(kind: Any) -> np.dtype[Any]:
    """NumPy's type for one of numbers or booleans; pyarrow's own way would import pandas."""
    return np.dtype(_DTYPES.get(str(kind), str(kind)))


def values(column: Any) -> Array:
    """A column of numbers or booleans, missing ones as NaN.

    Reads the memory itself: pyarrow's `to_numpy` would import pandas.
    """
    return _joined([_values(chunk) for chunk in _chunks(column)])


def missing(column: Any) -> Array:
    """Where a column has no value."""
    return _joined([_missing(chunk) for chunk in _chunks(column)])


def _chunks(column: Any) -> list[Any]:
    return [chunk for chunk in getattr(column, "chunks", [column]) if len(chunk)]


def _joined(arrays: list[Array]) -> Array:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays or [np.empty(0)])


def _values(chunk: Any) -> Array:
    data, dtype = chunk.buffers()[1], dtype_of(chunk.type)
    if str(chunk.type) == "bool":
        array = _bits(data, chunk)
    else:
        array = np.frombuffer(data, dtype, len(chunk), offset=chunk.offset * dtype.itemsize)
    if chunk.null_count:
        nan = dtype.type(np.nan) if dtype.kind == "f" else np.float64(np.nan)
        array = np.where(_missing(chunk), nan, array)
    return array


def _missing(chunk: Any) -> Array:
    valid = chunk.buffers()[0]
    return np.zeros(len(chunk), bool) if valid is None else _bits(valid, chunk) == 0


def _bits(buffer: Any, chunk: Any) -> Array:
    """What a buffer of bits says of each entry."""
    count = chunk.offset + len(chunk)
    packed = np.frombuffer(buffer, np.uint8)
    return np.unpackbits(packed, count=count, bitorder="little")[chunk.offset :]


def spread(columns: Sequence[Array], out: Array) -> None:
    """Writes columns side by side into an array in C order."""
    for row in range(0, len(out), _ROWS):
        for number, column in enumerate(columns):
            out[row : row + _ROWS, number] = column[row : row + _ROWS]
