"""What the drop-ins have beyond scikit-learn's: each addition, alone and beside the others."""

import inspect
import io
import os
import pickle
import signal
import threading
import time
import warnings

import numpy as np
import pytest
import sklearn
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st
from sklearn import metrics
from sklearn import neural_network as theirs
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import compute_sample_weight
from sklearn.utils._param_validation import InvalidParameterError

import ranvier as rv
from ranvier.sklearn import MLPClassifier, MLPRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(90, 4))
LINE = X @ [1.0, -2.0, 0.5, 0.0] + 0.3 * RNG.normal(size=90)
PAIR = np.column_stack([LINE, X[:, 0] ** 2])
COUNTS = RNG.poisson(np.exp(0.5 * X[:, 0])).astype(float)
CLASSES = np.digitize(LINE, [-1.5, 2.0])
BITS = (LINE > 1.0).astype(int)
LABELS = np.column_stack([LINE > 0, X[:, 1] > 0.8]).astype(int)
NAMES = np.array(["low", "middle", "high"])[CLASSES]
SMALL = {"hidden_layer_sizes": (7, 5), "random_state": 0, "max_iter": 6, "batch_size": 30}


def classifier(**options):
    return MLPClassifier(**(SMALL | options))


def regressor(**options):
    return MLPRegressor(**(SMALL | options))


def same(a, b):
    """The same bits, and the same losses."""
    for p, q in zip(a.coefs_ + a.intercepts_, b.coefs_ + b.intercepts_, strict=True):
        np.testing.assert_array_equal(p, q)
    assert a.loss_curve_ == b.loss_curve_


# ---- the parameters


@pytest.mark.parametrize("name", ["MLPClassifier", "MLPRegressor"])
def test_scikit_learns_parameters_come_first_with_their_defaults_and_ours_by_keyword(name):
    expected = inspect.signature(getattr(theirs, name)).parameters
    found = inspect.signature(globals()[name]).parameters
    assert list(found)[: len(expected)] == list(expected)
    for key, parameter in expected.items():
        assert found[key].kind == parameter.kind, key
        assert found[key].default == parameter.default, key
    added = list(found.values())[len(expected) :]
    assert all(parameter.kind == parameter.KEYWORD_ONLY for parameter in added)
    assert {p.name for p in added} <= set(globals()[name]._parameter_constraints)
    assert all(f"        {p.name}: " in globals()[name].__doc__ for p in added)


@pytest.mark.parametrize("make", [MLPClassifier, MLPRegressor])
def test_nothing_of_it_shows_when_it_is_not_used(make):
    assert repr(make(alpha=0.1)) == f"{make.__name__}(alpha=0.1)"
    twin = clone(make((5,)) if make is MLPClassifier else make("poisson", (5,)))
    assert twin.hidden_layer_sizes == (5,)
    assert twin.loss == ("log_loss" if make is MLPClassifier else "poisson")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("activation", "step"),
        ("activation", None),
        ("solver", "rmsprop"),
        ("solver", rv.SGD),
        ("learning_rate", "cosine"),
        ("learning_rate", 0.1),
        ("dropout", 1.0),
        ("dropout", "half"),
        ("normalization", "group"),
        ("weight_decay", -1.0),
        ("clip_norm", 0.0),
        ("clip_value", "1"),
        ("scoring", "wit"),
        ("restore_best_weights", "yes"),
        ("max_time", 0),
        ("callbacks", rv.ProgressBar()),
        ("progress", 2),
        ("n_ensemble", 0),
        ("n_ensemble", 2.0),
        ("loss", "hinge"),
        ("class_weight", "fair"),
    ],
)
def test_a_wrong_value_is_refused_in_scikit_learns_way(name, value):
    with pytest.raises(InvalidParameterError, match=f"The '{name}' parameter of MLPClassifier"):
        classifier(**{name: value}).fit(X, CLASSES)
    if name != "class_weight":
        with pytest.raises(InvalidParameterError, match=f"The '{name}' parameter of MLPRegressor"):
            regressor(**{name: value}).fit(X, LINE)


LBFGS = {"solver": "lbfgs"}
CANNOT = [
    # Of one parameter.
    ("activation", {"activation": ["tanh"]}),
    ("activation", {"activation": ["tanh", "step"]}),
    ("activation", {"activation": ["tanh", 3]}),
    ("dropout", {"dropout": [0.1]}),
    ("dropout", {"dropout": [0.1, 1.5]}),
    ("dropout", {"dropout": [0.1, "half"]}),
    ("class_weight", {"class_weight": {0: -1.0, 1: 1.0, 2: 1.0}}),
    ("class_weight", {"class_weight": {0: 0, 1: 0, 2: 0}}),
    ("solver", {"solver": rv.LBFGS()}),
    ("solver", {"solver": rv.LevenbergMarquardt()}),
    ("loss", {"loss": rv.losses.MSE}),
    ("callbacks", {"callbacks": [print]}),
    ("callbacks", {"callbacks": [rv.EarlyStopping()]}),
    ("callbacks", {"callbacks": [rv.Checkpoint("x", best_only=True)]}),
    ("clip_norm", {"clip_norm": 1.0, "clip_value": 1.0}),
    # Beside others.
    ("weight_decay", {"weight_decay": 0.1}),
    ("learning_rate", {"solver": "adamw", "learning_rate": "adaptive"}),
    ("learning_rate_init", {"learning_rate": rv.schedules.Constant(0.1), "learning_rate_init": 1}),
    ("learning_rate", {"learning_rate": rv.schedules.ReduceOnPlateau(0.1, monitor="val_loss")}),
    ("scoring", {"scoring": "accuracy"}),
    ("learning_rate_init", {"solver": rv.Adam(), "learning_rate_init": 0.1}),
    ("momentum", {"solver": rv.SGD(), "momentum": 0.5}),
    ("beta_1", {"solver": rv.Adam(), "beta_1": 0.5}),
    ("clip_norm", {"solver": rv.Adam(), "clip_norm": 0.5}),
    ("weight_decay", {"solver": rv.AdamW(), "weight_decay": 0.5}),
    ("activation", LBFGS | {"activation": "gelu"}),
    ("activation", LBFGS | {"activation": ["tanh", "tanh"]}),
    ("dropout", LBFGS | {"dropout": 0.1}),
    ("normalization", LBFGS | {"normalization": "layer"}),
    ("learning_rate", LBFGS | {"learning_rate": rv.schedules.Constant(0.1)}),
    ("weight_decay", LBFGS | {"weight_decay": 0.1}),
    ("clip_norm", LBFGS | {"clip_norm": 0.1}),
    ("clip_value", LBFGS | {"clip_value": 0.1}),
    ("scoring", LBFGS | {"scoring": "loss", "early_stopping": True}),
    ("restore_best_weights", LBFGS | {"restore_best_weights": True}),
    ("max_time", LBFGS | {"max_time": 1.0}),
    ("callbacks", LBFGS | {"callbacks": [rv.ProgressBar()]}),
    ("progress", LBFGS | {"progress": True}),
    ("loss", LBFGS | {"loss": rv.losses.CrossEntropy()}),
    ("warm_start", {"n_ensemble": 2, "warm_start": True}),
    ("callbacks", {"n_ensemble": 2, "callbacks": [rv.ProgressBar()]}),
]


