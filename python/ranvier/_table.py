"""How a table becomes the input of a network: what the command line keeps in a model file.

A number is itself; what scales it is a `Standardize` in the network. A missing one is the mean of
the training rows, and a column of 0 and 1 says where it was missing, if that was in some of them.
Truth values are 0 and 1, times are days since 1970. A category has a column of 0 and 1; see
`_categories.py`. Missing is a category where training rows had it.

In a file it is JSON, under "ranvier.table":

    {"version": 1,
     "target": {"name": "price", "classes": null},
     "columns": [
       {"name": "area", "kind": "number", "fill": 71.5, "value": true, "indicator": false},
       {"name": "town", "kind": "category", "categories": ["Lund", null], "others": false}],
     "left_out": {"id": "it counts the rows"},
     "missing": ["?"]}

"classes" are the classes in the order of the outputs, or null for a quantity; "missing" is what
texts mean a missing value besides the usual ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from ._arrays import Array
from ._categories import Categories

# The kinds of columns that are read as numbers.
NUMBERS = ("number", "boolean", "time")
_VERSION = 1

Class: TypeAlias = str | bool | int | float


@dataclass(frozen=True)
class Number:
    """A column of numbers, truth values or times.

    Args:
        name: of the column.
        kind: one of `NUMBERS`.
        fill: what a missing value becomes.
        value: whether the number is an input; not if it is constant.
        indicator: whether an input says that it is missing.
    """

    name: str
    kind: str
    fill: float
    value: bool
    indicator: bool

    @classmethod
    def of(cls, name: str, kind: str, column: Array) -> Number:
        """As the training rows suggest, in which NaN is a missing value."""
        known = column[~np.isnan(column)]
        varies = bool(known.size and (known != known[0]).any())
        # Each is divided by itself: their sum could overflow.
        fill = float((known / known.size).sum()) if varies else 0.0
        return cls(name, kind, fill, varies, 0 < known.size < column.size)

    @property
    def inputs(self) -> list[str]:
        """What its inputs are called."""
        return [self.name] * self.value + [f"{self.name} missing"] * self.indicator

    def write(self, column: Array, out: Array) -> None:
        """Fills the column's part of the input."""
        missing = np.isnan(column)
        if self.value:
            out[:, 0] = np.where(missing, self.fill, column)
        if self.indicator:
            out[:, -1] = missing


@dataclass(frozen=True)
class Category:
    """A column of categories, which are texts; None is a missing value.

    Args:
        name: of the column.
        categories: those with an input of their own.
        others: whether one input stands for all others.
    """

    name: str
    categories: tuple[str | None, ...]
    others: bool
    kind: str = field(default="category", init=False)

    @classmethod
    def of(cls, name: str, column: Sequence[str | None]) -> Category:
        """As the training rows suggest."""
        found = Categories.of(column, None)
        if found.width == 1:
            return cls(name, (), False)
        kept: Any = tuple(found.columns)
        return cls(name, kept, found.rest >= 0)

    @property
    def inputs(self) -> list[str]:
        """What its inputs are called."""
        names = [
            f"{self.name} missing" if category is None else f"{self.name}={category}"
            for category in self.categories
        ]
        return names + [f"{self.name} other"] * self.others

    def write(self, column: Sequence[str | None], out: Array) -> None:
        """Fills the column's part of the input, which is 0."""
        Categories(self.categories, self.others).write(column, out)

    def unknown(self, column: Sequence[str | None]) -> list[str | None]:
        """The values of a column that no input of their own stands for."""
        known = set(self.categories)
        return [value for value in column if value not in known]


Column: TypeAlias = Number | Category


