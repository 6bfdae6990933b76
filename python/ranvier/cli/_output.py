"""Results on stdout, messages and progress on stderr, files whole or not at all."""

from __future__ import annotations

import io
import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from ..callbacks import Callback
from ..errors import ArgumentError, MissingDependencyError
from ..export._writing import write_all
from ..history import History
from ..loggers import ProgressBar

# Columns that a progress bar needs.
_WIDE = 80
# Seconds after which an epoch has a line of its own.
_PATIENCE = 15.0


def say(line: str) -> None:
    """A line of a result."""
    _put(sys.stdout, line)


def note(line: str) -> None:
    """A message beside the results."""
    _put(sys.stderr, line)


def _put(file: TextIO, line: str) -> None:
    """Writes a line without what would steer a terminal, or what the encoding does not have."""
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)
    encoding = file.encoding or "utf-8"
    file.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
    file.flush()


def report(document: dict[str, Any], lines: Iterable[str], as_json: bool) -> None:
    """A result, as one JSON document or as lines."""
    if as_json:
        for line in json.dumps(
            _finite(document), indent=2, allow_nan=False, default=str
        ).splitlines():
            say(line)
    else:
        for line in lines:
            say(line)


def _finite(value: Any) -> Any:
    """What JSON can hold: null in place of numbers that are none."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return value


def aligned(rows: Iterable[tuple[str, str]]) -> list[str]:
    """Lines of names and values, the values below each other."""
    pairs = list(rows)
    width = max((len(name) for name, _ in pairs), default=0)
    return [f"{name.ljust(width)}  {value}".rstrip() for name, value in pairs]


def figure(value: float | None) -> str:
    """A number as it is shown: four digits, or all in front of the point up to a million."""
    if value is None or math.isnan(value):
        return "-"
    if 1e3 <= abs(value) < 1e6:
        return f"{value:.0f}"
    return f"{value:#.4g}".rstrip(".") if 0.1 <= abs(value) < 1e3 else f"{value:.4g}"


def write(path: str, data: bytes) -> None:
    """Writes a file beside its place and renames it; a pipe or a device is written to."""
    if path == "-":
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    place = Path(path)
    try:
        if place.exists() and not place.is_file():
            with place.open("wb") as file:
                file.write(data)
        else:
            write_all({os.path.realpath(path): data})
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Lets a second Ctrl-C wait for what the first one has asked for."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def check_place(
    path: str, option: str, others: Iterable[str | None] = (), *, device: bool = False
) -> None:
    """Refuses, before the work, a place that no file, or pipe or device, can be written to.

    Nor is one of the command's other files a place: what was to be read would be gone.
    """
    place = Path(path)
    if place.is_dir():
        raise ArgumentError(f"{option}: expected the name of a file, got the folder {path}")
    if place.exists() and not place.is_file():
        if device:
            return
        raise ArgumentError(f"{option}: expected the name of a file, got a pipe or device, {path}")
    if any(other and os.path.realpath(path) == os.path.realpath(other) for other in others):
        raise ArgumentError(
            f"{option}: expected a file of its own, got {path}, which the command also reads or "
            "writes"
        )
    if not place.parent.is_dir():
        raise ArgumentError(
            f"{option}: expected a file in an existing folder, got {path}; make {place.parent}"
        )
    if not os.access(place.parent, os.W_OK):
        raise ArgumentError(f"{option}: expected a folder that can be written to, got {path}")


class Lines(Callback):
    """Some ten lines on stderr, for those who have no terminal, and more of a long training."""

    def __init__(self, epochs: int) -> None:
        self._epochs = epochs
        self._every = max(1, epochs // 10)
        self._written = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
        """Writes a line after each tenth part of the epochs, or when the last one is long ago."""
        now = time.monotonic()
        if (epoch + 1) % self._every and now - self._written < _PATIENCE:
            return
        self._written = now
        shown = [
            f"{name.replace('val_', 'validation ').replace('_', ' ')} {figure(value)}"
            for name, value in logs.items()
            if name == "loss" or name.startswith("val_")
        ]
        note(f"epoch {epoch + 1}/{self._epochs}  " + "  ".join(shown))


def progress(epochs: int, *, quiet: bool = False) -> list[Callback]:
    """What shows how a training goes: a bar on a terminal of some width, else lines."""
    if quiet:
        return []
    bar = False
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        size = os.get_terminal_size(sys.stderr.fileno())
        # Where no height is told, tqdm writes blank lines.
        bar = size.columns >= _WIDE and size.lines > 0
    return [ProgressBar() if bar else Lines(epochs)]


def check_plot(path: str, others: Iterable[str | None] = ()) -> None:
    """Says before the training what would keep the picture from being written."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError(
            "--plot needs matplotlib: pip install 'ranvier[plot]'"
        ) from error
    known = Figure().canvas.get_supported_filetypes()
    if Path(path).suffix.lstrip(".").lower() not in known:
        raise ArgumentError(
            f"--plot: expected a file name that ends in one of {', '.join(known)}, got {path}"
        )
    check_place(path, "--plot", others)


def plot(history: History, title: str, path: str) -> None:
    """Writes the loss curves."""
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(7, 4), layout="constrained")
    history.plot(drawing.add_subplot()).set_title(title)
    out = io.BytesIO()
    drawing.savefig(out, dpi=120, format=Path(path).suffix.lstrip(".").lower())
    write(path, out.getvalue())