@pytest.mark.parametrize(("name", "options"), CANNOT, ids=lambda value: str(value)[:60])
def test_what_would_have_no_effect_is_refused_by_name(name, options):
    estimator = classifier(**options)
    with pytest.raises((ValueError, TypeError), match=f"^{name}"):
        estimator.fit(X, CLASSES)
    assert not hasattr(estimator, "loss_")


def test_sizes_of_layers_are_refused_in_scikit_learns_words_beside_additions():
    with pytest.raises(ValueError, match="hidden_layer_sizes must be > 0"):
        regressor(hidden_layer_sizes=(5, -1), dropout=0.1).fit(X, LINE)


def test_losses_of_another_kind_are_refused_by_name():
    for loss, y in [
        (rv.losses.MSE(), CLASSES),
        (rv.losses.CrossEntropy(), BITS),
        (rv.losses.BinaryCrossEntropy(), CLASSES),
    ]:
        with pytest.raises(rv.ArgumentError, match=r"^loss: expected"):
            classifier(loss=loss).fit(X, y)
    with pytest.raises(rv.ArgumentError, match=r"^loss: expected one of regression"):
        regressor(loss=rv.losses.CrossEntropy()).fit(X, LINE)
    with pytest.raises(rv.ArgumentError, match=r"^loss"):
        regressor(loss="mae", solver="lbfgs").fit(X, LINE)
    several = rv.losses.Quantile([0.1, 0.9])
    with pytest.raises(rv.ArgumentError, match=r"^scoring: expected 'loss'"):
        regressor(loss=several, early_stopping=True).fit(X, LINE)
    regressor(solver="lbfgs", callbacks=[]).fit(X, LINE)
    assert regressor(loss=several, early_stopping=True, scoring="loss").fit(X, LINE).n_iter_ == 6


# ---- the network and its training, against a Trainer by hand


def begin(model, estimator, y):
    """Gives a model what a fit begins with: a training whose steps are too small to matter."""
    still = clone(estimator).set_params(
        solver="sgd", learning_rate="constant", learning_rate_init=1e-300, max_iter=1, dropout=0.0
    )
    still.set_params(weight_decay=None, clip_norm=None, clip_value=None).fit(X, y)
    places = [place for place, layer in enumerate(model.layers) if isinstance(layer, rv.Dense)]
    for place, coef, intercept in zip(places, still.coefs_, still.intercepts_, strict=True):
        model.set_parameters({f"{place}.weight": coef, f"{place}.bias": intercept})


class Squares:
    """The loss "mse", written by hand."""

    def value_and_gradient(self, output, target, sample_weight=None):
        difference = output - target
        weight = np.ones(len(output)) if sample_weight is None else np.asarray(sample_weight)
        weight = weight[:, None] / weight.sum() / output.shape[1]
        return float((weight * difference**2).sum()), 2 * weight * difference


def dense(*between, activation="relu", last=1):
    """Two hidden layers of 7 and 5 with what comes behind their products."""
    if not between:
        return [rv.Dense(7, activation), rv.Dense(5, activation), rv.Dense(last)]
    return [rv.Dense(7), *between, rv.Dense(5), *between, rv.Dense(last)]


RATES = rv.schedules.Cosine(0.1, steps=18)
HALVES = rv.schedules.Step(0.1, every=2, factor=0.5, per="epoch")
OURS = {"dialect": "sklearn"}
ADAM = rv.Adam(learning_rate=0.001, dialect="sklearn")
BY_HAND = {
    "adamw": (
        {"solver": "adamw", "learning_rate_init": 0.02},
        dense(),
        rv.AdamW(learning_rate=0.02),
    ),
    "decay": (
        {"solver": "adamw", "weight_decay": 0.3, "beta_1": 0.5, "beta_2": 0.9, "epsilon": 1e-3},
        dense(),
        rv.AdamW(learning_rate=0.001, weight_decay=0.3, beta1=0.5, beta2=0.9, eps=1e-3),
    ),
    "object": (
        {"solver": rv.SGD(learning_rate=0.1, momentum=0.5, clip_norm=1.0)},
        dense(),
        rv.SGD(learning_rate=0.1, momentum=0.5, clip_norm=1.0),
    ),
    "schedule": ({"learning_rate": RATES}, dense(), rv.Adam(learning_rate=RATES, **OURS)),
    "schedule-adamw": (
        {"learning_rate": RATES, "solver": "adamw"},
        dense(),
        rv.AdamW(learning_rate=RATES),
    ),
    "schedule-epochs": (
        {"learning_rate": HALVES, "solver": "sgd"},
        dense(),
        rv.SGD(learning_rate=HALVES, **OURS),
    ),
    "function": (
        {"learning_rate": lambda step: 0.1 / (1 + step), "solver": "sgd"},
        dense(),
        rv.SGD(learning_rate=lambda step: 0.1 / (1 + step), **OURS),
    ),
    "clip-norm": (
        {"solver": "sgd", "learning_rate_init": 0.1, "clip_norm": 0.1},
        dense(),
        rv.SGD(learning_rate=0.1, clip_norm=0.1, **OURS),
    ),
    "clip-value": (
        {"clip_value": 0.01, "epsilon": 0.1},
        dense(),
        rv.Adam(learning_rate=0.001, clip_value=0.01, eps=0.1, **OURS),
    ),
    "batch-norm": (
        {"normalization": "batch"},
        dense(rv.BatchNorm(), rv.Activation("relu")),
        ADAM,
    ),
    "layer-norm": (
        {"normalization": "layer", "activation": "gelu"},
        dense(rv.LayerNorm(), rv.Activation("gelu")),
        ADAM,
    ),
    "prelu": ({"activation": "prelu"}, dense(activation="prelu"), ADAM),
    "leaky": (
        {"activation": rv.activations.LeakyReLU(0.3)},
        dense(activation=rv.activations.LeakyReLU(0.3)),
        ADAM,
    ),
    "each": (
        {"activation": ["logistic", "swish"]},
        [rv.Dense(7, "sigmoid"), rv.Dense(5, "silu"), rv.Dense(1)],
        ADAM,
    ),
    "dropout": (
        {"dropout": 0.5},
        [rv.Dense(7, "relu"), rv.Dropout(0.5), rv.Dense(5, "relu"), rv.Dropout(0.5), rv.Dense(1)],
        ADAM,
    ),
    "dropout-each": (
        {"dropout": [0.0, 0.5], "normalization": "layer"},
        [
            *(rv.Dense(7), rv.LayerNorm(), rv.Activation("relu")),
            *(rv.Dense(5), rv.LayerNorm(), rv.Activation("relu"), rv.Dropout(0.5), rv.Dense(1)),
        ],
        ADAM,
    ),
    "mae": ({"loss": "mae"}, dense(), ADAM),
    "huber": ({"loss": rv.losses.Huber(delta=0.3)}, dense(), ADAM),
    "quantile": ({"loss": rv.losses.Quantile([0.1, 0.9])}, dense(last=2), ADAM),
    "gaussian": ({"loss": "gaussian_nll"}, dense(last=2), ADAM),
    "poisson": ({"loss": rv.losses.Poisson()}, dense(), ADAM),
    "custom": ({"loss": Squares()}, dense(), ADAM),
}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("case", BY_HAND)
def test_a_regression_is_that_of_a_trainer_bit_by_bit(case, weighted):
    options, layers, optimizer = BY_HAND[case]
    weight = np.arange(90) % 3 + 0.5 if weighted else None
    y = COUNTS if case == "poisson" else LINE
    options = {"loss": "mse", "alpha": 0.0, "shuffle": False} | options
    estimator = regressor(**options).fit(X, y, sample_weight=weight)
    model = rv.Sequential(layers, input_size=4, dtype="float64")
    begin(model, estimator, y)
    trainer = rv.Trainer(
        model,
        loss=options["loss"],
        optimizer=optimizer,
        seed=estimator._run.trainer.seed,
    )
    trainer.fit(X, y[:, None], epochs=6, batch_size=30, shuffle=False, sample_weight=weight)
    for name, value in estimator.model_.parameters().items():
        np.testing.assert_array_equal(value, model.parameters()[name], err_msg=name)
    if not weighted:
        # Of weighted batches scikit-learn takes the mean by their rows.
        np.testing.assert_allclose(estimator.loss_curve_, trainer.history["loss"], rtol=1e-14)


