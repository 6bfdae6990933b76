"""Which known differences explain the numbers at the first deviation.

A hypothesis says what the other training would have computed if it differed in one way. It fits if
that is what was recorded: within tolerance, and with a tenth of the deviation at most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from .._arrays import Array
from ..errors import RanvierError
from ._report import Deviation

if TYPE_CHECKING:
    from ._compare import Comparison

__all__ = ["Hypothesis", "Scene", "constant_ratio", "hints_of"]

# What would have been computed in the step of an index, by name; None where it says nothing of it.
Predicted = dict[str, Any] | None
Hypothesis = tuple[str, Callable[[int], Predicted]]

# As many as a report shows.
_MOST = 3


class Scene:
    """The first deviation, and what was computed around it.

    Args:
        comparison: of the whole trace.
        first: where it deviates.
    """

    def __init__(self, comparison: Comparison, first: Deviation) -> None:
        self.comparison, self.first = comparison, first
        self.index = max(0, first.step - 1)
        self.model = comparison.model.copy()
        self.loss, self.rule = comparison.loss, comparison.rule
        self.steps = comparison.trace.steps

    @property
    def rows(self) -> int:
        """Rows of the step's batch."""
        return len(self.comparison.batches[self.index][0])

    def label(self) -> str:
        """The deviating tensor's name in a report."""
        if self.first.quantity == "gradient":
            return f"d_{self.first.name}"
        if self.first.quantity == "output" and self.first.layer is not None:
            return f"output.{self.first.layer}"
        return self.first.name

    def theirs(self, index: int, label: str) -> Any:
        """What was recorded under a name of the report; None if nothing was."""
        step = self.steps[index]
        if label == "loss":
            return step.loss
        if label == "output":
            return step.output
        if label.startswith("output."):
            return step.outputs.get(int(label.removeprefix("output.")))
        if label.startswith("d_"):
            return step.gradients.get(label.removeprefix("d_"))
        return step.parameters.get(label)

    def fits(self, index: int, predicted: Predicted) -> bool:
        """Whether the numbers of a step are those of a hypothesis."""
        if not predicted:
            return False
        tolerance = self.comparison.tolerance * (index + 1)
        for label, array in predicted.items():
            recorded = self.theirs(index, label)
            if recorded is None:
                continue
            error = self.comparison.error(label, array, recorded)
            most = 3.0 * tolerance
            if index == self.index and label == self.label():
                most = min(most, 0.1 * self.first.error)
            if not error <= most:
                return False
        return True

    def chosen(self, hypotheses: Iterator[Hypothesis]) -> list[str]:
        """The texts of those that fit; those that fit every step stand alone."""
        found: list[tuple[float, str]] = []
        indices = [i for i in range(len(self.steps)) if i != self.index]
        for text, predict in hypotheses:
            if text in [other for _, other in found]:
                continue
            if not self._try(self.index, predict):
                continue
            others = [self._try(i, predict) for i in indices]
            found.append((sum(others) / len(others) if others else 1.0, text))
        best = max((share for share, _ in found), default=0.0)
        return [text for share, text in found if share == best]

    def _try(self, index: int, predict: Callable[[int], Predicted]) -> bool:
        try:
            with np.errstate(all="ignore"):
                return self.fits(index, predict(index))
        except RanvierError:
            # Nothing that ranvier can compute: another loss, say, that refuses the targets.
            return False


def constant_ratio(pairs: list[tuple[Array, Array]]) -> float | None:
    """c where the second array of every pair is c times the first; by least squares."""
    if not pairs:
        return None
    a = np.concatenate([np.ravel(x).astype(np.float64) for x, _ in pairs])
    b = np.concatenate([np.ravel(x).astype(np.float64) for _, x in pairs])
    square = float(a @ a)
    ratio = float(a @ b) / square if square else 0.0
    return ratio if np.isfinite(ratio) and ratio else None


def scales_of(ratio: float, rows: int, outputs: int) -> list[str]:
    """What a factor of loss or gradient comes from; several where numbers coincide."""
    sums = [
        (1.0, ""),
        (rows * outputs, "a sum over rows and outputs in place of the mean"),
        (rows, "a sum over rows in place of the mean"),
        (outputs, "a sum over outputs in place of the mean"),
        (1 / rows, "divided by the rows once more"),
        (1 / outputs, "divided by the outputs once more"),
    ]
    halves = [(1.0, ""), (0.5, "half of it"), (2.0, "twice of it"), (-1.0, "the sign turned round")]
    texts = {
        ", ".join(word for word in (half, text) if word): (half != "") + (text != "")
        for part, half in halves
        for factor, text in sums
        if part * factor != 1.0 and abs(ratio / (part * factor) - 1.0) < 1e-4
    }
    # One cause is likelier than two.
    fewest = min(texts.values(), default=0)
    return [text for text, causes in texts.items() if causes == fewest]


def hints_of(comparison: Comparison, first: Deviation) -> tuple[str, ...]:
    """What fits, in words; at most three."""
    from . import _hints_forward, _hints_gradient, _hints_update

    if not np.isfinite(first.error):
        return ()
    scene = Scene(comparison, first)
    if first.step == 0:
        return tuple(_hints_forward.starts(scene))
    source = {
        "output": _hints_forward.outputs,
        "loss": _hints_forward.loss_values,
        "gradient": _hints_gradient.gradients,
        "parameter": _hints_update.updates,
    }[first.quantity]
    return tuple(islice(scene.chosen(source(scene)), _MOST))
