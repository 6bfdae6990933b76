"""From a table to numbers for a network: scaled features, categories as columns of 0 and 1."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.sparse import issparse
from sklearn.utils import check_array
from sklearn.utils.validation import validate_data

from .._arrays import Array
from .._categories import Categories
from ..errors import ArgumentError, DTypeError

# What scaled values are squeezed into, and what they are cut at before.
_SOFT_LIMIT = 5.0
_HARD_LIMIT = 1e9
# Tails are bent where the 95 % quantile of the distance from the median is more than so many times
# its median; a normal distribution has 2.9, Laplace's 4.3.
_TAIL = 3.5
# What says that a number is missing; small, for more often than not that tells nothing.
_INDICATOR = 0.25


class TableEncoder:
    """Encodes a table as its training rows suggest; statistics are weighted.

    A number x becomes z = (x − m) / 2d, with m the median and d the median of |x − m|, of those
    above 0 where d would be 0; then z / √(1 + (z/5)²), which is nearly z in the middle and stays
    within ±5: outliers keep their order and carry no weight (Holzmüller et al. 2024, RealMLP, with
    quartiles and 3). A column with heavy tails, where the 95 % quantile of |x − m| is above 3.5·d
    (a normal distribution has 2.9), is bent in between: asinh(b·z), scaled so that d stays where it
    is, b being such that the quantile comes to 3.5·d. A missing number is m, and a column of 0 and
    ¼ says where it was missing, if that was in some of the training rows and not in all. A constant
    column is left out.

    A category has a column of 0 and 1. Those beyond the 64 of most weight, and those with less than
    0.2 % of it, share one, which also stands for categories that come later; without rare ones a
    new category is 0 in all columns. Missing is a category.

    Args:
        categorical_features: "from_dtype", None, or columns by mask, number or name.
    """

    def __init__(self, categorical_features: Any) -> None:
        self.categorical_features = categorical_features

    def fit(self, columns: list[Any], weight: Array | None) -> TableEncoder:
        """Takes the statistics of the rows whose weight is above 0."""
        self._parts: list[_Number | Categories] = [
            Categories.of(column, weight) if isinstance(column, list) else _Number(column, weight)
            for column in columns
        ]
        self.width = max(1, sum(part.width for part in self._parts))
        return self

    def transform(self, columns: list[Any], dtype: Any) -> Array:
        """The table as an array (rows, width)."""
        encoded = np.zeros((len(columns[0]), self.width), dtype)
        place = 0
        for column, part in zip(columns, self._parts, strict=True):
            part.write(column, encoded[:, place : place + part.width])
            place += part.width
        return encoded

    def read(self, owner: Any, X: Any, *, reset: bool) -> list[Any]:
        """The columns of a table: arrays for numbers, lists for categories.

        Args:
            owner: the estimator, whose `n_features_in_` and `feature_names_in_` are set, or
                compared.
            X: a frame or an array.
            reset: whether they are set, and it is decided which columns hold categories.
        """
        if issparse(X):
            raise DTypeError(
                f"X: expected a table or a dense array, got a sparse one ({type(X).__name__}); "
                "convert it with X.toarray()"
            )
        if hasattr(X, "columns") and hasattr(X, "dtypes"):
            return self._read_frame(owner, X, reset)
        if isinstance(X, np.ma.MaskedArray) and X.dtype.kind in "fiub":
            X = np.ma.filled(X.astype(np.float64), np.nan)
        given = self.categorical_features
        none = given is None or (isinstance(given, str) and given == "from_dtype")
        options = {"ensure_all_finite": "allow-nan" if none else False, "reset": reset}
        try:
            array = validate_data(owner, X, dtype="numeric" if none else None, **options)
        except ValueError as error:
            if "string" not in str(error):
                raise
            raise ArgumentError(
                f"X: expected an array of numbers, {error}; pass a data frame, or "
                "categorical_features=[...] with the numbers of the columns of words"
            ) from error
        if reset:
            self.is_categorical = (
                np.zeros(array.shape[1], bool) if none else self._chosen(range(array.shape[1]))
            )
        if none:
            return list(array.T)
        return [
            _categories(array[:, j], j) if category else _entries(array[:, [j]], j)
            for j, category in enumerate(self.is_categorical)
        ]

    def _read_frame(self, owner: Any, X: Any, reset: bool) -> list[Any]:
        validate_data(owner, X, reset=reset, skip_check_array=True)
        if 0 in X.shape:
            check_array(np.empty(X.shape))
        names, dtypes = list(X.columns), list(X.dtypes)
        columns = [X.iloc[:, j] if hasattr(X, "iloc") else X[:, j] for j in range(X.shape[1])]
        if reset:
            given = self.categorical_features
            if isinstance(given, str) and given == "from_dtype":
                self.is_categorical = np.array(list(map(_holds_categories, columns, dtypes)))
            else:
                self.is_categorical = self._chosen(names)
        return [
            _categories(column, name) if category else _numbers(column, name, dtype)
            for column, name, dtype, category in zip(
                columns, names, dtypes, self.is_categorical, strict=True
            )
        ]

    def _chosen(self, names: Sequence[Any]) -> Array:
        """The mask of the columns that were named."""
        given, count = self.categorical_features, len(names)
        mask = np.zeros(count, bool)
        if given is None:
            return mask
        entries = [given] if isinstance(given, str) else np.asarray(given, object).ravel().tolist()
        if len(entries) == count and all(isinstance(e, bool | np.bool_) for e in entries):
            return np.array(entries, bool)
        for entry in entries:
            number = isinstance(entry, int | np.integer) and not isinstance(entry, bool)
            if isinstance(entry, str) and entry in names:
                mask[list(names).index(entry)] = True
            elif number and -count <= int(entry) < count:
                mask[int(entry)] = True
            else:
                raise ArgumentError(
                    "categorical_features: expected 'from_dtype', None, names of columns, numbers "
                    f"below {count} or a mask of {count}, got {entry!r}"
                )
        return mask


class _Number:
    """How one column of numbers is encoded."""

    def __init__(self, column: Array, weight: Array | None) -> None:
        column = np.ascontiguousarray(column, np.float64)
        counted = ~np.isnan(column)
        rows = counted.size
        if weight is not None:
            counted &= weight > 0
            rows = int(np.count_nonzero(weight))
        values, of = column[counted], None if weight is None else weight[counted]
        self.middle, self.scale, self.bend = 0.0, 0.0, 0.0
        if values.size:
            # Halves, whose differences cannot overflow.
            (self.middle,) = weighted_quantiles(values, of, [0.5]) / 2
            away = np.abs(values / 2 - self.middle)
            near, far = weighted_quantiles(away, of, [0.5, 0.95])
            if near == 0.0 and (others := away > 0.0).any():
                near, far = weighted_quantiles(
                    away[others], None if of is None else of[others], [0.5, 0.95]
                )
            self.scale = 2 * float(near)
            if self.scale > 0.0:
                self.bend = _bend(float(far / self.scale))
        self.indicates = 0 < values.size < rows
        self.width = int(self.scale > 0.0) + int(self.indicates)

    def write(self, column: Array, out: Array) -> None:
        """Fills the column's part of the encoded table."""
        column = np.ascontiguousarray(column, np.float64)
        missing = np.isnan(column)
        if self.scale > 0.0:
            with np.errstate(over="ignore"):
                z = (column / 2 - self.middle) / self.scale
            z[missing] = 0.0
            np.clip(z, -_HARD_LIMIT, _HARD_LIMIT, out=z)
            if self.bend > 0.0:
                z = np.arcsinh(self.bend * z) / (2 * np.arcsinh(self.bend / 2))
            out[:, 0] = z / np.sqrt(1 + (z / _SOFT_LIMIT) ** 2)
        if self.indicates:
            out[:, -1] = missing * _INDICATOR


