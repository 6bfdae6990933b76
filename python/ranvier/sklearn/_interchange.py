"""From the drop-ins to scikit-learn's own estimators, and back."""

from __future__ import annotations

import copy
import inspect
from typing import Any, Self

from ..errors import ArgumentError, DTypeError, NotFittedError


def home(kind: type) -> Any:
    """The class of scikit-learn's from which this one comes."""
    return next(base for base in kind.__mro__ if base.__module__.startswith("sklearn."))


def _differs(value: Any, default: Any) -> bool:
    try:
        return value is not default and bool(value != default)
    except ValueError:
        # Of an array.
        return True


def _known(estimator: Any, kind: Any, whose: str, name: str) -> list[str]:
    """Parameters of this class, if it has all that are in use by a fitted estimator."""
    if hasattr(estimator, "estimators_"):
        raise ArgumentError(
            f"{name}: expected one network, got an ensemble of {len(estimator.estimators_)}; take "
            "one of its estimators_"
        )
    if not hasattr(estimator, "coefs_"):
        raise NotFittedError(f"{name}: expected a fitted estimator, got {estimator!r}; call fit")
    known = kind().get_params()
    signature = inspect.signature(type(estimator)).parameters
    for option, value in estimator.get_params(deep=False).items():
        if option not in known and _differs(value, signature[option].default):
            raise ArgumentError(
                f"{name}: expected what {whose} {kind.__name__} can be, got {option}={value!r}"
            )
    return list(known)


def network_of(estimator: Any, name: str) -> Any:
    """The network of a fitted drop-in."""
    ours = next(base for base in type(estimator).__mro__ if base.__module__.startswith("ranvier."))
    _known(estimator, ours, "ranvier's", name)
    return estimator.model_


def plain_parameters(estimator: Any, name: str) -> dict[str, Any]:
    """A fitted estimator's parameters, if scikit-learn's own class takes and means them all."""
    theirs = home(type(estimator))
    known = _known(estimator, theirs, "scikit-learn's", name)
    parameters = {option: getattr(estimator, option) for option in known}
    try:
        theirs(**parameters)._validate_params()
    except ValueError as error:
        raise ArgumentError(
            f"{name}: expected what scikit-learn's {theirs.__name__} can be: {error}"
        ) from error
    return parameters


# The moments of scikit-learn's, and what the drop-ins have beside coefs_ and intercepts_.
_OF_TRAINING = (
    "_optimizer",
    "_loss",
    "_layers",
    "_extra",
    "_best_extra",
    "validation_loss_curve_",
)


def _become(estimator: Any, kind: Any, name: str) -> Any:
    """A fitted estimator of class `kind` with parameters and attributes of its own."""
    parameters = plain_parameters(estimator, name)
    given = estimator.get_params(deep=False)
    state = {
        attribute: value
        for attribute, value in vars(estimator).items()
        # What drives a training stays behind: the core's network, scikit-learn's moments.
        if attribute not in given
        and attribute not in _OF_TRAINING
        and not type(value).__module__.startswith("ranvier.")
    }
    # As one, so that what they share stays shared.
    parameters, state = copy.deepcopy((parameters, state))
    made = kind(**parameters)
    vars(made).update(state)
    return made


class Interchange:
    """What the drop-ins have more than scikit-learn's estimators."""

    def to_sklearn(self) -> Any:
        """scikit-learn's own estimator with the same parameters and fitted attributes.

        Arrays are copied. It predicts the same, pickles without ranvier, and goes on where
        scikit-learn's can: `fit` with warm_start as this one would, `partial_fit` from the
        coefficients, with moments of the optimiser that start anew.

        Raises:
            NotFittedError: the estimator is not fitted.
            ArgumentError: a parameter that scikit-learn's class does not have, or a value that it
                does not take, is in use.

        Example:
            >>> import numpy as np
            >>> from ranvier.sklearn import MLPRegressor
            >>> X = np.linspace(-1, 1, 50)[:, None]
            >>> ours = MLPRegressor(solver="lbfgs", tol=0.01).fit(X, X[:, 0] ** 2)
            >>> theirs = ours.to_sklearn()
            >>> type(theirs).__module__
            'sklearn.neural_network._multilayer_perceptron'
            >>> bool(np.all(theirs.predict(X) == ours.predict(X)))
            True
        """
        return _become(self, home(type(self)), "to_sklearn")

    @classmethod
    def from_sklearn(cls, estimator: Any) -> Self:
        """The inverse of `to_sklearn`.

        Args:
            estimator: fitted, of scikit-learn's class of the same name.

        Raises:
            DTypeError: it is of another class.
            NotFittedError, ArgumentError: as there.

        Example:
            >>> import numpy as np
            >>> from sklearn import neural_network
            >>> from ranvier.sklearn import MLPRegressor
            >>> X = np.linspace(-1, 1, 50)[:, None]
            >>> theirs = neural_network.MLPRegressor(solver="lbfgs", tol=0.01).fit(X, X[:, 0] ** 2)
            >>> ours = MLPRegressor.from_sklearn(theirs)
            >>> bool(np.all(ours.predict(X) == theirs.predict(X)))
            True
        """
        theirs = home(cls)
        if not isinstance(estimator, theirs):
            raise DTypeError(
                f"estimator: expected a fitted {theirs.__name__} of scikit-learn's, "
                f"got {type(estimator).__name__}"
            )
        made: Self = _become(estimator, cls, "estimator")
        vars(made)["validation_loss_curve_"] = None
        return made
