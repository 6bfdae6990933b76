"""Tables from files and to files, by pyarrow."""

from __future__ import annotations

import argparse
import csv
import io
import re
import sys
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import numpy as np

from .._arrays import Array
from .._arrow import import_arrow, values
from .._table import Class
from ..errors import ArgumentError, FileFormatError

# What spreadsheets and statistics programs write for a missing value.
MISSING = ("", "NA", "N/A", "n/a", "#N/A", "#NA", "NaN", "nan", "-nan", "null", "NULL", "None")
_PARQUET = (".parquet", ".pq")
_TABS = (".tsv", ".tab")
_COMPRESSED = (".gz", ".bz2", ".zst")
# How the names of tables end.
ENDINGS = (".csv", *_TABS, *_PARQUET, *_COMPRESSED)

# Numbers with decimal commas or with something between thousands.
_WRITTEN_OTHERWISE = re.compile(r"[+-]?(\d+,\d+|\d{1,3}(\.\d{3})+(,\d+)?|\d{1,3}(,\d{3})+(\.\d+)?)")
_DATE_OTHERWISE = re.compile(r"\d{1,2}([./-])\d{1,2}\1\d{4}\b.*")
_DIGITS = re.compile(r"[+-]?\d+")
_CODE = re.compile(r"0\d+")
_MICROSECONDS = 86_400_000_000.0
_LARGE = 1 << 24
_IDENTIFIERS = ("", "id", "index", "row", "unnamed: 0")
# Whole numbers from here on are not all floats.
_EXACT = 2.0**53


