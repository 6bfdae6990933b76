"""`crosscheck`: trains core and reference side by side and compares them number by number."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, field, fields, is_dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from . import activations, initializers, layers, losses, optimizers, schedules
from ._arrays import Array, boolean, integer, real
from .callbacks import Callback
from .errors import DTypeError, RanvierError
from .losses import Loss, LossLike, arrays_of
from .losses import get as get_loss
from .model import Sequential, checked_model
from .optimizers import OptimizerLike
from .optimizers import get as get_optimizer
from .trainer import Trainer

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["CrosscheckReport", "crosscheck"]

# Error per step, relative to the largest value that a tensor has had (rounding of one step).
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}


@dataclass(frozen=True)
class StepErrors:
    """Deviations after one step (step 0: the gradients at the start, named "d_...")."""

    step: int
    loss: float
    errors: dict[str, float]


@dataclass(frozen=True, repr=False)
class CrosscheckReport:
    """Deviations between core and reference.

    Attributes:
        steps: for each step the relative deviation of the loss and of every parameter: the largest
            absolute difference in the tensor over the largest value that the tensor has had.
        max_error: the largest of all.
        tolerance: allowed deviation per step; after k steps k times as much is allowed.
        ok: whether every deviation is within tolerance.
    """

    tolerance: float
    steps: list[StepErrors] = field(default_factory=list)

    @property
    def max_error(self) -> float:
        """The largest deviation."""
        return max(max([s.loss, *s.errors.values()]) for s in self.steps)

    @property
    def ok(self) -> bool:
        """Whether every deviation is within tolerance."""
        return all(
            error <= self.tolerance * max(1, entry.step)
            for entry in self.steps
            for error in [entry.loss, *entry.errors.values()]
        )

    def __str__(self) -> str:
        """One line for each step, then the verdict."""
        lines = ["step  loss      worst tensor"]
        for entry in self.steps:
            name, worst = max(entry.errors.items(), key=lambda item: item[1])
            lines.append(f"{entry.step:4d}  {entry.loss:.1e}   {worst:.1e}  {name}")
        verdict = "agree" if self.ok else "DISAGREE"
        lines.append(
            f"core and reference {verdict}: largest deviation {self.max_error:.1e}, "
            f"allowed {self.tolerance:.0e} per step"
        )
        return "\n".join(lines)

    __repr__ = __str__


def crosscheck(
    model: Sequential,
    X: ArrayLike,
    y: Any,
    *,
    loss: LossLike,
    optimizer: OptimizerLike = "adam",
    steps: int = 5,
    batch_size: int | None = None,
    shuffle: bool = True,
    sample_weight: ArrayLike | None = None,
    seed: int = 0,
    tolerance: float | None = None,
) -> CrosscheckReport:
    """Trains copies of the model in the core and in `ranvier.reference` and compares them.

    Both start from the model's parameters, measure the data for `Standardize` where the model has
    not been fitted, and draw the same batches and dropout masks from the seed. The model itself
    does not change. The reference is plain Python: a network of some thousand parameters and a few
    steps take a second.

    Args:
        model: a model that knows its input_size.
        X: (rows, input_size).
        y: targets as the loss takes them.
        loss: as for `Trainer`.
        optimizer: as for `Trainer`.
        steps: optimiser steps to compare; fewer where a second-order optimizer has converged.
        batch_size: rows in a step; None is 32, or all rows for a second-order optimizer.
        shuffle: as for `Trainer.fit`.
        sample_weight: as for `Trainer.fit`.
        seed: of shuffling and dropout.
        tolerance: allowed relative deviation per step; None is 1e-12 for float64, 1e-5 for float32.

    Returns:
        A `CrosscheckReport`; `print` shows it.

    Example:
        >>> import numpy as np, ranvier as rv
        >>> model = rv.Sequential(
        ...     [rv.Dense(4, activation="tanh"), rv.Dense(1)], input_size=3, dtype="float64"
        ... )
        >>> X = np.random.default_rng(0).normal(size=(20, 3))
        >>> report = rv.crosscheck(model, X, X[:, 0], loss="mse", batch_size=8)
        >>> report.ok, report.max_error < 1e-13
        (True, True)
    """
    model = checked_model(model)
    seed = integer(seed, "seed", least=0, most=2**64 - 1)
    steps = integer(steps, "steps", least=1)
    if batch_size is not None:
        batch_size = integer(batch_size, "batch_size", least=1)
    shuffle = boolean(shuffle, "shuffle")
    allowed = (
        TOLERANCE[model.dtype.name]
        if tolerance is None
        else real(tolerance, "tolerance", least=0.0)
    )
    chosen = get_loss(loss)
    model._require()
    x = model._features(X, rows=True)
    rule = get_optimizer(optimizer)
    if batch_size is None:
        batch_size = x.shape[0] if rule._whole else 32
    twin = _Twin(model, x, y, sample_weight, chosen, rule, seed)
    report = CrosscheckReport(allowed)
    options = {"epochs": steps, "batch_size": batch_size, "shuffle": shuffle}
    records = twin.train_core(steps, options)
    if records:
        twin.standardize(records[0][1])
    report.steps.append(twin.compare_gradients(min(batch_size, x.shape[0])))
    report.steps.extend(twin.compare_steps(records, options))
    return report


class _EnoughError(RanvierError):
    """Ends the reference's training."""


