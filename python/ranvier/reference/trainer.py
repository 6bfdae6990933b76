"""Trainer: epochs, batches and steps."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TypeAlias

from . import losses, optimizers, schedules
from .layers import Standardize
from .losses import MAE, MSE, AnyLoss, Huber, Loss, Quantile, Target
from .network import Sequential
from .passes import Mode
from .problem import Problem
from .random import check_seed, permutation
from .schedules import ReduceOnPlateau
from .second_order import SecondOrder
from .steps import AnyOptimizer, DivergedError, Optimizer
from .vectors import (
    Matrix,
    Rows,
    Tensor,
    Vector,
    all_finite,
    as_matrix,
    flatten,
    power,
    reshape,
    row_weights,
    total,
)

OnStep: TypeAlias = Callable[[int, float, Sequential], None]


class Trainer:
    """Trains a model by batches. `epoch` and `step` count what is complete, over all fits.

    Args:
        model: the network to train.
        loss: a name, an object of `losses`, or any object with `value_and_gradient`.
        optimizer: a name or an object of `optimizers`; its moments stay with it.
        seed: what the order of the rows and the dropout masks are drawn from.
        quantization: "int8" rounds weights and inputs of dense layers in training steps, as
            `quantization` says.
        ema_decay: beta, 0 <= beta < 1, of an average of the parameters, which fit leaves in the
            model: after step t, average += (1 - beta) / (1 - beta^t) (theta - average). Training
            goes on from theta, in a further fit too if the model is then as it was left. None: no
            average. Kingma and Ba (2015), section 7.2.
    """

    def __init__(
        self,
        model: Sequential,
        *,
        loss: str | AnyLoss,
        optimizer: str | AnyOptimizer | SecondOrder,
        seed: int = 0,
        quantization: str | None = None,
        ema_decay: float | None = None,
    ) -> None:
        self.model = model
        self.loss = losses.get(loss)
        self.optimizer = optimizers.get(optimizer)
        self.seed = check_seed(seed)
        self.epoch = 0
        self.step = 0
        if ema_decay is not None and not 0.0 <= ema_decay < 1.0:
            raise ValueError(f"ema_decay must lie in [0, 1), got {ema_decay}")
        if quantization not in (None, "int8"):
            raise ValueError(f"quantization must be None or 'int8', got {quantization!r}")
        self.quantization = quantization
        self.ema_decay = ema_decay
        self._averaged = 0
        self._average: dict[str, Tensor] = {}
        # What training goes on from while the model holds the average.
        self._trained: dict[str, Tensor] = {}

    def fit(
        self,
        X: Rows,
        y: Target,
        *,
        epochs: int = 1,
        batch_size: int = 32,
        shuffle: bool = True,
        sample_weight: Sequence[float] | None = None,
        on_step: OnStep | None = None,
    ) -> list[float]:
        """Trains for some epochs and returns the loss of each; a second fit goes on.

        An optimizer of second order makes one step in an epoch, on all rows in their order, and
        ends the fit where it has converged.

        An epoch's loss is the mean of its batches' losses, each weighing as much as the rows in
        it. If something is no longer finite, DivergedError is raised, and the model holds what
        it held at the end of the epoch before.

        Args:
            X: (rows, input_size), finite numbers.
            y: one target per row, as the loss wants them.
            epochs: how often every row is visited.
            batch_size: rows per step; the last batch of an epoch may be shorter.
            shuffle: False keeps the order of the rows.
            sample_weight: one weight per row, None for 1 each. A batch of weight 0 is no step.
            on_step: called as on_step(step, loss, model) after each step.
        """
        if epochs < 1 or batch_size < 1:
            raise ValueError(f"epochs and batch_size must be >= 1, got {epochs} and {batch_size}")
        x = as_matrix(X, self.model.input_size, "X")
        weights = row_weights(sample_weight, len(x))
        self._check(x, y)
        self._take_up()
        self.standardize(x, y, weights)
        if isinstance(self.optimizer, SecondOrder):
            if batch_size < len(x):
                raise ValueError(f"batch_size must be all {len(x)} rows, got {batch_size}")
            if self.ema_decay is not None:
                raise ValueError(f"ema_decay must be None, got {self.ema_decay}")
            if self.quantization is not None:
                raise ValueError(f"quantization must be None, got {self.quantization!r}")
            problem = Problem(self.model, x, y, self.loss, weights)
            return self._search(problem, self.optimizer, epochs, on_step)
        losses_of_epochs = [
            self._epoch(x, y, weights, batch_size=batch_size, shuffle=shuffle, on_step=on_step)
            for _ in range(epochs)
        ]
        present = self.model.parameters()
        self._trained = {name: present[name] for name in self._average}
        self.model.set_parameters(self._average)
        return losses_of_epochs

    def _take_up(self) -> None:
        """Goes on from the trained parameters, or begins a new average if the model was changed."""
        present = self.model.parameters()
        if all(present[name] == value for name, value in self._average.items()):
            self.model.set_parameters(self._trained)
        else:
            self._average, self._averaged = {}, 0

    def _take_average(self, trained: Iterable[str]) -> None:
        """Takes the parameters after a step into the average."""
        if self.ema_decay is None:
            return
        self._averaged += 1
        share = (1.0 - self.ema_decay) / (1.0 - power(self.ema_decay, self._averaged))
        present = self.model.parameters()
        for name in trained:
            theta = flatten(present[name])
            before = flatten(self._average.get(name, present[name]))
            after = [a + share * (p - a) for a, p in zip(before, theta, strict=True)]
            self._average[name] = reshape(after, present[name])

    def standardize(self, X: Rows, y: Target, sample_weight: Sequence[float] | None = None) -> None:
        """Measures the data for the Standardize layers that have not seen any; `fit` begins so."""
        x = as_matrix(X, self.model.input_size, "X")
        weights = row_weights(sample_weight, len(x))
        outputs = self.model.output_size
        measured: dict[str, Tensor] = {}
        for index, layer in enumerate(self.model.layers):
            if not isinstance(layer, Standardize):
                continue
            values = x if layer.of == "inputs" else self._target_rows(y, outputs)
            if not any(flatten(self.model.parameters()[f"{index}.running_var"])):
                width = self.model.input_size if layer.of == "inputs" else outputs
                moments = layer.measure(values, weights, width)
                measured |= {f"{index}.{name}": value for name, value in moments.items()}
        self.model.set_parameters(measured)

    def _search(
        self, problem: Problem, optimizer: SecondOrder, epochs: int, on_step: OnStep | None
    ) -> list[float]:
        """The losses before each step, until there is no other."""
        losses_before: list[float] = []
        optimizer.begin()
        for _ in range(epochs):
            found = optimizer.next(problem)
            if found is None:
                break
            loss, theta = found
            problem.move(theta)
            losses_before.append(loss)
            self.epoch += 1
            self.step += 1
            if on_step is not None:
                on_step(self.step, loss, self.model)
        return losses_before

    def _check(self, x: Matrix, y: Target) -> None:
        """Refuses what cannot be trained on, before anything has changed."""
        if not x:
            raise ValueError("X must have at least one row")
        if len(y) != len(x):
            raise ValueError(f"X has {len(x)} rows, y has {len(y)}")
        for i, row in enumerate(x):
            if not all_finite(row):
                raise ValueError(f"X must be finite, but row {i} is not")
        for i, entry in enumerate(y):
            if not all_finite(entry if isinstance(entry, Sequence) else [entry]):
                raise ValueError(f"y must be finite, but row {i} is not")
        if isinstance(self.loss, Loss):
            self.loss.target_rows(y, self.model.output_size)

    def _target_rows(self, y: Target, outputs: int) -> Matrix:
        """Targets as rows, of a loss whose outputs are in their units."""
        if isinstance(self.loss, MSE | MAE | Huber | Quantile):
            return self.loss.target_rows(y, outputs)
        if isinstance(self.loss, Loss):
            raise ValueError(f"the outputs of {self.loss} are not in the units of the targets")
        rows = [value if isinstance(value, Sequence) else [value] for value in y]
        return as_matrix(rows, outputs, "y")

    def _epoch(
        self,
        x: Matrix,
        y: Target,
        weights: Vector,
        *,
        batch_size: int,
        shuffle: bool,
        on_step: OnStep | None,
    ) -> float:
        before = self.model.parameters() | self._average
        everyone = list(range(len(x)))
        order = permutation(len(x), seed=self.seed, epoch=self.epoch) if shuffle else everyone
        batch_losses: Vector = []
        try:
            for first in range(0, len(order), batch_size):
                rows = order[first : first + batch_size]
                weight = total(weights[i] for i in rows)
                if weight == 0.0:
                    continue
                loss = self._step(x, y, weights, rows, first)
                batch_losses.append(loss * weight)
                if on_step is not None:
                    on_step(self.step, loss, self.model)
            epoch_loss = total(batch_losses) / total(weights)
            self._check_finite(epoch_loss)
            if plateau := self._plateau():
                plateau.observe(epoch_loss)
        except DivergedError:
            self.model.set_parameters(before)
            self._average, self._trained, self._averaged = {}, {}, 0
            raise
        self.epoch += 1
        return epoch_loss

    def _step(
        self, x: Matrix, y: Target, weights: Vector, rows: Sequence[int], first: int
    ) -> float:
        """Forward, backward, update; `first` is the place of the batch in the epoch's order."""
        quantized = self.quantization is not None
        mode = Mode(training=True, seed=self.seed, epoch=self.epoch, quantized=quantized)
        mode = replace(mode, first_position=first)
        result = self.model.differentiate(
            [x[i] for i in rows],
            [y[i] for i in rows],
            self.loss,
            [weights[i] for i in rows],
            mode,
        )
        if isinstance(self.optimizer, Optimizer):
            self.optimizer.epoch = self.epoch
        if not isinstance(self.optimizer, SecondOrder):
            self.optimizer.step(self.model, result.gradients)
        self.model.set_parameters(result.running)
        self._take_average(result.gradients)
        self.step += 1
        return result.value

    def _plateau(self) -> ReduceOnPlateau | None:
        """What the rate is lowered by; without validation data it goes by the loss."""
        if not isinstance(self.optimizer, Optimizer):
            return None
        return schedules.plateau(schedules.get(self.optimizer.learning_rate))

    def _check_finite(self, epoch_loss: float) -> None:
        if not math.isfinite(epoch_loss):
            raise DivergedError(f"epoch {self.epoch}: the loss is {epoch_loss}")
        for name, value in self.model.parameters().items():
            if not all_finite(flatten(value)):
                raise DivergedError(f"epoch {self.epoch}: {name} is no longer finite")
        if isinstance(self.optimizer, Optimizer):
            for name, moments in self.optimizer.moments.items():
                if not all(all_finite(values) for values in moments.values()):
                    raise DivergedError(f"epoch {self.epoch}: a moment of {name} is not finite")