@pytest.mark.parametrize(
    ("loss", "y", "last"),
    [
        (rv.losses.CrossEntropy(label_smoothing=0.2), CLASSES, 3),
        (rv.losses.BinaryCrossEntropy(pos_weight=3.0), BITS, 1),
        (rv.losses.BinaryCrossEntropy(pos_weight=[3.0, 0.5]), LABELS, 2),
    ],
    ids=str,
)
def test_a_classification_is_that_of_a_trainer_bit_by_bit(loss, y, last):
    estimator = classifier(loss=loss, alpha=0.0, shuffle=False).fit(X, y)
    model = rv.Sequential(dense(last=last), input_size=4, dtype="float64")
    begin(model, estimator, y)
    trainer = rv.Trainer(model, loss=loss, optimizer=ADAM)
    trainer.fit(X, y, epochs=6, batch_size=30, shuffle=False)
    for name, value in estimator.model_.parameters().items():
        np.testing.assert_array_equal(value, model.parameters()[name], err_msg=name)
    np.testing.assert_allclose(estimator.loss_curve_, trainer.history["loss"], rtol=1e-14)


def test_a_custom_loss_of_classes_sees_their_places_or_bits():
    class Seen(Squares):
        def value_and_gradient(self, output, target, sample_weight=None):
            seen.append((output.shape[1], np.asarray(target)))
            return super().value_and_gradient(output, 0.0, sample_weight)

    for y, shape, values in [(NAMES, (30,), 3), (BITS, (30, 1), 2), (LABELS, (30, 2), 2)]:
        seen = []
        estimator = classifier(loss=Seen(), shuffle=False, max_iter=1).fit(X, y)
        assert seen[0][1].shape == shape
        assert set(np.unique(np.concatenate([target for _, target in seen]))) == set(range(values))
        assert seen[0][0] == estimator.n_outputs_
        assert estimator.predict(X).shape == y.shape


@pytest.mark.parametrize("name", ["sigmoid", ["sigmoid", "logistic"], ("logistic",) * 2])
def test_scikit_learns_activations_are_the_same_under_our_names_and_in_lists(name):
    same(regressor(activation=name).fit(X, LINE), regressor(activation="logistic").fit(X, LINE))


@pytest.mark.parametrize("activation", rv._core.names("activation"))
def test_every_activation_trains_and_predicts_by_its_network(activation):
    estimator = regressor(activation=activation).fit(X, LINE)
    model = rv.Sequential(dense(activation=activation), input_size=4, dtype="float64")
    begin(model, estimator, LINE)
    moved = any(
        (model.parameters()[name] != value).any()
        for name, value in estimator.model_.parameters().items()
    )
    assert moved
    model.set_parameters(estimator.model_.parameters())
    np.testing.assert_allclose(estimator.predict(X), model.predict(X).ravel(), rtol=1e-12)


def test_no_dropout_is_scikit_learns_training():
    plain = theirs.MLPRegressor(**SMALL).fit(X, LINE)
    for dropout in (0, 0.0, [0.0, 0.0]):
        same(regressor(dropout=dropout).fit(X, LINE), regressor().fit(X, LINE))
        np.testing.assert_allclose(
            regressor(dropout=dropout).fit(X, LINE).coefs_[0], plain.coefs_[0]
        )


def test_dropout_goes_by_the_random_state_and_predicts_with_all_units():
    hooks = [Recorder() for _ in range(3)]
    a, b, _ = (
        regressor(dropout=0.5, random_state=seed, callbacks=[hook]).fit(X, LINE)
        for seed, hook in zip((1, 1, 2), hooks, strict=True)
    )
    same(a, b)
    assert hooks[0].trainer.seed == hooks[1].trainer.seed != hooks[2].trainer.seed
    hidden = np.maximum(
        np.maximum(X @ a.coefs_[0] + a.intercepts_[0], 0) @ a.coefs_[1] + a.intercepts_[1], 0
    )
    expected = hidden @ a.coefs_[2] + a.intercepts_[2]
    np.testing.assert_allclose(a.predict(X), expected.ravel(), rtol=1e-12)


@pytest.mark.parametrize("options", [{}, {"normalization": "batch"}, {"dropout": 0.5}])
def test_the_model_is_the_estimators_network_and_follows_its_coefficients(options):
    estimator = classifier(activation="tanh", **options).fit(X, CLASSES)
    raw = estimator.model_.predict(X)
    expected = np.exp(raw) / np.exp(raw).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(estimator.predict_proba(X), expected, rtol=1e-10)
    estimator.coefs_[-1][:] = 0.0
    estimator.intercepts_[-1][:] = [0.0, np.log(2.0), 0.0]
    np.testing.assert_allclose(estimator.predict_proba(X), [[0.25, 0.5, 0.25]] * 90)
    np.testing.assert_allclose(estimator.model_.predict(X[:1]), [[0.0, np.log(2.0), 0.0]])
    assert isinstance(estimator.model_, rv.Sequential)
    with pytest.raises(NotFittedError):
        classifier().model_  # noqa: B018


# ---- what a loss, or weights of classes, make of the training