class _Recorder(Callback):
    """Loss and parameters after each step of the core."""

    def __init__(self, model: Sequential, steps: int) -> None:
        self._model = model
        self._steps = steps
        self.records: list[tuple[float, dict[str, Array]]] = []

    def on_train_batch_end(self, step: int, logs: dict[str, Any]) -> bool:
        self.records.append((logs["loss"], self._model.parameters()))
        return len(self.records) == self._steps


class _Twin:
    """A model in the core and the same one in the reference."""

    def __init__(
        self,
        model: Sequential,
        x: Array,
        y: Any,
        sample_weight: ArrayLike | None,
        loss: Any,
        optimizer: optimizers.Optimizer,
        seed: int,
    ) -> None:
        from . import reference

        self._core = model.copy()
        self._x, self._y, self._weight = _rounded(x, model.dtype), y, sample_weight
        self._loss, self._optimizer, self._seed = loss, optimizer, seed
        # The core rounds targets to the model's dtype; the reference gets the same numbers.
        arrays = arrays_of(x, y, sample_weight, loss, model.dtype)
        self._weights = None if arrays["weights"] is None else arrays["weights"].tolist()
        values, labels = arrays["values"], arrays["labels"]
        if labels is not None:
            self._targets: Any = labels.tolist()
        elif values is not None:
            self._targets = _rounded(values, model.dtype).tolist()
        else:
            self._targets = np.asarray(y).tolist()
        self._rows = self._x.tolist()
        self._reference_loss = (
            mirror(loss, reference)
            if isinstance(loss, Loss)
            else _ListLoss(loss, model.dtype, weighted=sample_weight is not None)
        )
        self._reference = reference.Sequential(
            [mirror(layer, reference) for layer in model.layers],
            input_size=x.shape[1],
            seed=model.seed,
        )
        self._reference.set_parameters(_lists(self._core.parameters()))
        self._trainer = reference.Trainer(
            self._reference,
            loss=self._reference_loss,
            optimizer=mirror(optimizer, reference),
            seed=seed,
        )

    def compare_gradients(self, rows: int) -> StepErrors:
        """Loss, parameter gradients and d_input of the first rows, in evaluation mode."""
        weight = None if self._weight is None else np.asarray(self._weight)[:rows]
        if weight is not None and not weight.any():
            weight = None
        value, gradients = self._core.value_and_gradient(
            self._x[:rows], self._y[:rows], loss=self._loss, sample_weight=weight
        )
        expected, expected_gradients = self._reference.value_and_gradient(
            self._rows[:rows],
            self._targets[:rows],
            loss=self._reference_loss,
            sample_weight=None if weight is None else weight.tolist(),
        )
        errors = {
            f"d_{name}": _error(array, expected_gradients[name], {}, name)
            for name, array in gradients.items()
        }
        errors["d_input"] = _error(gradients.d_input, expected_gradients.d_input, {}, "")
        return StepErrors(0, _error(value, expected, {}, ""), errors)

    def train_core(
        self, steps: int, options: dict[str, Any]
    ) -> list[tuple[float, dict[str, Array]]]:
        """Loss and parameters after each step of a copy's training."""
        model = self._core.copy()
        recorder = _Recorder(model, steps)
        trainer = Trainer(model, loss=self._loss, optimizer=self._optimizer, seed=self._seed)
        trainer.fit(self._x, self._y, sample_weight=self._weight, callbacks=[recorder], **options)
        return recorder.records

    def standardize(self, parameters: dict[str, Array]) -> None:
        """Both sides as their fits began: with what each has measured of the data."""
        for number, layer in enumerate(self._core.layers):
            if isinstance(layer, layers.Standardize):
                names = [f"{number}.running_mean", f"{number}.running_var"]
                self._core.set_parameters({name: parameters[name] for name in names})
        self._trainer.standardize(self._rows, self._targets, self._weights)

    def compare_steps(
        self, records: list[tuple[float, dict[str, Array]]], options: dict[str, Any]
    ) -> list[StepErrors]:
        """Loss and parameters after each training step."""
        entries: list[StepErrors] = []
        scales: dict[str, float] = {}

        def on_step(step: int, loss: float, model: Any) -> None:
            if step > len(records):
                raise _EnoughError
            core_loss, core_parameters = records[step - 1]
            expected = model.parameters()
            errors = {
                name: _error(array, expected[name], scales, name)
                for name, array in core_parameters.items()
            }
            entries.append(StepErrors(step, _error(core_loss, loss, scales, "loss"), errors))
            if step == len(records):
                raise _EnoughError

        options = options | {"sample_weight": self._weights, "on_step": on_step}
        with contextlib.suppress(_EnoughError):
            self._trainer.fit(self._rows, self._targets, **options)
        if self._trainer.step != len(records):
            # One of them has seen the end where the other has not.
            entries.append(StepErrors(len(entries) + 1, math.inf, dict.fromkeys(scales, math.inf)))
        return entries


