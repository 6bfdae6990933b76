"""scikit-learn's perceptrons and ours, side by side."""

import contextlib
import io
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
from sklearn import neural_network as theirs
from sklearn.base import BaseEstimator

from ranvier import sklearn as ours

# What a fitted estimator has besides coefs_ and intercepts_.
FITTED = [
    *("classes_", "feature_names_in_", "n_features_in_", "n_iter_", "n_layers_", "n_outputs_"),
    *("out_activation_", "t_", "loss_", "best_loss_", "loss_curve_"),
    *("best_validation_score_", "validation_scores_"),
]


def pair(name, **options):
    """The two estimators of a name."""
    return [getattr(home, name)(**options) for home in (theirs, ours)]


def same(a, b, tolerance=1e-9):
    """Asserts that our estimator `b` has everything that the training of theirs, `a`, left."""
    for name in FITTED:
        assert hasattr(a, name) == hasattr(b, name), name
        equal(getattr(a, name, None), getattr(b, name, None), tolerance)
    for p, q in zip(a.coefs_ + a.intercepts_, b.coefs_ + b.intercepts_, strict=True):
        equal(p, q, tolerance)


def equal(a, b, tolerance=1e-9):
    """Asserts that `b` is what `a` is; floats may differ by the tolerance times the largest."""
    if isinstance(a, BaseEstimator) and hasattr(a, "coefs_"):
        same(a, b, tolerance)
    elif isinstance(a, list | tuple | dict):
        assert len(a) == len(b)
        entries = [a.values(), b.values()] if isinstance(a, dict) else [a, b]
        for p, q in zip(*entries, strict=True):
            equal(p, q, tolerance)
    elif scipy.sparse.issparse(a):
        assert type(a) is type(b)
        equal(a.toarray(), b.toarray(), tolerance)
    elif isinstance(a, np.ndarray | np.floating | float):
        p, q = np.asarray(a), np.asarray(b)
        assert p.shape == q.shape
        assert type(a) is np.float32 or (type(a), p.dtype) == (type(b), q.dtype)
        if p.dtype.kind == "f":
            largest = np.abs(p[np.isfinite(p)]).max(initial=0.0)
            np.testing.assert_allclose(q, p, rtol=tolerance, atol=tolerance * largest)
        else:
            np.testing.assert_array_equal(q, p)
    elif hasattr(a, "equals"):
        assert a.equals(b)
    else:
        assert a == b


@dataclass
class Outcome:
    """What a call gives: its value or its error, warnings as (category, text, file), its prints."""

    value: Any
    error: tuple[str, str] | None
    warnings: list[tuple[str, str, str]]
    printed: str

    @property
    def warned(self):
        return [text for _, text, _ in self.warnings]


def outcome(call, home):
    value = error = None
    printed = io.StringIO()
    with warnings.catch_warnings(record=True) as caught, contextlib.redirect_stdout(printed):
        warnings.simplefilter("always")
        try:
            value = call(home)
        except Exception as e:
            error = (type(e).__name__, str(e))
    texts = [(w.category.__name__, str(w.message), w.filename) for w in caught]
    return Outcome(value, error, texts, printed.getvalue())


def alike(call, tolerance=1e-9):
    """Asserts that `call` returns, raises, warns about and prints the same for both homes of
    `MLPClassifier` and `MLPRegressor`; returns what it did with ours.
    """
    a, b = outcome(call, theirs), outcome(call, ours)
    assert b.error == a.error
    assert b.warnings == a.warnings
    assert b.printed == a.printed
    equal(a.value, b.value, tolerance)
    return b
