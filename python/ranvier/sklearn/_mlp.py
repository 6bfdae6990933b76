"""The drop-ins of scikit-learn's multi-layer perceptrons."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from sklearn import neural_network
from sklearn.neural_network._base import ACTIVATIONS
from sklearn.utils.validation import check_is_fitted

from .._arrays import Array
from ..errors import ArgumentError
from ..layers import Dense
from ..model import Sequential
from ._training import _ACTIVATIONS, Loop, Run, Search


class _Fast:
    """The training loop of both, in place of scikit-learn's."""

    @property
    def model_(self) -> Sequential:
        """The fitted network, a `ranvier.Sequential` of its own with the coefficients of now.

        It predicts raw outputs: logits of a classifier (one for two classes), the logarithm of the
        rate under loss="poisson".
        """
        estimator: Any = self
        check_is_fitted(estimator)
        widths = [coef.shape[1] for coef in estimator.coefs_]
        hidden = _ACTIVATIONS[estimator.activation]
        layers = [*(Dense(width, hidden) for width in widths[:-1]), Dense(widths[-1])]
        first = estimator.coefs_[0]
        model = Sequential(layers, input_size=first.shape[0], dtype=first.dtype)
        model.set_parameters(
            {f"{layer}.weight": coef for layer, coef in enumerate(estimator.coefs_)}
            | {f"{layer}.bias": bias for layer, bias in enumerate(estimator.intercepts_)}
        )
        return model

    def _fit_stochastic(self, X: Any, y: Array, sample_weight: Array | None, *rest: Any) -> None:
        estimator: Any = self
        *_, layer_units, incremental = rest
        if _refused_by_core(estimator, y, sample_weight):
            vars(self).pop("_run", None)
            super()._fit_stochastic(X, y, sample_weight, *rest)  # type: ignore[misc]
            return
        vars(self).pop("_optimizer", None)
        if estimator.early_stopping and incremental:
            raise ValueError("partial_fit does not support early_stopping=True")
        units = _units(estimator, layer_units)
        if not incremental or not hasattr(self, "_run"):
            # A warm start keeps the type of its coefficients.
            self._run = Run(estimator, units, np.result_type(X.dtype, estimator.coefs_[0]))
        self._run.follow(estimator)
        Loop(self._run, estimator, X, y, sample_weight, incremental).run()

    def _fit_lbfgs(self, X: Any, y: Array, sample_weight: Array | None, *rest: Any) -> None:
        estimator: Any = self
        *_, layer_units = rest
        if _refused_by_core(estimator, y, sample_weight):
            super()._fit_lbfgs(X, y, sample_weight, *rest)  # type: ignore[misc]
            return
        # SciPy searches in float64 whatever X is.
        for arrays in (estimator.coefs_, estimator.intercepts_):
            arrays[:] = [array.astype(np.float64) for array in arrays]
        run = Run(estimator, _units(estimator, layer_units), np.float64)
        Search(run, estimator, X, y, sample_weight, incremental=False).run()

    def _forward_pass_fast(self, X: Any, check_input: bool = True) -> Any:
        outputs = self._plain_outputs(X) if check_input else None
        if outputs is None:
            outputs = super()._forward_pass_fast(X, check_input=check_input)  # type: ignore[misc]
        return outputs

    def _plain_outputs(self, X: Any) -> Any:
        """scikit-learn's arithmetic without its checks, where X needs none; else None.

        They take ten times as long as a row on its way through the network.
        """
        fitted = vars(self)
        if (
            type(X) is not np.ndarray
            or X.ndim != 2
            or X.dtype.char not in "fd"
            or X.shape[1] != fitted.get("n_features_in_")
            or X.shape[0] == 0
            or "coefs_" not in fitted
            or "feature_names_in_" in fitted
            # The sum of squares is finite only if every number is.
            or not math.isfinite(np.vdot(X, X))
        ):
            return None
        hidden, last = ACTIVATIONS[fitted["activation"]], len(fitted["coefs_"]) - 1
        for layer, coef in enumerate(fitted["coefs_"]):
            X = X @ coef
            X += fitted["intercepts_"][layer]
            if layer < last:
                hidden(X)
        ACTIVATIONS[fitted["out_activation_"]](X)
        return X


def _units(estimator: Any, layer_units: list[int]) -> list[int]:
    """Sizes of the layers, which a warm start keeps from before."""
    if len(layer_units) != estimator.n_layers_:
        raise ArgumentError(
            f"hidden_layer_sizes: expected {estimator.n_layers_ - 2} layers, as in the fit "
            f"that training goes on from, got {len(layer_units) - 2}"
        )
    return [len(coef) for coef in estimator.coefs_] + layer_units[-1:]


def _refused_by_core(estimator: Any, y: Array, sample_weight: Array | None) -> bool:
    """Whether scikit-learn takes what the core refuses, so that its own loop has to train."""
    kind = type(estimator)
    return (
        any(
            getattr(kind, name) is not getattr(neural_network.MLPRegressor, name)
            for name in ("_backprop", "_compute_loss_grad", "_forward_pass")
        )
        or (sample_weight is not None and bool((sample_weight < 0).any()))
        or (estimator.loss == "poisson" and bool((y < 0).any()))
        or (estimator.solver == "sgd" and estimator.momentum == 1)
    )


class MLPClassifier(_Fast, neural_network.MLPClassifier):
    """scikit-learn's MLPClassifier, trained by Ranvier; see the module for what differs.

    Parameters, attributes and methods are those of `sklearn.neural_network.MLPClassifier`.

    Example:
        >>> from ranvier.sklearn import MLPClassifier
        >>> from sklearn.datasets import load_digits
        >>> X, y = load_digits(return_X_y=True)
        >>> clf = MLPClassifier((32,), random_state=0, max_iter=1000).fit(X / 16, y)
        >>> clf.score(X / 16, y) > 0.99
        True
    """

    def predict(self, X: Any) -> Any:
        """Labels of X's rows, as scikit-learn's."""
        outputs: Any = self._plain_outputs(X)
        kind = None if outputs is None else self._label_binarizer.y_type_
        if kind == "multiclass":
            return self.classes_.take(outputs.argmax(axis=1))
        if kind == "binary" and len(self.classes_) == 2:
            return self.classes_.take(outputs[:, 0] > 0.5)
        return super().predict(X)


class MLPRegressor(_Fast, neural_network.MLPRegressor):
    """scikit-learn's MLPRegressor, trained by Ranvier; see the module for what differs.

    Parameters, attributes and methods are those of `sklearn.neural_network.MLPRegressor`.

    Example:
        >>> import numpy as np
        >>> from ranvier.sklearn import MLPRegressor
        >>> X = np.linspace(-1, 1, 200)[:, None]
        >>> reg = MLPRegressor(learning_rate_init=0.01, random_state=0)
        >>> reg = reg.fit(X, X[:, 0] ** 2)
        >>> reg.score(X, X[:, 0] ** 2) > 0.95
        True
    """
