"""How far an exported model agrees with the one it was made from, by running it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .._arrays import Array
from .._predictor import Predictor
from ..layers import Standardize

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

# Rows that are tried where the caller has none.
ROWS = 64


@dataclass(frozen=True, repr=False)
class Agreement:
    """What came of running an exported model beside `model.predict`.

    Attributes:
        format: "onnx", "c" or "numpy".
        paths: the files that were written.
        runner: what has run them, with its version; None where nothing could.
        rows: how many rows were tried; 0 where nothing could run the files.
        max_error: the largest difference between two outputs, absolute; NaN where no row was tried.
        scale: the largest output of the model, absolute.
        bit_equal: whether all outputs have the same bits; −0.0 is not 0.0, all NaN count as one.
        reason: why no row was tried; "" otherwise.
    """

    format: str
    paths: tuple[str, ...]
    runner: str | None
    rows: int
    max_error: float
    scale: float
    bit_equal: bool
    reason: str = ""

    def __str__(self) -> str:
        """One line."""
        where = ", ".join(self.paths)
        if not self.rows:
            return f"{self.format}: {where}: not run: {self.reason}"
        equal = (
            "the same bits"
            if self.bit_equal
            else f"largest difference {self.max_error:.1e} of {self.scale:.1e}"
        )
        return f"{self.format}: {where}: {self.rows} rows run by {self.runner}: {equal}"

    __repr__ = __str__


def rows_of(model: Predictor, X: ArrayLike | None) -> Array:
    """Rows to try, in the model's dtype: the caller's, or normal ones that suit its inputs."""
    if X is not None:
        return np.ascontiguousarray(model._features(X, rows=True), model.dtype)
    parameters = model.parameters()
    rows = np.random.default_rng(0).normal(size=(ROWS, model.input_size or 0))
    if isinstance(model.layers[0], Standardize):
        variance = parameters["0.running_var"].astype(np.float64)
        scaled = rows * np.sqrt(variance) + parameters["0.running_mean"]
        rows = np.where(variance > 0, scaled, rows)
    return rows.astype(model.dtype)


def compared(
    kind: str, paths: tuple[str, ...], runner: str, expected: Array, found: Array
) -> Agreement:
    """The agreement of outputs that were found with those of the model."""
    plain = [
        np.where(np.isnan(values), values.dtype.type(np.nan), values)
        for values in (found, expected)
    ]
    same = found.dtype == expected.dtype and plain[0].tobytes() == plain[1].tobytes()
    pairs = np.stack([found.astype(np.float64), expected.astype(np.float64)])
    # Infinities and NaN in the same places do not differ.
    with np.errstate(invalid="ignore"):
        differences = np.where(
            (pairs[0] == pairs[1]) | np.isnan(pairs).all(0), 0.0, np.abs(pairs[0] - pairs[1])
        )
    scale = float(np.abs(pairs[1], where=np.isfinite(pairs[1]), out=np.zeros_like(pairs[1])).max())
    return Agreement(
        kind, paths, runner, len(expected), float(differences.max()), scale, bit_equal=same
    )


def not_run(kind: str, paths: tuple[str, ...], reason: str) -> Agreement:
    """An agreement that could not be looked at."""
    return Agreement(kind, paths, None, 0, float("nan"), float("nan"), False, reason)
