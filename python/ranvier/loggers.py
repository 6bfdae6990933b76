"""Callbacks that show or write down how a training goes."""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from typing import IO, TYPE_CHECKING, Any

from ._arrays import boolean
from ._files import Path, path_of
from .callbacks import Callback
from .errors import DTypeError, MissingDependencyError

if TYPE_CHECKING:
    from .trainer import Trainer

__all__ = ["CSVLogger", "LearningRateMonitor", "MLflow", "ProgressBar", "TensorBoard"]

# Figures that say where a row belongs, not how good it is.
_PLACES = ("epoch", "step", "seconds")


def _figures(logs: dict[str, Any]) -> dict[str, float]:
    return {
        name: value
        for name, value in logs.items()
        if name not in _PLACES and isinstance(value, int | float)
    }


class ProgressBar(Callback):
    """A line on the terminal that follows the epochs.

    It is tqdm's where that is installed, else a plain one. It says nothing where the file is no
    terminal.

    Args:
        file: where to; None is standard error.
        plain: the plain line even if tqdm is there.

    Example:
        >>> import numpy as np, ranvier as rv
        >>> model = rv.Sequential([rv.Dense(1)])
        >>> history = model.fit(np.eye(2), np.ones(2), loss="mse", callbacks=[rv.ProgressBar()])
    """

    # Seconds between two looks of the plain line.
    _PAUSE = 0.1

    def __init__(self, *, file: IO[str] | None = None, plain: bool = False) -> None:
        if file is not None and not hasattr(file, "write"):
            raise DTypeError(f"file: expected a text file or None, got {file!r}")
        self.file = file
        self.plain = boolean(plain, "plain")
        self._bar: Any = None
        self._line: _Line | None = None

    def on_train_begin(self, trainer: Trainer) -> None:
        """Begins the line."""
        self._begin(*trainer._span, "epoch")

    def _begin(self, first: int, last: int, unit: str) -> None:
        self._bar = self._line = None
        file = sys.stderr if self.file is None else self.file
        isatty = getattr(file, "isatty", None)
        if isatty is None or not isatty():
            return
        if not self.plain and _width(file) > 0:
            try:
                from tqdm import tqdm
            except ImportError:
                pass
            else:
                self._bar = tqdm(total=last, initial=first, unit=unit, file=file)
                return
        self._line = _Line(file, first, last, unit)

    def _counter(self, count: int, unit: str) -> _Counter | None:
        """A line that counts to `count`; None where nobody would see it."""
        self._begin(0, count, unit)
        return None if self._bar is None and self._line is None else _Counter(self)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
        """Brings the line up to date."""
        shown = {name: f"{value:.4g}" for name, value in _figures(logs).items()}
        shown.pop("learning_rate", None)
        if self._bar is not None:
            self._bar.set_postfix(shown, refresh=False)
            self._bar.update()
        elif self._line is not None:
            self._line.show(epoch + 1, "".join(f"{name} {text} " for name, text in shown.items()))

    def on_train_end(self, trainer: Trainer) -> None:
        """Ends the line."""
        self._end()

    def _end(self) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self._line is not None:
            self._line.close()
        self._bar = self._line = None


class _Counter:
    """A line that counts what is done, from any thread."""

    def __init__(self, owner: ProgressBar) -> None:
        self._owner = owner
        self._done = 0
        self._lock = threading.Lock()

    def step(self) -> None:
        with self._lock:
            self._done += 1
            if self._owner._bar is not None:
                self._owner._bar.update()
            elif self._owner._line is not None:
                self._owner._line.show(self._done, "")

    def close(self) -> None:
        with self._lock:
            self._owner._end()


class _Line:
    """A line that is written over."""

    def __init__(self, file: IO[str], first: int, last: int, unit: str) -> None:
        self._file, self._first, self._last, self._unit = file, first, last, unit
        self._begun = time.monotonic()
        self._shown = -math.inf
        self._text = ""
        self._width = 0

    def show(self, done: int, figures: str) -> None:
        now = time.monotonic()
        passed = now - self._begun
        left = passed / max(done - self._first, 1) * (self._last - done)
        self._text = f"{self._unit} {done}/{self._last} {figures}{passed:.0f} s, {left:.0f} s left"
        if now - self._shown >= ProgressBar._PAUSE:
            self._shown = now
            self._write()

    def _write(self, end: str = "") -> None:
        # What the last line had more than this one is written over.
        self._file.write("\r" + self._text.ljust(self._width) + end)
        self._file.flush()
        self._width = len(self._text)

    def close(self) -> None:
        if self._text:
            self._write("\n")


