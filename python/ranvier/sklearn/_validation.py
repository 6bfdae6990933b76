"""Rows that a fit looks at after each epoch and does not train on."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from scipy.sparse import issparse
from sklearn.base import is_classifier
from sklearn.metrics import check_scoring
from sklearn.neural_network._base import LOSS_FUNCTIONS
from sklearn.utils import column_or_1d
from sklearn.utils.validation import _check_sample_weight, check_consistent_length, validate_data

from .._arrays import Array
from ._options import activated, targets_of


def checked(estimator: Any, X: Any, y: Any, sample_weight: Any) -> tuple[Any, Array, Any]:
    """X_val, y_val and sample_weight_val as scikit-learn's estimators have X, y and weights."""
    if y is None:
        raise ValueError("X_val is provided, but y_val was not provided.")
    if X is None:
        raise ValueError("y_val is provided, but X_val was not provided.")
    X, y = validate_data(
        estimator,
        X,
        y,
        accept_sparse=["csr", "csc"],
        multi_output=True,
        y_numeric=not is_classifier(estimator),
        dtype=(np.float64, np.float32),
        reset=False,
    )
    check_consistent_length(X, y)
    if y.ndim == 2 and y.shape[1] == 1:
        y = column_or_1d(y, warn=True)
    if is_classifier(estimator):
        several = estimator._label_binarizer.y_type_.startswith("multilabel")
        if not several and (unknown := np.setdiff1d(y, estimator.classes_)).size:
            raise ValueError(
                f"`y_val` has classes not in `self.classes_`. `self.classes_` has "
                f"{estimator.classes_}. 'y_val' has {unknown}."
            )
        y = estimator._label_binarizer.transform(y).astype(bool)
    y = y.reshape(len(y), -1)
    if y.shape[1] != estimator.n_outputs_:
        raise ValueError(f"y_val has {y.shape[1]} outputs, y has {estimator.n_outputs_}.")
    if sample_weight is not None:
        sample_weight = _check_sample_weight(sample_weight, X)
    return X, y, sample_weight


class HeldOut:
    """Validation rows of a fit, with the network's outputs for them after the last epoch.

    Stands for X where scikit-learn's estimators score themselves.
    """

    def __init__(
        self, estimator: Any, trainer: Any, X: Any, y: Array, sample_weight: Array | None
    ) -> None:
        self._estimator, self._trainer, self._X = estimator, trainer, X
        self._y, self.weight = y, sample_weight
        self._x = X.toarray() if issparse(X) else X
        self._targets = targets_of(trainer.loss, estimator, y, X.dtype)
        # As scikit-learn's scores want it.
        self.labels = y
        if is_classifier(estimator):
            self.labels = estimator._label_binarizer.inverse_transform(y)
        self._scorer = None
        if estimator.scoring not in (None, "loss"):
            self._scorer = check_scoring(estimator, scoring=estimator.scoring)
        self._seen = -1
        self._raw: Any = None
        self._loss = 0.0

    def look(self, epoch: int) -> float:
        """The loss after an epoch, in the units of the training's but without its penalties."""
        if epoch != self._seen:
            self._raw, self._seen = self._trainer.model.predict(self._x), epoch
            self._loss = self._measured()
        return self._loss

    def lose(self) -> None:
        """From now on there are no numbers: the training has diverged."""
        self._raw = np.full_like(self._trainer.model.predict(self._x), np.nan)
        self._loss = float("nan")

    def _measured(self) -> float:
        estimator = self._estimator
        if not np.isfinite(self._raw).all():
            return float("nan")
        if estimator._loss is None:
            binary = estimator.out_activation_ == "logistic"
            measure = LOSS_FUNCTIONS["binary_log_loss" if binary else estimator.loss]
            return float(measure(self._y, self.outputs(), self.weight))
        weights = () if self.weight is None else (self.weight,)
        value, _ = self._trainer.loss.value_and_gradient(self._raw, self._targets, *weights)
        return float(value)

    def outputs(self) -> Array:
        """What the estimator predicts from."""
        return activated(self._estimator, self._raw)

    def score(self) -> float:
        """What the parameter `scoring` asks for."""
        if self._scorer is None:
            return -self._loss
        # Rows have lost the names of their columns, so nobody is to miss these.
        estimator = copy.copy(self._estimator)
        vars(estimator).pop("feature_names_in_", None)
        weights = {} if self.weight is None else {"sample_weight": self.weight}
        y = self.labels.ravel() if self.labels.shape[1:] == (1,) else self.labels
        return float(self._scorer(estimator, self._X, y, **weights))
