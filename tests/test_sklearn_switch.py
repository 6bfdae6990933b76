"""A script that changes the import and nothing else: its fits, refits, subclasses and settings."""

import json
import threading
import warnings

import numpy as np
import pytest
import sklearn
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import datasets
from sklearn.base import clone
from sklearn.preprocessing import StandardScaler

from twins import alike, equal, ours, theirs

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

CANCER = datasets.load_breast_cancer(return_X_y=True)
X, TWO = StandardScaler().fit_transform(CANCER[0])[:120, :8], CANCER[1][:120]
THREE = np.arange(120) % 3
NUMBERS = 2 * X[:, 0] - X[:, 1] * X[:, 2]
KINDS = {"MLPClassifier": TWO, "MLPRegressor": NUMBERS}
SMALL = {"hidden_layer_sizes": (6,), "learning_rate_init": 0.01, "max_iter": 8, "random_state": 0}


def made(home, kind, **options):
    return getattr(home, kind)(**(SMALL | options))


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


# Any options


@settings(max_examples=40)
@given(data=st.data())
def test_any_options_give_the_same_fit(data):
    def draw(*values):
        return data.draw(st.sampled_from(values))

    rows = draw(5, 17, 60, 230)
    options = {
        "hidden_layer_sizes": draw((4,), (7, 3), (1,), 33, [3, 2, 2]),
        "activation": draw("relu", "tanh", "logistic", "identity"),
        "solver": draw("adam", "sgd"),
        "alpha": draw(0, 1e-4, 0.1),
        "batch_size": draw("auto", 5, 16, rows, 1000),
        "learning_rate": draw("constant", "invscaling", "adaptive"),
        "learning_rate_init": draw(1e-3, 0.01),
        "power_t": draw(0.1, 1),
        "max_iter": draw(3, 15),
        "shuffle": draw(True, False),
        "tol": draw(0.0, 1e-4, 0.1),
        "verbose": draw(True, False),
        "momentum": draw(0, 0.9),
        "nesterovs_momentum": draw(True, False),
        "early_stopping": draw(True, False),
        "validation_fraction": draw(0.1, 0.5),
        "beta_1": draw(0.0, 0.9),
        "n_iter_no_change": draw(1, 10, np.inf),
        "warm_start": draw(True, False),
    }
    rng = np.random.RandomState(data.draw(st.integers(0, 1000)))
    X = rng.normal(size=(rows, draw(1, 3)))
    kind = draw("MLPClassifier", "MLPRegressor")
    outputs = draw(1, 3)
    if kind == "MLPClassifier":
        y = rng.randint(2, size=(rows, outputs)) if outputs > 1 else rng.randint(3, size=rows)
    else:
        options["loss"] = draw("squared_error", "poisson")
        # Exponentials overflow at larger rates.
        options["learning_rate_init"] = 1e-3
        y = rng.poisson(2.0, size=(rows, outputs)) * 1.0
        y = y if outputs > 1 else y[:, 0]
    weight = draw(None, rng.rand(rows) + 0.1)
    partial = not options["early_stopping"] and draw(True, False)

    def call(home):
        mlp = getattr(home, kind)(random_state=1, **options)
        for _ in range(2):
            mlp.fit(X, y, sample_weight=weight)
        if partial:
            mlp.partial_fit(X, y)
        return [mlp, mlp.predict(X)]

    alike(call, 1e-8)


BAD = {
    "hidden_layer_sizes": [0, -1, (3, 0), 2.5, None],
    "alpha": [-1, np.nan, "a"],
    "batch_size": [0, 2.5, "all"],
    "learning_rate_init": [0, -1],
    "max_iter": [0, 2.5],
    "shuffle": ["yes", None],
    "random_state": [-1, 1.5, "a", np.random.default_rng(0)],
    "tol": [-1],
    "momentum": [-0.1, 1.1],
    "validation_fraction": [1, -0.1],
    "beta_1": [1, -0.1],
    "epsilon": [0],
    "n_iter_no_change": [0, 2.5],
    "max_fun": [0],
}


