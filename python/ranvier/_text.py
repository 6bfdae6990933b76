"""Stretches of CSV files, each parsed by itself.

A line belongs to the stretch in which it begins, so neighbours need not know of each other. What
pyarrow's parser refuses is looked for once more, line by line, to say where it is.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any, TypeAlias

import numpy as np

from ._arrays import Array
from ._arrow import GROUP, import_arrow, missing, spread, values
from .errors import FileFormatError, OutOfMemoryError

# The longest line, and the most that a block may be asked for; pyarrow counts in 31 bits.
LONGEST = 1 << 30

# What the parser takes at a time; its own memory is a small multiple of this.
_CHUNK = 1 << 20

# What is looked over at a time.
_PIECE = 1 << 17

# Lines are counted for a message up to here; it stands on the byte alone beyond.
_COUNTED = 1 << 30

_BOM = b"\xef\xbb\xbf"

# As pandas has them.
_MISSING = ["", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND"]
_MISSING += ["1.#QNAN", "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"]

# Columns by name, and the array that takes them.
Part: TypeAlias = tuple[Sequence[str], Array]


@contextmanager
def open_text(path: str, delimiter: str) -> Iterator[Text]:
    """An opened file whose header has been read."""
    with open(path, "rb") as file:  # noqa: PTH123 - the system's error names the path as given
        yield Text(path, delimiter, file)


class Text:
    """An opened file: the header's names, where the data starts, where the file ends."""

    def __init__(self, path: str, delimiter: str, file: IO[bytes]) -> None:
        self.path = path
        self._delimiter = delimiter
        self._file = file
        self.size = os.fstat(file.fileno()).st_size
        self.columns = self._header()
        self.start = file.tell()

    def _header(self) -> list[str]:
        import csv

        line = self._line().removeprefix(_BOM)
        while line and not line.strip(b"\r\n"):
            line = self._line()
        if not line:
            raise FileFormatError(
                f"{self.path}: expected a line with the columns' names, got an empty file"
            )
        try:
            return next(
                csv.reader([line.decode().rstrip("\r\n")], delimiter=self._delimiter, strict=True)
            )
        except (UnicodeDecodeError, csv.Error) as error:
            raise FileFormatError(
                f"{self.path}: expected UTF-8 text whose first line holds the columns' names, "
                f"got {line[:60]!r} ({error})"
            ) from error

    def _line(self) -> bytes:
        line = self._file.readline(LONGEST)
        if len(line) == LONGEST and not line.endswith(b"\n"):
            raise FileFormatError(
                f"{self.path}: expected lines of less than 1 GiB, got a longer one"
            )
        return line

    def stretch(self, begin: int, length: int) -> Stretch:
        """The lines that begin within `length` bytes from `begin`."""
        end = min(begin + length, self.size)
        # A line begins where the byte before ends one.
        self._file.seek(begin - 1)
        while (skipped := self._file.readline(_CHUNK)) and not skipped.endswith(b"\n"):
            pass
        offset = self._file.tell()
        data = bytearray()
        if offset < end:
            data = bytearray(end - 1 - offset)
            self._file.readinto(data)  # type: ignore[attr-defined]
            data += self._line()
        return Stretch(self.path, self._delimiter, self.columns, data, offset)


def _survey(data: bytearray) -> tuple[int, int, bool]:
    """Numbers of lines and of quotes, and whether a line is empty.

    In pieces that stay in the cache, NumPy taking a tenth of the time of `bytes.count`.
    """
    array = np.frombuffer(data, np.uint8)
    lines = int(len(data) > 0 and not data.endswith(b"\n"))
    quotes = 0
    empty = data.startswith((b"\n", b"\r\n"))
    for first in range(0, len(data), _PIECE):
        # Two bytes of the piece before: an empty line may begin there.
        known = min(first, 2)
        piece = array[first - known : first + _PIECE]
        ends = piece == ord("\n")
        lines += int(np.count_nonzero(ends[known:]))
        quotes += int(np.count_nonzero(piece[known:] == ord('"')))
        if not empty:
            apart = ends[2:] & ends[:-2] & (piece[1:-1] == ord("\r"))
            empty = bool((ends[1:] & ends[:-1]).any() or apart.any())
    return lines, quotes, empty


