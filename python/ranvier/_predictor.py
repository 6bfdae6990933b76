"""What predicts: layers with a network of the core behind them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _core
from ._arrays import Array, destination, empty, features
from .errors import DTypeError, InternalError, NotFittedError, ShapeError
from .layers import Layer

if TYPE_CHECKING:
    from numpy.typing import ArrayLike


class Predictor:
    """Layers one behind the other, with their parameters."""

    _layers: tuple[Layer, ...]
    _dtype: np.dtype[Any]
    _network: _core.Network | None = None
    _input_size: int | None = None

    def _require(self) -> _core.Network:
        if self._network is None:
            raise NotFittedError(
                "model: expected a model that knows its number of input features, got one "
                "without input_size; pass input_size= or fit it first"
            )
        return self._network

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers' definitions."""
        return self._layers

    @property
    def dtype(self) -> np.dtype[Any]:
        """dtype of parameters and predictions."""
        return self._dtype

    @property
    def input_size(self) -> int | None:
        """Number of input features; None until it is known."""
        return self._input_size

    @property
    def output_size(self) -> int:
        """Number of outputs."""
        return self._require().output_size

    @property
    def n_parameters(self) -> int:
        """Number of trainable values; of a quantised network, of those that were."""
        return self._require().count()

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every parameter and running statistic, in the core's order."""
        trainable, state = self._require().tables()
        return {name: tuple(shape) for name, shape in [*trainable, *state]}

    def _features(self, X: ArrayLike, name: str = "X", *, rows: bool = False) -> Array:
        """X with the right number of columns and, where asked for, at least one row."""
        x = features(X, self._dtype, name)
        if self._input_size is not None and x.shape[1] != self._input_size:
            raise ShapeError(
                f"{name}: expected {self._input_size} features (columns), got shape {x.shape}"
            )
        if rows and 0 in x.shape:
            raise ShapeError(
                f"{name}: expected at least one row and one feature, got shape {x.shape}"
            )
        return x

    def parameters(self) -> dict[str, Array]:
        """Copies of all parameters by name, with the statistics of BatchNorm and Standardize.

        Names are the layer's number and the role: "0.weight" (in, out), "0.bias" (out,), "0.slope"
        () of prelu, "1.running_mean".
        """
        network = self._require()
        arrays = {name: empty(shape, self._dtype) for name, shape in self._shapes().items()}
        network.read([np.atleast_1d(array) for array in arrays.values()])
        return arrays

    def predict(self, X: ArrayLike, *, out: Array | None = None) -> Array:
        """Raw outputs in evaluation mode; for the classification losses these are logits.

        Args:
            X: (rows, input_size), any real dtype, order and strides. NaN gives NaN in its own row.
            out: where to write: an ndarray (rows, output_size) of the model's dtype, C-contiguous
                and writable. It may share memory with X, which is then read first. None makes a
                new array.

        Returns:
            `out`, or a new array (rows, output_size) of the model's dtype. A row's bits do not
            depend on the rows around it.

        Raises:
            ShapeError, DTypeError, ArgumentError: X or `out` is not such an array. Nothing has been
                written; only an interruption (Ctrl-C) may leave some rows of `out` written.
            NotFittedError: the model does not know its input_size yet.

        Example:
            >>> import numpy as np, ranvier as rv
            >>> model = rv.Sequential([rv.Dense(3, weight_init="ones")], input_size=2)
            >>> out = np.empty((1, 3), np.float32)
            >>> model.predict([[1.0, 2.0]], out=out) is out
            True
            >>> out
            array([[3., 3., 3.]], dtype=float32)

        Several threads may predict at once.
        """
        network = self._network
        if network is not None and (done := network.predict(X, out)) is not None:
            return done
        network = self._require()
        x = self._features(X)
        shape = (x.shape[0], self.output_size)
        plain = empty(shape, self._dtype) if out is None else destination(out, shape, self._dtype)
        if np.may_share_memory(x, plain):
            x = x.copy()
        if network.predict(x, plain) is None:
            raise InternalError("a bug in ranvier: predict took its own arrays for others")
        return plain if out is None else out


def checked_predictor(model: Any) -> Predictor:
    """The network, if it is one."""
    if not isinstance(model, Predictor):
        raise DTypeError(
            "model: expected a ranvier.Sequential or ranvier.QuantizedSequential, "
            f"got {type(model).__name__}"
        )
    return model


def of_layer(parameters: Mapping[str, Array], number: int) -> dict[str, Array]:
    """The parameters of one layer, by role."""
    place = f"{number}."
    own = {name: value for name, value in parameters.items() if name.startswith(place)}
    return {name.removeprefix(place): value for name, value in own.items()}
