"""What is looked at: a network, and what its estimator knows besides."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._arrays import Array, as_array, empty
from ..errors import ArgumentError, DTypeError, ShapeError
from ..layers import Activation, Softmax, Standardize
from ..losses import CustomLoss, Loss, LossLike
from ..model import Sequential

# Of scikit-learn's names for what makes predictions of outputs: the loss that goes with it.
_LOSSES = {
    "softmax": "cross_entropy",
    "logistic": "binary_cross_entropy",
    "identity": "mse",
    "exp": "poisson",
}
# Rows that go through the network together: enough for its products, few enough for the caches.
ROWS = 1024


class Subject:
    """A network and the names of what goes in and comes out.

    Attributes:
        network: the network.
        classes: labels of the outputs, of a classifier.
        out_activation: scikit-learn's name for what makes probabilities or rates of the outputs.
    """

    def __init__(self, model: Any) -> None:
        self._own = isinstance(model, Sequential)
        if not self._own and not hasattr(type(model), "model_"):
            instead = (
                "; ranvier.from_sklearn makes a Sequential of scikit-learn's perceptrons, "
                "sklearn.inspection takes any estimator"
            )
            raise DTypeError(
                "model: expected a ranvier.Sequential or a fitted MLPClassifier or MLPRegressor of "
                f"ranvier.sklearn, got {type(model).__name__}"
                f"{instead if hasattr(model, 'fit') else ''}"
            )
        if hasattr(model, "estimators_"):
            raise ArgumentError(
                f"model: expected one network, got {model!r}; take one of its estimators_, or "
                "sklearn.inspection for all together"
            )
        self.network: Sequential = model if self._own else model.model_
        self.network._require()
        self.classes: Array | None = getattr(model, "classes_", None)
        self.out_activation: str | None = getattr(model, "out_activation_", None)
        self._names = getattr(model, "feature_names_in_", None)
        # Of an estimator that has not scikit-learn's.
        self._loss: Loss | CustomLoss | None = None if self._own else model._loss

    def features(self, X: Any, names: Sequence[str] | None) -> tuple[Array, tuple[str, ...]]:
        """X as finite numbers, with the names of its columns, which may be given."""
        x = self.network._features(X, rows=True)
        most = np.finfo(self.network.dtype).max
        # NaN passes through min and max, and through no comparison.
        if not (x.min() >= -most and x.max() <= most):
            row, column = np.argwhere(~((x >= -most) & (x <= most)))[0]
            raise ArgumentError(
                f"X: expected finite {self.network.dtype} numbers, got {x[row, column]} "
                f"in row {row}, column {column}"
            )
        own = _columns(X)
        fitted = None if self._names is None else tuple(map(str, self._names))
        if fitted is not None and own is not None and own != fitted:
            raise ArgumentError(
                f"X: expected the columns of the fit, {list(fitted)}, got {list(own)}"
            )
        if names is not None:
            return x, _checked_names(names, x.shape[1])
        return x, own or fitted or tuple(f"x{i}" for i in range(x.shape[1]))

    def codes(self, labels: Any, name: str) -> Array:
        """Numbers of the classes that are named; without classes the numbers themselves."""
        array = as_array(labels, name)
        if self.classes is None:
            if array.dtype.kind not in "iu":
                raise DTypeError(f"{name}: expected numbers of outputs, got {labels!r}")
            count = self.network.output_size
            if array.size and not 0 <= array.min() <= array.max() < count:
                wrong = array[(array < 0) | (array >= count)].flat[0]
                raise ArgumentError(f"{name}: expected numbers from 0 to {count - 1}, got {wrong}")
            return array.astype(np.intp)
        known = self.classes.tolist()
        numbers = {label: number for number, label in enumerate(known)}
        try:
            values, places = np.unique(array, return_inverse=True)
            unknown = [value for value in values.tolist() if value not in numbers]
        except TypeError as error:
            raise DTypeError(f"{name}: expected labels among {known}, got {labels!r}") from error
        if unknown:
            raise ArgumentError(f"{name}: expected labels among {known}, got {unknown[0]!r}")
        found = np.array([numbers[value] for value in values.tolist()], np.intp)
        return found[places].reshape(array.shape)

    def loss(self) -> LossLike:
        """The loss that the estimator was trained with."""
        if self._loss is not None:
            return self._loss
        if self.out_activation not in _LOSSES:
            raise ArgumentError(
                "loss: expected the loss that the model was trained with, such as 'mse', got None"
            )
        return _LOSSES[self.out_activation]

    def targets(self, y: Any, *, own: bool) -> Any:
        """Targets as the loss takes them: a classifier's labels become numbers.

        Args:
            y: targets as the estimator takes them.
            own: whether the loss is the estimator's, which has a shape of its own for a custom one.
        """
        columns = own and self._loss is not None and not isinstance(self._loss, Loss)
        if self.classes is None:
            return as_array(y, "y").reshape(len(y), -1) if columns else y
        array = as_array(y, "y")
        several = array.ndim == 2 and array.shape[1] > 1
        if not several:
            array = self.codes(array.reshape(-1), "y")
            if not columns or self.out_activation == "softmax":
                return array
        return array.reshape(len(array), -1).astype(self.network.dtype) if columns else y

    def target(self, output: Any, of: str, rows: int) -> Target:
        """The output that is asked for, in each row."""
        if of not in ("output", "probability"):
            raise ArgumentError(f"of: expected 'output' or 'probability', got {of!r}")
        count = self.network.output_size
        # One output stands for two classes.
        binary = self.classes is not None and count == 1
        if output is None and count > 1:
            what = "number" if self.classes is None else "class"
            raise ArgumentError(
                f"output: expected the {what} of one of {count} outputs, or one for each row, "
                "got None"
            )
        codes = np.array(int(binary)) if output is None else self.codes(output, "output")
        if codes.shape not in ((), (rows,)):
            raise ShapeError(
                f"output: expected one output, or one for each of {rows} rows, "
                f"got shape {codes.shape}"
            )
        codes = np.broadcast_to(codes, (rows,))
        return Target(
            self._with_probabilities() if of == "probability" else self.network,
            index=np.zeros(rows, np.intp) if binary else codes,
            positive=codes == 1 if binary else np.ones(rows, bool),
            likely=of == "probability",
        )

    def _with_probabilities(self) -> Sequential:
        """The network with a last layer that makes probabilities of its outputs."""
        network = self.network
        last = network.layers[-1]
        squash = {"softmax": "softmax", "logistic": "sigmoid"}.get(self.out_activation or "")
        if self._own:
            squash = "sigmoid" if network.output_size == 1 else "softmax"
        already = isinstance(last, Softmax) or getattr(last, "activation", None) in (
            "softmax",
            "sigmoid",
        )
        if squash is None or already or isinstance(last, Standardize):
            raise ArgumentError(
                "of: expected 'output' for a network whose outputs are no logits, got 'probability'"
            )
        twin = Sequential(
            [*network.layers, Activation(squash)],
            input_size=network.input_size,
            dtype=network.dtype,
        )
        twin.set_parameters(network.parameters())
        return twin


def _columns(X: Any) -> tuple[str, ...] | None:
    """Names of a frame's columns; an Arrow table's `columns` are its data."""
    names = getattr(X, "column_names", None)
    names = getattr(X, "columns", None) if names is None else names
    return None if names is None else tuple(map(str, names))


def _checked_names(names: Any, count: int) -> tuple[str, ...]:
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise DTypeError(f"feature_names: expected a list of strings, got {names!r}")
    found = tuple(map(str, names))
    if len(found) != count:
        raise ShapeError(f"feature_names: expected {count} names, got {len(found)}")
    return found


@dataclass(frozen=True)
class Target:
    """One number f of a network for each row.

    Args:
        network: the network.
        index: (rows,), the output in each row.
        positive: (rows,); False for the first of two classes that share one output: f is minus
            the output then, or 1 minus the probability.
        likely: whether outputs are probabilities.
    """

    network: Sequential
    index: Array
    positive: Array
    likely: bool

    def values(self, x: Array) -> Array:
        """f of each row, (rows,)."""
        output = self.network.predict(x)
        value = output[np.arange(len(output)), self.index]
        return np.where(self.positive, value, (1 - value) if self.likely else -value)

    def gradients(self, x: Array, rows: Array) -> Array:
        """df/dx at points x, (points, features), that belong to these rows."""
        gradient = empty(x.shape, self.network.dtype)
        for first in range(0, len(x), ROWS):
            part = slice(first, first + ROWS)
            own = rows[part]
            seeds = _Seeds(self.positive[own])
            _, found = self.network.value_and_gradient(x[part], self.index[own], loss=seeds)
            gradient[part] = found.d_input
        return gradient


class _Seeds:
    """A loss whose gradient is 1 for one output of each row, or −1, and 0 for the others."""

    def __init__(self, positive: Array) -> None:
        self._seed = np.where(positive, 1, -1)

    def value_and_gradient(
        self, output: Array, target: Array, sample_weight: Array | None = None
    ) -> tuple[float, Array]:
        d_output = np.zeros_like(output)
        d_output[np.arange(len(output)), target] = self._seed
        return 0.0, d_output
