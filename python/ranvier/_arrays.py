"""What is taken for an array: the one place where inputs are normalised or refused.

float32, float64 and integer arrays of any order and strides go to the core as they are, without a
copy; the core converts as it reads. Everything else that is numeric is converted once.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from .errors import ArgumentError, DTypeError, OutOfMemoryError, ShapeError

Array: TypeAlias = NDArray[Any]

_IN_PLACE = frozenset("fdbhilqBHILQ")


def numeric(value: ArrayLike, name: str, dtype: DTypeLike) -> Array:
    """`value` as real numbers that the core can read, of `dtype` where they must be converted."""
    if isinstance(value, np.ma.MaskedArray):
        if np.ma.is_masked(value):
            raise ArgumentError(
                f"{name}: expected an array without missing values, got a masked array "
                f"with {np.ma.getmaskarray(value).sum()} masked values; "
                f"fill them with {name}.filled(...)"
            )
        value = value.data
    if isinstance(value, (list, tuple)) and any(map(np.ma.is_masked, value)):
        raise ArgumentError(
            f"{name}: expected an array without missing values, got rows with masked values"
        )
    if getattr(type(value), "_of_blocks", False):
        raise DTypeError(
            f"{name}: expected an array, got a source of blocks, {type(value).__name__}; fit and "
            "evaluate take it without y, else take its blocks one by one: for X, *_ in source"
        )
    array = as_array(value, name)
    if array.dtype.kind == "O" and _is_frame(value) and not _offender(value):
        array = _filled(value, array, dtype)
    if array.dtype.kind not in "fiub":
        if hasattr(type(value), "toarray"):
            raise DTypeError(
                f"{name}: expected a dense array, got a sparse one ({type(value).__name__}); "
                f"convert it with {name}.toarray()"
            )
        hint = "; np.unique(..., return_inverse=True) numbers names" * (array.dtype.kind in "SU")
        raise DTypeError(
            f"{name}: expected real numbers, got dtype {array.dtype}{_offender(value)}{hint}"
        )
    if array.dtype.char in _IN_PLACE and array.dtype.isnative and array.flags.aligned:
        return array
    wide = {"b": np.int64, "i": np.int64, "u": np.uint64, "f": dtype}[array.dtype.kind]
    try:
        with np.errstate(over="ignore"):
            return array.astype(np.float32 if array.dtype.char == "f" else wide)
    except MemoryError as error:
        raise OutOfMemoryError(f"{name}: {error}") from error


def as_array(value: Any, name: str) -> Array:
    """What NumPy makes of `value`, or a message with its name."""
    try:
        return np.asarray(value)
    except MemoryError as error:
        raise OutOfMemoryError(f"{name}: {error}") from error
    except Exception as error:
        raise ArgumentError(
            f"{name}: expected something that NumPy makes an array of numbers from, "
            f"got {type(value).__name__} ({str(error)[:200]})"
        ) from error


def _is_frame(value: Any) -> bool:
    """Whether the value is a data frame or series whose columns may hold missing values."""
    return hasattr(type(value), "to_numpy") and hasattr(type(value), "iloc")


def _filled(value: Any, array: Array, dtype: DTypeLike) -> Array:
    """A frame of nullable columns as floats, a missing value being NaN; else `array` as it is."""
    try:
        return np.asarray(value.to_numpy(dtype=dtype, na_value=np.nan))
    except (TypeError, ValueError):
        return array


def _offender(value: Any) -> str:
    """Names the first column of a data frame that is not numeric."""
    if not hasattr(type(value), "columns") or not hasattr(type(value), "dtypes"):
        return ""
    for column, dtype in zip(value.columns, value.dtypes, strict=False):
        if getattr(dtype, "kind", "O") not in "fiub":
            return f" (column {column!r} has dtype {dtype})"
    return ""


def features(X: ArrayLike, dtype: DTypeLike, name: str = "X") -> Array:
    """X of shape (rows, features)."""
    array = numeric(X, name, dtype)
    if array.ndim != 2:
        hint = f"; a single row is {name}[np.newaxis, :]" if array.ndim == 1 else ""
        raise ShapeError(
            f"{name}: expected shape (rows, features), got {array.ndim} dimension(s) "
            f"with shape {array.shape}{hint}"
        )
    return array


def matrix(y: ArrayLike, dtype: DTypeLike, name: str = "y") -> Array:
    """Targets of shape (rows, columns); one dimension is one column."""
    array = numeric(y, name, dtype)
    if array.ndim not in (1, 2):
        raise ShapeError(
            f"{name}: expected shape (rows,) or (rows, columns), got shape {array.shape}"
        )
    return array


def destination(out: Any, shape: tuple[int, ...], dtype: np.dtype[Any], name: str = "out") -> Array:
    """`out` as a plain array of the same memory, if it takes results of this shape and dtype."""
    if not isinstance(out, np.ndarray) or isinstance(out, np.ma.MaskedArray):
        raise DTypeError(f"{name}: expected a numpy.ndarray, got {type(out).__name__}")
    array = np.asarray(out)
    if array.dtype != dtype or not array.dtype.isnative:
        raise DTypeError(f"{name}: expected the model's dtype {dtype}, got {array.dtype.str!r}")
    if array.shape != shape:
        raise ShapeError(f"{name}: expected shape {shape}, got {array.shape}")
    flags = array.flags
    if not (flags.c_contiguous and flags.aligned and flags.writeable):
        faults = {"C-contiguous": flags.c_contiguous, "aligned": flags.aligned}
        faults["writable"] = flags.writeable
        got = " and ".join(f"not {fault}" for fault, fine in faults.items() if not fine)
        raise ArgumentError(
            f"{name}: expected a writable, C-contiguous array, got one that is {got}"
        )
    return array


def weights(sample_weight: ArrayLike, rows: int, name: str = "sample_weight") -> Array:
    """One number for each row."""
    array = numeric(sample_weight, name, np.float64)
    if array.shape != (rows,):
        raise ShapeError(
            f"{name}: expected shape ({rows},), one number for each row of X, "
            f"got shape {array.shape}"
        )
    return array


def integer(value: Any, name: str, *, least: int, most: int = 2**63 - 1) -> int:
    """`value` as an int within bounds; booleans and fractions are refused."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise DTypeError(f"{name}: expected an integer, got {value!r}")
    if not least <= value <= most:
        bounds = f"from {least} to {most}" if most < 2**63 - 1 else f"from {least} on"
        raise ArgumentError(f"{name}: expected an integer {bounds}, got {value}")
    return int(value)


