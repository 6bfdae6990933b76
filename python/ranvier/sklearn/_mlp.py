"""The drop-ins of scikit-learn's multi-layer perceptrons."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn import neural_network
from sklearn.utils.validation import check_is_fitted

from .._arrays import Array
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

    def _fit_stochastic(
        self,
        X: Any,
        y: Array,
        sample_weight: Array | None,
        activations: Any,
        deltas: Any,
        coef_grads: Any,
        intercept_grads: Any,
        layer_units: list[int],
        incremental: bool,
    ) -> None:
        estimator: Any = self
        if estimator.early_stopping and incremental:
            raise ValueError("partial_fit does not support early_stopping=True")
        if not incremental or not hasattr(self, "_run"):
            self._run = Run(estimator, layer_units, X.dtype)
        Loop(self._run, estimator, X, y, sample_weight, incremental).run()

    def _fit_lbfgs(
        self,
        X: Any,
        y: Array,
        sample_weight: Array | None,
        activations: Any,
        deltas: Any,
        coef_grads: Any,
        intercept_grads: Any,
        layer_units: list[int],
    ) -> None:
        estimator: Any = self
        # SciPy searches in float64 whatever X is.
        run = Run(estimator, layer_units, np.float64)
        for arrays in (estimator.coefs_, estimator.intercepts_):
            arrays[:] = [array.astype(np.float64) for array in arrays]
        Search(run, estimator, X, y, sample_weight, incremental=False).run()


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