class _ListLoss:
    """A custom loss, which speaks NumPy, for the reference, which speaks lists."""

    def __init__(self, loss: Any, dtype: np.dtype[Any], *, weighted: bool) -> None:
        self._loss = loss
        self._dtype = dtype
        self._weighted = weighted

    def value_and_gradient(
        self, output: Any, target: Any, sample_weight: Any = None
    ) -> tuple[float, Any]:
        arrays = [np.asarray(output, self._dtype), np.asarray(target)]
        # Without weights of the user's the reference has ones; the core passes none.
        if sample_weight is None or not self._weighted:
            value, gradient = self._loss.value_and_gradient(*arrays)
        else:
            value, gradient = self._loss.value_and_gradient(
                *arrays, sample_weight=np.asarray(sample_weight)
            )
        return float(value), np.asarray(gradient, np.float64).tolist()


_MIRRORED = {
    layers.__name__: None,
    optimizers.__name__: None,
    losses.__name__: "losses",
    schedules.__name__: "schedules",
    activations.__name__: "activations",
    initializers.__name__: "initializers",
}


def mirror(definition: Any, reference: Any) -> Any:
    """The reference's object of the same class name and options."""
    if not is_dataclass(definition) or isinstance(definition, type):
        return definition
    module = _MIRRORED.get(type(definition).__module__, "")
    home = getattr(reference, module) if module else reference
    kind = getattr(home, type(definition).__name__, None)
    if module == "" or kind is None:
        raise DTypeError(
            f"crosscheck: expected definitions of ranvier, got {type(definition).__name__}, "
            "which the reference does not have"
        )
    options = {f.name: getattr(definition, f.name) for f in fields(definition) if f.init}
    # None asks for the default, which each side has on its own.
    given = {name: value for name, value in options.items() if value is not None}
    mirrored = {name: mirror(value, reference) for name, value in given.items()}
    return kind(**mirrored)


def _rounded(array: Array, dtype: np.dtype[Any]) -> Array:
    with np.errstate(over="ignore"):
        return array.astype(dtype)


def _lists(parameters: dict[str, Array]) -> dict[str, Any]:
    return {name: array.tolist() for name, array in parameters.items()}


def _error(core: Any, expected: Any, scales: dict[str, float], name: str) -> float:
    """Largest difference over the largest value so far; equal tensors have error 0."""
    ours = np.asarray(core, np.float64).ravel()
    theirs = np.asarray(expected, np.float64).ravel()
    scale = max(scales.get(name, 0.0), float(np.abs(theirs).max(initial=0.0)))
    scales[name] = scale
    difference = float(np.abs(ours - theirs).max(initial=0.0))
    return 0.0 if difference == 0.0 else difference / (scale or 1.0)