class Stretch:
    """Whole lines of a file, and how many of them are rows."""

    def __init__(
        self, path: str, delimiter: str, columns: list[str], data: bytearray, offset: int
    ) -> None:
        self._path = path
        self._delimiter = delimiter
        self._columns = {name: number for number, name in enumerate(columns)}
        self._count = len(columns)
        self._data = data
        self._offset = offset
        self.rows, self._quotes, empty = _survey(data)
        if empty:
            self.rows = sum(1 for _ in self._numbered())

    def _numbered(self) -> Iterator[tuple[int, int, bytes]]:
        """Lines that are not empty, each with its number and place."""
        place = 0
        for number, line in enumerate(io.BytesIO(self._data)):
            if line.strip(b"\r\n"):
                yield number, place, line
            place += len(line)

    def fill(self, parts: Sequence[Part]) -> None:
        """Writes columns into arrays of `rows` rows, int64 or float64; refuses what is wrong."""
        if not self.try_fill(parts):
            raise self._fault(parts)

    def try_fill(self, parts: Sequence[Part]) -> bool:
        """The same; False where pyarrow's parser refuses something."""
        try:
            try:
                self._fill(parts, _CHUNK)
            except import_arrow("CSV").ArrowInvalid:
                if max(map(len, io.BytesIO(self._data))) < _CHUNK:
                    raise
                # A line has to fit into a chunk.
                self._fill(parts, 2 * LONGEST - 1)
            accepted = True
        except import_arrow("CSV").ArrowInvalid:
            accepted = False
        except MemoryError as error:
            raise OutOfMemoryError(f"{self._path}: {error}") from error
        self._check_quotes()
        return accepted

    def _fill(self, parts: Sequence[Part], chunk: int) -> None:
        row = 0
        for batch in self._batches(self._data, parts, chunk) if self.rows else ():
            end = row + batch.num_rows
            if end > self.rows:
                raise self._torn()
            place = 0
            for names, array in parts:
                for first in range(0, len(names), GROUP):
                    columns = batch.columns[place : place + min(GROUP, len(names) - first)]
                    if array.dtype.kind == "i":
                        self._refuse_missing(columns, names[first:], row)
                    spread(list(map(values, columns)), array[row:end, first : first + GROUP])
                    place += len(columns)
            row = end
        if row < self.rows:
            raise self._torn()

    def _batches(self, data: Any, parts: Sequence[Part], chunk: int) -> Iterator[Any]:
        """What pyarrow parses, some rows at a time, its columns in the order of the parts."""
        import pyarrow
        from pyarrow import csv

        # Numbers in place of names, which may be there twice.
        types = {
            str(self._columns[name]): pyarrow.from_numpy_dtype(array.dtype)
            for names, array in parts
            for name in names
        }
        with csv.open_csv(
            pyarrow.BufferReader(pyarrow.py_buffer(data)),
            read_options=csv.ReadOptions(
                use_threads=False,
                block_size=min(chunk, len(data) + 1),
                column_names=[str(number) for number in range(self._count)],
            ),
            parse_options=csv.ParseOptions(delimiter=self._delimiter),
            convert_options=csv.ConvertOptions(
                column_types=types, include_columns=list(types), null_values=_MISSING
            ),
        ) as reader:
            yield from reader

    # ---------------------------------------------------------------- what is wrong, and where

    def _refuse_missing(self, columns: Sequence[Any], names: Sequence[str], row: int) -> None:
        for column, name in zip(columns, names, strict=False):
            if column.null_count:
                row += int(np.argmax(missing(column)))
                number, place, _ = next(
                    line for index, line in enumerate(self._numbered()) if index == row
                )
                raise FileFormatError(
                    f"{self._where(number, place)}: expected a value of the integer column "
                    f"{name!r}, got none"
                )

    def _check_quotes(self) -> None:
        """Refuses an open quote at the end, which the parser closes by itself."""
        if self._quotes % 2 and self._open_quote() is not None:
            raise self._torn()

    def _open_quote(self) -> tuple[int, int] | None:
        """Number and place of the first line whose last quote is not closed."""
        for number, place, line in self._numbered():
            if line.count(b'"') and self._texts(line + self._delimiter.encode() + b"@")[-1] != "@":
                return number, place
        return None

    def _texts(self, line: bytes) -> list[str]:
        import csv

        text = line.replace(b"\r", b"").replace(b"\n", b"").decode(errors="replace")
        return next(csv.reader([text], delimiter=self._delimiter), [])

    def _torn(self) -> FileFormatError:
        """What to raise where lines are not rows."""
        found = self._open_quote()
        if found is None:
            return FileFormatError(
                f"{self._path}: expected lines that end with LF or CRLF, got CR alone"
            )
        return FileFormatError(
            f"{self._where(*found)}: expected quotes to close on their line, got an open one; "
            "write the file without line ends within quotes, or as Parquet"
        )

    def _fault(self, parts: Sequence[Part]) -> FileFormatError:
        """What to raise where the parser refused something."""
        lines = list(self._numbered())
        first, last = 0, len(lines)
        while last - first > 1:
            middle = (first + last) // 2
            refused = self._refusal(lines[first:middle], parts)
            first, last = (first, middle) if refused else (middle, last)
        number, place, line = lines[first]
        if b"\r" in line.rstrip(b"\r\n"):
            return self._torn()
        where, texts = self._where(number, place), self._texts(line)
        if len(texts) != self._count:
            return FileFormatError(
                f"{where}: expected {self._count} values, as the header has names, got {len(texts)}"
            )
        for names, array in parts:
            for name in names:
                if self._refusal([lines[first]], [((name,), array)]):
                    kind = "an integer" if array.dtype.kind == "i" else "a number"
                    hint = ", as the first block has them" if array.dtype.kind == "i" else ""
                    got = texts[self._columns[name]]
                    return FileFormatError(
                        f"{where}: expected {kind} in column {name!r}{hint}, got {got[:60]!r}"
                    )
        reason = self._refusal([lines[first]], parts) or "the parser refused its block"
        return FileFormatError(f"{where}: expected a row of numbers, got a fault: {reason[:300]}")

    def _refusal(self, lines: Sequence[tuple[int, int, bytes]], parts: Sequence[Part]) -> str:
        """What the parser says against some lines."""
        try:
            data = b"".join(line for _, _, line in lines)
            for _ in self._batches(data, parts, 2 * LONGEST - 1):
                pass
        except import_arrow("CSV").ArrowInvalid as error:
            return str(error)
        return ""

    def _where(self, number: int, place: int) -> str:
        """A line of the file, in words."""
        byte = self._offset + place
        if self._offset > _COUNTED:
            return f"{self._path}, the line at byte {byte}"
        with open(self._path, "rb") as file:  # noqa: PTH123
            left, before = self._offset, 0
            while left and (piece := file.read(min(left, _CHUNK))):
                before += piece.count(b"\n")
                left -= len(piece)
        return f"{self._path}, line {before + number + 1}"