def test_alpha_means_what_it_means_to_scikit_learn_with_every_loss():
    # The gradient of "mse" is twice that of "squared_error": half the rate, twice the penalty.
    sgd = {"solver": "sgd", "momentum": 0.0, "nesterovs_momentum": False}
    a = regressor(alpha=3.0, learning_rate_init=0.1, **sgd).fit(X, LINE)
    b = regressor(alpha=6.0, learning_rate_init=0.05, loss="mse", **sgd).fit(X, LINE)
    np.testing.assert_allclose(a.coefs_[0], b.coefs_[0], rtol=1e-10)
    np.testing.assert_allclose(b.loss_curve_, 2 * np.array(a.loss_curve_), rtol=1e-10)


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize(
    ("y", "wanted"),
    [
        (CLASSES, "balanced"),
        (CLASSES, {0: 1.0, 1: 5.0, 2: 0.5}),
        (NAMES, {"low": 1.0, "middle": 5.0, "high": 0.5}),
        (BITS, "balanced"),
        (LABELS, "balanced"),
        (LABELS, [{0: 1.0, 1: 3.0}, {0: 1.0, 1: 9.0}]),
    ],
)
@pytest.mark.parametrize("weight", [None, np.arange(90) % 4 + 1.0])
def test_class_weights_are_sample_weights(y, wanted, weight, solver):
    factors = compute_sample_weight(wanted, y)
    product = factors if weight is None else factors * weight
    options = {"solver": solver, "early_stopping": solver == "adam"}
    a = classifier(class_weight=wanted, **options).fit(X, y, sample_weight=weight)
    b = classifier(**options).fit(X, y, sample_weight=product)
    for p, q in zip(a.coefs_, b.coefs_, strict=True):
        np.testing.assert_array_equal(p, q)
    if solver == "adam":
        assert a.validation_scores_ == b.validation_scores_


LONG = {
    "hidden_layer_sizes": (),
    "learning_rate_init": 0.02,
    "max_iter": 600,
    "n_iter_no_change": 1000,
    "alpha": 0.0,
    "random_state": 0,
}
ONES = np.ones((400, 1))
DRAWS = np.random.default_rng(1).exponential(size=400)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("squared_error", DRAWS.mean()),
        ("mse", DRAWS.mean()),
        ("mae", np.median(DRAWS)),
        ("quantile", np.median(DRAWS)),
        (rv.losses.Quantile(0.9), np.quantile(DRAWS, 0.9)),
        ("poisson", DRAWS.mean()),
        (rv.losses.Poisson(), DRAWS.mean()),
        ("gaussian_nll", DRAWS.mean()),
        (rv.losses.Huber(delta=1e-2), np.median(DRAWS)),
    ],
    ids=str,
)
def test_a_loss_predicts_the_statistic_that_minimises_it(loss, expected):
    estimator = MLPRegressor(loss, **LONG).fit(ONES, DRAWS)
    assert estimator.predict(ONES[:2]) == pytest.approx(expected, rel=0.03)


def test_several_quantiles_are_columns_in_the_order_of_the_loss():
    levels = [0.1, 0.5, 0.9]
    both = np.column_stack([DRAWS, 10 - DRAWS])
    estimator = MLPRegressor(rv.losses.Quantile(levels), **(LONG | {"max_iter": 900}))
    found = estimator.fit(ONES, both).predict(ONES[:2])
    assert found.shape == (2, 6)
    expected = np.concatenate([np.quantile(DRAWS, levels), np.quantile(10 - DRAWS, levels)])
    np.testing.assert_allclose(found[0], expected, atol=0.15)
    assert estimator.n_outputs_ == 2


def test_a_gaussian_has_a_mean_and_a_deviation():
    estimator = MLPRegressor("gaussian_nll", **LONG)
    both = np.column_stack([DRAWS, -3 * DRAWS])
    mean, deviation = estimator.fit(ONES, both).predict(ONES[:3], return_std=True)
    np.testing.assert_array_equal(mean, estimator.predict(ONES[:3]))
    np.testing.assert_allclose(mean[0], both.mean(axis=0), rtol=0.05)
    np.testing.assert_allclose(deviation[0], both.std(axis=0), rtol=0.05)
    estimator.fit(ONES, DRAWS)
    assert [part.shape for part in estimator.predict(ONES[:3], return_std=True)] == [(3,), (3,)]
    with pytest.raises(rv.ArgumentError, match=r"^return_std: expected False"):
        regressor().fit(X, LINE).predict(X, return_std=True)


def test_huber_is_not_drawn_by_outliers():
    y = X[:, 0].copy()
    y[::10] += 100.0
    error = {
        loss: np.abs(MLPRegressor(loss, **LONG).fit(X, y).predict(X) - X[:, 0]).mean()
        for loss in ("squared_error", "huber")
    }
    assert error["huber"] < 0.2 < 5 < error["squared_error"]


# ---- validation rows


def test_the_validation_curve_is_the_loss_of_the_estimator_after_each_epoch():
    first, last = slice(0, 60), slice(60, 90)
    weight = np.arange(30) % 3 + 0.5

    def log_loss(estimator, y, weight):
        return metrics.log_loss(y, estimator.predict_proba(X[last]), sample_weight=weight)

    def bits(estimator, y, weight):
        columns = zip(y.T, estimator.predict_proba(X[last]).T, strict=True)
        return sum(metrics.log_loss(t, p, sample_weight=weight, labels=[0, 1]) for t, p in columns)

    def half_squares(estimator, y, weight):
        return 0.5 * metrics.mean_squared_error(y, estimator.predict(X[last]), sample_weight=weight)

    def half_deviance(estimator, y, weight):
        found = estimator.predict(X[last])
        return 0.5 * metrics.mean_poisson_deviance(y, found, sample_weight=weight)

    def absolute(estimator, y, weight):
        return metrics.mean_absolute_error(y, estimator.predict(X[last]), sample_weight=weight)

    cases = [
        (classifier, {}, NAMES, log_loss),
        (classifier, {"normalization": "batch"}, NAMES, log_loss),
        (classifier, {}, BITS, log_loss),
        (classifier, {}, LABELS, bits),
        (regressor, {}, PAIR, half_squares),
        (regressor, {"loss": "poisson"}, COUNTS, half_deviance),
        (regressor, {"loss": "mae", "dropout": 0.2}, LINE, absolute),
    ]
    for make, options, y, measure in cases:
        for w in (None, weight):
            given = {"X_val": X[last], "y_val": y[last], "sample_weight_val": w}
            curve = make(**options).fit(X[first], y[first], **given).validation_loss_curve_
            assert len(curve) == 6
            for epochs in (1, 6):
                estimator = make(**(options | {"max_iter": epochs})).fit(X[first], y[first])
                assert estimator.validation_loss_curve_ is None
                assert curve[epochs - 1] == pytest.approx(measure(estimator, y[last], w), rel=1e-9)


def test_validation_rows_of_ones_own_do_not_change_a_training_but_where_it_stops():
    plain = classifier().fit(X, NAMES)
    same(classifier().fit(X, NAMES, X_val=X[:9], y_val=NAMES[:9]), plain)
    estimator = classifier(early_stopping=True, n_iter_no_change=2, max_iter=50, tol=0.0)
    # Constant scores: one better than none, then three that are not better by more than tol=1.
    estimator.set_params(tol=1.0).fit(X, NAMES, X_val=X[:9], y_val=NAMES[:9])
    assert estimator.t_ == 90 * estimator.n_iter_
    assert estimator.n_iter_ == 4
    scores = [
        clone(plain).set_params(max_iter=k).fit(X, NAMES).score(X[:9], NAMES[:9]) for k in (1, 4)
    ]
    assert [estimator.validation_scores_[0], estimator.validation_scores_[3]] == scores
    assert len(estimator.validation_loss_curve_) == 4