def _bend(far: float) -> float:
    """b of asinh(b·z) that brings the 95 % quantile of |z|, whose median is ½, to the limit."""

    def excess(b: float) -> float:
        return float(np.arcsinh(b * far) / np.arcsinh(b / 2) - _TAIL)

    if far * 2 <= _TAIL:
        return 0.0
    low, high = 1e-4, 1e4
    if excess(low) <= 0.0:
        return low
    return float(brentq(excess, low, high)) if excess(high) < 0.0 else high


def weighted_quantiles(values: Array, weight: Array | None, levels: Sequence[float]) -> Array:
    """Quantiles in which a row of weight 2 is two rows.

    The smallest value at which the share of the weight reaches the level, or the mean of that and
    the next one where it is reached exactly (the "averaged inverted cdf").
    """
    if weight is None:
        wanted = np.asarray(levels) * values.size
        slack = 1e-12 * values.size
        low = np.ceil(wanted - slack).astype(np.intp) - 1
        high = np.floor(wanted + slack).astype(np.intp)
        ends = np.clip([low, high], 0, values.size - 1)
        ordered = np.partition(values, np.unique(ends))
    else:
        order = np.argsort(values, kind="stable")
        ordered = values[order]
        total = np.cumsum(weight[order], dtype=np.float64)
        wanted, slack = np.asarray(levels) * total[-1], 1e-12 * total[-1]
        low = np.searchsorted(total, wanted - slack, side="left")
        high = np.searchsorted(total, wanted + slack, side="right")
        ends = np.clip([low, high], 0, values.size - 1)
    return np.asarray(ordered[ends[0]] / 2 + ordered[ends[1]] / 2)


