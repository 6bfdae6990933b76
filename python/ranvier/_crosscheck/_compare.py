"""A trace beside ranvier: each step from the trace's own numbers, so that errors do not add up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .._arrays import Array
from ..errors import ArgumentError
from ..layers import Standardize
from ..losses import BinaryCrossEntropy, CrossEntropy, CustomLoss, Loss
from ..model import Sequential
from ..optimizers import FirstOrder
from ._backward import derivative_noise
from ._ours import Computed, Numbers, computed, figures, noise, rounded, statistics, updated
from ._report import CrosscheckReport, Deviation, StepErrors, deviation
from ._trace import Batch, Step, Trace

__all__ = ["Comparison", "against_trace"]

# Differences of so many times what rounding of the inputs moves a figure are within tolerance.
_NOISE = 20.0


class Comparison:
    """A trace, and what ranvier computes from the same numbers.

    Args:
        model: gives the layers; its parameters are left alone.
        batches: rows and targets of each step.
        loss: ranvier's.
        rule: ranvier's optimizer.
        trace: the other training.
        tolerance: allowed relative deviation per step.
    """

    def __init__(
        self,
        model: Sequential,
        batches: Sequence[Batch],
        loss: Loss | CustomLoss,
        rule: FirstOrder,
        trace: Trace,
        tolerance: float,
    ) -> None:
        self.model = model.copy()
        self.start = model.parameters()
        self.loss, self.rule, self.trace, self.tolerance = loss, rule, trace, tolerance
        steps = trace.steps = _finite(trace.steps)
        self.batches = batches[: len(steps)]
        self.befores = [
            {name: array.astype(model.dtype) for name, array in numbers.items()}
            for numbers in [trace.start, *(step.parameters for step in steps[:-1])]
        ]
        self.found = [
            computed(self.model, before, x, y, loss, sorted(step.outputs))
            for before, step, (x, y) in zip(self.befores, steps, self.batches, strict=True)
        ]
        # What the optimizers got: the trace's own gradients, so that only the update is judged.
        self.gradients: list[Numbers] = [
            {
                name: step.gradients.get(name, own).astype(model.dtype)
                for name, own in found.gradients.items()
            }
            for step, found in zip(steps, self.found, strict=True)
        ]
        classes = isinstance(loss, CrossEntropy | BinaryCrossEntropy)
        self.squash = trace.squash if classes else None
        self._scales: dict[str, float] = {}
        self.first: Deviation | None = None

    def run(self) -> list[StepErrors]:
        """The deviations of all steps; `first` is the first one."""
        entries = []
        if any(not np.array_equal(self.start[n], self.befores[0][n]) for n in self.start):
            pairs = {name: (self.start[name], self.trace.start[name]) for name in self.start}
            entries.append(self._entry(0, pairs, {}))
        after = updated(self.model, self.rule, self.befores, self.gradients)
        other = after
        if self.model.dtype == np.float32 or self.trace.dtype == np.float32:
            coarse = rounded(self.rule, np.dtype(np.float32))
            other = updated(self.model, coarse, self.befores, self.gradients)
        for number, step in enumerate(self.trace.steps):
            x, y = self.batches[number]
            before, found = self.befores[number], self.found[number]
            moved = statistics(self.model, before, x, y, self.loss)
            spread = noise(self.model, before, x, y, self.loss, found, moved, number)
            ours = after[number] | moved
            for name in other[number].keys() & after[number].keys():
                spread[name] = _distance(other[number][name], after[number][name])
            pairs = self._pairs(number + 1, step, found, ours)
            if self._suspects_gradients(number + 1, pairs, spread):
                finer = derivative_noise(self.model, before, x, y, self.loss)
                spread |= {name: spread[name] + value for name, value in finer.items()}
            entries.append(self._entry(number + 1, pairs, spread))
        return entries

    def _suspects_gradients(
        self, step: int, pairs: dict[str, tuple[Any, Any]], spread: dict[str, float]
    ) -> bool:
        """Whether a gradient is the first to deviate."""
        for name, (ours, theirs) in pairs.items():
            if not self.error(name, ours, theirs, spread.get(name, 0.0)) <= step * self.tolerance:
                return name.startswith("d_")
        return False

    def _pairs(
        self, number: int, step: Step, found: Computed, after: Numbers
    ) -> dict[str, tuple[Any, Any]]:
        """Ours and theirs of everything that was recorded, in the order of computation."""
        theirs: dict[str, Any] = {f"output.{n}": array for n, array in step.outputs.items()}
        theirs |= {"output": step.output, "loss": step.loss}
        theirs |= {f"d_{name}": array for name, array in step.gradients.items()}
        pairs = {}
        for name, ours in figures(found).items():
            if theirs.get(name) is not None:
                squash = self.squash if name == "output" else None
                pairs[name] = (squashed(ours, squash) if squash else ours, theirs[name])
        for name, array in step.parameters.items():
            if name in after:
                pairs[name] = (after[name], array)
            elif isinstance(self.model.layers[int(name.partition(".")[0])], Standardize):
                pairs[name] = (self.befores[number - 1][name], array)
        for name, (ours, other) in pairs.items():
            if np.shape(ours) != np.shape(other):
                raise ArgumentError(
                    f"against: expected {name} of shape {np.shape(ours)} in step {number}, got "
                    f"{np.shape(other)}; batch_size and shuffle say which rows a step has"
                )
        return pairs

    def _entry(
        self, step: int, pairs: dict[str, tuple[Any, Any]], spread: dict[str, float]
    ) -> StepErrors:
        entry = StepErrors(step, 0.0, {})
        allowed = entry.allowed(self.tolerance)
        errors = {}
        for name, (ours, theirs) in pairs.items():
            errors[name] = self.error(name, ours, theirs, spread.get(name, 0.0), keep=True)
            if self.first is None and not errors[name] <= allowed:
                self.first = deviation(step, name, ours, theirs, errors[name], allowed)
        loss = errors.pop("loss", 0.0)
        return StepErrors(step, loss, errors)

    def error(
        self, name: str, ours: Any, theirs: Any, spread: float = 0.0, *, keep: bool = False
    ) -> float:
        """Largest difference over the largest value that the tensor has had, or over its noise."""
        a, b = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
        known = np.isfinite(b)
        if a.shape != b.shape or not np.array_equal(np.isfinite(a), known):
            return float("inf")
        # What has overflown on both sides agrees.
        a, b = a[known], b[known]
        largest = max(self._scales.get(name, 0.0), float(np.abs(b).max(initial=0.0)))
        if keep:
            self._scales[name] = largest
        difference = float(np.abs(a - b).max(initial=0.0))
        if difference == 0.0:
            return 0.0
        if self.tolerance > 0.0:
            largest = max(largest, _NOISE * spread / self.tolerance)
        return difference / (largest or 1.0)


def _distance(a: Array, b: Array) -> float:
    """The largest finite difference."""
    with np.errstate(invalid="ignore"):
        distance = np.abs(a.astype(np.float64) - b)
    return float(distance[np.isfinite(distance)].max(initial=0.0))


def _finite(steps: list[Step]) -> list[Step]:
    """The steps up to the first that has left the finite numbers."""
    for number, step in enumerate(steps, start=1):
        if not all(np.isfinite(array).all() for array in step.parameters.values()):
            return steps[:number]
    return steps


def squashed(output: Array, kind: str) -> Array:
    """Probabilities of raw outputs."""
    z = output.astype(np.float64)
    if kind == "sigmoid":
        return 0.5 * (1.0 + np.tanh(0.5 * z))
    e = np.exp(z - z.max(axis=1, keepdims=True))
    shares: Array = e / e.sum(axis=1, keepdims=True)
    return shares


def against_trace(
    model: Sequential,
    batches: Sequence[Batch],
    loss: Loss | CustomLoss,
    rule: FirstOrder,
    trace: Trace,
    tolerance: float,
) -> CrosscheckReport:
    """The report of a trace."""
    comparison = Comparison(model, batches, loss, rule, trace, tolerance)
    entries = comparison.run()
    hints: tuple[str, ...] = ()
    if comparison.first is not None:
        from ._hints import hints_of

        hints = hints_of(comparison, comparison.first)
    return CrosscheckReport(tolerance, entries, comparison.first, hints, trace.name)