def test_rows_split_from_x_have_a_curve_too():
    estimator = classifier(early_stopping=True).fit(X, CLASSES)
    assert len(estimator.validation_loss_curve_) == len(estimator.validation_scores_) == 6
    assert classifier().fit(X, CLASSES).validation_loss_curve_ is None


def test_bad_validation_rows_are_refused_in_scikit_learns_words():
    for rows, words in [
        ({"X_val": X}, "X_val is provided, but y_val was not provided"),
        ({"y_val": CLASSES}, "y_val is provided, but X_val was not provided"),
        ({"sample_weight_val": LINE}, "sample_weight_val is provided, but X_val was not provided"),
        (
            {"X_val": X[:, :3], "y_val": CLASSES},
            "X has 3 features, but MLPClassifier is expecting 4",
        ),
        ({"X_val": X[:5], "y_val": CLASSES}, "inconsistent numbers of samples"),
        ({"X_val": X * np.nan, "y_val": CLASSES}, "contains NaN"),
        ({"X_val": X, "y_val": CLASSES + 7}, "`y_val` has classes not in `self.classes_`"),
        ({"X_val": X, "y_val": LABELS}, "multilabel"),
        ({"X_val": X, "y_val": CLASSES, "sample_weight_val": np.zeros(90)}, "[Ss]ample.weight"),
        ({"X_val": X, "y_val": CLASSES, "sample_weight_val": [1.0]}, "[Ss]ample_weight"),
    ]:
        with pytest.raises(ValueError, match=words):
            classifier().fit(X, CLASSES, **rows)
    with pytest.raises(ValueError, match="y_val has 2 outputs, y has 1"):
        regressor().fit(X, LINE, X_val=X, y_val=PAIR)
    with pytest.raises(ValueError, match=r"^X_val: expected None with solver='lbfgs'"):
        classifier(solver="lbfgs").fit(X, CLASSES, X_val=X, y_val=CLASSES)


def test_a_pipeline_transforms_the_validation_rows():
    with sklearn.config_context(enable_metadata_routing=True):
        estimator = classifier().set_fit_request(X_val=True, y_val=True, sample_weight=True)
        scaler = StandardScaler().set_fit_request(sample_weight=False)
        pipeline = make_pipeline(scaler, estimator, transform_input=["X_val"])
        given = {"X_val": X[:20], "y_val": CLASSES[:20], "sample_weight": LINE**2}
        pipeline.fit(X, CLASSES, **given)
    scaler = StandardScaler().fit(X)
    given["X_val"] = scaler.transform(X[:20])
    alone = classifier().fit(scaler.transform(X), CLASSES, **given)
    assert pipeline[-1].validation_loss_curve_ == alone.validation_loss_curve_
    same(pipeline[-1], alone)


def test_names_of_columns_are_kept_and_no_warning_is_given():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=list("abcd"))
    options = {"early_stopping": True, "scoring": "neg_log_loss", "normalization": "layer"}
    for estimator in (classifier(**options), classifier(n_ensemble=2, **options)):
        estimator.fit(frame, NAMES, X_val=frame, y_val=NAMES)
        assert estimator.feature_names_in_.tolist() == list("abcd")
        estimator.predict(frame)
        with pytest.warns(UserWarning, match="does not have valid feature names"):
            estimator.predict(X)


# ---- when it ends


def test_early_stopping_stops_where_the_chosen_score_says():
    said = [0.1, 0.5, 0.4, 0.5, 0.45, 0.2, 0.3, 0.9]
    calls = []

    def score(estimator, X, y):
        assert set(estimator.predict(X)) <= set(NAMES)
        assert X.shape == (9, 4)
        assert y.shape == (9,)
        calls.append(estimator.coefs_[0].copy())
        return said[len(calls) - 1]

    options = {"early_stopping": True, "n_iter_no_change": 2, "max_iter": 50, "tol": 0.0}
    for added in ({}, {"normalization": "batch"}):
        calls.clear()
        estimator = classifier(scoring=score, **options, **added).fit(X, NAMES)
        # 0.4 is worse than the best, the second 0.5 is not; then three in a row are.
        assert estimator.validation_scores_ == said[:7]
        np.testing.assert_array_equal(estimator.coefs_[0], calls[1])
        assert estimator.best_validation_score_ == 0.5


def test_a_score_sees_y_as_it_was_given_and_the_settings_of_the_caller():
    seen = []

    def score(estimator, X, y):
        seen.append((y.shape, sklearn.get_config()["assume_finite"]))
        return 0.0

    for y, shape in [(LINE, (9,)), (PAIR, (9, 2))]:
        for count in (1, 2):
            seen.clear()
            with sklearn.config_context(assume_finite=True):
                regressor(scoring=score, early_stopping=True, n_ensemble=count).fit(X, y)
            assert set(seen) == {(shape, True)}


def test_scorers_by_name_and_the_loss_are_what_they_say():
    given = {"X_val": X[:30], "y_val": CLASSES[:30], "sample_weight_val": LINE[:30] ** 2}
    scores = {}
    for scoring in ("loss", "neg_log_loss", "balanced_accuracy"):
        estimator = classifier(early_stopping=True, scoring=scoring).fit(X, CLASSES, **given)
        scores[scoring] = estimator.validation_scores_
    curve = estimator.validation_loss_curve_
    np.testing.assert_array_equal(scores["loss"], -np.array(curve))
    np.testing.assert_allclose(scores["neg_log_loss"], -np.array(curve), rtol=1e-9)
    assert scores["balanced_accuracy"] != scores["loss"]
    estimator = regressor(early_stopping=True, scoring="neg_mean_absolute_error", loss="mae")
    estimator.fit(X, LINE)
    np.testing.assert_allclose(
        estimator.validation_scores_, -np.array(estimator.validation_loss_curve_), rtol=1e-9
    )


def test_max_time_ends_a_fit_within_an_epoch():
    rows = np.zeros((60_000, 4))
    begun = time.perf_counter()
    estimator = regressor(max_time=0.2, max_iter=10**6, batch_size=1, tol=0.0)
    estimator.fit(rows, np.zeros(60_000), X_val=X, y_val=LINE)
    assert time.perf_counter() - begun < 5
    assert estimator.n_iter_ == len(estimator.loss_curve_) == len(estimator.validation_loss_curve_)
    assert 0 < estimator.t_ < 60_000 * estimator.n_iter_


