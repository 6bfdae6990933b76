"""Callbacks: hooks into a training, by Keras's names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._arrays import boolean, integer, real
from .schedules import check_goal

if TYPE_CHECKING:
    from .trainer import Trainer

__all__ = ["Callback", "EarlyStopping"]


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
        """After a step (from 1, over the trainer's life); `logs` holds the batch's "loss"."""

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