class Frame:
    """Columns of a table by name.

    Args:
        source: what to call it in messages.
        table: pyarrow's.
        absent: texts that mean a missing value besides `MISSING`.
    """

    def __init__(self, source: str, table: Any, absent: Sequence[str] = ()) -> None:
        self.source = source
        self.names: list[str] = [name.strip() for name in table.column_names]
        self.rows: int = table.num_rows
        self._columns = dict(zip(self.names, table.columns, strict=True))
        self._absent = (*MISSING, *absent)
        twice = sorted({name for name in self.names if self.names.count(name) > 1})
        if twice:
            raise FileFormatError(
                f"{source}: expected columns of different names, got {twice[0]!r} more than once; "
                "rename one"
            )
        if not self.rows:
            raise FileFormatError(
                f"{source}: expected rows below the names of the columns, got none"
            )

    def require(self, names: Sequence[str], what: str) -> None:
        """Refuses a table without these columns."""
        lacking = [name for name in names if name not in self._columns]
        if lacking:
            plain = {name.lower(): name for name in self.names}
            close = get_close_matches(lacking[0].lower(), plain, n=1)
            hint = f"; did you mean {plain[close[0]]!r}?" if close else ""
            raise ArgumentError(
                f"{self.source}: expected column{'s' * (len(lacking) > 1)} {_listed(lacking)} "
                f"{what}, got {_listed(self.names)}{hint}"
            )

    def take(self, keep: Array) -> Frame:
        """The rows where a mask is true."""
        pa = import_arrow("the command line", "cli")
        table = pa.table({name: self._columns[name] for name in self.names})
        return Frame(self.source, table.filter(pa.array(keep.tolist())), self._absent)

    def column(self, name: str) -> Any:
        """A column of text without spaces around and with nulls for missing values, or as it is."""
        import pyarrow as pa
        import pyarrow.compute as pc

        column = self._columns[name]
        if pa.types.is_dictionary(column.type):
            column = pc.cast(column, column.type.value_type)
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            column = pc.utf8_trim_whitespace(column)
            column = pc.if_else(
                pc.is_in(column, value_set=pa.array(self._absent, column.type)), None, column
            )
        return column

    def kind(self, name: str) -> tuple[str, str]:
        """The kind of a column, "" for one that does not serve, and why."""
        import pyarrow as pa
        import pyarrow.compute as pc

        column = self.column(name)
        known, types = pc.drop_null(column), pa.types
        if not len(known):
            return "", "no row has a value"
        if types.is_boolean(column.type):
            return "boolean", ""
        if types.is_integer(column.type) or types.is_floating(column.type):
            return self._number_kind(name, types.is_integer(column.type))
        if types.is_decimal(column.type):
            return "number", ""
        if types.is_date(column.type) or types.is_timestamp(column.type):
            return "time", ""
        if not (types.is_string(column.type) or types.is_large_string(column.type)):
            return "", f"columns of {column.type} are not numbers, texts or times"
        different = pc.unique(known)
        texts = different.to_pylist()
        if _cast(different, pa.float64()) is not None:
            if any(_CODE.fullmatch(text) for text in texts):
                return "category", ""
            return self._number_kind(name, all(map(_DIGITS.fullmatch, texts)))
        if all(text.lower() in ("true", "false") for text in texts):
            return "boolean", ""
        if _times(different) is not None:
            return "time", ""
        if (sample := _mostly(_WRITTEN_OTHERWISE, texts)) is not None:
            raise FileFormatError(
                f"{self.source}: expected numbers such as 1234.5 in column {name!r}, got "
                f"{sample!r}; write decimal points, and nothing between thousands"
            )
        if (sample := _mostly(_DATE_OTHERWISE, texts)) is not None:
            return "", (
                f"dates are read where they are written as 2024-12-31, not as {sample!r}; "
                "--categorical takes them for texts"
            )
        if len(known) > 20 and len(texts) > 0.9 * len(known):
            return "", "nearly every row has a text of its own"
        return "category", ""

    def _number_kind(self, name: str, digits: bool) -> tuple[str, str]:
        """That of a column of numbers, by what they say of it; digits: without point and power."""
        numbers = self.numbers(name)
        if digits and (np.abs(numbers) > _EXACT).any():
            return "", "whole numbers beyond 2^53 look like identifiers"
        called = name.lower() in _IDENTIFIERS or name.lower().endswith("_id")
        if called and digits and len(np.unique(numbers)) == len(numbers):
            return "", "its name and its numbers, each there once, are an identifier's"
        return "number", ""

    def read(self, name: str, kind: str) -> Any:
        """A column as its kind asks: an array with NaN, or a list with None."""
        return getattr(self, {"category": "texts"}.get(kind, f"{kind}s"))(name)

    def numbers(self, name: str) -> Array:
        """A column as float64."""
        import pyarrow as pa

        column = self.column(name)
        cast = _cast(column, pa.float64())
        if cast is None:
            raise self._fault(name, "a number", lambda one: _cast(one, pa.float64()))
        array = _floats(cast)
        infinite = np.flatnonzero(np.isinf(array))
        if infinite.size:
            row = int(infinite[0])
            raise ArgumentError(
                f"{self.source}: expected finite numbers in column {name!r}, got {column[row]} "
                f"in row {row + 1}"
            )
        return array

    def booleans(self, name: str) -> Array:
        """A column of truth values as 0 and 1."""
        import pyarrow.compute as pc

        def read(column: Any) -> Any:
            text = pc.utf8_lower(pc.cast(column, "string"))
            known = pc.is_in(text, value_set=_array(["true", "false", "1", "0", None], "string"))
            if not pc.all(known).as_py():
                return None
            yes = pc.is_in(text, value_set=_array(["true", "1"], "string"))
            return pc.if_else(pc.is_null(text), None, pc.cast(yes, "float64"))

        column = self.column(name)
        array = read(column)
        if array is None:
            raise self._fault(name, "true or false", read)
        return _floats(array)

    def times(self, name: str) -> Array:
        """A column of dates and times as days since 1970, in UTC."""
        column = _times(self.column(name))
        if column is None:
            raise self._fault(name, "a date, such as 2024-12-31 or 2024-12-31T12:00:00", _times)
        array: Array = np.asarray(values(column.cast("int64")), np.float64) / _MICROSECONDS
        return array

    def texts(self, name: str) -> list[str | None]:
        """A column of categories."""
        return list(map(_as_text, self.column(name).to_pylist()))

    def targets(self, name: str, kind: str | None = None) -> list[Class | None]:
        """A column of targets: texts, truth values, or numbers, whole ones as int."""
        if kind is None:
            kind, _ = self.kind(name)
        if kind in ("number", "boolean"):
            make: Any = _whole if kind == "number" else bool
            array = self.read(name, kind).tolist()
            return [None if value != value else make(value) for value in array]
        return list(self.texts(name))

    def pick(self, names: Sequence[str]) -> dict[str, Any]:
        """Columns as they are."""
        return {name: self._columns[name] for name in names}

    def _fault(self, name: str, expected: str, read: Any) -> ArgumentError:
        column = self.column(name)
        row = next((i for i in range(len(column)) if read(column.slice(i, 1)) is None), 0)
        return ArgumentError(
            f"{self.source}: expected {expected} in column {name!r}, got {str(column[row])!r} "
            f"in row {row + 1}"
        )


def check_separator(options: argparse.Namespace) -> None:
    """Refuses a separator where no CSV file is read."""
    given = [getattr(options, name, None) for name in ("data", "validation_data")]
    tables = [path for path in given if path is not None]
    if getattr(options, "separator", None) is None or not all(map(_is_parquet, tables)):
        return
    raise ArgumentError(
        f"--separator: expected a CSV file to read, got {' and '.join(tables) or 'no table'}"
    )


def read_table(path: str, separator: str | None, absent: Sequence[str] = ()) -> Frame:
    """The table of a file: Parquet where its name ends so, else CSV; "-" is CSV from stdin."""
    import_arrow("reading tables", "cli")
    if _is_parquet(path):
        return Frame(path, _parquet(path), absent)
    source = "the standard input" if path == "-" else path
    return Frame(source, _csv(path, source, separator), absent)