def test_the_best_weights_are_the_best():
    rising = {"learning_rate": lambda step: 0.02 * 1.1**step, "n_iter_no_change": 100}
    wild = rising | {"max_iter": 25}
    for added in ({}, {"normalization": "batch", "activation": "prelu"}):
        given = {"X_val": X[:30], "y_val": LINE[:30]}
        last = regressor(**wild, **added).fit(X[30:], LINE[30:], **given)
        best = regressor(restore_best_weights=True, **wild, **added).fit(X[30:], LINE[30:], **given)
        assert last.validation_loss_curve_ == best.validation_loss_curve_
        losses = [
            0.5 * metrics.mean_squared_error(LINE[:30], e.predict(X[:30])) for e in (last, best)
        ]
        assert losses[0] > losses[1] == pytest.approx(min(best.validation_loss_curve_), rel=1e-9)
        # Early stopping has always left those of the best score.
        early = regressor(early_stopping=True, scoring="loss", **wild, **added)
        early.fit(X[30:], LINE[30:], **given)
        np.testing.assert_array_equal(early.predict(X), best.predict(X))
    estimator = regressor(restore_best_weights=True, **wild).fit(X, LINE)
    epochs = int(np.argmin(estimator.loss_curve_)) + 1
    again = regressor(**(wild | {"max_iter": epochs})).fit(X, LINE)
    np.testing.assert_array_equal(estimator.coefs_[0], again.coefs_[0])
    assert epochs < 25


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_an_output_beyond_the_numbers_is_no_loss_and_never_the_best():
    far = np.full((9, 4), 1e38, np.float32)
    options = {"hidden_layer_sizes": (50,), "restore_best_weights": True, "activation": "identity"}
    for loss in ("squared_error", "mae"):
        estimator = regressor(loss=loss, **(options | {"max_iter": 40, "learning_rate_init": 1.0}))
        y = LINE.astype(np.float32)
        estimator.fit(X.astype(np.float32), y, X_val=far, y_val=y[:9])
        assert np.isnan(estimator.validation_loss_curve_).any()
        assert np.isfinite(estimator.coefs_[0]).all()


# ---- callbacks and progress


class Recorder(rv.Callback):
    def __init__(self, stop=None):
        self.rows, self.steps, self.begun, self.ended, self.stop = [], [], 0, 0, stop

    def on_train_begin(self, trainer):
        self.begun, self.trainer = self.begun + 1, trainer

    def on_epoch_end(self, epoch, logs):
        self.rows.append(logs)
        self.output = self.trainer.model.predict(X)
        return epoch == self.stop

    def on_train_batch_end(self, step, logs):
        self.steps.append(step)

    def on_train_end(self, trainer):
        self.ended += 1


def test_callbacks_see_each_epoch_and_may_end_the_fit():
    recorder = Recorder()
    estimator = regressor(callbacks=[recorder], early_stopping=True).fit(X, LINE)
    assert [row["epoch"] for row in recorder.rows] == list(range(6))
    assert [row["loss"] for row in recorder.rows] == estimator.loss_curve_
    assert [row["val_loss"] for row in recorder.rows] == estimator.validation_loss_curve_
    assert [row["val_score"] for row in recorder.rows] == estimator.validation_scores_
    assert recorder.trainer.history["loss"] == estimator.loss_curve_
    assert recorder.steps == list(range(1, 19))
    assert (recorder.begun, recorder.ended) == (1, 1)
    same(regressor(early_stopping=True).fit(X, LINE), estimator)
    recorder = Recorder(stop=2)
    estimator = regressor(callbacks=(recorder,)).fit(X, LINE)
    assert estimator.n_iter_ == 3
    np.testing.assert_array_equal(recorder.output, estimator.model_.predict(X))
    assert "val_loss" not in recorder.rows[0]


def test_callbacks_are_called_at_the_end_of_a_fit_that_fails():
    class Fails(Recorder):
        def on_epoch_end(self, epoch, logs):
            raise ZeroDivisionError

    class FailsAtOnce(Recorder):
        def on_train_begin(self, trainer):
            raise ZeroDivisionError

    for other in (Fails(), FailsAtOnce()):
        recorder = Recorder()
        with pytest.raises(ZeroDivisionError):
            regressor(callbacks=[recorder, other]).fit(X, LINE)
        assert (recorder.begun, recorder.ended) == (1, 1)


def test_a_plateau_lowers_the_rate_by_the_loss_that_it_watches():
    # The loss of the training falls, that of the opposite rises sooner or later.
    opposite = {"X_val": X, "y_val": -1000 * LINE}
    for rows, options, figure, sign in [
        ({}, {}, "loss", 1),
        ({}, {"mode": "max"}, "loss", -1),
        (opposite, {}, "val_loss", 1),
        (opposite, {"monitor": "val_loss"}, "val_loss", 1),
        (opposite, {"monitor": "loss"}, "loss", 1),
    ]:
        rate = rv.schedules.ReduceOnPlateau(0.01, patience=1, factor=0.5, min_delta=0.0, **options)
        recorder = Recorder()
        regressor(learning_rate=rate, callbacks=[recorder]).fit(X, LINE, **rows)
        expected, best = 0.01, np.inf
        for row in recorder.rows:
            assert row["learning_rate"] == pytest.approx(expected)
            if sign * row[figure] >= best:
                expected /= 2
            best = min(best, sign * row[figure])
        assert (expected < 0.01) == (figure == "val_loss" or sign < 0)


def test_our_callbacks_serve(tmp_path):
    hooks = [
        rv.CSVLogger(tmp_path / "log.csv"),
        rv.Checkpoint(tmp_path / "run-{epoch}.safetensors"),
    ]
    estimator = classifier(callbacks=hooks, normalization="batch").fit(X, CLASSES)
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 7
    model = rv.load(tmp_path / "run-6.safetensors")
    np.testing.assert_array_equal(model.predict(X), estimator.model_.predict(X))


def test_progress_goes_to_standard_error_alone(monkeypatch, capsys):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for options, text in [({}, "6/6"), ({"n_ensemble": 3}, "3/3")]:
        monkeypatch.setattr("sys.stderr", Terminal())
        import sys

        regressor(progress=True, **options).fit(X, LINE)
        assert text in sys.stderr.getvalue()
        assert ("/6" in sys.stderr.getvalue()) == (text == "6/6")
        assert capsys.readouterr().out == ""


# ---- ensembles


