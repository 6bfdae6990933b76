"""What goes on beside a fit's epochs: callbacks, limits, the best weights."""

from __future__ import annotations

import math
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Self

from .._arrays import Array
from ..callbacks import Callback
from ..errors import ArgumentError
from ..loggers import ProgressBar
from ..trainer import _overrides
from ._validation import HeldOut

if TYPE_CHECKING:
    from ._training import Run


class Hooks:
    """Of one call of fit or partial_fit; a context, entered around the training."""

    def __init__(self, estimator: Any, run: Run, held_out: HeldOut | None, epochs: int) -> None:
        self._estimator, self._held_out, self._epochs = estimator, held_out, epochs
        self._trainer, self._scheduled = run.trainer, run.scheduled
        self._hooks: list[Callback] = list(estimator.callbacks)
        if estimator.progress:
            self._hooks.append(ProgressBar())
        self._called = [hook for hook in self._hooks if _overrides(hook, "on_epoch_end")]
        self._ending = ExitStack()
        self._best = math.inf
        self._parameters: dict[str, Array] = {}

    def plan(self) -> dict[str, Any]:
        """What the core is told."""
        estimator, trainer = self._estimator, self._trainer
        # Of an ensemble's member, which stays on its thread.
        tick = vars(estimator).get("_tick")
        return {
            "alone": tick is not None,
            "on_tick": tick,
            "max_time": estimator.max_time,
            "plateau": self._plateau() if self._scheduled else None,
            "on_step": trainer._step_hook(self._hooks),
            "on_measure": lambda epoch, number: self._held_out.look(epoch),  # type: ignore[union-attr]
        }

    def _plateau(self) -> tuple[int, bool, float] | None:
        """What a schedule waits for: the loss, or that of the validation rows."""
        plateau = self._trainer.optimizer._rate_plateau()
        if plateau is None:
            return None
        # As the core counts figures.
        figures = {"loss": -1} if self._held_out is None else {"val_loss": -3, "loss": -1}
        monitor = next(iter(figures)) if plateau.monitor is None else plateau.monitor
        if monitor not in figures:
            raise ArgumentError(
                f"learning_rate: expected ReduceOnPlateau with monitor {' or '.join(figures)}, "
                f"got {monitor!r}"
            )
        return figures[monitor], plateau.mode == "max", float(plateau.min_delta)

    def __enter__(self) -> Self:
        trainer = self._trainer
        if self._hooks:
            trainer._span = (trainer.epoch, trainer.epoch + self._epochs)
        with ExitStack() as ending:
            for hook in reversed(self._hooks):
                ending.callback(hook.on_train_end, trainer)
            for hook in self._hooks:
                hook.on_train_begin(trainer)
            self._ending = ending.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._ending.close()

    def end(self, report: Any) -> bool:
        """After an epoch of the estimator; whether a callback wants to stop."""
        estimator = self._estimator
        if estimator.restore_best_weights and not estimator.early_stopping:
            curve = estimator.loss_curve_
            if self._held_out is not None:
                curve = estimator.validation_loss_curve_
            self._keep(curve[-1])
        if not self._called:
            return False
        epoch, step, _, _, learning_rate, seconds = report
        row = {"epoch": epoch, "step": step, "loss": estimator.loss_}
        if self._held_out is not None:
            row["val_loss"] = estimator.validation_loss_curve_[-1]
        if estimator.early_stopping:
            row["val_score"] = estimator.validation_scores_[-1]
        row |= {"learning_rate": learning_rate, "seconds": seconds}
        self._trainer.history.append(row)
        self._trainer._progress = (epoch + 1, step)
        wishes = [hook.on_epoch_end(epoch, dict(row)) for hook in self._called]
        return any(bool(wish) for wish in wishes)

    def _keep(self, loss: float) -> None:
        if loss < self._best:
            self._best, self._parameters = loss, self._trainer.model.parameters()

    def best(self) -> dict[str, Array]:
        """Parameters of the epoch with the lowest loss; none where they are not asked for."""
        return self._parameters
