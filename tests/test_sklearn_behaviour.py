"""What scikit-learn's own tests of its perceptrons pin down: true of theirs, true of ours."""

import re

import joblib
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from sklearn import datasets
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import PoissonRegressor
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import scale

from twins import alike, equal, ours, theirs

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

ACTIVATIONS = ["identity", "logistic", "tanh", "relu"]
HOMES = {"theirs": theirs, "ours": ours}
KINDS = ["MLPClassifier", "MLPRegressor"]


def digits(classes, rows):
    X, y = datasets.load_digits(n_class=classes, return_X_y=True)
    return X[:rows] / 16, y[:rows]


BINARY = digits(2, 100)
THREE = digits(3, 150)
IRIS = datasets.load_iris(return_X_y=True)
X, y = datasets.make_regression(100, 8, bias=20.0, noise=50.0, random_state=7)
REGRESSION = (X, scale(y))
LABELS = datasets.make_multilabel_classification(50, n_labels=2, random_state=0)


@pytest.fixture(params=HOMES)
def home(request):
    """Where the estimators come from: every promise holds of scikit-learn's too."""
    return HOMES[request.param]


# One step


def test_a_step_of_gradient_descent_is_the_one_worked_by_hand(home):
    """Two inputs, two logistic units, one output; all sums before the activations are 0.

    h = (1/2, 1/2), p = 1/2, and for y = 1:
    d_output = p - y = -1/2; d_hidden = W2 d_output h (1 - h) = (-3/8, 1/8);
    d_W2 = h d_output + W2/10 = (0.05, -0.35); d_W1 = x d_hidden + W1/10
    = ((-0.175, -0.075), (-0.85, 0.35)); loss = ln 2 + (4 + 4 + 1 + 1 + 9 + 1) / 20.
    """
    clf = home.MLPClassifier(
        2, "logistic", solver="sgd", momentum=0, learning_rate_init=1.0, alpha=0.1
    )
    x = [[1.0, 2.0]]
    clf.partial_fit(x, [1], classes=[0, 1])
    clf.coefs_ = [np.array([[2.0, -2.0], [-1.0, 1.0]]), np.array([[3.0], [-1.0]])]
    clf.intercepts_ = [np.zeros(2), np.array([-1.0])]
    assert clf.predict_proba(x)[0, 1] == 0.5
    clf.partial_fit(x, [1])
    expected = [[[2.175, -1.925], [-0.15, 0.65]], [[2.95], [-0.65]], [0.375, -0.125], [-0.5]]
    for found, value in zip(clf.coefs_ + clf.intercepts_, expected, strict=True):
        np.testing.assert_allclose(found, value, rtol=1e-14)
    assert clf.loss_ == pytest.approx(np.log(2) + 1, rel=1e-14)


@pytest.mark.parametrize("labels", [2, 3])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_gradient_that_is_followed_is_that_of_the_reported_loss(home, activation, labels):
    rng = np.random.RandomState(4)
    X, y = rng.rand(5, 10), np.arange(5) % labels

    def step(coefs, intercepts):
        """The loss there, and the step from there."""
        clf = home.MLPClassifier(
            6, activation, solver="sgd", momentum=0, learning_rate_init=1.0, alpha=0.01
        )
        clf.partial_fit(X, y, classes=range(labels))
        clf.coefs_ = [coef.copy() for coef in coefs]
        clf.intercepts_ = [intercept.copy() for intercept in intercepts]
        clf.partial_fit(X, y)
        moved = zip(clf.coefs_ + clf.intercepts_, coefs + intercepts, strict=True)
        return clf.loss_, [after - before for after, before in moved]

    outputs = 1 if labels == 2 else 3
    coefs = [rng.normal(size=(10, 6)), rng.normal(size=(6, outputs))]
    intercepts = [rng.normal(size=6), rng.normal(size=outputs)]
    for _ in range(3):
        along = [rng.normal(size=part.shape) for part in coefs + intercepts]
        losses = []
        for distance in (-1e-5, 1e-5):
            at = [p + distance * d for p, d in zip(coefs + intercepts, along, strict=True)]
            losses.append(step(at[:2], at[2:])[0])
        moves = step(coefs, intercepts)[1]
        gradient = -sum((move * d).sum() for move, d in zip(moves, along, strict=True))
        assert (losses[1] - losses[0]) / 2e-5 == pytest.approx(gradient, rel=1e-6)