@pytest.mark.parametrize("name", BAD)
def test_bad_options_are_refused_by_fit_in_their_words(name):
    for value in BAD[name]:

        def call(home, value=value):
            mlp = home.MLPClassifier(**{name: value})
            mlp.fit(X, TWO)

        assert alike(call).error is not None


def test_options_that_there_are_not_are_refused_at_once():
    assert alike(lambda home: home.MLPClassifier(depth=2)).error[0] == "TypeError"


def test_numbers_of_any_kind_are_taken_for_options():
    def call(home):
        options = {
            "alpha": np.float32(0.1),
            "batch_size": np.int32(9),
            "max_iter": np.int64(3),
            "learning_rate_init": 1,
            "beta_2": 0,
            "hidden_layer_sizes": np.array([4, 3]),
            "shuffle": np.bool_(True),
        }
        return made(home, "MLPClassifier", **options).fit(X, TWO)

    assert alike(call).error is None


# What a fit leaves


@pytest.mark.parametrize("early", [False, True])
def test_attributes_have_their_types(kind, early):
    shared = dir(made(theirs, kind, early_stopping=early).fit(X, KINDS[kind]))

    def call(home):
        mlp = made(home, kind, early_stopping=early).fit(X, KINDS[kind])
        public = {name: value for name, value in vars(mlp).items() if name in shared}
        public = {name: value for name, value in public.items() if not name.startswith("_")}
        first = {name: v[0] if isinstance(v, list) else v for name, v in public.items()}
        arrays = mlp.coefs_ + mlp.intercepts_ + [mlp.predict(X)]
        return [
            {name: type(value).__name__ for name, value in sorted(public.items())},
            {name: type(value).__name__ for name, value in sorted(first.items())},
            [str(array.flags) for array in arrays],
            [name for name in dir(mlp) if name in shared and not name.startswith("_")],
            mlp.loss_curve_,
        ]

    assert json.dumps(alike(call).value[-1])


def test_probabilities_may_be_written_to():
    def call(home):
        clf = made(home, "MLPClassifier").fit(X, THREE)
        arrays = [clf.predict_proba(X), clf.predict_log_proba(X)]
        arrays[0] *= 2
        return [*arrays, clf.predict_proba(X)]

    assert alike(call).error is None


def test_fits_in_threads_are_those_of_one_thread():
    fits = [made(ours, "MLPClassifier", random_state=seed) for seed in range(4)]
    threads = [threading.Thread(target=mlp.fit, args=(X, TWO)) for mlp in fits]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed, mlp in enumerate(fits):
        equal(made(ours, "MLPClassifier", random_state=seed).fit(X, TWO), mlp, 0)


# Random states


def with_global_state(home, random_state):
    """A fit, and what NumPy's global state gives after it."""
    np.random.seed(3)  # noqa: NPY002
    mlp = made(home, "MLPClassifier", random_state=random_state).fit(X, TWO)
    return [mlp, np.random.random()]  # noqa: NPY002


def global_state(home):
    return with_global_state(home, None)


def untouched_state(home):
    return with_global_state(home, 5)


def shared_state(home):
    state = np.random.RandomState(3)
    fits = [made(home, kind, random_state=state).fit(X, y) for kind, y in KINDS.items()]
    return [*fits, state.rand()]


def other_generator(home):
    state = np.random.RandomState(np.random.PCG64(3))
    return made(home, "MLPClassifier", random_state=state).fit(X, TWO)


def largest_seed(home):
    return made(home, "MLPClassifier", random_state=2**32 - 1).fit(X, TWO)


@pytest.mark.parametrize(
    "call",
    [global_state, untouched_state, shared_state, other_generator, largest_seed],
    ids=lambda call: call.__name__,
)
def test_random_states_are_drawn_from_alike(call):
    assert alike(call).error is None


def test_without_a_random_state_each_fit_differs():
    a, b = (made(ours, "MLPClassifier", random_state=None).fit(X, TWO) for _ in range(2))
    assert (a.coefs_[0] != b.coefs_[0]).any()


# Warm starts and partial fits

