"""Models of other frameworks, taken over with their weights.

`from_sklearn` makes a `ranvier.Sequential`; `Sequential.to_sklearn` goes the other way. One rule
holds for both. Predictions are equal up to
rounding, 1e-6 of the largest output in float32 and 1e-12 in float64 (more where layers amplify it,
as by cancellation), or the model is refused, with the name of the layer that stands in the way.
What only training would notice and the other side does not have, such as a frozen layer or a
penalty, is left out and logged as a warning, to "ranvier".

Weights are copied. The dtype is that of the foreign model.

The classification losses take raw outputs, as everywhere in ranvier. A sigmoid or softmax at the
end of a foreign model stays there, so that predictions stay what they were; leave it away for going
on with such a loss:

    >>> import ranvier as rv
    >>> foreign = rv.Sequential([rv.Dense(4), rv.Dense(3, activation="softmax")], input_size=2)
    >>> raw = rv.Sequential([*foreign.layers[:-1], rv.Dense(3)], input_size=2)
    >>> raw.set_parameters(foreign.parameters())
"""

from __future__ import annotations

from typing import Any

from ..model import Sequential

__all__ = ["from_sklearn"]


def from_sklearn(estimator: Any, *, probabilities: bool = False) -> Sequential:
    """The model of a fitted MLPClassifier or MLPRegressor.

    Args:
        estimator: fitted, of scikit-learn or of `ranvier.sklearn`; alone, behind a StandardScaler
            in a Pipeline (which becomes a Standardize layer), or as the regressor of a
            TransformedTargetRegressor whose transformer is a StandardScaler.
        probabilities: a classifier's probabilities in place of raw outputs, by one more layer.

    Returns:
        The model, in the dtype of `coefs_`. Its outputs are raw: a regressor's predictions (with
        loss="poisson" their logarithm), a classifier's logits, one for each of `classes_`, of which
        two have one in common, that of the second.

    Raises:
        NotFittedError: the estimator is not fitted.
        DTypeError: it is something else.
        ArgumentError: another step in the Pipeline, or a parameter of `ranvier.sklearn` in use that
            scikit-learn does not have.
        MissingDependencyError: scikit-learn is not installed.

    Example:
        >>> import ranvier as rv
        >>> from sklearn.datasets import load_iris
        >>> from sklearn.neural_network import MLPClassifier
        >>> X, y = load_iris(return_X_y=True)
        >>> clf = MLPClassifier((8,), solver="lbfgs", max_iter=1000, random_state=0).fit(X, y)
        >>> model = rv.from_sklearn(clf, probabilities=True)
        >>> bool(abs(model.predict(X) - clf.predict_proba(X)).max() < 1e-12)
        True

    The penalty is not taken along: scikit-learn's alpha depends on the batch; see
    `ranvier.Dense`'s l2.
    """
    from ._sklearn import from_sklearn as convert

    return convert(estimator, probabilities)