def _numbers(column: Any, name: Any, dtype: Any) -> Array:
    """A column of a frame as float64, a missing value being NaN."""
    kind = getattr(dtype, "kind", "?")
    if _of_polars(dtype) and (dtype.is_numeric() or str(dtype) in ("Boolean", "Null")):
        kind = "f"
    if kind not in "iufbO":
        raise DTypeError(
            f"X: expected columns of numbers or categories, got {name!r} of {dtype}; make numbers "
            "of it"
        )
    try:
        if hasattr(column, "iloc"):
            array = column.to_numpy(dtype=np.float64, na_value=np.nan)
        else:
            array = column.to_numpy().astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ArgumentError(
            f"X: expected numbers in column {name!r}, which is not among the categorical ones, "
            f"got {str(error)[:200]}"
        ) from error
    if np.isinf(array).any():
        raise ArgumentError(f"X: expected finite numbers or NaN in column {name!r}, got inf")
    return np.asarray(array)


def _entries(column: Array, number: int) -> Array:
    """A column (rows, 1) of an array as float64."""
    try:
        checked = check_array(
            column, dtype=np.float64, ensure_all_finite="allow-nan", input_name="X"
        )
    except (TypeError, ValueError) as error:
        raise ArgumentError(
            f"X: expected finite numbers or NaN in column {number}, which is not among the "
            f"categorical ones, got {str(error)[:200]}"
        ) from error
    return np.asarray(checked[:, 0])


def _categories(column: Any, name: Any) -> list[Any]:
    """A column as a list of values, None where one is missing."""
    if hasattr(column, "iloc"):
        values = column.to_numpy(dtype=object, na_value=None).tolist()
    else:
        values = column.to_list() if hasattr(column, "to_list") else column.tolist()
    values = [None if isinstance(v, float) and v != v else v for v in values]
    try:
        set(values)
    except TypeError as error:
        raise DTypeError(f"X: expected categories in column {name!r}, got {error}") from error
    return values


def _holds_categories(column: Any, dtype: Any) -> bool:
    """Whether a column's dtype says so; one of objects holds them unless all are numbers."""
    if _of_polars(dtype):
        return str(dtype).startswith(("Categorical", "Enum", "String", "Boolean"))
    name, kind = str(dtype).split("[")[0], getattr(dtype, "kind", "?")
    if kind == "b" or hasattr(dtype, "categories") or name in ("str", "string", "large_string"):
        return True
    return kind == "O" and not all(
        value is None or (isinstance(value, Real) and not isinstance(value, bool | np.bool_))
        for value in column.to_numpy(dtype=object, na_value=None)
    )


def _of_polars(dtype: Any) -> bool:
    return hasattr(dtype, "is_numeric") and not hasattr(dtype, "kind")