@dataclass(frozen=True)
class Table:
    """How a table becomes the input, and the outputs a column.

    Args:
        target: name of the column that is predicted.
        classes: in the order of the outputs; None for a quantity.
        columns: that are used, in order.
        left_out: columns that are not, with the reason.
        missing: texts that mean a missing value besides the usual ones.
    """

    target: str
    classes: tuple[Class, ...] | None
    columns: tuple[Column, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()

    @property
    def inputs(self) -> list[str]:
        """Names of the network's inputs."""
        return [name for column in self.columns for name in column.inputs]

    @property
    def scaled(self) -> Array:
        """Which inputs are scaled: numbers, not what is 0 or 1."""
        mask = [
            isinstance(column, Number) and column.value and number == 0
            for column in self.columns
            for number in range(len(column.inputs))
        ]
        return np.array(mask, bool)

    @property
    def target_kind(self) -> str:
        """The kind of the target's column."""
        some = 0 if self.classes is None else self.classes[0]
        return _kind(some)

    def encode(self, values: Mapping[str, Any], rows: int) -> Array:
        """The input (rows, inputs) of columns by name: arrays of numbers, lists of categories."""
        encoded = np.zeros((rows, len(self.inputs)))
        place = 0
        for column in self.columns:
            end = place + len(column.inputs)
            column.write(values[column.name], encoded[:, place:end])
            place = end
        return encoded

    def as_json(self) -> dict[str, Any]:
        """What a file keeps."""
        return {
            "version": _VERSION,
            "target": {"name": self.target, "classes": self.classes},
            "columns": list(map(_column_json, self.columns)),
            "left_out": dict(self.left_out),
            "missing": list(self.missing),
        }

    @classmethod
    def from_json(cls, entry: dict[str, Any]) -> Table:
        """The inverse; a ValueError, TypeError or KeyError says what is wrong."""
        if entry["version"] != _VERSION:
            raise ValueError(f"version {entry['version']!r}, where this ranvier has {_VERSION}")
        target = _object(entry["target"], "target")
        columns = tuple(map(_column, _list(entry["columns"], "columns")))
        names = [column.name for column in columns]
        if len(set(names)) < len(names) or target["name"] in names:
            raise ValueError("two columns of one name")
        left_out = _object(entry["left_out"], "left_out")
        for reason in left_out.values():
            _text(reason)
        table = cls(
            _text(target["name"]),
            None if target["classes"] is None else _classes(target["classes"]),
            columns,
            left_out,
            tuple(map(_text, _list(entry["missing"], "missing"))),
        )
        if not table.inputs:
            raise ValueError("no inputs")
        return table


def _kind(value: Class) -> str:
    """The kind of column that holds a class."""
    if isinstance(value, str):
        return "category"
    return "boolean" if isinstance(value, bool) else "number"


def _column_json(column: Column) -> dict[str, Any]:
    names = ("name", "kind", "categories", "others", "fill", "value", "indicator")
    return {name: getattr(column, name) for name in names if hasattr(column, name)}


def _column(entry: Any) -> Column:
    entry = _object(entry, "columns")
    name = _text(entry["name"])
    if entry["kind"] == "category":
        categories = _list(entry["categories"], "categories")
        for category in categories:
            if category is not None:
                _text(category)
        if len(set(categories)) < len(categories):
            raise ValueError(f"a category twice, in {name!r}")
        return Category(name, tuple(categories), _boolean(entry["others"]))
    if entry["kind"] not in NUMBERS:
        raise ValueError(f"a column of the kind {entry['kind']!r}")
    fill = entry["fill"]
    if isinstance(fill, bool) or not isinstance(fill, int | float) or not math.isfinite(fill):
        raise ValueError(f"a number {fill!r}, in {name!r}")
    flags = map(_boolean, (entry["value"], entry["indicator"]))
    return Number(name, entry["kind"], float(fill), *flags)


def _classes(value: Any) -> tuple[Class, ...]:
    classes = _list(value, "classes")
    for entry in classes:
        number = isinstance(entry, int | float) and math.isfinite(entry)
        if not isinstance(entry, str) and not number:
            raise ValueError(f"a class {entry!r}")
    if len({_kind(entry) for entry in classes}) > 1:
        raise ValueError("classes of different types")
    if len(classes) < 2 or len(set(classes)) < len(classes):
        raise ValueError(f"{len(classes)} classes, or one twice")
    return tuple(classes)


def _object(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{type(value).__name__} in place of an object, in {name}")
    return value


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{type(value).__name__} in place of a list, in {name}")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} in place of a text")
    return value


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} in place of true or false")
    return value


def batch_size(rows: int) -> int:
    """Rows in a step where the number of rows decides: a power of two, about their 16th part."""
    return int(np.clip(2 ** int(np.log2(max(rows, 16) / 16)), 16, 256))
