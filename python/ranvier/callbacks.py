"""Callbacks: hooks into a training, by Keras's names."""

from __future__ import annotations

import os
import re
import signal
import threading
from string import Formatter
from typing import TYPE_CHECKING, Any

from ._arrays import boolean, integer, real
from ._files import Path, path_of
from .errors import ArgumentError
from .schedules import check_goal

if TYPE_CHECKING:
    from .trainer import Trainer

__all__ = ["Callback", "Checkpoint", "EarlyStopping"]


class Callback:
    """Base of callbacks: override what is needed.

    A hook that returns True ends the training after the current epoch or step. A hook that is not
    overridden costs nothing. During a hook the model may be read and predicted with.

        >>> import numpy as np, ranvier as rv
        >>> class StopWhenGood(rv.Callback):
        ...     def on_epoch_end(self, epoch, logs):
        ...         return logs["loss"] < 0.5
        >>> model = rv.Sequential([rv.Dense(1)])
        >>> history = model.fit(
        ...     np.eye(4), np.ones(4), loss="mse", epochs=10_000, callbacks=[StopWhenGood()]
        ... )
        >>> len(history["loss"]) < 10_000
        True
    """

    def on_train_begin(self, trainer: Trainer) -> None:
        """Before the first epoch of a fit."""

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> bool | None:
        """After an epoch (from 0); `logs` is its row of the history."""

    def on_train_batch_end(self, step: int, logs: dict[str, Any]) -> bool | None:
        """After a step (from 1, over the trainer's life); `logs` has "loss", "learning_rate"."""

    def on_train_end(self, trainer: Trainer) -> None:
        """After the last epoch of a fit, also when it ends by an exception."""


class EarlyStopping(Callback):
    """Ends the training when a figure has not become better for some epochs.

    Better means by more than min_delta than the best so far; NaN is never better. Whether it stops
    or not, the model ends with the parameters of the best epoch.

    Args:
        monitor: name of a figure of the history; None for "val_loss", or "loss" in a fit without
            validation.
        patience: epochs without a better figure after which training ends, 1 or more.
        min_delta: least difference that counts.
        mode: "min", "max", or None for what the figure's name says.
        restore_best_weights: False leaves the model with the last parameters (Keras's default).

    A further fit counts on from the best figure so far; if the last one ended by patience, it waits
    as long again.

        >>> import numpy as np, ranvier as rv
        >>> model = rv.Sequential([rv.Dense(1)])
        >>> X, y = np.eye(8), np.ones(8)
        >>> stop = rv.EarlyStopping(monitor="loss", patience=3, min_delta=0.01)
        >>> history = model.fit(X, y, loss="mse", epochs=10_000, callbacks=[stop])
        >>> len(history["loss"]) < 10_000
        True
    """

    def __init__(
        self,
        monitor: str | None = None,
        *,
        patience: int = 10,
        min_delta: float = 0.0,
        mode: str | None = None,
        restore_best_weights: bool = True,
    ) -> None:
        check_goal(monitor, mode)
        self.monitor = monitor
        self.patience = integer(patience, "patience", least=1)
        self.min_delta = real(min_delta, "min_delta", least=0.0)
        self.mode = mode
        self.restore_best_weights = boolean(restore_best_weights, "restore_best_weights")

    def __repr__(self) -> str:
        """The call that makes it."""
        return (
            f"EarlyStopping({self.monitor!r}, patience={self.patience}, "
            f"min_delta={self.min_delta}, mode={self.mode!r}, "
            f"restore_best_weights={self.restore_best_weights})"
        )