@pytest.mark.parametrize(
    ("make", "y", "options"),
    [
        (classifier, NAMES, {"early_stopping": True}),
        (classifier, BITS, {"class_weight": "balanced", "dropout": 0.2}),
        (classifier, LABELS, {"normalization": "batch"}),
        (classifier, NAMES, {"solver": "lbfgs"}),
        (regressor, LINE, {"loss": "huber"}),
        (regressor, PAIR, {"solver": "adamw"}),
        (regressor, COUNTS, {"loss": "poisson"}),
    ],
)
def test_an_ensemble_is_the_mean_of_members_that_are_as_if_alone(make, y, options):
    weight = np.arange(90) % 3 + 1.0
    given = {"sample_weight": weight}
    if "solver" not in options:
        given |= {"X_val": X[:20], "y_val": y[:20], "sample_weight_val": weight[:20]}
    ensemble = make(n_ensemble=3, **options).fit(X, y, **given)
    seeds = [member.random_state for member in ensemble.estimators_]
    expected = np.random.RandomState(0).randint(np.iinfo(np.int32).max, size=3)
    assert seeds == expected.tolist()
    alone = [make(**(options | {"random_state": seed})).fit(X, y, **given) for seed in seeds]
    for member, one in zip(ensemble.estimators_, alone, strict=True):
        for p, q in zip(member.coefs_, one.coefs_, strict=True):
            np.testing.assert_array_equal(p, q)
        assert member.get_params().keys() == one.get_params().keys()
        assert repr(member) == repr(one)
    name = "predict_proba" if make is classifier else "predict"
    expected = np.mean([getattr(one, name)(X) for one in alone], axis=0)
    np.testing.assert_allclose(getattr(ensemble, name)(X), expected, rtol=1e-12)
    if make is classifier and y is not LABELS:
        best = ensemble.classes_[ensemble.predict_proba(X).argmax(axis=1)]
        np.testing.assert_array_equal(ensemble.predict(X), best)
    assert ensemble.n_iter_ == max(one.n_iter_ for one in alone)
    assert ensemble.loss_ == pytest.approx(np.mean([one.loss_ for one in alone]))
    again = pickle.loads(pickle.dumps(ensemble))
    np.testing.assert_array_equal(getattr(again, name)(X), getattr(ensemble, name)(X))
    for gone in ("coefs_", "loss_curve_", "model_", "validation_loss_curve_"):
        assert not hasattr(ensemble, gone)


def test_an_ensemble_of_gaussians_has_the_deviation_of_their_mixture():
    ensemble = regressor(loss="gaussian_nll", n_ensemble=3).fit(X, LINE)
    parts = [member.predict(X, return_std=True) for member in ensemble.estimators_]
    means, deviations = (np.stack(part) for part in zip(*parts, strict=True))
    mean, deviation = ensemble.predict(X, return_std=True)
    np.testing.assert_allclose(mean, means.mean(axis=0))
    second = (deviations**2 + means**2).mean(axis=0)
    np.testing.assert_allclose(deviation**2, second - means.mean(axis=0) ** 2)


def test_an_estimator_may_become_an_ensemble_and_one_again():
    estimator = regressor().fit(X, LINE)
    first = estimator.predict(X)
    estimator.set_params(n_ensemble=2).fit(X, LINE)
    assert not hasattr(estimator, "coefs_")
    estimator.set_params(n_ensemble=1).fit(X, LINE)
    np.testing.assert_array_equal(estimator.predict(X), first)
    assert not hasattr(estimator, "estimators_")


def test_an_ensemble_refuses_what_it_cannot_do_and_ends_in_time():
    assert not hasattr(classifier(n_ensemble=2), "partial_fit")
    with pytest.raises(rv.ArgumentError, match=r"^n_ensemble: expected 1 in partial_fit"):
        regressor(n_ensemble=2).partial_fit(X, LINE)
    ensemble = regressor(
        n_ensemble=5, max_time=0.2, max_iter=10**6, tol=0.0, n_iter_no_change=10**6
    )
    begun = time.perf_counter()
    ensemble.fit(X, LINE)
    assert time.perf_counter() - begun < 5
    assert all(member.max_time == 0.2 and member.n_iter_ >= 1 for member in ensemble.estimators_)


