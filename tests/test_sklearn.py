"""The drop-ins of scikit-learn's MLP: its own numbers, checks, warnings and prints."""

import pickle
import signal
import threading
import warnings

import numpy as np
import pytest
import scipy.sparse
from sklearn import datasets
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

from twins import ours, pair, same, theirs

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

DIGITS = datasets.load_digits(return_X_y=True)
DIGITS = (DIGITS[0][:600] / 16, DIGITS[1][:600])
CANCER = datasets.load_breast_cancer(return_X_y=True)
CANCER = (StandardScaler().fit_transform(CANCER[0]), CANCER[1])
DIABETES = datasets.load_diabetes(return_X_y=True)
DIABETES = (DIABETES[0], (DIABETES[1] - DIABETES[1].mean()) / DIABETES[1].std())
SEVERAL = (
    DIGITS[0],
    np.column_stack([DIGITS[1] % 2, DIGITS[1] > 4, DIGITS[1] % 3 == 0]).astype(int),
)
PAIRS = (DIABETES[0], np.column_stack([DIABETES[1], DIABETES[1] ** 2]))
COUNTS = (DIABETES[0], np.abs(DIABETES[1]))


# A search makes rounding errors grow: after 50 evaluations figures are within 6e-9, as they
# are when X is moved by a unit in its last place.
SEARCH = {"solver": "lbfgs", "max_fun": 30}

CASES = {
    "adam": ("MLPClassifier", DIGITS, {}),
    "tanh": ("MLPClassifier", DIGITS, {"activation": "tanh", "alpha": 1.0, "batch_size": 64}),
    "logistic": ("MLPClassifier", CANCER, {"activation": "logistic", "hidden_layer_sizes": (9, 5)}),
    "identity": ("MLPClassifier", CANCER, {"activation": "identity", "beta_1": 0.5}),
    "early": ("MLPClassifier", DIGITS, {"early_stopping": True, "n_iter_no_change": 3}),
    "early-binary": ("MLPClassifier", CANCER, {"early_stopping": True, "tol": 0.01}),
    "multilabel": ("MLPClassifier", SEVERAL, {"max_iter": 50}),
    "sgd": ("MLPClassifier", DIGITS, {"solver": "sgd", "learning_rate_init": 0.1}),
    "plain": (
        "MLPClassifier",
        DIGITS,
        {"solver": "sgd", "momentum": 0.0, "nesterovs_momentum": False, "learning_rate_init": 0.2},
    ),
    "adaptive": (
        "MLPClassifier",
        CANCER,
        {"solver": "sgd", "learning_rate": "adaptive", "learning_rate_init": 0.2, "tol": 0.01},
    ),
    # Probabilities saturate: the loss that is reported rounds and clips them.
    "saturated-binary": ("MLPClassifier", datasets.load_breast_cancer(return_X_y=True), {}),
    "saturated-classes": ("MLPClassifier", (1000 * DIGITS[0], DIGITS[1]), {"max_iter": 20}),
    "saturated-labels": ("MLPClassifier", (100 * SEVERAL[0], SEVERAL[1]), {"max_iter": 20}),
    "invscaling": (
        "MLPClassifier",
        DIGITS,
        {"solver": "sgd", "learning_rate": "invscaling", "learning_rate_init": 2.0},
    ),
    "regression": ("MLPRegressor", DIABETES, {"hidden_layer_sizes": (20, 10)}),
    "outputs": ("MLPRegressor", PAIRS, {"batch_size": 17, "shuffle": False, "max_iter": 40}),
    "early-regression": ("MLPRegressor", PAIRS, {"early_stopping": True}),
    "poisson": ("MLPRegressor", COUNTS, {"loss": "poisson", "batch_size": 50}),
    "poisson-outputs": ("MLPRegressor", SEVERAL, {"loss": "poisson", "batch_size": 50}),
    "lbfgs": ("MLPClassifier", DIGITS, SEARCH),
    "lbfgs-binary": ("MLPClassifier", CANCER, SEARCH),
    "lbfgs-multilabel": ("MLPClassifier", SEVERAL, SEARCH | {"max_fun": 30}),
    "lbfgs-regression": ("MLPRegressor", DIABETES, SEARCH),
    "lbfgs-outputs": ("MLPRegressor", PAIRS, SEARCH | {"activation": "tanh"}),
    "lbfgs-poisson": ("MLPRegressor", COUNTS, SEARCH | {"loss": "poisson"}),
}


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_the_same_random_state_gives_the_same_training(case, weighted):
    name, (X, y), options = CASES[case]
    weight = np.arange(len(X)) % 3 + 0.5 if weighted else None
    a, b = pair(name, random_state=3, **({"max_iter": 100} | options))
    a.fit(X, y, sample_weight=weight)
    b.fit(X, y, sample_weight=weight)
    same(a, b)
    expected = a.predict(X)
    np.testing.assert_allclose(b.predict(X), expected, rtol=1e-9, atol=1e-9 * expected.max())
    if name == "MLPClassifier":
        np.testing.assert_allclose(b.predict_proba(X), a.predict_proba(X), rtol=1e-9, atol=1e-12)