def test_a_larger_alpha_gives_smaller_coefficients(home):
    sizes = []
    for alpha in (0.0, 1.0):
        clf = home.MLPClassifier(10, alpha=alpha, random_state=1, max_iter=100).fit(*BINARY)
        sizes.append([np.abs(coef).sum() for coef in clf.coefs_])
    assert (np.array(sizes[0]) > sizes[1]).all()


# L-BFGS


@pytest.mark.parametrize("data", [THREE, BINARY], ids=["three", "two"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_lbfgs_learns_digits(home, activation, data):
    X, y = data
    train, test = slice(0, -30), slice(-30, None)
    clf = home.MLPClassifier(20, activation, solver="lbfgs", max_iter=150, random_state=1)
    clf.fit(X[train], y[train])
    assert clf.score(X[train], y[train]) > 0.95
    predicted = clf.predict(X[test])
    assert (predicted.shape, predicted.dtype) == ((30,), y.dtype)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_lbfgs_fits_a_regression_and_units_that_bend_fit_it_better(home, activation):
    reg = home.MLPRegressor(
        hidden_layer_sizes=50,
        activation=activation,
        solver="lbfgs",
        max_iter=200,
        tol=1e-3,
        random_state=1,
    )
    score = reg.fit(*REGRESSION).score(*REGRESSION)
    assert 0.8 < score < 0.98 if activation == "identity" else score > 0.98


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_max_fun_ends_lbfgs_with_a_warning(home, activation, kind):
    mlp = getattr(home, kind)(
        hidden_layer_sizes=20,
        activation=activation,
        solver="lbfgs",
        tol=0.0,
        max_fun=10,
        random_state=1,
    )
    with pytest.warns(ConvergenceWarning, match="lbfgs failed to converge"):
        mlp.fit(*(THREE if kind == "MLPClassifier" else REGRESSION))
    assert 0 < mlp.n_iter_ <= 10


def test_several_outputs_are_fitted_at_once(home):
    X, y = datasets.make_regression(100, 20, n_targets=5, random_state=11)
    reg = home.MLPRegressor(
        hidden_layer_sizes=30, solver="lbfgs", max_iter=100, tol=1e-2, random_state=1
    ).fit(X, y)
    assert reg.score(X, y) > 0.9
    assert reg.predict(X).shape == (100, 5)


def test_a_poisson_loss_without_curved_units_is_a_poisson_regression(home):
    rng = np.random.default_rng(42)
    x = np.linspace(0, 1, 100)
    y = rng.poisson(np.exp(x + 1))
    x = x[:, None]
    linear = PoissonRegressor(alpha=0, tol=1e-7).fit(x, y).predict(x)

    def predicted(loss):
        reg = home.MLPRegressor(
            loss, (1,), "identity", alpha=0, solver="lbfgs", tol=1e-7, random_state=43
        )
        return reg.fit(x, y).predict(x)

    np.testing.assert_allclose(predicted("poisson"), linear, rtol=1e-4)
    # A squared error has no exponential behind it.
    assert np.abs(predicted("squared_error") / linear - 1).max() > 1e-3


# The learning rate


def test_inverse_scaling_counts_the_rows_of_all_warm_starts(home):
    X, y = [[3, 2], [1, 6], [5, 6], [-2, -4]], [1, 1, 1, 0]

    def coefs(learning_rate, epochs):
        clf = home.MLPClassifier(
            4,
            "tanh",
            solver="sgd",
            momentum=0,
            learning_rate=learning_rate,
            power_t=0.25,
            learning_rate_init=0.01,
            warm_start=True,
            random_state=0,
        )
        for count in epochs:
            clf.set_params(max_iter=count).fit(X, y)
        assert clf.t_ == 4 * sum(epochs)
        return clf.coefs_[0]

    # A fit begins with the first rate; the second epoch of the second has seen 2 epochs before it.
    start = coefs("constant", [1, 1])
    np.testing.assert_array_equal(coefs("invscaling", [1, 1]), start)
    constant = coefs("constant", [1, 2]) - start
    scaled = coefs("invscaling", [1, 2]) - start
    np.testing.assert_allclose(scaled, constant / (4 * 2 + 1) ** 0.25, rtol=1e-9)


def test_an_adaptive_rate_is_divided_by_5_until_it_is_too_small(home, capsys):
    clf = home.MLPClassifier(
        tol=0.5,
        max_iter=3000,
        solver="sgd",
        learning_rate="adaptive",
        verbose=True,
        random_state=0,
    )
    clf.fit([[3, 2], [1, 6]], [1, 0])
    assert clf.n_iter_ < 3000
    printed = capsys.readouterr().out
    rates = [float(rate) for rate in re.findall(r"Setting learning rate to (\S+)", printed)]
    assert rates == [0.0002, 0.00004, 0.000008, 0.000002, 0.0]
    assert printed.rstrip().endswith("Learning rate too small. Stopping.")


# Stopping


def test_a_large_tolerance_ends_a_fit_early(home):
    clf = home.MLPClassifier(tol=0.5, max_iter=3000, solver="sgd", random_state=0)
    clf.fit([[3, 2], [1, 6]], [1, 0])
    assert clf.n_iter_ < 3000


@pytest.mark.parametrize("patience", [2, 5, 10, 50])
def test_a_fit_ends_when_one_epoch_more_than_n_iter_no_change_brings_nothing(home, patience):
    clf = home.MLPClassifier(
        tol=0.01, max_iter=3000, solver="sgd", n_iter_no_change=patience, random_state=0
    ).fit(*BINARY)
    assert clf.n_iter_ < 3000
    best, since = np.inf, 0
    for epoch, loss in enumerate(clf.loss_curve_, 1):
        since = since + 1 if loss > best - 0.01 else 0
        best = min(best, loss)
        assert (since == patience + 1) == (epoch == clf.n_iter_)


def test_an_infinite_n_iter_no_change_never_ends_a_fit(home):
    clf = home.MLPClassifier(
        4, tol=1e9, max_iter=300, solver="sgd", n_iter_no_change=np.inf, random_state=0
    ).fit(*BINARY)
    assert clf.n_iter_ == len(clf.loss_curve_) == 300


@pytest.mark.parametrize("kind", KINDS)
def test_early_stopping_follows_the_validation_score(home, kind):
    mlp = getattr(home, kind)(
        tol=0.2, max_iter=3000, solver="sgd", early_stopping=True, random_state=0
    ).fit(*BINARY)
    assert mlp.n_iter_ < 3000
    assert mlp.best_loss_ is None
    scores = mlp.validation_scores_
    assert isinstance(scores, list)
    assert max(scores) == mlp.best_validation_score_
    assert max(scores[-2:]) < mlp.best_validation_score_ + 0.2


@pytest.mark.parametrize("kind", KINDS)
def test_without_early_stopping_there_is_a_best_loss_and_no_score(home, kind):
    mlp = getattr(home, kind)(tol=0.2, solver="sgd", random_state=0).fit(*BINARY)
    assert mlp.validation_scores_ is None
    assert mlp.best_validation_score_ is None
    assert mlp.best_loss_ == min(mlp.loss_curve_)


def test_validation_rows_are_drawn_from_every_class(home):
    clf = home.MLPClassifier(early_stopping=True)
    message = r"The least populated classes in y have only 1 member.*too few members are: \['True'"
    with pytest.raises(ValueError, match=message):
        clf.fit([[1, 2], [2, 3], [3, 4], [4, 5]], [0, 0, 0, 1])


def test_validation_takes_names_for_classes(home):
    X, y = THREE
    names = np.array(["zero", "one", "two"], dtype=object)[y]
    clf = home.MLPClassifier(early_stopping=True, max_iter=20, random_state=42).fit(X, names)
    assert len(clf.validation_scores_) == clf.n_iter_
    assert np.isfinite(clf.validation_scores_).all()
    assert clf.best_validation_score_ > 0.5


def test_two_rows_are_the_least_for_a_validation(home):
    X, y = datasets.make_regression(n_samples=2, n_features=5, random_state=0)
    with pytest.raises(ValueError, match="The validation set is too small"):
        home.MLPRegressor(early_stopping=True, random_state=0).fit(X, y)


def test_weights_of_one_change_no_validation(home):
    X, y = REGRESSION
    fits = [
        home.MLPRegressor(
            hidden_layer_sizes=10,
            early_stopping=True,
            tol=1e-2,
            learning_rate_init=0.01,
            batch_size=10,
            random_state=42,
        ).fit(X, y, sample_weight=weight)
        for weight in (None, np.ones(len(y)))
    ]
    equal(*fits, 1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_validation_rows_of_a_frame_keep_its_names(home, kind):
    # A model without names would warn here, and warnings are errors.
    frame = pd.DataFrame(np.random.RandomState(0).randn(10, 2), columns=["a", "b"])
    mlp = getattr(home, kind)(early_stopping=True, validation_fraction=0.2, random_state=0)
    mlp.fit(frame, pd.Series(np.full(10, 1), name="target"))
    np.testing.assert_array_equal(mlp.feature_names_in_, ["a", "b"])


# Training that goes wrong


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_inputs_that_overflow_are_refused(home, solver):
    rng = np.random.RandomState(0)
    X = np.finfo(np.float64).max * rng.uniform(size=(10, 2))
    message = "Solver produced non-finite parameter weights. The input data may contain large"
    with pytest.raises(ValueError, match=message):
        home.MLPRegressor(solver=solver).fit(X, rng.normal(size=10))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_with_early_stopping_a_divergence_leads_back_to_the_best_epoch(home):
    def fit(epochs):
        reg = home.MLPRegressor(
            activation="identity",
            solver="sgd",
            learning_rate_init=1,
            max_iter=epochs,
            early_stopping=True,
            random_state=0,
        )
        return reg.fit(*IRIS)

    reg = fit(20)
    scores = reg.validation_scores_
    assert reg.n_iter_ == len(scores) == len(reg.loss_curve_) == 20
    assert np.isnan(scores[-1])
    assert isinstance(scores[-1], float)
    assert reg.best_validation_score_ == np.nanmax(scores)
    best = fit(1 + int(np.nanargmax(scores)))
    np.testing.assert_array_equal(reg.coefs_[0], best.coefs_[0])


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_after_a_divergence_scores_and_draws_are_theirs():
    fits = []
    for origin in (theirs, ours):
        state = np.random.RandomState(0)
        reg = origin.MLPRegressor(
            activation="identity",
            solver="sgd",
            learning_rate_init=0.3,
            max_iter=15,
            early_stopping=True,
            random_state=state,
        ).fit(*IRIS)
        fits.append([reg.coefs_, reg.validation_scores_, reg.t_, state.randint(10**9)])
    equal(*fits)


# Warm starts


def test_a_warm_start_asks_for_the_same_classes(home):
    X, y = IRIS
    clf = home.MLPClassifier(
        2, solver="lbfgs", warm_start=True, random_state=42, tol=1e-2, max_iter=20
    ).fit(X, y)
    clf.fit(X, y).fit(X, np.repeat([0, 1, 2], [40, 40, 70]))
    others = ([0, 1], [0, 1, 3], [0, 1, 2, 3], [0, 1, 2, 3, 4])
    for classes in others:
        message = (
            "warm_start can only be used where `y` has the same classes as in the previous call "
            f"to fit. Previously got [0 1 2], `y` has {np.array(classes)}"
        )
        with pytest.raises(ValueError, match=re.escape(message)):
            clf.fit(X, np.resize(classes, len(X)))


@pytest.mark.parametrize("kind", KINDS)
def test_a_warm_start_runs_all_epochs_again(home, kind):
    mlp = getattr(home, kind)(hidden_layer_sizes=2, solver="sgd", warm_start=True, max_iter=3)
    for fits in (1, 2):
        mlp.fit(*IRIS)
        assert mlp.n_iter_ == 3
        assert len(mlp.loss_curve_) == 3 * fits


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
def test_a_warm_start_warns_at_max_iter_each_time(home, kind, solver):
    mlp = getattr(home, kind)(
        solver=solver, warm_start=True, n_iter_no_change=np.inf, random_state=0
    )
    for epochs in (10, 20):
        mlp.set_params(max_iter=epochs)
        with pytest.warns(ConvergenceWarning):
            mlp.fit(*IRIS)
        assert mlp.n_iter_ == epochs


@pytest.mark.parametrize("kind", KINDS)
def test_a_warm_start_with_early_stopping_adds_scores(home, kind):
    mlp = getattr(home, kind)(max_iter=10, random_state=0, warm_start=True, early_stopping=True)
    first = len(mlp.fit(*IRIS).validation_scores_)
    mlp.set_params(max_iter=20).fit(*IRIS)
    assert len(mlp.validation_scores_) > first


# partial_fit


@pytest.mark.parametrize("data", [THREE, BINARY], ids=["three", "two"])
def test_partial_fits_are_the_epochs_of_a_fit_of_classes(home, data):
    options = {"solver": "sgd", "random_state": 1, "alpha": 1e-5, "learning_rate_init": 0.2}
    whole = home.MLPClassifier(tol=0, max_iter=60, **options).fit(*data)
    parts = home.MLPClassifier(**options)
    for _ in range(60):
        parts.partial_fit(*data, classes=np.unique(data[1]))
    np.testing.assert_array_equal(parts.predict(data[0]), whole.predict(data[0]))
    assert parts.score(*data) > 0.95


@pytest.mark.parametrize("momentum", [0, 0.9])
def test_partial_fits_are_the_epochs_of_a_fit_of_numbers(home, momentum):
    options = {
        "solver": "sgd",
        "random_state": 1,
        "learning_rate_init": 0.01,
        "batch_size": 100,
        "momentum": momentum,
    }
    whole = home.MLPRegressor(max_iter=100, **options).fit(*REGRESSION)
    parts = home.MLPRegressor(**options)
    for _ in range(100):
        parts.partial_fit(*REGRESSION)
    X, _ = REGRESSION
    np.testing.assert_allclose(parts.predict(X), whole.predict(X), rtol=1e-7)
    assert parts.score(*REGRESSION) > 0.5


def test_a_class_may_come_with_a_later_partial_fit(home):
    clf = home.MLPClassifier(random_state=0)
    clf.partial_fit([[1], [2], [3]], ["a", "b", "c"], classes=["a", "b", "c", "d"])
    clf.partial_fit([[4]], ["d"])
    assert clf.score([[1], [2], [3], [4]], ["a", "b", "c", "d"]) > 0
    assert list(clf.classes_) == ["a", "b", "c", "d"]


def test_partial_fit_refuses_other_classes_than_the_first_call_named(home):
    clf = home.MLPClassifier(solver="sgd").partial_fit([[3, 2]], [0], classes=[0, 1])
    with pytest.raises(ValueError, match="is not the same as on last call to partial_fit"):
        clf.partial_fit([[3, 2]], [0], classes=[1, 2])


def test_partial_fit_refuses_targets_outside_its_classes(home):
    with pytest.raises(ValueError, match=r"`y` has classes not in `self\.classes_`"):
        home.MLPClassifier(solver="sgd").partial_fit([[3, 2], [1, 6]], [1, 0], classes=[2])


def test_there_is_no_partial_fit_of_lbfgs(home):
    assert not hasattr(home.MLPClassifier(solver="lbfgs"), "partial_fit")
    assert hasattr(home.MLPClassifier(solver="sgd"), "partial_fit")


@pytest.mark.parametrize("kind", KINDS)
def test_partial_fit_refuses_early_stopping_also_after_a_fit(home, kind):
    mlp = getattr(home, kind)(early_stopping=True, random_state=0, max_iter=20).fit(*IRIS)
    with pytest.raises(ValueError, match="partial_fit does not support early_stopping=True"):
        mlp.partial_fit(*IRIS)


def test_a_model_from_a_joblib_file_learns_on(home, tmp_path):
    reg = home.MLPRegressor(
        hidden_layer_sizes=42, random_state=42, learning_rate_init=0.01, max_iter=200
    ).fit([[2]], [4])
    joblib.dump(reg, tmp_path / "mlp")
    loaded = joblib.load(tmp_path / "mlp")
    before = reg.predict([[2]])
    np.testing.assert_array_equal(loaded.predict([[2]]), before)
    for _ in range(200):
        loaded.partial_fit([[2]], [1])
    np.testing.assert_allclose(loaded.predict([[2]]), [1], rtol=1e-4)
    np.testing.assert_array_equal(reg.predict([[2]]), before)


# Predictions


def test_probabilities_of_two_classes(home):
    X, y = BINARY
    clf = home.MLPClassifier(5, "logistic", learning_rate_init=0.01, random_state=1).fit(X, y)
    probabilities = clf.predict_proba(X)
    assert probabilities.shape == (100, 2)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    np.testing.assert_allclose(clf.predict_log_proba(X), np.log(probabilities))
    assert roc_auc_score(y, probabilities[:, 1]) == 1.0


def test_probabilities_of_several_classes(home):
    X, y = THREE
    clf = home.MLPClassifier(5, random_state=1).fit(X[:10], y[:10])
    probabilities = clf.predict_proba(X)
    assert probabilities.shape == (150, 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    np.testing.assert_allclose(clf.predict_log_proba(X), np.log(probabilities))
    np.testing.assert_array_equal(clf.predict(X), clf.classes_[probabilities.argmax(axis=1)])


def test_probabilities_of_labels_are_each_its_own(home):
    X, Y = LABELS
    clf = home.MLPClassifier(30, solver="lbfgs", random_state=0).fit(X, Y)
    probabilities = clf.predict_proba(X)
    np.testing.assert_array_equal(probabilities > 0.5, Y)
    assert np.abs(probabilities.sum(axis=1) - 1).max() > 0.5
    np.testing.assert_allclose(clf.predict_log_proba(X), np.log(probabilities))


def test_several_labels_are_learnt_by_fit_and_partial_fit(home):
    X, Y = LABELS
    options = {"activation": "logistic", "alpha": 1e-5, "random_state": 0}
    clf = home.MLPClassifier(50, solver="lbfgs", max_iter=150, **options).fit(X, Y)
    assert clf.score(X, Y) > 0.97
    clf = home.MLPClassifier(50, solver="sgd", learning_rate_init=0.2, **options)
    for _ in range(100):
        clf.partial_fit(X, Y, classes=[0, 1, 2, 3, 4])
    assert clf.score(X, Y) > 0.9
    # Rows for the validation are drawn without regard to classes then.
    clf = home.MLPClassifier(20, early_stopping=True, max_iter=20, random_state=0).fit(X, Y)
    assert clf.predict(X).shape == Y.shape


# Data


@pytest.mark.parametrize("solver", ["lbfgs", "adam"])
@pytest.mark.parametrize("kind", [scipy.sparse.csr_matrix, scipy.sparse.csr_array])
def test_sparse_rows_are_trained_on_and_predicted_as_dense_ones(home, kind, solver):
    X, y = BINARY
    clf = home.MLPClassifier(15, solver=solver, random_state=1, max_iter=100).fit(X, y)
    expected = clf.predict(X)
    clf.fit(kind(X), y)
    np.testing.assert_array_equal(clf.predict(kind(X)), expected)
    np.testing.assert_array_equal(clf.predict(X), expected)


def test_only_shuffling_draws_the_order_of_rows(home):
    X, y = datasets.make_regression(n_samples=50, n_features=5, random_state=0)

    def coefs(shuffle):
        reg = home.MLPRegressor(
            hidden_layer_sizes=1, max_iter=1, batch_size=1, random_state=0, shuffle=shuffle
        )
        return reg.fit(X, y).coefs_[0]

    for shuffle in (True, False):
        np.testing.assert_array_equal(coefs(shuffle), coefs(shuffle))
    assert (coefs(True) != coefs(False)).any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_parameters_and_predictions_have_the_type_of_the_input(home, kind, dtype):
    X, y = BINARY
    mlp = getattr(home, kind)(hidden_layer_sizes=(5, 3), random_state=1, max_iter=50, tol=0.1)
    mlp.fit(X.astype(dtype), y)
    assert all(array.dtype == dtype for array in mlp.coefs_ + mlp.intercepts_)
    if kind == "MLPRegressor":
        assert mlp.predict(X.astype(dtype)).dtype == dtype


@pytest.mark.parametrize("kind", KINDS)
def test_float32_learns_what_float64_learns(home, kind):
    X, y = BINARY
    fits = [
        getattr(home, kind)(
            hidden_layer_sizes=(5, 3), random_state=1, max_iter=100, tol=1e-3, alpha=1e-5
        ).fit(X.astype(dtype), y)
        for dtype in (np.float64, np.float32)
    ]
    narrow = X.astype(np.float32)
    predictions = [fits[0].predict(X), fits[1].predict(narrow)]
    if kind == "MLPClassifier":
        np.testing.assert_array_equal(*predictions)
        predictions = [fits[0].predict_proba(X), fits[1].predict_proba(narrow)]
    np.testing.assert_allclose(*predictions, rtol=1e-2, atol=1e-3)


# Prints


def test_verbose_prints_each_epoch_of_fit_and_partial_fit():
    def call(home):
        clf = home.MLPClassifier(2, solver="sgd", max_iter=2, verbose=10, random_state=0)
        clf.fit([[3, 2], [1, 6]], [1, 0]).partial_fit([[3, 2], [1, 6]], [1, 0])

    lines = alike(call).printed.splitlines()
    assert [line.split(",")[0] for line in lines] == ["Iteration 1", "Iteration 2", "Iteration 1"]