CHANGES = {
    "width": {"hidden_layer_sizes": (9,)},
    "activation": {"activation": "tanh"},
    "alpha": {"alpha": 1.0},
    "rate": {"learning_rate_init": 0.1},
    "solver": {"solver": "sgd"},
    "momentum": {"momentum": 0.1, "beta_1": 0.5},
    "batches": {"batch_size": 7},
    "order": {"shuffle": False},
    "stopping": {"tol": 1.0, "n_iter_no_change": 1},
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_warm_start_takes_changed_options(kind, change):
    def call(home):
        mlp = made(home, kind, warm_start=True).fit(X, KINDS[kind])
        return mlp.set_params(**CHANGES[change]).fit(X, KINDS[kind])

    assert alike(call).error is None


@pytest.mark.parametrize("solver", ["adam", "sgd"])
@pytest.mark.parametrize("change", CHANGES)
def test_partial_fit_takes_changed_options_and_keeps_its_moments(kind, change, solver):
    def call(home):
        mlp = made(home, kind, solver=solver)
        classes = {"classes": [0, 1]} if kind == "MLPClassifier" else {}
        for call in range(4):
            rows = slice(30 * call, 30 * call + 30)
            mlp.partial_fit(X[rows], KINDS[kind][rows], **(classes if call == 0 else {}))
            if call == 1:
                mlp.set_params(**CHANGES[change])
        return mlp

    assert alike(call).error is None


@pytest.mark.parametrize("first", [np.float32, np.float64])
def test_a_warm_start_keeps_the_type_of_its_coefficients(kind, first):
    second = np.float64 if first == np.float32 else np.float32

    def call(home):
        mlp = made(home, kind, warm_start=True).fit(X.astype(first), KINDS[kind])
        return mlp.fit(X.astype(second), KINDS[kind])

    mlp = alike(call, 1e-4 if first == np.float32 else 1e-9).value
    assert mlp.coefs_[0].dtype == first


def test_a_warm_start_with_another_number_of_layers_is_refused(kind):
    # scikit-learn fails there with whatever error comes first.
    mlp = made(ours, kind, warm_start=True).fit(X, KINDS[kind])
    coef = mlp.coefs_[0].copy()
    mlp.set_params(hidden_layer_sizes=(6, 5))
    with pytest.raises(ValueError, match=r"hidden_layer_sizes: expected 1 layers, as .*, got 2"):
        mlp.fit(X, KINDS[kind])
    np.testing.assert_array_equal(mlp.coefs_[0], coef)


def test_a_warm_start_on_other_columns_is_refused(kind):
    def call(home):
        made(home, kind, warm_start=True).fit(X, KINDS[kind]).fit(X[:, :4], KINDS[kind])

    assert "X has 4 features" in alike(call).error[1]


def test_a_fit_that_is_no_warm_start_begins_anew(kind):
    def call(home):
        mlp = made(home, kind).fit(X, KINDS[kind])
        return mlp.set_params(hidden_layer_sizes=(5, 4)).fit(X[:80, :4], KINDS[kind][:80])

    outcome = alike(call)
    equal(
        made(ours, kind, hidden_layer_sizes=(5, 4)).fit(X[:80, :4], KINDS[kind][:80]), outcome.value
    )


def test_training_goes_on_from_coefficients_of_the_users(kind):
    def call(home):
        mlp = made(home, kind, warm_start=True).fit(X, KINDS[kind])
        mlp.coefs_[0] *= 0.5
        mlp.intercepts_ = [intercept + 0.1 for intercept in mlp.intercepts_]
        predicted = mlp.predict(X)
        return [predicted, mlp.fit(X, KINDS[kind]).partial_fit(X, KINDS[kind])]

    assert alike(call).error is None


def test_partial_fit_goes_on_after_a_fit_and_before_another(kind):
    def call(home):
        mlp, y = made(home, kind), KINDS[kind]
        mlp.fit(X, y).partial_fit(X, y).partial_fit(X[:1], y[:1])
        return [mlp.loss_curve_[:], mlp.n_iter_, mlp.fit(X, y), mlp.partial_fit(X, y)]

    assert alike(call).error is None


def test_solvers_take_turns(kind):
    def call(home):
        mlp, y = made(home, kind, warm_start=True, max_iter=3), KINDS[kind]
        for solver in ("adam", "lbfgs", "sgd"):
            mlp.set_params(solver=solver).fit(X, y)
        return mlp.partial_fit(X, y)

    assert alike(call).error is None


# Where scikit-learn's own loop trains


def own_gradient(home):
    class Doubled(home.MLPRegressor):
        def _backprop(self, *arguments):
            loss, coefs, intercepts = super()._backprop(*arguments)
            return 2 * loss, [2 * coef for coef in coefs], intercepts

    return Doubled(**SMALL | {"solver": "sgd"}).fit(X, NUMBERS)


OWN_LOOP = {
    "weights": lambda home: made(home, "MLPRegressor").fit(
        X, NUMBERS, sample_weight=np.where(np.arange(120) % 10 == 0, -0.5, 1.0)
    ),
    "weights-early": lambda home: made(home, "MLPClassifier", early_stopping=True).fit(
        X, TWO, sample_weight=np.where(np.arange(120) % 10 == 0, -0.5, 1.0)
    ),
    "poisson": lambda home: made(home, "MLPRegressor", loss="poisson").fit(X, NUMBERS),
    "momentum": lambda home: made(home, "MLPClassifier", solver="sgd", momentum=1.0).fit(X, TWO),
    "gradient": own_gradient,
}


@pytest.mark.parametrize("case", OWN_LOOP)
def test_what_the_core_refuses_is_trained_by_scikit_learns_loop(case):
    assert alike(OWN_LOOP[case]).error is None


def test_a_change_of_the_loop_in_partial_fit_starts_the_moments_anew():
    negative = np.append(-1, np.ones(119))
    reg = made(ours, "MLPRegressor").partial_fit(X, NUMBERS)
    reg.partial_fit(X, NUMBERS, sample_weight=negative)
    other = made(ours, "MLPRegressor", warm_start=True, max_iter=1).fit(X, NUMBERS)
    other.coefs_ = [coef.copy() for coef in reg.coefs_]
    other.intercepts_ = [intercept.copy() for intercept in reg.intercepts_]
    equal(other.fit(X, NUMBERS).coefs_, reg.partial_fit(X, NUMBERS).coefs_)


# Subclasses


def plain(home):
    class Mine(home.MLPClassifier):
        pass

    clf = Mine(**SMALL).fit(X, TWO)
    return [clf, repr(clf), clone(clf).get_params()["random_state"], clf.predict_proba(X)]


def own_fit(home):
    class Mine(home.MLPClassifier):
        def fit(self, X, y, sample_weight=None):
            self.rows_ = len(X)
            return super().fit(2 * X, y, sample_weight)

    clf = Mine(**SMALL).fit(X, TWO)
    return [clf, clf.rows_]


def own_parameters(home):
    class Mine(home.MLPRegressor):
        def __init__(self, width=4, alpha=0.1):
            super().__init__(hidden_layer_sizes=(width,), alpha=alpha, random_state=0, max_iter=5)
            self.width = width

    reg = Mine(5).fit(X, NUMBERS)
    return [reg, repr(clone(reg)), reg.get_params()]


def own_predict(home):
    class Mine(home.MLPRegressor):
        def predict(self, X):
            return super().predict(X) + 1

    reg = Mine(early_stopping=True, **SMALL).fit(X, NUMBERS)
    return [reg, reg.predict(X)]


def own_score(home):
    class Mine(home.MLPRegressor):
        def _score(self, X, y, sample_weight=None):
            return -np.mean((self._predict(X, check_input=False) - y) ** 2)

    return Mine(early_stopping=True, **SMALL).fit(X, NUMBERS)


def own_start(home):
    class Mine(home.MLPRegressor):
        def _init_coef(self, fan_in, fan_out, dtype):
            coef, intercept = super()._init_coef(fan_in, fan_out, dtype)
            return 0.1 * coef, 0 * intercept

    return Mine(**SMALL).fit(X, NUMBERS)


def own_epoch(home):
    """Looks at the model after each epoch, and keeps its coefficients small."""
    seen = []

    class Mine(home.MLPClassifier):
        def _update_no_improvement_count(self, *arguments):
            super()._update_no_improvement_count(*arguments)
            seen.append([self.n_iter_, self.loss_, self.coefs_[0][0, 0], self.predict_proba(X[:2])])
            for coef in self.coefs_:
                np.clip(coef, -0.3, 0.3, out=coef)

    return [Mine(**SMALL).fit(X, TWO), seen]


def own_epoch_with_validation(home):
    class Mine(home.MLPClassifier):
        def _update_no_improvement_count(self, *arguments):
            super()._update_no_improvement_count(*arguments)
            self.coefs_[0] *= 0.9

    return Mine(early_stopping=True, **SMALL).fit(X, TWO)


@pytest.mark.parametrize(
    "call",
    [
        plain,
        own_fit,
        own_parameters,
        own_predict,
        own_score,
        own_start,
        own_epoch,
        own_epoch_with_validation,
    ],
    ids=lambda call: call.__name__,
)
def test_subclasses_work_as_theirs(call):
    assert alike(call).error is None


def test_an_error_in_a_subclass_leaves_a_model_to_go_on_with():
    def call(home):
        class Mine(home.MLPClassifier):
            broken = True

            def _update_no_improvement_count(self, *arguments):
                super()._update_no_improvement_count(*arguments)
                if self.n_iter_ == 3 and self.broken:
                    raise RuntimeError("no more")

        clf = Mine(warm_start=True, **SMALL)
        with pytest.raises(RuntimeError, match="no more"):
            clf.fit(X, TWO)
        clf.broken = False
        return [clf.n_iter_, clf.predict_proba(X), clf.fit(X, TWO)]

    assert alike(call).error is None


# Warnings and prints


def test_filters_for_scikit_learns_module_serve():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", module="sklearn")
        made(ours, "MLPClassifier", batch_size=1000).fit(X, TWO).partial_fit(X, TWO)
        made(ours, "MLPRegressor", early_stopping=True, max_iter=2).fit(X, NUMBERS)


def test_a_warning_as_an_error_leaves_the_whole_training(kind):
    def call(home):
        mlp = made(home, kind)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(sklearn.exceptions.ConvergenceWarning):
                mlp.fit(X, KINDS[kind])
        return [mlp, mlp.predict(X)]

    assert alike(call).error is None


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"early_stopping": True, "n_iter_no_change": 1},
        {"solver": "sgd", "learning_rate": "adaptive", "tol": 1.0, "n_iter_no_change": 1},
        {"solver": "lbfgs"},
        {"batch_size": 1000, "max_iter": 1},
    ],
    ids=repr,
)
def test_prints_and_warnings_are_theirs(kind, options):
    outcome = alike(lambda home: made(home, kind, verbose=True, **options).fit(X, KINDS[kind]))
    assert outcome.printed or outcome.warnings