class CSVLogger(Callback):
    """Writes the history to a CSV file, a row after each epoch, at once.

    The columns are the figures of the first row that is written; later rows leave those empty that
    they do not have.

    Args:
        path: the file; one that is there is replaced.
        append: go on with a file that is there, whose first line names the columns.

    Raises (in the fit):
        OSError: the system refused.
    """

    def __init__(self, path: Path, *, append: bool = False) -> None:
        self.path = path_of(path)
        self.append = boolean(append, "append")
        self._file: IO[str] | None = None
        self._columns: list[str] | None = None

    def on_train_begin(self, trainer: Trainer) -> None:
        """Opens the file."""
        import csv
        from pathlib import Path as File

        self._columns = None
        path = File(self.path)
        if self.append and path.exists():
            with path.open(newline="", encoding="utf-8") as old:
                self._columns = next(csv.reader(old), None)
        mode = "a" if self._columns is not None else "w"
        self._file = path.open(mode, newline="", encoding="utf-8")

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
        """Writes a row."""
        import csv

        if self._file is None:
            return
        writer = csv.writer(self._file)
        if self._columns is None:
            self._columns = list(logs)
            writer.writerow(self._columns)
        writer.writerow([logs.get(name) for name in self._columns])
        self._file.flush()

    def on_train_end(self, trainer: Trainer) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


class LearningRateMonitor(Callback):
    """Keeps the learning rate of every step.

    Attributes:
        steps: numbers of the steps, from 1 over the trainer's life.
        rates: their learning rates.

    Example:
        >>> import numpy as np, ranvier as rv
        >>> model = rv.Sequential([rv.Dense(1)])
        >>> halving = rv.SGD(learning_rate=rv.schedules.Step(0.5, every=1, factor=0.5))
        >>> monitor = rv.LearningRateMonitor()
        >>> history = model.fit(
        ...     np.eye(2), np.ones(2), loss="mse", optimizer=halving, epochs=3, callbacks=[monitor]
        ... )
        >>> monitor.steps, monitor.rates
        ([1, 2, 3], [0.5, 0.25, 0.125])
    """

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.rates: list[float] = []

    def on_train_batch_end(self, step: int, logs: dict[str, Any]) -> None:
        """Takes the rate down."""
        self.steps.append(step)
        self.rates.append(logs["learning_rate"])


class TensorBoard(Callback):
    """Writes the history as scalars that TensorBoard shows, by step.

    Needs tensorboardX: pip install 'ranvier[tensorboard]'.

    Args:
        folder: where to; a file of its own for each fit.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = path_of(folder)
        self._writer: Any = None

    def on_train_begin(self, trainer: Trainer) -> None:
        """Opens the file."""
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise MissingDependencyError(
                "TensorBoard needs tensorboardX: pip install 'ranvier[tensorboard]'"
            ) from error
        self._writer = SummaryWriter(self.folder)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
        """Writes the epoch's figures."""
        for name, value in _figures(logs).items():
            self._writer.add_scalar(name, value, logs["step"])
        self._writer.flush()

    def on_train_end(self, trainer: Trainer) -> None:
        """Closes the file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class MLflow(Callback):
    """Logs the history as metrics of MLflow's active run, by step.

    The definitions are its parameters. Begins a run, and ends it, if none is active. Needs mlflow:
    pip install 'ranvier[mlflow]'.
    """

    def __init__(self) -> None:
        self._mlflow: Any = None
        self._own = False

    def on_train_begin(self, trainer: Trainer) -> None:
        """Begins a run if none is active."""
        try:
            import mlflow
        except ImportError as error:
            raise MissingDependencyError(
                "MLflow needs mlflow: pip install 'ranvier[mlflow]'"
            ) from error
        self._mlflow = mlflow
        self._own = mlflow.active_run() is None
        if self._own:
            mlflow.start_run()
        parameters = {
            "layers": trainer.model.layers,
            "loss": trainer.loss,
            "optimizer": trainer.optimizer,
            "precision": trainer.precision,
            "quantization": trainer.quantization,
            "seed": trainer.seed,
        }
        mlflow.log_params({f"ranvier.{key}": repr(value) for key, value in parameters.items()})

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
        """Logs the epoch's figures."""
        self._mlflow.log_metrics(_figures(logs), step=logs["step"])

    def on_train_end(self, trainer: Trainer) -> None:
        """Ends the run if it was begun here."""
        if self._mlflow is not None and self._own:
            self._mlflow.end_run()
        self._mlflow = None


def _width(file: IO[str]) -> int:
    """Columns of a terminal; 0 where it does not say, and tqdm would write blank lines."""
    try:
        return os.get_terminal_size(file.fileno()).columns
    except (OSError, ValueError, AttributeError):
        return 1
