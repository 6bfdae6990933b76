"""`CrosscheckReport`: how far two trainings agree, and where they part."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .._arrays import Array
from .._pictures import axes, pandas_of, whole_ticks

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

__all__ = ["CrosscheckReport", "Deviation", "StepErrors"]

# Quantities of a step in the order in which they are computed.
QUANTITIES = ("output", "loss", "gradient", "parameter")


@dataclass(frozen=True)
class StepErrors:
    """Deviations after one step (step 0: the gradients at the start, named "d_...")."""

    step: int
    loss: float
    errors: dict[str, float]

    def allowed(self, tolerance: float) -> float:
        """Largest deviation that agrees: after k steps k times as much."""
        return tolerance * max(1, self.step)

    def figures(self) -> list[tuple[str, str, float]]:
        """(quantity, name of the tensor, deviation) of everything that was compared."""
        named = [(quantity_of(name), name, error) for name, error in self.errors.items()]
        return [("loss", "loss", self.loss), *named]


@dataclass(frozen=True)
class Deviation:
    """The first place at which two trainings part.

    Attributes:
        step: of the training, from 1; 0 is what both started from.
        quantity: "output", "loss", "gradient" or "parameter" (which is: after the step's update).
        layer: number of the layer in the model; None for the loss and for the output of all.
        name: of the tensor: "0.weight"; "output", "loss" or "0" for the output of layer 0.
        index: of the element that deviates most.
        ours: that element in ranvier.
        theirs: and in the other training.
        error: the largest difference over the largest value that the tensor has had.
        allowed: how much of that agrees.
    """

    step: int
    quantity: str
    layer: int | None
    name: str
    index: tuple[int, ...]
    ours: float
    theirs: float
    error: float
    allowed: float

    def where(self) -> str:
        """The tensor, in words."""
        if self.layer is None:
            return f"the {self.quantity}"
        if self.quantity == "output":
            return f"the output of layer {self.layer}"
        when = {"gradient": "the gradient of", "parameter": "the parameter"}[self.quantity]
        after = " after the update" if self.quantity == "parameter" and self.step else ""
        return f"{when} {self.name}{after}"


@dataclass(frozen=True, repr=False)
class CrosscheckReport:
    """Deviations between ranvier and what it was compared with.

    Attributes:
        steps: for each step the relative deviation of the loss and of every tensor: the largest
            absolute difference over the largest value that the tensor has had. Names are those of
            parameters after the step, "d_" in front of gradients, "output" and, of layer 0 alone,
            "output.0".
        max_error: the largest of all.
        tolerance: allowed deviation per step; after k steps k times as much is allowed.
        ok: whether every deviation is within tolerance.
        first: the first `Deviation` that is not, in the order of computation; None if all agree.
        hints: known differences that explain the numbers there.
        against: what ranvier was compared with.
    """

    tolerance: float
    steps: list[StepErrors] = field(default_factory=list)
    first: Deviation | None = None
    hints: tuple[str, ...] = ()
    against: str = "reference"

    @property
    def max_error(self) -> float:
        """The largest deviation."""
        return max(max([s.loss, *s.errors.values()]) for s in self.steps)

    @property
    def ok(self) -> bool:
        """Whether every deviation is within tolerance."""
        return all(
            error <= entry.allowed(self.tolerance)
            for entry in self.steps
            for error in [entry.loss, *entry.errors.values()]
        )

    def __str__(self) -> str:
        """A table with a line for each step, the verdict, and the first place that deviates."""
        reference = self.against == "reference"
        lines = self._brief() if reference else self._table()
        names = "core and reference" if reference else f"ranvier and {self.against}"
        verdict = "agree" if self.ok else "DISAGREE"
        lines.append(
            f"{names} {verdict}: largest deviation {self.max_error:.1e}, "
            f"allowed {self.tolerance:.0e} per step"
        )
        if self.first is not None:
            lines += self._place(self.first)
        return "\n".join(lines)

    __repr__ = __str__

    def _brief(self) -> list[str]:
        lines = ["step  loss      worst tensor"]
        for entry in self.steps:
            name, worst = max(entry.errors.items(), key=lambda item: item[1], default=("", 0.0))
            lines.append(f"{entry.step:4d}  {entry.loss:.1e}   {worst:.1e}  {name}")
        return lines

    def _table(self) -> list[str]:
        """The worst tensor of each quantity, step by step; "!" where it deviates."""
        rows = [["step", *QUANTITIES]]
        for entry in self.steps:
            rows.append([str(entry.step)])
            for quantity in QUANTITIES:
                figures = [(e, name) for kind, name, e in entry.figures() if kind == quantity]
                error, name = max(figures, key=_severity, default=(None, ""))
                mark = "" if error is None or error <= entry.allowed(self.tolerance) else "!"
                shown = "" if name == quantity else " " + name.removeprefix("d_")
                rows[-1].append("" if error is None else f"{error:.1e}{mark}{shown}")
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        return [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]

    def _place(self, first: Deviation) -> list[str]:
        other = self.against
        at = f" at {list(first.index)}" if first.index else ""
        lines = [
            f"first at step {first.step}: {first.where()}{at}:",
            f"    {'ranvier':<{len(other)}}  {first.ours:.17g}".rstrip(),
            f"    {other:<7}  {first.theirs:.17g}".rstrip(),
        ]
        return lines + [f"  fits: {hint}" for hint in self.hints]

    def to_pandas(self) -> pandas.DataFrame:
        """A DataFrame with a line for each tensor of each step (needs pandas).

        Columns: step, quantity, name, error, allowed.
        """
        pandas = pandas_of("to_pandas")
        lines = [
            (entry.step, *figures, entry.allowed(self.tolerance))
            for entry in self.steps
            for figures in entry.figures()
        ]
        return pandas.DataFrame(lines, columns=["step", "quantity", "name", "error", "allowed"])

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draws the largest deviation of each quantity over the steps (needs matplotlib).

        Args:
            ax: axes to draw on; None makes a figure.

        Returns:
            The axes. Deviations of 0 are not drawn: the axis is logarithmic.
        """
        ax = axes(ax)
        steps = [entry.step for entry in self.steps]
        for quantity in QUANTITIES:
            worst: list[Any] = []
            for entry in self.steps:
                errors = [error for kind, _, error in entry.figures() if kind == quantity]
                worst.append(max(errors, default=0.0) or np.nan)
            if not np.isnan(worst).all():
                ax.plot(steps, worst, marker="o", label=quantity)
        allowed = [entry.allowed(self.tolerance) for entry in self.steps]
        ax.plot(steps, allowed, color="0.25", linestyle="--", label="allowed")
        if self.first is not None:
            ax.axvline(self.first.step, color="C3", alpha=0.3)
        ax.set_yscale("log")
        ax.set_xlabel("step")
        whole_ticks(ax)
        ax.set_ylabel(f"deviation from {self.against}")
        ax.legend()
        return ax


def quantity_of(name: str) -> str:
    """Which of the quantities a name of `StepErrors` is."""
    if name.partition(".")[0] == "output":
        return "output"
    return "gradient" if name.startswith("d_") else "parameter"


def _severity(figure: tuple[float, str]) -> float:
    return np.inf if np.isnan(figure[0]) else figure[0]


def deviation(
    step: int, label: str, ours: Any, theirs: Any, error: float, allowed: float
) -> Deviation:
    """The element of a tensor that deviates most; `label` is its name in `StepErrors`."""
    a, b = (np.asarray(array, np.float64) for array in (ours, theirs))
    with np.errstate(invalid="ignore"):
        distance: Array = np.abs(a - b)
    distance = np.where(np.isnan(distance), np.inf, distance)
    index = np.unravel_index(int(distance.argmax()), distance.shape)
    place = tuple(int(i) for i in index)
    quantity = "loss" if label == "loss" else quantity_of(label)
    name = label.removeprefix("d_").removeprefix("output.")
    number = name.partition(".")[0]
    return Deviation(
        step,
        quantity,
        int(number) if number.isdecimal() else None,
        name,
        place,
        float(a[index]),
        float(b[index]),
        error,
        allowed,
    )
