"""Data that is larger than memory: sources that read one block of rows at a time.

A source is a sequence of blocks. `len(source)` is their number; `source[i]` reads block i from its
file and returns `(X, y)`, or `(X, y, weight)` where a column of weights was named:

- X, shape (rows, features), float32 or float64, in C order;
- y, shape (rows,) where `target` is one name, (rows, targets) where it is a list of names;
- weight, shape (rows,), float64.

Blocks are read in any order and by several threads at once. A source holds names and sizes, never
an open file and never a block that it has returned, so it can be pickled, and memory is what the
caller's blocks take. A file must not change while a source of it is in use.

Needs pyarrow: pip install 'ranvier[data]'.

    import ranvier as rv

    source = rv.data.Parquet(["2024.parquet", "2025.parquet"], target="price", weight="count")
    model.fit(source, loss="mse", epochs=3, validation_data=rv.data.CSV("now.csv", target="price"))
"""

from __future__ import annotations

import operator
import os
from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np

from ._arrays import Array, empty, integer
from ._arrow import GROUP, dtype_of, import_arrow, missing, spread, values
from ._files import Path, path_of
from ._text import LONGEST, Stretch, open_text
from .errors import ArgumentError, DTypeError, FileFormatError, OutOfMemoryError, RanvierError

__all__ = ["CSV", "Parquet"]

Block: TypeAlias = tuple[Array, Array] | tuple[Array, Array, Array]

_BLOCK_BYTES = 1 << 24


class _Source(Sequence[Block]):
    """What both sources share: paths, the columns' roles, numbers of blocks."""

    # Says to whoever makes arrays that this is none.
    _of_blocks = True

    def __init__(
        self,
        paths: Path | Iterable[Path],
        target: str | Iterable[str],
        features: Iterable[str] | None,
        weight: str | None,
    ) -> None:
        import_arrow(type(self).__name__)
        if isinstance(paths, str | bytes | os.PathLike):
            self._paths: tuple[str, ...] = (path_of(paths, "paths"),)
        elif hasattr(paths, "__array__"):
            raise DTypeError(
                f"paths: expected a path or a list of paths, got {type(paths).__name__}; frames "
                "and arrays go to fit as they are"
            )
        elif isinstance(paths, Iterable):
            self._paths = tuple(path_of(path, "paths") for path in paths)
        else:
            raise DTypeError(f"paths: expected a path or a list of paths, got {paths!r}")
        if not self._paths:
            raise ArgumentError("paths: expected at least one path, got none")
        self._target = target if isinstance(target, str) else _names(target, "target")
        self._targets = (self._target,) if isinstance(self._target, str) else self._target
        if weight is not None and not isinstance(weight, str):
            raise DTypeError(f"weight: expected the name of a column or None, got {weight!r}")
        self._weight = weight
        self._all = features is None
        self._features = () if features is None else _names(features, "features")
        roles: dict[str, str] = {}
        chosen = [(name, "target") for name in self._targets]
        chosen += [] if weight is None else [(weight, "weight")]
        for name, role in [*chosen, *((name, "features") for name in self._features)]:
            if name in roles:
                other = "there already" if roles[name] == role else f"the {roles[name]}"
                raise ArgumentError(
                    f"{role}: expected each column in one place, got {name!r}, which is {other}"
                )
            roles[name] = role
        # For each file the number of blocks up to its end.
        self._ends: list[int] = []

    @property
    def paths(self) -> tuple[str, ...]:
        """The files, in the order of their blocks."""
        return self._paths

    @property
    def target(self) -> str | tuple[str, ...]:
        """The column of y, or a tuple of them."""
        return self._target

    @property
    def features(self) -> tuple[str, ...]:
        """The columns of X, in its order."""
        return self._features

    @property
    def weight(self) -> str | None:
        """The column of the weights."""
        return self._weight

    def __len__(self) -> int:
        """The number of blocks."""
        return self._ends[-1]

    def __getitem__(self, index: int) -> Block:  # type: ignore[override]
        """Reads a block; a negative index counts from the end."""
        try:
            number = operator.index(index)
        except TypeError:
            raise DTypeError(
                f"index: expected the number of a block, got {index!r}; blocks are read one by one"
            ) from None
        if not -len(self) <= number < len(self):
            raise IndexError(f"index: expected one of {len(self)} blocks, got {number}")
        number %= len(self)
        file = bisect_right(self._ends, number)
        return self._read(file, number - (self._ends[file - 1] if file else 0))

    def __iter__(self) -> Iterator[Block]:
        """Reads all blocks in order; unlike the base's, it does not hold on to the one before."""
        for number in range(len(self)):
            yield self[number]

    def __repr__(self) -> str:
        """The call that makes the source, long lists shortened."""
        from reprlib import Repr

        short = Repr()
        short.maxstring = 200
        paths = self._paths[0] if len(self._paths) == 1 else list(self._paths)
        target = self._target if isinstance(self._target, str) else list(self._target)
        parts = [short.repr(paths), f"target={short.repr(target)}"]
        if not self._all:
            parts.append(f"features={short.repr(list(self._features))}")
        if self._weight is not None:
            parts.append(f"weight={self._weight!r}")
        return f"{type(self).__name__}({', '.join([*parts, *self._options()])})"

    def _options(self) -> list[str]:
        """Further options of the call."""
        return []

    @abstractmethod
    def _read(self, file: int, number: int) -> Block:
        """Reads a block of a file."""

    def _choose(self, path: str, columns: Sequence[str], ignored: frozenset[str]) -> None:
        """Settles the features on the first file; refuses others that lack or add columns."""
        wanted = [("target", name) for name in self._targets]
        wanted += [] if self._weight is None else [("weight", self._weight)]
        wanted += [("features", name) for name in self._features]
        known = set(columns)
        for role, name in wanted:
            if name not in known:
                raise _unknown(role, name, columns, path, first=path == self._paths[0])
        used = {name for _, name in wanted}
        seen: set[str] = set()
        for name in columns:
            if name in seen and (self._all or name in used):
                raise FileFormatError(f"{path}: expected one column {name!r}, got several")
            seen.add(name)
        if not self._all:
            return
        rest = tuple(name for name in columns if name not in used and name not in ignored)
        if self._features and rest:
            raise ArgumentError(
                f"paths: expected files of the same columns, got {path} with {rest[0]!r}, which "
                f"{self._paths[0]} has not; name the features to leave it out"
            )
        if "" in rest:
            raise ArgumentError(
                f"features: expected names for all columns of {path}, got column "
                f"{columns.index('') + 1} without one (as the index that pandas writes); name the "
                "features, or write the file without it"
            )
        if not self._features and not rest:
            raise ArgumentError(
                f"features: expected columns besides target and weight, got none in {path}"
            )
        self._features = self._features or rest

    def _no_rows(self) -> ArgumentError:
        """What to raise for files without a row."""
        return ArgumentError(f"paths: expected at least one row of data, got none in {self!r}")


