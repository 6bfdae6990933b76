"""Gradients by the input, and their integrals along a path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from .._arrays import Array, empty, integer, numeric
from .._pictures import pandas_of
from ..errors import ArgumentError, ShapeError
from ..layers import Standardize
from ._bars import bars
from ._subject import ROWS, Subject

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike

__all__ = [
    "Attributions",
    "InputGradients",
    "IntegratedGradients",
    "input_gradients",
    "integrated_gradients",
]


@dataclass(frozen=True, repr=False, eq=False)
class Attributions:
    """A number for each feature of each row. NumPy takes it as the array of these.

    Attributes:
        values: (rows, features), of the model's dtype.
        outputs: (rows,), f(x), the output that was looked at.
        feature_names: of the columns.
    """

    values: Array
    outputs: Array
    feature_names: tuple[str, ...]

    _title: ClassVar[str] = "attribution"

    def __repr__(self) -> str:
        """How many, and the features with the largest ones."""
        rows, features = self.values.shape
        size = self.mean_absolute()
        first = ", ".join(
            f"{self.feature_names[i]} {size[i]:.3g}" for i in np.argsort(-size, kind="stable")[:3]
        )
        return (
            f"<{type(self).__name__} of {rows} row{'s' * (rows != 1)} and {features} "
            f"feature{'s' * (features != 1)}; largest mean sizes: {first}>"
        )

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """The values."""
        if copy is None:
            return np.asarray(self.values, dtype)
        return np.array(self.values, dtype, copy=copy)

    def mean_absolute(self) -> Array:
        """Mean of |value| over the rows, (features,), in float64."""
        size: Array = np.abs(self.values).mean(axis=0, dtype=np.float64)
        return size

    def to_pandas(self) -> pandas.DataFrame:
        """A DataFrame with the features as columns and a line for each row (needs pandas)."""
        return pandas_of("to_pandas").DataFrame(self.values, columns=list(self.feature_names))

    def plot(
        self, ax: Axes | None = None, *, row: int | None = None, max_features: int = 20
    ) -> Axes:
        """Draws the mean sizes over the rows, or the values of one row (needs matplotlib).

        Args:
            ax: axes to draw on; None makes a figure.
            row: number of the row; None is the mean of |value| over the rows, or the row where
                there is only one.
            max_features: most bars; those of the largest sizes are shown, from the top.

        Returns:
            The axes.
        """
        rows = len(self.values)
        if row is None and rows == 1:
            row = 0
        if row is None:
            figures, xlabel = self.mean_absolute(), f"mean |{self._title}| over {rows} rows"
        else:
            row = integer(row, "row", least=0, most=rows - 1)
            figures, xlabel = self.values[row], f"{self._title}, row {row}"
        order = np.argsort(-np.abs(figures), kind="stable")
        return bars(
            ax, self.feature_names, figures, order, xlabel=xlabel, max_features=max_features
        )


class InputGradients(Attributions):
    """∂f/∂x at each row: what one unit more of a feature adds, to first order."""

    _title = "∂f/∂x"


@dataclass(frozen=True, repr=False, eq=False)
class IntegratedGradients(Attributions):
    """What each feature contributes to f(x) − f(baseline).

    Attributes:
        base_outputs: (rows,), f at each row's baseline.
    """

    base_outputs: Array

    _title = "contribution"

    @property
    def delta(self) -> Array:
        """Sum of a row's values − (f(x) − f(baseline)): the quadrature's error, (rows,)."""
        difference = self.outputs.astype(np.float64) - self.base_outputs
        delta: Array = self.values.sum(axis=1, dtype=np.float64) - difference
        return delta


def input_gradients(
    model: Any,
    X: ArrayLike,
    *,
    output: Any = None,
    of: str = "output",
    feature_names: Sequence[str] | None = None,
) -> InputGradients:
    """The gradient ∂f/∂x of one output f by the features, at each row.

    In evaluation mode, by one backward pass. Also known as saliency (Simonyan et al. 2014, who
    take the size of it; Captum's `Saliency` does with its default abs=True). Gradients are per
    unit of a feature: multiply by the features' deviations to compare features in different units.

    Args:
        model: a `Sequential`, or a fitted MLPClassifier or MLPRegressor of `ranvier.sklearn`.
        X: (rows, features), finite, any real dtype.
        output: which output: its number, from 0, of a `Sequential` or a regressor; a class label
            of a classifier; or an array of one for each row, such as y. None where there is only
            one, or two classes, of which the second of `classes_` is looked at. (Captum's
            `target`. SHAP returns all outputs on a third axis: np.stack over them does that.)
        of: "output" is the raw output: the logit of a class, which the loss and Captum's examples
            go by. "probability" is the softmax over the outputs, or the sigmoid of a single one;
            an estimator with several labels for a row takes the sigmoid of each. Its gradient
            vanishes where the model is certain.
        feature_names: one for each column; None takes those of a data frame, or of the frame that
            the estimator was fitted on, else x0, x1, ...

    Returns:
        An `InputGradients`. A row's bits do not depend on the rows around it.

    Raises:
        DTypeError: `model` is something else.
        ArgumentError, ShapeError: X is not finite or does not fit the model; `output` is none of
            the model's, or missing; probabilities are asked of a model that has none.

    Example:
        >>> import numpy as np, ranvier as rv
        >>> model = rv.Sequential([rv.Dense(1)], input_size=2)
        >>> model.set_parameters({"0.weight": [[2.0], [-3.0]]})
        >>> rv.inspection.input_gradients(model, np.zeros((1, 2))).values
        array([[ 2., -3.]], dtype=float32)

    While another thread trains the model, look at `model.copy()`: rows go through it in parts.
    """
    subject = Subject(model)
    x, names = subject.features(X, feature_names)
    target = subject.target(output, of, len(x))
    gradient = target.gradients(x, np.arange(len(x)))
    return InputGradients(gradient, target.values(x), names)


def integrated_gradients(
    model: Any,
    X: ArrayLike,
    *,
    baseline: ArrayLike | None = None,
    output: Any = None,
    of: str = "output",
    steps: int = 50,
    feature_names: Sequence[str] | None = None,
) -> IntegratedGradients:
    """What each feature contributes to an output, compared with a baseline b, for each row.

    (xᵢ − bᵢ)·∫₀¹ ∂f/∂xᵢ(b + t·(x − b)) dt (Sundararajan, Taly and Yan 2017). The contributions of
    a row add up to f(x) − f(b), but for the error of the quadrature, which is `delta` of the
    result; features that f ignores, or that are at the baseline, get 0.

    Args:
        model: as for `input_gradients`.
        X: as for `input_gradients`.
        baseline: what "absent" means: one number, one row (features,), or a row for each of X.
            None is the row whose features the network sees as 0: the means of training where its
            first layer is `Standardize`, else zeros, as in Captum. Zeros say little of data that
            was not standardised: pass X.mean(axis=0) of the training data, or a typical row.
        output: as for `input_gradients`.
        of: as for `input_gradients`.
        steps: points of Gauss-Legendre quadrature, 1 to 500, each a backward pass of all rows.
            With smooth activations (tanh, gelu, silu) the error falls exponentially, and 32 are
            plenty; with kinks (relu) it falls like 1/steps, and is around 0.1 to 1 % of the
            difference at 50.
        feature_names: as for `input_gradients`.

    Returns:
        An `IntegratedGradients`. A row's bits do not depend on the rows around it.

    Raises:
        DTypeError, ArgumentError, ShapeError: as for `input_gradients`, and of the baseline.

    Example:
        >>> import numpy as np, ranvier as rv
        >>> model = rv.Sequential([rv.Dense(8, activation="tanh"), rv.Dense(1)], input_size=3)
        >>> seen = rv.inspection.integrated_gradients(model, np.eye(3), baseline=0.5)
        >>> seen.values.shape, bool(np.abs(seen.delta).max() < 1e-6)
        ((3, 3), True)

    Captum's `IntegratedGradients` has the same rule and number of steps, and always zeros without
    baselines. SHAP's `GradientExplainer` averages over baselines drawn from data and over points
    drawn on the way.
    """
    subject = Subject(model)
    x, names = subject.features(X, feature_names)
    target = subject.target(output, of, len(x))
    start = _start(baseline, subject, x)
    nodes, weights = _quadrature(integer(steps, "steps", least=1, most=500))
    values = empty(x.shape, subject.network.dtype)
    most = max(1, ROWS // len(nodes))
    for first in range(0, len(x), most):
        part = slice(first, first + most)
        way = x[part].astype(np.float64) - start[part]
        points = start[part] + nodes[:, np.newaxis, np.newaxis] * way
        rows = np.tile(np.arange(len(x))[part], len(nodes))
        gradients = target.gradients(points.reshape(-1, x.shape[1]), rows).reshape(points.shape)
        # In the order of the nodes, whatever the rows: a sum by NumPy would depend on the shape.
        total = np.zeros(way.shape)
        for weight, gradient in zip(weights, gradients, strict=True):
            total += weight * gradient
        values[part] = way * total
    return IntegratedGradients(values, target.values(x), names, target.values(start))


def _start(baseline: ArrayLike | None, subject: Subject, x: Array) -> Array:
    """A baseline for each row, in float64."""
    network = subject.network
    start: Array
    if baseline is None:
        start = np.zeros(x.shape[1])
        if isinstance(network.layers[0], Standardize) and network.layers[0].of == "inputs":
            start = network.parameters()["0.running_mean"].astype(np.float64)
    else:
        start = numeric(baseline, "baseline", np.float64).astype(np.float64)
        if start.shape not in ((), x.shape[1:], (1, x.shape[1]), x.shape):
            raise ShapeError(
                f"baseline: expected a number, or shape {x.shape[1:]} or {x.shape}, "
                f"got shape {start.shape}"
            )
        if not (np.abs(start) <= np.finfo(network.dtype).max).all():
            raise ArgumentError(f"baseline: expected finite {network.dtype} numbers, got others")
    return np.broadcast_to(start, x.shape)


@lru_cache(maxsize=8)
def _quadrature(steps: int) -> tuple[Array, Array]:
    """Nodes in (0, 1) and their weights, which sum to 1."""
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    return (nodes + 1.0) / 2.0, weights / 2.0
