"""Ensembles: estimators that differ by their seeds, trained at once."""

from __future__ import annotations

import math
import threading
import time
from typing import Any

import numpy as np
from sklearn import config_context, get_config
from sklearn.base import clone, is_classifier
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight, validate_data

from .. import _core
from .._arrays import Array
from .._many import _run
from ._validation import checked

# What one network has and several have each for itself.
_OF_ONE = (
    "coefs_",
    "intercepts_",
    "loss_curve_",
    "best_loss_",
    "best_validation_score_",
    "validation_scores_",
    "validation_loss_curve_",
    "_run",
    "_layers",
    "_extra",
    "_best_coefs",
    "_best_intercepts",
    "_best_extra",
)


def fit(estimator: Any, X: Any, y: Any, sample_weight: Any, validation: Any) -> None:
    """Fits estimators_, each as if it were alone; a fit that fails leaves all as it was."""
    before = dict(vars(estimator))
    try:
        _fit(estimator, X, y, sample_weight, validation)
    except BaseException:
        # Classes and columns are to be those of estimators_.
        vars(estimator).clear()
        vars(estimator).update(before)
        raise


def _fit(estimator: Any, X: Any, y: Any, sample_weight: Any, validation: Any) -> None:
    X, y = estimator._validate_input(X, y, False, reset=True)
    estimator.n_outputs_ = 1 if y.ndim == 1 else y.shape[1]
    if sample_weight is not None:
        sample_weight = _check_sample_weight(sample_weight, X)
    given: dict[str, Any] = {}
    if validation is not None:
        given = dict(zip(("X_val", "y_val", "sample_weight_val"), validation, strict=True))
        given["X_val"], held_out, given["sample_weight_val"] = checked(estimator, *validation)
        given["y_val"] = _labels(estimator, held_out)
    targets = _labels(estimator, y)
    seeds = check_random_state(estimator.random_state).randint(
        np.iinfo(np.int32).max, size=estimator.n_ensemble
    )
    members = [
        clone(estimator).set_params(n_ensemble=1, progress=False, random_state=int(seed))
        for seed in seeds
    ]
    workers = min(len(members), _core.get_num_threads())
    rounds = math.ceil(len(members) / workers)
    stop, config, begun = threading.Event(), get_config(), time.monotonic()

    def tick() -> None:
        if stop.is_set():
            raise KeyboardInterrupt

    def train(number: int) -> None:
        member = members[number]
        # Of a thread's own.
        with config_context(**config):
            if estimator.max_time is not None:
                # What is left is for those too that wait for a core.
                left = estimator.max_time - (time.monotonic() - begun)
                member.max_time = max(left / (rounds - number // workers), 1e-9)
            member._tick = tick
            try:
                member.fit(X, targets, sample_weight, **given)
            finally:
                member.max_time = estimator.max_time
                del member._tick

    _run(train, len(members), stop, show=estimator.progress)
    for name in _OF_ONE:
        vars(estimator).pop(name, None)
    first = members[0]
    estimator.estimators_ = members
    for name in ("n_layers_", "out_activation_", "_loss"):
        setattr(estimator, name, getattr(first, name))
    estimator.n_iter_ = max(member.n_iter_ for member in members)
    estimator.t_ = sum(member.t_ for member in members)
    estimator.loss_ = float(np.mean([member.loss_ for member in members]))


def _labels(estimator: Any, y: Array) -> Array:
    """y as it is given to a fit."""
    if is_classifier(estimator):
        labels: Array = estimator._label_binarizer.inverse_transform(y)
        return labels
    return y.ravel() if y.shape[1:] == (1,) else y


def mean(estimator: Any, X: Any, check_input: bool) -> Array:
    """The mean of what the members predict."""
    if check_input:
        X = validate_data(estimator, X, accept_sparse=["csr", "csc"], reset=False)
    outputs = [member._forward_pass_fast(X, check_input=False) for member in estimator.estimators_]
    average: Array = np.mean(outputs, axis=0)
    return average