class Parquet(_Source):
    """Blocks of Parquet files; a block is a row group.

    Row groups are what the file's writer made: 1,048,576 rows by default with pyarrow and pandas,
    122,880 with DuckDB. A fit holds one or a few in memory, so write them as large as is convenient
    there (some 10 to 100 MB): `pyarrow.parquet.write_table(table, path, row_group_size=50_000)` or
    `frame.to_parquet(path, row_group_size=50_000)`. Row groups without rows are passed over.

    Only the chosen columns are read, a few at a time: a block of many columns takes little more
    memory than what is returned, one of two columns twice that.

    Args:
        paths: one path or a list of paths, whose blocks follow each other. Patterns are not
            expanded (unlike in Polars and DuckDB, since "[" and "*" may be in names): pass
            `sorted(glob.glob("part-*.parquet"))`.
        target: the column of y, or a list of them. One column keeps its type (integers are class
            labels), so do several of one kind; integers beside floats become float64.
        features: the columns of X, in this order; None takes all others in the file's order,
            except the index that pandas may have written.
        weight: a column with one weight for each row.

    X is float32 where every feature is float32, float16, boolean or an integer of at most 16 bits,
    which it holds exactly; else float64, which holds integers up to 2^53 exactly. Booleans are 0
    and 1 (uint8 in y). A missing value of a feature, or of a floating target or weight, is NaN,
    which a fit refuses: fill such values or drop the rows when the file is written. A missing value
    of an integer or boolean target or weight is refused when its block is read.

    Raises:
        ArgumentError: a column that is not there, has two roles or differs between files, or no
            rows.
        DTypeError: a column that is not numeric.
        FileFormatError: not a Parquet file, or a damaged one; also when a block is read, where the
            file has changed or an integer is missing.
        MissingDependencyError: pyarrow is not installed.
        OSError: the system refused, as with a missing file.

    Example:
        >>> import os, tempfile, numpy as np, pyarrow as pa, pyarrow.parquet as pq, ranvier as rv
        >>> folder = tempfile.TemporaryDirectory()
        >>> path = os.path.join(folder.name, "rows.parquet")
        >>> table = pa.table({"a": np.arange(5.0), "b": np.ones(5), "label": [0, 1, 0, 1, 1]})
        >>> pq.write_table(table, path, row_group_size=2)
        >>> source = rv.data.Parquet(path, target="label")
        >>> len(source), source.features
        (3, ('a', 'b'))
        >>> X, y = source[1]
        >>> X
        array([[2., 1.],
               [3., 1.]])
        >>> y
        array([0, 1])
        >>> folder.cleanup()
    """

    def __init__(
        self,
        paths: Path | Iterable[Path],
        *,
        target: str | Iterable[str],
        features: Iterable[str] | None = None,
        weight: str | None = None,
    ) -> None:
        super().__init__(paths, target, features, weight)
        # For each file the numbers of its row groups that have rows.
        self._groups: list[list[int]] = []
        self._types: dict[str, Any] = {}
        for path in self._paths:
            with _parquet(path) as file:
                schema, metadata = file.schema_arrow, file.metadata
                self._choose(path, schema.names, _index_columns(schema))
                self._check(path, schema)
                self._groups.append(
                    [g for g in range(metadata.num_row_groups) if metadata.row_group(g).num_rows]
                )
            self._ends.append(len(self._groups[-1]) + (self._ends[-1] if self._ends else 0))
        if not len(self):
            raise self._no_rows()
        self._dtype = np.result_type(np.float32, *map(self._plain, self._features))
        own = [self._plain(name) for name in self._targets]
        mixed = len({dtype.kind == "f" for dtype in own}) > 1
        self._target_dtype = np.dtype(np.float64) if mixed else np.result_type(*own)

    def _check(self, path: str, schema: Any) -> None:
        """Compares the types of the chosen columns with those of the first file."""
        from pyarrow import types

        for name in (*self._targets, *self._features, *_some(self._weight)):
            kind = schema.field(name).type
            if not (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)):
                role = "features" if name in self._features else "target"
                raise DTypeError(
                    f"{role if name != self._weight else 'weight'}: expected numbers or booleans "
                    f"in column {name!r}, got {str(kind)[:100]} in {path}"
                    + ("; name the features to leave it out" if self._all else "")
                )
            if self._types.setdefault(name, kind) != kind:
                raise ArgumentError(
                    f"paths: expected files of the same types, got column {name!r} as {kind} in "
                    f"{path}, as {self._types[name]} in {self._paths[0]}"
                )

    def _plain(self, name: str) -> np.dtype[Any]:
        return dtype_of(self._types[name])

    def _read(self, file: int, number: int) -> Block:
        path, group = self._paths[file], self._groups[file][number]
        with _parquet(path) as opened:
            if group >= opened.num_row_groups:
                raise FileFormatError(f"{path}: expected row group {group}, got a changed file")
            rows = opened.metadata.row_group(group).num_rows

            def columns(names: Sequence[str]) -> list[Array]:
                table = opened.read_row_group(group, columns=list(names), use_threads=False)
                if table.num_rows != rows:
                    raise FileFormatError(
                        f"{path}: expected {rows} rows in row group {group}, got {table.num_rows}"
                    )
                return [self._column(table, name, path, group) for name in names]

            X = empty((rows, len(self._features)), self._dtype)
            # Few columns at a time: what pyarrow holds besides X stays a small part of it.
            step = min(GROUP, -(-len(self._features) // 8))
            for first in range(0, len(self._features), step):
                spread(columns(self._features[first : first + step]), X[:, first : first + step])
            y = empty((rows, len(self._targets)), self._target_dtype)
            spread(columns(self._targets), y)
            if isinstance(self._target, str):
                y = y.reshape(rows)
            if self._weight is None:
                return X, y
            return X, y, columns([self._weight])[0].astype(np.float64)

    def _column(self, table: Any, name: str, path: str, group: int) -> Array:
        """A column as NumPy's, missing values as NaN."""
        if table.schema.get_field_index(name) < 0 or table.field(name).type != self._types[name]:
            raise FileFormatError(
                f"{path}: expected column {name!r} as {self._types[name]}, got a changed file"
            )
        column = table.column(name)
        if column.null_count and name not in self._features and self._plain(name).kind != "f":
            row = np.argmax(missing(column))
            raise FileFormatError(
                f"{path}: expected a value of column {name!r} in every row, got none in row {row} "
                f"of row group {group}; drop such rows when the file is written"
            )
        return values(column)


class CSV(_Source):
    r"""Blocks of text files whose first line names the columns.

    A block is the lines that begin in a stretch of `block_bytes` of the file. So each is found
    without an index and without reading what is before, where `pandas.read_csv(chunksize=)` only
    goes forwards. A block has no rows where no line begins in its stretch (within a line that is
    longer) or all are empty; X is then of shape (0, features), and a fit passes over it.

    Lines end with LF or CRLF, the last one also without; empty lines are passed over; a byte-order
    mark is taken for none; text is UTF-8. Names and numbers may be quoted. Line ends within quotes
    are refused. Missing values are those of pandas (nothing, NA, NaN, null, None, ...) and become
    NaN, which a fit refuses, except in an integer target, where they are refused at once. Numbers
    are rounded correctly, as by `float`. Columns that are not chosen may hold anything.

    Args:
        paths: one path or a list of paths, whose blocks follow each other; patterns are not
            expanded. Each file has a header; the columns may be in another order.
        target: the column of y, or a list of them. Int64 if the first block with rows has only
            integers there, else float64: what comes later does not change it, and a fraction in
            an integer target is refused.
        features: the columns of X, in this order, float64; None takes all others in the first
            file's order.
        weight: a column with one weight for each row, float64.
        delimiter: one ASCII character between values.
        block_bytes: 16 MiB by default, up to 1 GiB. While it is read, a block takes these bytes
            besides what is returned. Other values make other blocks, and so another order of
            rows in a fit.

    Raises:
        ArgumentError: a column that is not in all files or has two roles, or no rows.
        FileFormatError: no header, or something that is no number, no whole line or not as many
            values as the header has names; the message names file, line and column. Also when a
            block is read, and where the file has changed its size.
        MissingDependencyError: pyarrow is not installed.
        OSError: the system refused, as with a missing file.

    Example:
        >>> import os, tempfile, ranvier as rv
        >>> folder = tempfile.TemporaryDirectory()
        >>> path = os.path.join(folder.name, "rows.csv")
        >>> with open(path, "w") as file:
        ...     _ = file.write("a,b,label\n0,1,0\n1.5,2,1\n2.5,,1\n")
        >>> source = rv.data.CSV(path, target="label", features=["b", "a"], block_bytes=16)
        >>> [len(X) for X, y in source]
        [3, 0]
        >>> X, y = source[0]
        >>> X
        array([[1. , 0. ],
               [2. , 1.5],
               [nan, 2.5]])
        >>> y
        array([0, 1, 1])
        >>> folder.cleanup()
    """

    def __init__(
        self,
        paths: Path | Iterable[Path],
        *,
        target: str | Iterable[str],
        features: Iterable[str] | None = None,
        weight: str | None = None,
        delimiter: str = ",",
        block_bytes: int = _BLOCK_BYTES,
    ) -> None:
        super().__init__(paths, target, features, weight)
        if not isinstance(delimiter, str):
            raise DTypeError(f"delimiter: expected a character, got {delimiter!r}")
        if len(delimiter) != 1 or not delimiter.isascii() or delimiter in '"\r\n\0':
            raise ArgumentError(
                f"delimiter: expected one ASCII character, no quote or line end, got {delimiter!r}"
            )
        self._delimiter = delimiter
        self._block_bytes = integer(block_bytes, "block_bytes", least=1, most=LONGEST)
        self._sizes: list[int] = []
        for path in self._paths:
            with open_text(path, delimiter) as text:
                self._choose(path, text.columns, frozenset())
                self._sizes.append(text.size)
                blocks = -(-(text.size - text.start) // self._block_bytes)
            self._ends.append(blocks + (self._ends[-1] if self._ends else 0))
        self._target_dtype = self._settle()

    @property
    def delimiter(self) -> str:
        """What stands between values."""
        return self._delimiter

    @property
    def block_bytes(self) -> int:
        """The stretch of a file that makes a block."""
        return self._block_bytes

    def _options(self) -> list[str]:
        options = [] if self._delimiter == "," else [f"delimiter={self._delimiter!r}"]
        size = self._block_bytes
        return options if size == _BLOCK_BYTES else [*options, f"block_bytes={size}"]

    def _stretch(self, file: int, number: int) -> Stretch:
        path = self._paths[file]
        with open_text(path, self._delimiter) as text:
            if text.size != self._sizes[file]:
                raise FileFormatError(
                    f"{path}: expected {self._sizes[file]} bytes, got a changed file of {text.size}"
                )
            return text.stretch(text.start + number * self._block_bytes, self._block_bytes)

    def _settle(self) -> np.dtype[Any]:
        """The target's type, from the first block that has rows."""
        for file, end in enumerate(self._ends):
            for number in range(end - (self._ends[file - 1] if file else 0)):
                stretch = self._stretch(file, number)
                if stretch.rows:
                    shape = (stretch.rows, len(self._targets))
                    if stretch.try_fill([(self._targets, empty(shape, np.int64))]):
                        return np.dtype(np.int64)
                    stretch.fill([(self._targets, empty(shape, np.float64))])
                    return np.dtype(np.float64)
        raise self._no_rows()

    def _read(self, file: int, number: int) -> Block:
        stretch = self._stretch(file, number)
        X = empty((stretch.rows, len(self._features)), np.float64)
        y = empty((stretch.rows, len(self._targets)), self._target_dtype)
        weight = empty((stretch.rows, 1), np.float64)
        parts = [(self._features, X), (self._targets, y)]
        parts += [((name,), weight) for name in _some(self._weight)]
        stretch.fill(parts)
        if isinstance(self._target, str):
            y = y.reshape(-1)
        return (X, y) if self._weight is None else (X, y, weight.reshape(-1))


def _some(name: str | None) -> tuple[str, ...]:
    return () if name is None else (name,)


def _names(value: Iterable[str], role: str) -> tuple[str, ...]:
    """A list of columns as it was given."""
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        hint = f"; one column is [{value!r}]" if isinstance(value, str) else ""
        raise DTypeError(f"{role}: expected a list of names of columns, got {value!r}{hint}")
    names = tuple(value)
    for name in names:
        if not isinstance(name, str):
            raise DTypeError(f"{role}: expected names of columns, got {name!r} among them")
    if not names:
        raise ArgumentError(f"{role}: expected at least one name of a column, got none")
    return names


def _unknown(role: str, name: str, columns: Sequence[str], path: str, first: bool) -> RanvierError:
    """What to raise for a column that is not there."""
    from difflib import get_close_matches

    shown = ", ".join(repr(column)[:60] for column in columns[:8])
    shown += f" and {len(columns) - 8} more" if len(columns) > 8 else ""
    plain = {column.lower(): column for column in columns}
    close = get_close_matches(name.lower(), plain, n=1)
    hint = f"; did you mean {plain[close[0]]!r}?" if close else ""
    if len(columns) == 1:
        other = next((mark for mark in ";\t|" if mark in columns[0]), None)
        hint = f"; pass delimiter={other!r}" if other else hint
    if first:
        return ArgumentError(f"{role}: expected a column of {path} ({shown}), got {name!r}{hint}")
    return ArgumentError(
        f"paths: expected files of the same columns, got {path} ({shown}) without {name!r}{hint}"
    )


def _index_columns(schema: Any) -> frozenset[str]:
    """Columns in which pandas stored a frame's index."""
    stored = (schema.pandas_metadata or {}).get("index_columns", [])
    return frozenset(name for name in stored if isinstance(name, str))


@contextmanager
def _parquet(path: str) -> Iterator[Any]:
    """An opened file; what pyarrow finds wrong with it is a FileFormatError."""
    arrow = import_arrow("Parquet")
    from pyarrow import parquet

    try:
        with open(path, "rb"):  # noqa: PTH123 - the system's own words for its refusal
            pass
        with (
            arrow.OSFile(path) as handle,
            parquet.ParquetFile(handle, pre_buffer=False, page_checksum_verification=True) as file,
        ):
            yield file
    except RanvierError:
        raise
    except MemoryError as error:
        raise OutOfMemoryError(f"{path}: {error}") from error
    except (OSError, UnicodeDecodeError, arrow.ArrowException) as error:
        # The system's refusals have a number, those of pyarrow's reader have none.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise FileFormatError(
            f"{path}: expected a Parquet file, got a fault: {str(error)[:300]}"
        ) from error