def _is_parquet(path: str) -> bool:
    return path.lower().endswith((".parquet", ".pq"))


def _parquet(path: str) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with open(path, "rb") as file:  # noqa: PTH123
            return pq.read_table(file)
    except (pa.ArrowException, ValueError) as error:
        raise FileFormatError(f"{path}: expected a Parquet file: {_first_line(error)}") from error


def _csv(path: str, source: str, separator: str | None) -> Any:
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    data = _bytes(path)
    if not data.strip():
        raise FileFormatError(f"{source}: expected a table, got an empty file")
    if separator is None:
        separator = "\t" if path.lower().removesuffix(".gz").endswith(_TABS) else ","
    try:
        text = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig", newline="")
        names = next(csv.reader(text, delimiter=separator))
        if len(names) == 1 and separator == ",":
            for other, called in ((";", "';'"), ("\t", "tab"), ("|", "'|'")):
                if other in names[0]:
                    raise FileFormatError(
                        f"{source}: expected columns separated by commas, got {names[0][:60]!r}; "
                        f"pass --separator {called}"
                    )
        options = arrow_csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.large_string()), strings_can_be_null=False
        )
        return arrow_csv.read_csv(
            io.BytesIO(data),
            # Of one thread's errors the message knows the row.
            read_options=arrow_csv.ReadOptions(use_threads=len(data) > _LARGE),
            parse_options=arrow_csv.ParseOptions(delimiter=separator, newlines_in_values=True),
            convert_options=options,
        )
    except UnicodeDecodeError as error:
        raise FileFormatError(
            f"{source}: expected CSV in UTF-8, got the byte 0x{error.object[error.start]:02x} at "
            f"{error.start}; save the table as CSV in UTF-8"
        ) from error
    except (pa.ArrowException, csv.Error) as error:
        raise FileFormatError(f"{source}: expected a table: {_first_line(error)}") from error


def _bytes(path: str) -> bytes:
    import pyarrow as pa

    if path == "-":
        return sys.stdin.buffer.read()
    with open(path, "rb") as file:  # noqa: PTH123
        if not path.lower().endswith(_COMPRESSED):
            return file.read()
    with pa.input_stream(path, compression="detect") as stream:
        data: bytes = stream.read()
        return data


def table_bytes(columns: Mapping[str, Any], path: str) -> bytes:
    """A table as a file: Parquet where the path ends so, tab-separated, or CSV."""
    import pyarrow as pa

    table = pa.table(dict(columns))
    out = pa.BufferOutputStream()
    if _is_parquet(path):
        import pyarrow.parquet as pq

        pq.write_table(table, out)
        data: bytes = out.getvalue().to_pybytes()
        return data
    tabs = path.lower().endswith(_TABS)
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t" if tabs else ",", lineterminator="\n")
    writer.writerow(table.column_names)
    writer.writerows(zip(*map(_shown, table.columns), strict=True))
    return text.getvalue().encode()


def as_lists(columns: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Columns for JSON."""
    import pyarrow as pa

    table = pa.table(dict(columns))
    return dict(zip(table.column_names, map(pa.ChunkedArray.to_pylist, table.columns), strict=True))


def _shown(column: Any) -> list[Any]:
    """Entries as a text file has them: of floats the fewest digits that come back as they were."""
    if str(column.type) == "float":
        return list(values(column).astype(str))
    return [str(v).lower() if isinstance(v, bool) else v for v in column.to_pylist()]


def _mostly(pattern: re.Pattern[str], texts: list[str]) -> str | None:
    """The first text of a pattern, where nine in ten are of it."""
    found = [text for text in texts if pattern.fullmatch(text)]
    return found[0] if len(found) >= 0.9 * len(texts) else None


def _times(column: Any) -> Any:
    import pyarrow as pa

    if not any(map(str(column.type).startswith, ("null", "date", "timestamp", "string", "large"))):
        return None
    for kind in (pa.timestamp("us"), pa.timestamp("us", tz="UTC")):
        if (times := _cast(column, kind)) is not None:
            return times
    return None


def _cast(column: Any, kind: Any) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        return pc.cast(column, kind, safe=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None


def _array(entries: list[Any], kind: str) -> Any:
    import pyarrow as pa

    return pa.array(entries, kind)


def _floats(column: Any) -> Array:
    return np.asarray(values(column), np.float64)


def _whole(value: float) -> int | float:
    return int(value) if value.is_integer() and abs(value) <= _EXACT else value


def _as_text(value: Any) -> str | None:
    if value is None or value != value:
        return None
    if isinstance(value, bool):
        return str(value).lower()
    return str(_whole(value)) if isinstance(value, float) else str(value)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:12]))
    return f"{shown} and {len(names) - 12} more" if len(names) > 12 else shown
