"""`TabularClassifier`, and what it has in common with `TabularRegressor`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from scipy.special import log_softmax, softmax
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.utils import check_consistent_length, check_random_state, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_array, check_is_fitted

from .._arrays import Array, boolean, integer, real
from ..activations import ActivationLike
from ..errors import ArgumentError
from ..losses import CrossEntropy
from ..model import Sequential
from ._options import class_factors
from ._recipes import LIGHT, SHORT, SHORTEST, STRONG, Ensemble, Head, Plan, Training, mean_output
from ._tables import TableEncoder
from ._uncertainty import log_loss, temperature


class Tabular(BaseEstimator):
    """What the tabular estimators have in common."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def _train(
        self,
        X: Any,
        targets: Array,
        sample_weight: Array | None,
        weight: Array | None,
        heads: list[Head],
    ) -> tuple[list[Ensemble], dict[str, Any]]:
        """An ensemble for each head, and attributes, of which the first head's are for `predict`.

        sample_weight is for the encoder's statistics, weight for the training.
        """
        self._check()
        encoder = TableEncoder(self.categorical_features)
        # What is told about X comes to the estimator when all has gone well.
        told = clone(self)
        columns = encoder.read(told, X, reset=True)
        encoder.fit(columns, sample_weight)
        rows = len(targets) if weight is None else int(np.count_nonzero(weight))
        plan = Plan(rows, self.max_epochs, self.max_steps)
        encoded = encoder.transform(columns, plan.dtype)
        if weight is not None and rows < len(targets):
            present = np.flatnonzero(weight)
            encoded, targets, weight = encoded[present], targets[present], weight[present]
        rng = check_random_state(self.random_state)
        ensembles = Training(self, heads, encoded, targets, weight, plan, rng).run()
        first = ensembles[0]
        state = {"encoder_": encoder, "models_": first.models, "n_epochs_": first.epochs}
        for name in ("n_features_in_", "feature_names_in_"):
            if hasattr(told, name):
                state[name] = getattr(told, name)
        return ensembles, state

    def _keep(self, state: dict[str, Any]) -> None:
        """Takes the attributes of a fit, when there are all."""
        self.__dict__.pop("feature_names_in_", None)
        self.__dict__.update(state)

    def _check(self) -> None:
        """Refuses parameters that are none, before anything has changed."""
        for name in ("n_ensemble", "max_epochs", "max_steps"):
            integer(getattr(self, name), name, least=1)
        if not np.iterable(self.hidden_layer_sizes):
            raise ArgumentError(
                "hidden_layer_sizes: expected the widths of the hidden layers, such as (128, 128), "
                f"got {self.hidden_layer_sizes!r}"
            )
        for units in self.hidden_layer_sizes:
            integer(units, "hidden_layer_sizes", least=1)
        for name in ("learning_rate", "weight_decay"):
            real(getattr(self, name), name, least=0.0)
        for name in ("dropout", "label_smoothing"):
            if getattr(self, name, None) is not None:
                real(getattr(self, name), name, least=0.0, most=1.0, open_most=True)

    def _mean(self, models: list[Sequential], X: Any, read_out: Callable[[Array], Array]) -> Array:
        """Of what the members put out."""
        return mean_output(models, self.encode(X), read_out)

    def encode(self, X: Any) -> Array:
        """The table as the networks take it, such as `models_[0].predict(self.encode(X))`.

        Args:
            X: a table as in `fit`.

        Returns:
            (rows, encoded columns), without missing values, in the networks' dtype. Numbers have
            one column, or two where some were missing, categories one for each.
        """
        check_is_fitted(self)
        columns = self.encoder_.read(self, X, reset=False)
        encoded: Array = self.encoder_.transform(columns, self.models_[0].dtype)
        return encoded