def test_float32_input_gives_float32_coefficients():
    X = DIABETES[0].astype(np.float32)
    a, b = pair("MLPRegressor", random_state=0, max_iter=20)
    same(a.fit(X, DIABETES[1].astype(np.float32)), b.fit(X, DIABETES[1].astype(np.float32)), 1e-4)
    assert b.coefs_[0].dtype == np.float32


@pytest.mark.parametrize("kind", [scipy.sparse.csr_array, scipy.sparse.csc_matrix])
def test_sparse_input_is_taken(kind):
    a, b = pair("MLPClassifier", random_state=0, max_iter=20)
    same(a.fit(kind(DIGITS[0]), DIGITS[1]), b.fit(kind(DIGITS[0]), DIGITS[1]))


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_partial_fit_goes_on_with_the_moments_also_through_a_pickle(solver):
    a, b = pair("MLPClassifier", random_state=0, solver=solver, learning_rate="invscaling")
    for step in range(6):
        rows = slice(100 * step, 100 * step + 100)
        for estimator in (a, b):
            estimator.partial_fit(DIGITS[0][rows], DIGITS[1][rows], classes=np.arange(10))
        b = pickle.loads(pickle.dumps(b))
    same(a, b)


def test_a_warm_start_goes_on_from_the_coefficients():
    a, b = pair("MLPRegressor", random_state=0, max_iter=5, warm_start=True)
    for _ in range(3):
        a.fit(*DIABETES)
        b.fit(*DIABETES)
    same(a, b)


def test_a_random_state_is_advanced_alike():
    states = [np.random.RandomState(5) for _ in range(2)]
    for estimator, state in zip(pair("MLPClassifier", max_iter=3), states, strict=True):
        estimator.set_params(random_state=state).fit(*DIGITS)
    assert states[0].randint(10**9) == states[1].randint(10**9)


@pytest.mark.parametrize(
    "options",
    [
        {"max_iter": 3},
        {"early_stopping": True, "n_iter_no_change": 2},
        {"solver": "sgd", "learning_rate": "adaptive", "tol": 1.0, "n_iter_no_change": 1},
    ],
    ids=repr,
)
def test_prints_and_warnings_are_scikit_learns(options, capsys):
    seen = []
    for estimator in pair("MLPClassifier", random_state=0, verbose=True, **options):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            estimator.fit(*CANCER)
        texts = [(str(w.message), w.category) for w in caught]
        seen.append((capsys.readouterr().out, texts))
    assert seen[0] == seen[1]
    assert seen[0][0]
    if options == {"max_iter": 3}:
        assert seen[0][1][0][1] is ConvergenceWarning


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_training_that_diverges_is_refused_in_scikit_learns_words():
    X, y = 1e300 * DIABETES[0], DIABETES[1]
    for estimator in pair("MLPRegressor", solver="sgd", random_state=0):
        with pytest.raises(ValueError, match="Solver produced non-finite parameter weights"):
            estimator.fit(X, y)


def test_ctrl_c_keeps_the_state_and_is_raised():
    class Stop(ours.MLPRegressor):
        def _update_no_improvement_count(self, *arguments):
            super()._update_no_improvement_count(*arguments)
            if self.n_iter_ == 4:
                raise KeyboardInterrupt

    a, b = theirs.MLPRegressor(random_state=0, max_iter=4), Stop(random_state=0, max_iter=50)
    with pytest.raises(KeyboardInterrupt):
        b.fit(*DIABETES)
    a.fit(*DIABETES)
    np.testing.assert_allclose(b.coefs_[0], a.coefs_[0], rtol=1e-9, atol=1e-12)
    assert b.n_iter_ == 4


@pytest.mark.parametrize("case", ["adam", "logistic", "multilabel", "regression", "poisson"])
def test_predictions_are_theirs_to_the_bit(case):
    name, (X, y), options = CASES[case]
    b = getattr(ours, name)(random_state=0, **options | {"max_iter": 5}).fit(X, y)
    a = getattr(theirs, name)()
    a.__dict__.update(b.__dict__)
    asked = ["predict", "predict_proba", "predict_log_proba"]
    for method in asked if name == "MLPClassifier" else asked[:1]:
        for rows in (
            X[:1],
            X,
            X[::-2],
            np.asfortranarray(X),
            X.astype(np.float32),
            (9 * X).astype(int),
        ):
            expected, found = getattr(a, method)(rows), getattr(b, method)(rows)
            np.testing.assert_array_equal(found, expected)
            assert (found.dtype, found.shape) == (expected.dtype, expected.shape)


@pytest.mark.parametrize("logit", [-1.0, -0.01, 0.0, 0.01])
def test_the_likelier_of_two_classes_is_predicted(logit):
    a, b = (estimator.fit(*CANCER) for estimator in pair("MLPClassifier", max_iter=1))
    for estimator in (a, b):
        estimator.coefs_[-1][:] = 0
        estimator.intercepts_[-1][:] = logit
    np.testing.assert_array_equal(b.predict(CANCER[0]), a.predict(CANCER[0]))
    assert (b.predict(CANCER[0]) == int(logit > 0)).all()


