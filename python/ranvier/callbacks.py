"""`Callback`: hooks into a training, by Keras's names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .trainer import Trainer

__all__ = ["Callback"]


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