def test_a_member_that_fails_fails_the_ensemble_and_ctrl_c_ends_it():
    with pytest.raises(ValueError, match=r"^loss: expected"):
        classifier(n_ensemble=2, loss=rv.losses.CrossEntropy()).fit(X, BITS)
    endless = regressor(n_ensemble=2, max_iter=10**7, tol=0.0, n_iter_no_change=10**7)
    timer = threading.Timer(0.4, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    begun = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        endless.fit(X, LINE)
    assert time.perf_counter() - begun < 5
    assert not hasattr(endless, "estimators_")
    with pytest.raises(NotFittedError):
        endless.predict(X)


def test_members_of_an_ensemble_share_its_time(monkeypatch):
    monkeypatch.setattr("ranvier._core.get_num_threads", lambda: 2)
    given = []

    class Told(MLPRegressor):
        def fit(self, X, y, *rest, **more):
            if self.n_ensemble == 1:
                given.append(self.max_time)
                self.max_time = None
            return super().fit(X, y, *rest, **more)

    Told(**SMALL, n_ensemble=5, max_time=300.0).fit(X, LINE)
    # Two at once: a third of the time each, then half of what is left, then all of it.
    np.testing.assert_allclose(given, [100, 100, 150, 150, 300], atol=20)
    ensemble = regressor(n_ensemble=3, max_time=0.6, max_iter=10**6, tol=0, n_iter_no_change=10**6)
    epochs = [member.n_iter_ for member in ensemble.fit(X, LINE).estimators_]
    assert min(epochs) > 10


def test_an_ensemble_that_fails_is_the_one_before():
    ensemble = classifier(n_ensemble=2).fit(X, BITS)
    before = dict(vars(ensemble))
    ensemble.set_params(class_weight={0: 1, 1: -1, 2: 1})
    with pytest.raises(rv.ArgumentError, match=r"^class_weight"):
        ensemble.fit(X[:, :1], CLASSES)
    assert vars(ensemble) == before | {"class_weight": ensemble.class_weight}


# ---- scikit-learn's tools


ALL = {
    "activation": ["gelu", "tanh"],
    "dropout": 0.1,
    "normalization": "batch",
    "solver": rv.AdamW(learning_rate=rv.schedules.Cosine(0.05, steps=60), clip_norm=1.0),
    "early_stopping": True,
    "scoring": "accuracy",
    "class_weight": "balanced",
    "loss": rv.losses.CrossEntropy(label_smoothing=0.1),
    "callbacks": [rv.ProgressBar()],
    "max_time": 60.0,
    "max_iter": 20,
}


def test_all_of_it_clones_pickles_and_searches():
    estimator = classifier(**ALL)
    twin = clone(estimator)
    assert twin.get_params()["solver"] == estimator.solver
    same(twin.fit(X, NAMES), estimator.fit(X, NAMES))
    again = pickle.loads(pickle.dumps(estimator))
    np.testing.assert_array_equal(again.predict_proba(X), estimator.predict_proba(X))
    pipeline = make_pipeline(StandardScaler(), clone(estimator))
    grid = {
        "mlpclassifier__dropout": [0.0, [0.1, 0.0]],
        "mlpclassifier__normalization": [None, "layer"],
    }
    search = GridSearchCV(pipeline, grid, cv=2, scoring="neg_log_loss").fit(X, NAMES)
    assert search.best_score_ > -1.1


@pytest.mark.parametrize(
    "options",
    [
        {"solver": "adamw", "dropout": 0.3},
        {"normalization": "batch", "learning_rate": RATES},
        {"activation": "prelu", "solver": rv.SGD(learning_rate=0.01, momentum=0.9)},
        {"loss": "quantile", "clip_norm": 0.5},
    ],
    ids=str,
)
def test_partial_fits_are_the_epochs_of_a_fit_also_through_a_pickle(options):
    whole = regressor(shuffle=False, **options).fit(X, LINE)
    parts = regressor(shuffle=False, **options)
    for _ in range(6):
        parts = pickle.loads(pickle.dumps(parts.partial_fit(X, LINE)))
    same(whole, parts)
    np.testing.assert_array_equal(whole.predict(X), parts.predict(X))


def test_partial_fit_weighs_classes_and_refuses_what_needs_all_epochs():
    weights = {0: 1.0, 1: 2.0, 2: 5.0}
    a = classifier(class_weight=weights).partial_fit(X, CLASSES, classes=[0, 1, 2])
    b = classifier().partial_fit(X, CLASSES, np.array([1.0, 2.0, 5.0])[CLASSES], classes=[0, 1, 2])
    same(a, b)
    for options, name in [
        ({"class_weight": "balanced"}, "class_weight"),
        ({"restore_best_weights": True}, "restore_best_weights"),
    ]:
        with pytest.raises(rv.ArgumentError, match=f"^{name}"):
            classifier(**options).partial_fit(X, CLASSES, classes=[0, 1, 2])
    with pytest.raises(AttributeError):
        classifier(solver="lbfgs").partial_fit  # noqa: B018


def test_a_warm_start_goes_on_from_all_parameters():
    options = {"normalization": "batch", "activation": "prelu", "warm_start": True}
    estimator = regressor(**options).fit(X, LINE)
    before = estimator.model_.parameters()
    estimator.set_params(solver=rv.SGD(learning_rate=1e-300), max_iter=1).fit(X, LINE)
    after = estimator.model_.parameters()
    for name, value in before.items():
        assert ("running" in name) != bool((value == after[name]).all()), name


def test_a_warm_start_with_other_layers_goes_on_from_the_coefficients():
    still = {"solver": rv.SGD(learning_rate=1e-300), "max_iter": 1}
    estimator = regressor(normalization="batch", warm_start=True).fit(X, LINE)
    coefs = [coef.copy() for coef in estimator.coefs_]
    for options in ({"dropout": 0.5}, {"normalization": "layer"}, {"normalization": None}):
        estimator.set_params(**options, **still).fit(X, LINE)
        for before, after in zip(coefs, estimator.coefs_, strict=True):
            np.testing.assert_array_equal(before, after)
    expected = regressor(warm_start=True).fit(X, LINE).set_params(**still)
    expected.coefs_, expected.intercepts_ = estimator.coefs_, estimator.intercepts_
    expected.set_params(dropout=0.0)
    estimator.set_params(dropout=0.0)
    np.testing.assert_allclose(estimator.predict(X), expected.predict(X), rtol=1e-12)


def test_parameters_that_are_set_after_a_fit_do_not_change_its_network():
    for options in ({}, {"normalization": "batch"}):
        estimator = regressor(**options).fit(X, LINE)
        before = estimator.predict(X)
        estimator.set_params(dropout=[0.1], normalization="layer", loss="gaussian_nll")
        np.testing.assert_array_equal(estimator.predict(X), before)
        np.testing.assert_allclose(estimator.model_.predict(X).ravel(), before, rtol=1e-12)


def test_a_schedule_is_made_for_its_epochs_and_they_are_not_called_too_few():
    for options in (
        {"learning_rate": RATES},
        {"solver": rv.SGD(learning_rate=RATES), "n_iter_no_change": np.inf},
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert regressor(**options).fit(X, LINE).n_iter_ == 6
    for options in ({}, {"solver": rv.SGD()}, {"learning_rate": rv.schedules.Constant(0.1)}):
        with pytest.warns(ConvergenceWarning):
            regressor(**options).fit(X, LINE)


@st.composite
def combinations(draw):
    """A problem, and additions that go together."""
    kind = draw(st.sampled_from(["classes", "bits", "labels", "line", "pair"]))
    hidden = draw(st.lists(st.integers(1, 6), max_size=2))

    def each(values):
        return st.one_of(values, st.lists(values, min_size=len(hidden), max_size=len(hidden)))

    names = ["relu", "logistic", "gelu", "prelu", "selu", rv.activations.ELU(0.5)]
    options = {
        "hidden_layer_sizes": hidden,
        "activation": draw(each(st.sampled_from(names))),
        "dropout": draw(each(st.sampled_from([0.0, 0.4]))),
        "normalization": draw(st.sampled_from([None, "batch", "layer"])),
        "solver": draw(st.sampled_from(["sgd", "adam", "adamw", rv.Adam(), rv.SGD(clip_norm=1.0)])),
        "max_iter": draw(st.integers(1, 3)),
        "batch_size": draw(st.sampled_from(["auto", 1, 7])),
        "shuffle": draw(st.booleans()),
        "random_state": draw(st.one_of(st.none(), st.integers(0, 9))),
        "restore_best_weights": draw(st.booleans()),
        "max_time": draw(st.sampled_from([None, 1e-6, 9.0])),
        "n_ensemble": draw(st.integers(1, 2)),
        "early_stopping": draw(st.booleans()),
    }
    if isinstance(options["solver"], str):
        options["clip_norm"] = draw(st.sampled_from([None, 0.5]))
        options["learning_rate"] = draw(st.sampled_from(["constant", rv.schedules.Constant(0.01)]))
    if options["early_stopping"]:
        options["scoring"] = draw(st.sampled_from([None, "loss"]))
    if kind in ("line", "pair"):
        losses = ["squared_error", "mae", "gaussian_nll", rv.losses.Quantile(0.3), Squares()]
        options["loss"] = draw(st.sampled_from(losses))
    else:
        options["class_weight"] = draw(st.sampled_from([None, "balanced"]))
    rows = draw(st.integers(30, 40))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    return kind, options, rows, dtype, draw(st.booleans()), draw(st.booleans())


@drawn(combinations())
@settings(max_examples=60)
def test_any_of_it_goes_together(combination):
    kind, options, rows, dtype, weighted, validated = combination
    y = {"classes": NAMES, "bits": BITS, "labels": LABELS, "line": LINE, "pair": PAIR}[kind][:rows]
    make = MLPRegressor if kind in ("line", "pair") else MLPClassifier
    x = X[:rows].astype(dtype)
    given = {"sample_weight": np.arange(rows) % 3 + 1.0} if weighted else {}
    if validated:
        given |= {"X_val": x[:9], "y_val": y[:9]}
    estimator = clone(make(**options)).fit(x, y, **given)
    found = estimator.predict(x)
    assert found.shape == y.shape
    if make is MLPClassifier:
        found = estimator.predict_proba(x)
        assert found.dtype == dtype
    assert np.isfinite(found).all()
    again = pickle.loads(pickle.dumps(estimator))
    np.testing.assert_array_equal(again.predict(x), estimator.predict(x))
    if options["random_state"] is not None and options["max_time"] != 1e-6:
        twin = clone(estimator).fit(x, y, **given)
        np.testing.assert_array_equal(twin.predict(x), estimator.predict(x))
    if options["n_ensemble"] == 1:
        watched = validated or options["early_stopping"]
        assert (estimator.validation_loss_curve_ is not None) == watched
        assert len(estimator.loss_curve_) == estimator.n_iter_