def test_predictions_follow_changed_coefficients():
    a, b = (estimator.fit(*DIABETES) for estimator in pair("MLPRegressor", max_iter=5))
    for estimator in (a, b):
        for array in estimator.coefs_ + estimator.intercepts_:
            array[:] = 0.01
    np.testing.assert_array_equal(b.predict(DIABETES[0]), a.predict(DIABETES[0]))


@pytest.mark.parametrize("left", [0, 1])
def test_an_interrupted_initialisation_predicts_nothing_and_leaves_the_rows_alone(left):
    rows = DIGITS[0].copy()
    _, classifier = (estimator.fit(*DIGITS) for estimator in pair("MLPClassifier", max_iter=2))
    classifier.coefs_ = classifier.coefs_[:left]
    classifier.intercepts_ = classifier.intercepts_[:left]
    for method in (classifier.predict, classifier.predict_proba):
        with pytest.raises(IndexError):
            method(rows)
    np.testing.assert_array_equal(rows, DIGITS[0])


def test_predictions_do_not_follow_changed_classes():
    options = {"max_iter": 2, "random_state": 0}
    a, b = (estimator.fit(*DIGITS) for estimator in pair("MLPClassifier", **options))
    for estimator in (a, b):
        estimator.classes_ = estimator.classes_ + 10
    np.testing.assert_array_equal(b.predict(DIGITS[0]), a.predict(DIGITS[0]))


@pytest.mark.parametrize(
    "rows",
    [
        np.full((2, 10), np.nan),
        np.full((2, 10), np.inf),
        np.zeros((2, 9)),
        np.zeros(10),
        np.zeros((0, 10)),
        np.full((2, 10), "a"),
        np.zeros((2, 10), complex),
    ],
)
def test_rows_that_cannot_be_predicted_are_refused_in_its_words(rows):
    said = []
    for estimator in pair("MLPRegressor", max_iter=2):
        with pytest.raises(ValueError) as error:
            estimator.fit(*DIABETES).predict(rows)
        said.append(str(error.value))
    assert said[0].replace("MLPRegressor", "") == said[1].replace("MLPRegressor", "")


def test_rows_of_large_numbers_are_predicted():
    a, b = (estimator.fit(*DIABETES) for estimator in pair("MLPRegressor", max_iter=2))
    b.coefs_, b.intercepts_ = a.coefs_, a.intercepts_
    rows = np.full((2, 10), 1e200)
    np.testing.assert_array_equal(b.predict(rows), a.predict(rows))


def test_ctrl_c_keeps_the_search_so_far():
    X = np.random.default_rng(0).normal(size=(20_000, 50))
    b = ours.MLPRegressor(solver="lbfgs", max_iter=100_000, max_fun=10**9, random_state=0)
    timer = threading.Timer(0.7, signal.raise_signal, [signal.SIGINT])
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        b.fit(X, np.sin(X[:, 0]))
    timer.join()
    assert b.n_iter_ > 0
    loss = np.mean((b.predict(X) - np.sin(X[:, 0])) ** 2) / 2
    penalty = 0.5e-4 * sum((coef**2).sum() for coef in b.coefs_) / len(X)
    assert b.loss_ == pytest.approx(loss + penalty)


@pytest.mark.parametrize("options", [{"max_iter": 3}, {"max_fun": 5}, {}])
def test_a_search_ends_for_the_same_reasons_with_the_same_words(options):
    told = []
    for estimator in pair("MLPClassifier", solver="lbfgs", random_state=0, **options):
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            estimator.fit(*CANCER)
        told.append((estimator.n_iter_, [str(warning.message) for warning in heard]))
    assert told[0] == told[1]
    assert len(told[0][1]) == (1 if options else 0)


def test_a_batch_of_no_weight_is_passed_over():
    weight = np.where(np.arange(len(DIABETES[0])) < 200, 0.0, 1.0)
    b = ours.MLPRegressor(random_state=0, max_iter=3, shuffle=False, batch_size=100)
    b.fit(*DIABETES, sample_weight=weight)
    assert np.isfinite(b.loss_curve_).all()


def test_scikit_learns_tools_take_them():
    pipeline = make_pipeline(StandardScaler(), ours.MLPClassifier(max_iter=20, random_state=0))
    search = GridSearchCV(pipeline, {"mlpclassifier__alpha": [1e-4, 1e-2]}, cv=3)
    assert search.fit(*CANCER).best_score_ > 0.9
    names = np.array(["benign", "malignant"])[CANCER[1]]
    named = clone(pipeline).fit(CANCER[0], names)
    assert set(named.predict(CANCER[0])) == {"benign", "malignant"}


@pytest.mark.parametrize("kind", [ours.MLPClassifier, ours.MLPRegressor])
def test_check_estimator_passes(kind):
    checks = check_estimator(kind(max_iter=100), on_skip=None)
    skipped = sum(check["status"] == "skipped" for check in checks)
    assert skipped == (2 if kind is ours.MLPClassifier else 1)
    assert all(check["status"] in ("passed", "skipped") for check in checks)