def real(
    value: Any,
    name: str,
    *,
    least: float = -np.inf,
    most: float = np.inf,
    open_least: bool = False,
    open_most: bool = False,
) -> float:
    """`value` as a finite float within bounds."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(
        value, (int, float, np.integer, np.floating)
    ):
        raise DTypeError(f"{name}: expected a number, got {value!r}")
    try:
        number = float(value)
    except OverflowError:
        number = np.inf
    low = number > least if open_least else number >= least
    high = number < most if open_most else number <= most
    if not (low and high and np.isfinite(number)):
        left = "(" if open_least or least == -np.inf else "["
        right = ")" if open_most or most == np.inf else "]"
        raise ArgumentError(
            f"{name}: expected a finite number in {left}{least:g}, {most:g}{right}, got {value!r}"
        )
    return number


def plain(definition: Any) -> None:
    """Turns NumPy's scalars among a definition's options into Python's."""
    for option in fields(definition):
        value = getattr(definition, option.name)
        for scalar, kind in ((np.bool_, bool), (np.integer, int), (np.floating, float)):
            if isinstance(value, scalar):
                object.__setattr__(definition, option.name, kind(value))


def boolean(value: Any, name: str) -> bool:
    """`value` as a bool; numbers and strings are refused."""
    if not isinstance(value, (bool, np.bool_)):
        raise DTypeError(f"{name}: expected True or False, got {value!r}")
    return bool(value)


def seed(value: int | None, name: str = "seed") -> int:
    """A seed; None draws one from the system."""
    if value is None:
        import secrets

        return secrets.randbits(64)
    return integer(value, name, least=0, most=2**64 - 1)


def empty(shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """A new array; a refusal of the system becomes ranvier's error."""
    try:
        return np.empty(shape, dtype)
    except (MemoryError, ValueError) as error:
        raise OutOfMemoryError(f"out of memory: an array of shape {shape}") from error
