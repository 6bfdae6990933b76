"""Core beside reference: the same training in both, each going on from its own numbers."""

from __future__ import annotations

import contextlib
import math
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import activations, initializers, layers, losses, optimizers, schedules
from .._arrays import Array
from ..callbacks import Callback
from ..errors import DTypeError, RanvierError
from ..losses import Loss, arrays_of
from ..model import Sequential
from ..trainer import Trainer
from ._report import CrosscheckReport, Deviation, StepErrors, deviation

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

__all__ = ["against_reference", "mirror", "mirrored_of"]


def against_reference(
    model: Sequential,
    x: Array,
    y: Any,
    sample_weight: ArrayLike | None,
    loss: Any,
    optimizer: optimizers.Optimizer,
    seed: int,
    *,
    steps: int,
    batch_size: int,
    shuffle: bool,
    tolerance: float,
) -> CrosscheckReport:
    """Trains a copy of the model in the core and one in the reference, each from its own steps."""
    twin = _Twin(model, x, y, sample_weight, loss, optimizer, seed, tolerance)
    options = {"epochs": steps, "batch_size": batch_size, "shuffle": shuffle}
    records = twin.train_core(steps, options)
    if records:
        twin.standardize(records[0][1])
    entries = [twin.compare_gradients(min(batch_size, x.shape[0]))]
    entries.extend(twin.compare_steps(records, options))
    return CrosscheckReport(tolerance, entries, twin.first)


@dataclass(frozen=True)
class Mirrored:
    """A model and its data in the reference."""

    network: Any
    loss: Any
    rows: Any
    targets: Any
    weights: Any


def mirrored_of(
    model: Sequential, x: Array, y: Any, sample_weight: ArrayLike | None, loss: Any
) -> Mirrored:
    """The reference's network with the model's parameters, and the numbers that the core rounds."""
    from .. import reference

    arrays = arrays_of(x, y, sample_weight, loss, model.dtype)
    values, labels = arrays["values"], arrays["labels"]
    if labels is not None:
        targets: Any = labels.tolist()
    elif values is not None:
        targets = _rounded(values, model.dtype).tolist()
    else:
        targets = np.asarray(y).tolist()
    network = reference.Sequential(
        [mirror(layer, reference) for layer in model.layers],
        input_size=x.shape[1],
        seed=model.seed,
    )
    network.set_parameters(_lists(model.parameters()))
    return Mirrored(
        network,
        mirror(loss, reference)
        if isinstance(loss, Loss)
        else _ListLoss(loss, model.dtype, weighted=sample_weight is not None),
        _rounded(x, model.dtype).tolist(),
        targets,
        None if arrays["weights"] is None else arrays["weights"].tolist(),
    )


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
        tolerance: float,
    ) -> None:
        from .. import reference

        self.first: Deviation | None = None
        self._tolerance = tolerance
        # The largest value that each tensor has had.
        self._scales: dict[str, float] = {}
        self._core = model.copy()
        self._x, self._y, self._weight = _rounded(x, model.dtype), y, sample_weight
        self._loss, self._optimizer, self._seed = loss, optimizer, seed
        mirrored = mirrored_of(model, x, y, sample_weight, loss)
        self._rows, self._targets = mirrored.rows, mirrored.targets
        self._weights, self._reference_loss = mirrored.weights, mirrored.loss
        self._reference = mirrored.network
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
        ours = {**gradients, "input": gradients.d_input}
        theirs = {**expected_gradients, "input": expected_gradients.d_input}
        return self._compare(
            0, (value, expected), {f"d_{name}": (ours[name], theirs[name]) for name in ours}
        )

    def _compare(
        self, step: int, losses: tuple[float, float], pairs: dict[str, tuple[Any, Any]]
    ) -> StepErrors:
        """What deviates by how much; each pair is ours and theirs."""
        entry = StepErrors(step, self._error(step, "loss", losses), {})
        for name, pair in pairs.items():
            entry.errors[name] = self._error(step, name, pair)
        return entry

    def _error(self, step: int, name: str, pair: tuple[Any, Any]) -> float:
        """Largest difference over the largest value so far; equal tensors have error 0."""
        ours, theirs = (np.asarray(array, np.float64) for array in pair)
        # Step 0 is one of evaluation, on its own.
        scales = self._scales if step else {}
        scale = max(scales.get(name, 0.0), float(np.abs(theirs).max(initial=0.0)))
        scales[name] = scale
        difference = float(np.abs(ours - theirs).max(initial=0.0))
        error = 0.0 if difference == 0.0 else difference / (scale or 1.0)
        allowed = self._tolerance * max(1, step)
        if self.first is None and not error <= allowed:
            self.first = deviation(step, name, ours, theirs, error, allowed)
        return error

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

        def on_step(step: int, loss: float, model: Any) -> None:
            if step > len(records):
                raise _EnoughError
            core_loss, core_parameters = records[step - 1]
            expected = model.parameters()
            pairs = {name: (array, expected[name]) for name, array in core_parameters.items()}
            entries.append(self._compare(step, (core_loss, loss), pairs))
            if step == len(records):
                raise _EnoughError

        options = options | {"sample_weight": self._weights, "on_step": on_step}
        with contextlib.suppress(_EnoughError):
            self._trainer.fit(self._rows, self._targets, **options)
        if self._trainer.step != len(records):
            # One of them has seen the end where the other has not.
            errors = {name: math.inf for name in self._scales if name != "loss"}
            entries.append(StepErrors(len(entries) + 1, math.inf, errors))
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
    options = {f: getattr(definition, f.name) for f in fields(definition) if f.init}
    # None asks for the default, where there is one, which each side has on its own.
    given = {
        f.name: value
        for f, value in options.items()
        if value is not None or (f.default is MISSING and f.default_factory is MISSING)
    }
    mirrored = {name: mirror(value, reference) for name, value in given.items()}
    return kind(**mirrored)


def _rounded(array: Array, dtype: np.dtype[Any]) -> Array:
    with np.errstate(over="ignore"):
        return array.astype(dtype)


def _lists(parameters: dict[str, Array]) -> dict[str, Any]:
    return {name: array.tolist() for name, array in parameters.items()}