# Settings

CONFIGURATIONS = [
    {"assume_finite": True},
    {"working_memory": 1},
    {"skip_parameter_validation": True},
    {"transform_output": "pandas"},
]


@pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=repr)
def test_settings_change_nothing_that_theirs_do_not_change(kind, configuration):
    def call(home):
        with sklearn.config_context(**configuration):
            mlp = made(home, kind).fit(X, KINDS[kind])
            return [mlp, mlp.predict(X), repr(mlp)]

    assert alike(call).error is None


def test_assume_finite_passes_nan_through_a_prediction():
    def call(home):
        reg = made(home, "MLPRegressor").fit(X, NUMBERS)
        with sklearn.config_context(assume_finite=True):
            return reg.predict(np.where(X > 2, np.nan, X))

    assert np.isnan(alike(call).value).any()


def test_assume_finite_lets_no_fit_begin_on_nan(kind):
    with (
        sklearn.config_context(assume_finite=True),
        pytest.raises(ValueError, match="expected finite numbers, got NaN in row"),
    ):
        made(ours, kind).fit(np.where(X > 2, np.nan, X), KINDS[kind])


def test_ours_are_theirs_for_isinstance():
    assert isinstance(ours.MLPClassifier(), theirs.MLPClassifier)
    assert isinstance(ours.MLPRegressor(), theirs.MLPRegressor)