def checked_weight(X: Any, y: Any, sample_weight: Any) -> Array | None:
    """The weights, if X, y and they are as long as each other; the largest near 1."""
    if y is None:
        raise ArgumentError("this estimator requires y to be passed, but the target y is None")
    check_consistent_length(X, y)
    if sample_weight is None:
        return None
    weight = np.asarray(
        _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
    )
    if not (weight > 0).any():
        raise ArgumentError("sample_weight: expected some weight above 0, got none")
    return _moderate(weight)


def _moderate(weight: Array) -> Array:
    """Weights whose largest is near 1; a power of 2 changes no bits."""
    return np.asarray(np.ldexp(weight, -int(np.frexp(weight.max())[1])))


class TabularClassifier(ClassifierMixin, Tabular):
    """Classes from a table, by networks whose defaults are chosen for accuracy.

    Columns are scaled by median and spread, outliers squeezed, categories take columns of 0 and 1,
    missing values are accepted. Several networks are trained, each on three quarters of the
    rows, and the mean of their log-probabilities decides. Four recipes (length of training,
    dropout, label smoothing) are tried on the first four networks, and the one whose held-out rows
    have the least log-loss, after temperature scaling, trains the others. With fewer than 50 rows
    none is held out: all networks see all rows, as one batch, for 200 steps. Trainings of fewer
    than 16 epochs (more than some 64,000 rows) have one recipe.

    Args:
        hidden_layer_sizes: widths of the hidden layers.
        activation: of the hidden layers, as `ranvier.Dense` takes it.
        dropout: rate behind each hidden layer; None for the recipe's.
        label_smoothing: see `ranvier.losses.CrossEntropy`; None for the recipe's.
        learning_rate: of AdamW, at the start of a cosine that ends at 0.
        weight_decay: of AdamW.
        n_ensemble: networks whose outputs are averaged.
        max_epochs: of the longest training.
        max_steps: of the longest training; it is what bounds the time of a fit on many rows.
        categorical_features: which columns hold categories. "from_dtype": of a pandas or polars
            frame those of categories, strings, booleans, and of objects unless all are numbers; of
            an array none. Else a list of names or numbers, or a mask; None for none.
        class_weight: as in scikit-learn: None, "balanced", or a dict by class.
        temperature_scaling: whether probabilities are softmax(z / T), T being fitted on held-out
            rows (Guo et al. 2017) and one more row, of all classes alike, which keeps T from 0
            where all are right; False, or fewer than 50 rows, for T = 1.
        random_state: None for another fit each time; an int or a RandomState for the same bits,
            whatever the number of threads.
        verbose: whether to show on standard error, if it is a terminal, how many networks are
            done. What the recipes reach goes to the log "ranvier", at level DEBUG.

    Attributes:
        classes_: the classes, sorted.
        temperature_: T.
        models_: the networks, a list of `ranvier.Sequential`, which take `encode(X)`.
        encoder_: the encoding of the table.
        n_epochs_: that each network was trained for.
        n_features_in_: columns of X.
        feature_names_in_: their names, if X has names that are strings.

    Raises:
        ArgumentError, DTypeError, ValueError: a parameter, or an X or y that does not serve.
        DivergedError: every network has diverged; a smaller learning_rate helps. Whatever `fit`
            raises, the estimator is as it was before.

    One target of two or more classes; of several targets make several estimators
    (`sklearn.multioutput.MultiOutputClassifier`).

    Example:
        >>> from ranvier.sklearn import TabularClassifier
        >>> from sklearn.datasets import load_iris
        >>> X, y = load_iris(return_X_y=True, as_frame=True)
        >>> classifier = TabularClassifier(random_state=0).fit(X, y)
        >>> classifier.score(X, y) > 0.95
        True
    """

    def __init__(
        self,
        *,
        hidden_layer_sizes: Sequence[int] = (128, 128),
        activation: ActivationLike = "silu",
        dropout: float | None = None,
        label_smoothing: float | None = None,
        learning_rate: float = 3e-3,
        weight_decay: float = 0.1,
        n_ensemble: int = 8,
        max_epochs: int = 100,
        max_steps: int = 3000,
        categorical_features: Any = "from_dtype",
        class_weight: Any = None,
        temperature_scaling: bool = True,
        random_state: Any = None,
        verbose: bool = False,
    ) -> None:
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.dropout = dropout
        self.label_smoothing = label_smoothing
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.n_ensemble = n_ensemble
        self.max_epochs = max_epochs
        self.max_steps = max_steps
        self.categorical_features = categorical_features
        self.class_weight = class_weight
        self.temperature_scaling = temperature_scaling
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> TabularClassifier:
        """Trains.

        Args:
            X: a table (rows, columns): a frame or an array. NaN is a missing value.
            y: (rows,), classes: numbers or strings.
            sample_weight: (rows,), 0 or more, not all 0.
        """
        weight = given = checked_weight(X, y, sample_weight)
        boolean(self.temperature_scaling, "temperature_scaling")
        y = column_or_1d(y, warn=True)
        if y.dtype.kind == "f":
            check_array(y, ensure_2d=False, input_name="y")
        check_classification_targets(y)
        classes, labels = np.unique(y, return_inverse=True)
        if self.class_weight is not None:
            factors = _moderate(class_factors(self.class_weight, y))
            weight = factors if weight is None else weight * factors
            if not weight.any():
                raise ArgumentError(
                    "class_weight: expected some row whose weight times that of its class is above "
                    f"0, got {self.class_weight!r}"
                )
            weight = _moderate(weight)
        head = Head(
            loss=lambda smoothing: CrossEntropy(label_smoothing=smoothing),
            # The loss asks for two; a single class is certain.
            outputs=max(2, len(classes)),
            recipes=(LIGHT, STRONG, SHORT, SHORTEST),
            read_out=partial(_log_probabilities, len(classes)),
            judge=_scaled_log_loss,
        )
        (ensemble,), state = self._train(X, labels, given, weight, [head])
        scale = 1.0
        if self.temperature_scaling and ensemble.known is not None and len(classes) > 1:
            scale = temperature(*ensemble.known, smoothed=True)
        self._keep(state | {"classes_": classes, "temperature_": scale})
        return self

    def calibrate(self, X: Any, y: Any, sample_weight: Any = None) -> TabularClassifier:
        """Fits the temperature anew, on rows that were not trained on.

        Args:
            X: a table as in `fit`.
            y: (rows,), classes of the fit.
            sample_weight: (rows,), 0 or more, not all 0.
        """
        check_is_fitted(self)
        weight = checked_weight(X, y, sample_weight)
        y = column_or_1d(y, warn=True)
        if strange := sorted(set(y.tolist()) - set(self.classes_.tolist()), key=str):
            raise ArgumentError(f"y: expected classes of the fit, got {strange[0]!r}")
        labels = np.searchsorted(self.classes_, y)
        self.temperature_ = temperature(self._output(X), labels, weight, smoothed=True)
        return self

    def _output(self, X: Any) -> Array:
        """Means of the members' log-probabilities."""
        check_is_fitted(self)
        return self._mean(self.models_, X, partial(_log_probabilities, len(self.classes_)))

    def predict_log_proba(self, X: Any) -> Array:
        """Logarithms of the probabilities, (rows, classes)."""
        output = self._output(X)
        return np.asarray(log_softmax(output / self.temperature_, axis=1))

    def predict_proba(self, X: Any) -> Array:
        """Probabilities, (rows, classes), in the order of `classes_`."""
        output = self._output(X)
        return np.asarray(softmax(output / self.temperature_, axis=1))

    def predict(self, X: Any) -> Array:
        """The class of highest probability, (rows,)."""
        best = self._output(X).argmax(axis=1)
        return np.asarray(self.classes_[best])


def _log_probabilities(classes: int, output: Array) -> Array:
    return np.asarray(log_softmax(output[:, :classes].astype(np.float64), axis=1))


def _scaled_log_loss(outputs: Array, labels: Array, weight: Array | None) -> float:
    return log_loss(outputs / temperature(outputs, labels, weight), labels, weight)