class Checkpoint(Callback):
    """Writes files of the run, as `Trainer.save` does: each one whole, or not at all.

    Args:
        path: where to; "{step}" and "{epoch}" in the file's name are replaced by the numbers of
            steps done and epochs begun. Without them each file replaces the one before.
        every_steps: steps between two files; None for none in between epochs.
        every_epochs: epochs between two files; None for 1, or for none where every_steps is given.
        keep: how many files to keep; older ones are removed once a newer one is there. None keeps
            all. Counts the files of this run at the path's pattern, also those from before it was
            resumed.
        best_only: only after epochs that were the best ones so far, by the figure that the fit
            watches.
        on_sigterm: on SIGTERM (in a fit of the main thread) write a file after the step in
            progress, then leave with SystemExit, exit status 143.

    Raises (in the fit):
        OSError: the system refused; training ends, the file before is still there.

    Example:
        >>> import os, tempfile, numpy as np, ranvier as rv
        >>> folder = tempfile.mkdtemp()
        >>> pattern = os.path.join(folder, "run-{step}.safetensors")
        >>> model = rv.Sequential([rv.Dense(1)], input_size=2)
        >>> trainer = rv.Trainer(model, loss="mse")
        >>> saver = rv.Checkpoint(pattern, every_steps=2, keep=2)
        >>> history = trainer.fit(np.eye(2), np.ones(2), epochs=9, batch_size=2, callbacks=[saver])
        >>> sorted(os.listdir(folder))
        ['run-6.safetensors', 'run-8.safetensors']
    """

    def __init__(
        self,
        path: Path,
        *,
        every_steps: int | None = None,
        every_epochs: int | None = None,
        keep: int | None = None,
        best_only: bool = False,
        on_sigterm: bool = False,
    ) -> None:
        self.path = path_of(path)
        self._name = os.path.basename(self.path)  # noqa: PTH119
        self._keys, self._pattern = _file_pattern(self._name)
        if every_steps is None and every_epochs is None:
            every_epochs = 1
        for name, every in (("every_steps", every_steps), ("every_epochs", every_epochs)):
            if every is not None:
                integer(every, name, least=1)
        self.every_steps = every_steps
        self.every_epochs = every_epochs
        self.keep = None if keep is None else integer(keep, "keep", least=1)
        self.best_only = boolean(best_only, "best_only")
        self.on_sigterm = boolean(on_sigterm, "on_sigterm")
        if self.keep is not None and not self._keys:
            raise ArgumentError(
                f"keep: expected None for a path without {{step}} or {{epoch}}, got {keep!r}"
            )
        if self.best_only and every_steps is not None:
            raise ArgumentError(
                "best_only: expected False where every_steps is given (an epoch is the best one, "
                "or not), got True"
            )
        self._trainer: Trainer | None = None
        self._before: Any = None
        self._handling = False
        self._terminated = False

    def on_train_begin(self, trainer: Trainer) -> None:
        """Takes the trainer and, where asked for, the signal."""
        self._trainer = trainer
        self._terminated = False
        self._handling = self.on_sigterm and threading.current_thread() is threading.main_thread()
        if self._handling:
            self._before = signal.signal(signal.SIGTERM, self._terminate)

    def on_train_batch_end(self, step: int, logs: dict[str, Any]) -> None:
        """Writes a file when it is time."""
        if self.every_steps is not None and step % self.every_steps == 0:
            self._save()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any]) -> None:
        """Writes a file when it is time."""
        if self.every_epochs is None or (epoch + 1) % self.every_epochs:
            return
        if not self.best_only or (self._trainer and self._trainer.best_epoch == epoch):
            self._save()

    def on_train_end(self, trainer: Trainer) -> None:
        """Writes the last file after a SIGTERM; gives the signal back."""
        if self._handling:
            signal.signal(signal.SIGTERM, self._before)
        if self._terminated:
            self._save()

    def _terminate(self, number: int, frame: Any) -> None:
        self._terminated = True
        raise SystemExit(128 + number)

    def _save(self) -> None:
        trainer = self._trainer
        if trainer is None:
            return
        # Importing ranvier is quicker without it.
        from pathlib import Path

        folder = Path(self.path).parent
        trainer.save(folder / self._name.format(step=trainer.step, epoch=trainer.epoch))
        if self.keep is None:
            return
        # Files of another run's later steps are none of ours.
        most = [trainer.step if key == "step" else trainer.epoch for key in self._keys]
        found = []
        for file in folder.iterdir():
            match = self._pattern.fullmatch(file.name)
            numbers = [int(number) for number in match.groups()] if match else []
            if numbers and all(a <= b for a, b in zip(numbers, most, strict=True)):
                found.append((numbers, file))
        for _, file in sorted(found)[: -self.keep]:
            file.unlink()

    def __repr__(self) -> str:
        """The call that makes it."""
        return (
            f"Checkpoint({self.path!r}, every_steps={self.every_steps}, "
            f"every_epochs={self.every_epochs}, keep={self.keep}, best_only={self.best_only}, "
            f"on_sigterm={self.on_sigterm})"
        )


def _file_pattern(name: str) -> tuple[list[str], re.Pattern[str]]:
    """The placeholders of a file's name, and what files of that name look like."""
    keys, pattern = [], ""
    try:
        for text, key, form, conversion in Formatter().parse(name):
            pattern += re.escape(text)
            if key is None:
                continue
            if key not in ("step", "epoch") or conversion:
                raise ValueError(f"the placeholder {{{key}}}")
            keys.append(key)
            pattern += "([0-9]+)"
            format(0, form or "")
    except ValueError as error:
        raise ArgumentError(
            f"path: expected a file's name, with {{step}} and {{epoch}} for numbers or without, "
            f"got {name!r} ({error})"
        ) from error
    return keys, re.compile(pattern)
