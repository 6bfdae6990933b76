"""scikit-learn's tools, frames and arrays give with our perceptrons what they give with theirs."""

import copy
import inspect
import pickle
import subprocess
import sys

import joblib
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import scipy.stats
import sklearn
from sklearn import datasets
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import (
    BaggingClassifier,
    BaggingRegressor,
    StackingClassifier,
    StackingRegressor,
    VotingClassifier,
    VotingRegressor,
)
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import (
    GridSearchCV,
    RandomizedSearchCV,
    cross_val_predict,
    cross_val_score,
    cross_validate,
    learning_curve,
)
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier, OutputCodeClassifier
from sklearn.multioutput import (
    ClassifierChain,
    MultiOutputClassifier,
    MultiOutputRegressor,
    RegressorChain,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import get_tags

from twins import alike, ours, theirs

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

CANCER = datasets.load_breast_cancer(return_X_y=True)
CANCER = (StandardScaler().fit_transform(CANCER[0])[:120, :8], CANCER[1][:120])
DIABETES = datasets.load_diabetes(return_X_y=True)
DIABETES = (20 * DIABETES[0][:120], DIABETES[1][:120] / 70 - 2)
X, TWO, NUMBERS = CANCER[0], CANCER[1], DIABETES[1]
THREE = np.arange(120) % 3
NAMES = [f"f{column}" for column in range(8)]
FRAME = pd.DataFrame(X, columns=NAMES)
WEIGHT = np.arange(120) % 4 + 0.5


SMALL = {"hidden_layer_sizes": (6,), "learning_rate_init": 0.01, "max_iter": 8, "random_state": 0}


def classifier(home, **options):
    return home.MLPClassifier(**(SMALL | options))


def regressor(home, **options):
    return home.MLPRegressor(**(SMALL | options))


def options_of(mlp):
    """Those that scikit-learn has too."""
    known = inspect.signature(getattr(theirs, type(mlp).__name__)).parameters
    return {name: value for name, value in mlp.get_params().items() if name in known}


# Tools


def test_parameters_representation_and_tags_are_theirs():
    def call(home):
        made = [home.MLPClassifier(), home.MLPRegressor(), classifier(home, alpha=0.1)]
        changed = clone(made[2]).set_params(solver="sgd", hidden_layer_sizes=[3, 4])
        return [
            [(repr(mlp), options_of(mlp), repr(get_tags(mlp))) for mlp in [*made, changed]],
            [(is_classifier(mlp), is_regressor(mlp)) for mlp in made],
        ]

    assert "alpha=0.1" in alike(call).value[0][2][0]


@pytest.mark.parametrize("kind", ["MLPClassifier", "MLPRegressor"])
def test_a_notebook_shows_the_parameters(kind):
    page = getattr(ours, kind)(alpha=0.123)._repr_html_()
    assert kind in page
    assert "0.123" in page


TOOLS = {
    "grid": lambda home: search(GridSearchCV, home, {"mlpclassifier__alpha": [1e-4, 10.0]}),
    "random": lambda home: search(
        RandomizedSearchCV,
        home,
        {"mlpclassifier__alpha": scipy.stats.loguniform(1e-4, 10.0)},
        n_iter=3,
        random_state=0,
    ),
    "cross_val_score": lambda home: cross_val_score(regressor(home), X, NUMBERS, cv=3),
    "cross_val_predict": lambda home: cross_val_predict(
        classifier(home), X, TWO, cv=3, method="predict_proba"
    ),
    "learning_curve": lambda home: learning_curve(classifier(home), X, TWO, cv=3),
    "importance": lambda home: (
        permutation_importance(
            regressor(home).fit(X, NUMBERS), X, NUMBERS, n_repeats=2, random_state=0
        ).importances
    ),
    "calibrated": lambda home: fitted(CalibratedClassifierCV(classifier(home), cv=3), TWO),
    "isotonic": lambda home: fitted(
        CalibratedClassifierCV(classifier(home), method="isotonic", cv=2), THREE
    ),
    "bagging": lambda home: fitted(BaggingClassifier(classifier(home), 3, random_state=0), TWO),
    "bagging-numbers": lambda home: fitted(
        BaggingRegressor(regressor(home), 3, random_state=0, bootstrap_features=True), NUMBERS
    ),
    "stacking": lambda home: fitted(
        StackingClassifier([("a", classifier(home)), ("b", LogisticRegression())], cv=2), TWO
    ),
    "stacking-numbers": lambda home: fitted(
        StackingRegressor([("a", regressor(home)), ("b", Ridge())], regressor(home), cv=2), NUMBERS
    ),
    "voting": lambda home: fitted(
        VotingClassifier([("a", classifier(home)), ("b", LogisticRegression())], voting="soft"),
        THREE,
    ),
    "voting-numbers": lambda home: fitted(
        VotingRegressor([("a", regressor(home)), ("b", Ridge())]), NUMBERS
    ),
    "outputs": lambda home: fitted(
        MultiOutputClassifier(classifier(home)), np.column_stack([TWO, THREE])
    ),
    "outputs-numbers": lambda home: fitted(
        MultiOutputRegressor(regressor(home)), np.column_stack([NUMBERS, X[:, 0]])
    ),
    "chain": lambda home: fitted(
        ClassifierChain(classifier(home), random_state=0), np.column_stack([TWO, THREE == 0])
    ),
    "chain-numbers": lambda home: fitted(
        RegressorChain(regressor(home)), np.column_stack([NUMBERS, X[:, 0]])
    ),
    "one-vs-rest": lambda home: fitted(OneVsRestClassifier(classifier(home)), THREE),
    "one-vs-one": lambda home: OneVsOneClassifier(classifier(home)).fit(X, THREE).predict(X),
    "codes": lambda home: (
        OutputCodeClassifier(classifier(home), random_state=0).fit(X, THREE).predict(X)
    ),
    "target": lambda home: fitted(
        TransformedTargetRegressor(regressor(home), func=np.cbrt, inverse_func=lambda y: y**3),
        NUMBERS,
    ),
}


def search(kind, home, grid, **options):
    pipeline = make_pipeline(StandardScaler(), classifier(home))
    made = kind(pipeline, grid, cv=3, **options).fit(X, TWO)
    scores = {name: value for name, value in made.cv_results_.items() if "time" not in name}
    return [scores, made.best_params_, made.best_score_, made.predict_proba(X)]


def fitted(model, y):
    model.fit(X, y)
    return [model.predict_proba(X) if is_classifier(model) else model.predict(X), model.score(X, y)]


@pytest.mark.parametrize("tool", TOOLS)
def test_tools_give_the_same(tool):
    assert alike(TOOLS[tool]).error is None


def test_pipelines_hand_frames_through():
    def call(home):
        pipeline = make_pipeline(StandardScaler(), classifier(home)).set_output(transform="pandas")
        pipeline.fit(FRAME, TWO)
        return [pipeline[-1], pipeline.predict_proba(FRAME), list(pipeline[-1].feature_names_in_)]

    assert alike(call).value[2] == NAMES


def test_weights_are_routed_to_fit_partial_fit_and_score():
    def call(home):
        with sklearn.config_context(enable_metadata_routing=True):
            mlp = classifier(home).set_fit_request(sample_weight=True)
            mlp.set_score_request(sample_weight="w").set_partial_fit_request(classes=True)
            routings = [mlp.get_metadata_routing(), clone(mlp).get_metadata_routing()]
            requests = [
                (routing.fit.requests["sample_weight"], routing.score.requests["sample_weight"])
                for routing in routings
            ]
            params = {"sample_weight": WEIGHT, "w": WEIGHT[::-1].copy()}
            scores = cross_validate(mlp, X, TWO, params=params, cv=3, return_train_score=True)
            search = GridSearchCV(mlp, {"alpha": [1e-4, 10.0]}, cv=3).fit(X, TWO, **params)
        names = ["test_score", "train_score"]
        return [requests, [scores[name] for name in names], search.best_estimator_]

    weighted = alike(call).value
    plain = cross_validate(classifier(ours), X, TWO, cv=3, return_train_score=True)
    assert (weighted[1][1] != plain["train_score"]).any()


def test_requests_need_routing_switched_on():
    outcome = alike(lambda home: classifier(home).set_fit_request(sample_weight=True))
    assert outcome.error[0] == "RuntimeError"


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_two_jobs_give_what_one_gives(backend):
    def scores(jobs):
        with joblib.parallel_config(backend, n_jobs=jobs):
            return cross_val_score(classifier(ours), X, TWO, cv=4)

    np.testing.assert_array_equal(scores(2), scores(1))


COPIES = {
    "pickle": lambda mlp, path: pickle.loads(pickle.dumps(mlp)),
    "pickle-2": lambda mlp, path: pickle.loads(pickle.dumps(mlp, protocol=2)),
    "joblib": lambda mlp, path: joblib.load(joblib.dump(mlp, path / "mlp", compress=3)[0]),
    "mapped": lambda mlp, path: joblib.load(joblib.dump(mlp, path / "mlp")[0], mmap_mode="r"),
    "deepcopy": lambda mlp, path: copy.deepcopy(mlp),
    "copy": lambda mlp, path: copy.copy(mlp),
}


@pytest.mark.parametrize("way", COPIES)
def test_a_copy_predicts_the_same_and_learns_on_alike(way, tmp_path):
    def call(home):
        mlp = classifier(home).partial_fit(X, TWO, classes=[0, 1])
        mlp.seen_by_ = "me"
        made = COPIES[way](mlp, tmp_path)
        np.testing.assert_array_equal(made.predict_proba(X), mlp.predict_proba(X))
        if way == "mapped":
            with pytest.raises(ValueError, match="read-only"):
                made.partial_fit(X, TWO)
            return made.predict_proba(X)
        return [made.partial_fit(X, TWO), made.seen_by_]

    assert alike(call).error is None


def test_a_new_process_reads_a_pickle_and_learns_on(tmp_path):
    mlp = classifier(ours).partial_fit(X, TWO, classes=[0, 1])
    joblib.dump([mlp, X, TWO], tmp_path / "mlp")
    code = (
        "import joblib, sys; mlp, X, y = joblib.load(sys.argv[1]); mlp.partial_fit(X, y);"
        "print(mlp.loss_.hex(), mlp.coefs_[0][0, 0].hex())"
    )
    printed = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, tmp_path / "mlp"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    mlp.partial_fit(X, TWO)
    assert printed.split() == [mlp.loss_.hex(), mlp.coefs_[0][0, 0].hex()]


# Inputs


def some(X):
    """Few entries that are not 0."""
    return np.where(np.abs(X) > 1, X, 0)


def read_only(array):
    array = array.copy()
    array.setflags(write=False)
    return array


INPUTS = {
    **{name: getattr(scipy.sparse, name)(some(X)) for name in ("csr_array", "csr_matrix")},
    **{name: getattr(scipy.sparse, name)(some(X)) for name in ("csc_array", "csc_matrix")},
    **{name: getattr(scipy.sparse, name)(some(X)) for name in ("coo_array", "lil_matrix")},
    "csr-integers": scipy.sparse.csr_array(some(X).astype(int)),
    "csr-float32": scipy.sparse.csr_array(some(X).astype(np.float32)),
    "read-only": read_only(X),
    "fortran": np.asfortranarray(X),
    "strided": np.repeat(X, 2, axis=1)[:, ::2],
    "reversed": X[::-1],
    "big-endian": X.astype(">f8"),
    "float32": X.astype(np.float32),
    "float16": X.astype(np.float16),
    "integers": (10 * X).astype(int),
    "booleans": X > 0,
    "objects": X.astype(object),
    "list": X.tolist(),
    "one-column": X[:, :1],
    "frame": FRAME,
    "frame-float32": FRAME.astype(np.float32),
    "frame-nullable": FRAME.convert_dtypes(),
    "frame-arrow": FRAME.astype("double[pyarrow]"),
    "frame-sparse": FRAME.astype(pd.SparseDtype(float, 0)),
    "frame-numbered": pd.DataFrame(X),
}


@pytest.mark.parametrize("early", [False, True], ids=["", "early"])
@pytest.mark.parametrize("case", INPUTS)
def test_inputs_are_taken_as_theirs_takes_them(case, early):
    given = INPUTS[case]

    def call(home):
        options = {"early_stopping": early, "max_iter": 4}
        clf = classifier(home, **options).fit(given, TWO)
        reg = regressor(home, **options).fit(given, NUMBERS)
        figures = [clf.predict(given), clf.predict_proba(given), clf.score(given, TWO)]
        return [clf, reg, *figures, reg.predict(given), reg.score(given, NUMBERS)]

    assert alike(call, 1e-4 if "float32" in case else 1e-9).error is None


@pytest.mark.parametrize("case", ["csr_array", "csc_matrix", "frame", "float32", "integers"])
def test_partial_fit_takes_them_too(case):
    given = INPUTS[case]

    def call(home):
        clf, reg = classifier(home), regressor(home)
        for _ in range(3):
            clf.partial_fit(given, TWO, classes=[0, 1], sample_weight=WEIGHT)
            reg.partial_fit(given, NUMBERS, sample_weight=WEIGHT)
        return [clf, reg]

    assert alike(call, 1e-4 if case == "float32" else 1e-9).error is None


def test_a_fit_changes_none_of_its_arguments():
    given = [X.copy(), TWO.copy(), WEIGHT.copy()]
    classifier(ours).fit(*given[:2], sample_weight=given[2])
    for before, after in zip([X, TWO, WEIGHT], given, strict=True):
        np.testing.assert_array_equal(after, before)


def changed(row, column, value):
    array = X.copy()
    array[row, column] = value
    return array


REFUSED = {
    "nan": (changed(3, 2, np.nan), "Input X contains NaN"),
    "infinite": (changed(3, 2, np.inf), "Input X contains infinity"),
    "csr-nan": (scipy.sparse.csr_array(changed(3, 2, np.nan)), "Input X contains NaN"),
    "frame-missing": (FRAME.convert_dtypes().mask(FRAME > 2), "Input X contains NaN"),
    "complex": (X + 0j, "Complex data not supported"),
    "words": (np.full(X.shape, "a"), "could not convert string to float"),
    "one-dimensional": (X[:, 0], "Expected 2D array, got 1D array instead"),
    "three-dimensional": (X[np.newaxis], "Found array with dim 3"),
    "no-rows": (X[:0], "Found array with 0 sample"),
    "no-columns": (X[:, :0], "Found array with 0 feature"),
    "fewer-rows": (X[:50], "Found input variables with inconsistent numbers of samples"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("make", [classifier, regressor])
def test_bad_inputs_are_refused_in_their_words(case, make):
    given, message = REFUSED[case]
    error = alike(lambda home: make(home).fit(given, TWO)).error
    assert message in error[1]


PREDICTED = {
    "fewer": (X[:, :5], "X has 5 features, but MLP"),
    "a-row": (X[0], "Expected 2D array, got 1D array instead"),
    "nan": (changed(3, 2, np.nan), "Input X contains NaN"),
    "none": (X[:0], "Found array with 0 sample"),
}


@pytest.mark.parametrize("case", PREDICTED)
@pytest.mark.parametrize("make", [classifier, regressor])
def test_bad_inputs_of_predict_are_refused_in_their_words(case, make):
    given, message = PREDICTED[case]
    error = alike(lambda home: make(home).fit(X, TWO).predict(given)).error
    assert message in error[1]


def test_before_a_fit_every_method_says_so():
    for method in ("predict", "predict_proba", "predict_log_proba"):
        outcome = alike(lambda home, method=method: getattr(classifier(home), method)(X))
        assert "This MLPClassifier instance is not fitted yet" in outcome.error[1]


# Names of features

FRAMES = {
    "pandas": FRAME,
    "reversed": FRAME[NAMES[::-1]],
    "missing": FRAME[NAMES[:5]],
    "renamed": FRAME.rename(columns={"f0": "g0"}),
    "more": FRAME.assign(more=1.0),
    "array": X,
}


@pytest.mark.parametrize(
    ("fit", "predict", "message"),
    [
        ("pandas", "reversed", "Feature names must be in the same order as they were in fit"),
        ("pandas", "missing", "Feature names seen at fit time, yet now missing:\n- f5"),
        ("pandas", "renamed", "Feature names unseen at fit time:\n- g0"),
        ("pandas", "more", "Feature names unseen at fit time:\n- more"),
        ("pandas", "array", "X does not have valid feature names, but MLPClassifier was fitted"),
        ("array", "pandas", "X has feature names, but MLPClassifier was fitted without"),
    ],
)
def test_names_are_compared_in_their_words(fit, predict, message):
    outcome = alike(
        lambda home: classifier(home).fit(FRAMES[fit], TWO).predict_proba(FRAMES[predict])
    )
    said = [outcome.error[1]] if outcome.error else outcome.warned
    assert any(message in text for text in said)


def test_polars_frames_are_taken_with_their_names():
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame(dict(zip(NAMES, X.T, strict=True)))

    def call(home):
        clf = classifier(home).fit(frame, polars.Series(TWO))
        reg = regressor(home, early_stopping=True).fit(frame, polars.Series(NUMBERS))
        np.testing.assert_array_equal(clf.predict_proba(frame), clf.predict_proba(FRAME))
        return [clf, list(clf.feature_names_in_), reg, reg.predict(frame)]

    assert alike(call).value[1] == NAMES
    for columns in (NAMES[::-1], NAMES[:5]):
        error = alike(
            lambda home, columns=columns: (
                classifier(home).fit(frame, TWO).predict(frame.select(columns))
            )
        ).error
        assert "feature names should match those that were passed during fit" in error[1]


# Targets

TARGETS = {
    "two": TWO,
    "three": THREE,
    "floats": THREE * 1.0,
    "negative": THREE - 5,
    "booleans": TWO == 1,
    "text": np.array(["no", "yes"])[TWO],
    "names": np.array(["a", "bb", "ccc"], dtype=object)[THREE],
    "list": np.array(["a", "bb", "ccc"])[THREE].tolist(),
    "series": pd.Series(THREE, name="kind"),
    "categories": pd.Series(pd.Categorical(np.array(["a", "b", "c"])[THREE])),
    "strings": pd.Series(np.array(["a", "b", "c"])[THREE], dtype="string"),
    "nullable": pd.Series(TWO == 1, dtype="boolean"),
    "labels": np.column_stack([TWO, 1 - TWO]),
    "one-class": np.zeros(120),
    "narrow": THREE.astype(np.int8),
}


@pytest.mark.parametrize("early", [False, True], ids=["", "early"])
@pytest.mark.parametrize("case", TARGETS)
def test_classes_of_every_kind_come_back(case, early):
    y = TARGETS[case]

    def call(home):
        clf = classifier(home, early_stopping=early, max_iter=30).fit(X, y)
        return [clf, clf.predict(X), clf.predict_proba(X), clf.score(X, y)]

    predicted = alike(call).value[1]
    assert set(np.unique(predicted)) <= set(np.unique(np.asarray(y)))


NUMERIC = {
    "float32": NUMBERS.astype(np.float32),
    "integers": THREE,
    "read-only": read_only(NUMBERS),
    "strided": np.repeat(NUMBERS, 2)[::2],
    "fortran": np.asfortranarray(np.column_stack([NUMBERS, X[:, 0]])),
    "list": NUMBERS.tolist(),
    "series": pd.Series(NUMBERS, name="target"),
    "frame": pd.DataFrame({"a": NUMBERS, "b": X[:, 0]}),
    "constant": np.full(120, 3.0),
    "objects": NUMBERS.astype(object),
}


@pytest.mark.parametrize("early", [False, True], ids=["", "early"])
@pytest.mark.parametrize("case", NUMERIC)
def test_numbers_of_every_kind_are_fitted(case, early):
    y = NUMERIC[case]

    def call(home):
        reg = regressor(home, early_stopping=early).fit(X, y)
        return [reg, reg.predict(X), reg.score(X, y)]

    assert alike(call, 1e-7 if case == "float32" else 1e-9).error is None


def test_a_poisson_loss_of_float32_targets_is_that_of_their_numbers():
    y = np.abs(NUMBERS).astype(np.float32)
    assert alike(lambda home: regressor(home, loss="poisson").fit(X, y)).error is None


@pytest.mark.parametrize("make", [classifier, regressor])
def test_a_column_of_targets_is_taken_with_a_warning(make):
    def call(home):
        mlp = make(home).fit(X, TWO[:, np.newaxis])
        return [mlp, mlp.predict(X)]

    outcome = alike(call)
    assert outcome.value[1].shape == (120,)
    assert outcome.warnings[0][0] == "DataConversionWarning"


BAD_TARGETS = {
    "continuous": (classifier, NUMBERS, "Unknown label type"),
    "classes-of-several": (classifier, np.column_stack([THREE, THREE]), "Multioutput target data"),
    "fractions": (classifier, THREE / 2, "Unknown label type"),
    "boolean-objects": (classifier, (TWO == 1).astype(object), "Unknown label type"),
    "class-nan": (classifier, np.append(np.nan, THREE[1:]), "Input y contains NaN"),
    "nan": (regressor, np.append(np.nan, NUMBERS[1:]), "Input y contains NaN"),
    "infinite": (regressor, np.append(np.inf, NUMBERS[1:]), "Input y contains infinity"),
    "none": (regressor, None, "requires y to be passed, but the target y is None"),
    "three-dimensional": (regressor, np.zeros((120, 2, 2)), "Found array with dim 3"),
    "fewer": (regressor, NUMBERS[:50], "inconsistent numbers of samples"),
}


@pytest.mark.parametrize("case", BAD_TARGETS)
def test_bad_targets_are_refused_in_their_words(case):
    make, y, message = BAD_TARGETS[case]
    assert message in alike(lambda home: make(home).fit(X, y)).error[1]


def test_words_are_no_targets_of_a_regression():
    # scikit-learn fails within NumPy there; both errors are a TypeError.
    with pytest.raises(TypeError, match="y: expected real numbers"):
        regressor(ours).fit(X, np.array(["a", "b", "c"])[THREE])


CLASSES = {
    "later": ([0, 1, 2], [THREE, np.zeros(120, int), THREE], None),
    "unsorted": ([2, 0, 1], [THREE, THREE], None),
    "names": (["a", "b", "c", "d"], [np.array(["a", "b", "c"])[THREE]] * 2, None),
    "booleans": ([False, True], [TWO == 1] * 2, None),
    "unnamed": (None, [TWO], "classes must be passed on the first call to partial_fit"),
    "unknown": ([0, 1], [TWO, TWO + 1], "`y` has classes not in `self.classes_`"),
    "fewer": ([0], [TWO], "`y` has classes not in `self.classes_`"),
}


@pytest.mark.parametrize("case", CLASSES)
def test_partial_fit_keeps_to_the_classes_of_its_first_call(case):
    classes, targets, message = CLASSES[case]

    def call(home):
        clf = classifier(home).partial_fit(X, targets[0], classes=classes)
        for y in targets[1:]:
            clf.partial_fit(X, y)
        return [clf, clf.predict_proba(X)]

    error = alike(call).error
    assert error is None if message is None else message in error[1]


# Weights

WEIGHTS = {
    "list": WEIGHT.tolist(),
    "float32": WEIGHT.astype(np.float32),
    "integers": np.arange(120),
    "booleans": np.arange(120) % 2 == 0,
    "series": pd.Series(WEIGHT),
    "number": 2.0,
}


@pytest.mark.parametrize("case", WEIGHTS)
def test_weights_of_every_kind_are_taken(case):
    weight = WEIGHTS[case]

    def call(home):
        clf = classifier(home).fit(X, TWO, sample_weight=weight)
        reg = regressor(home, early_stopping=True).fit(X, NUMBERS, sample_weight=weight)
        return [clf, reg, clf.score(X, TWO, WEIGHT), reg.score(X, NUMBERS, WEIGHT)]

    assert alike(call).error is None


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (np.ones(5), "sample_weight.shape == (5,), expected (120,)"),
        (np.ones((120, 2)), "Sample weights must be 1D array or scalar"),
        (np.append(np.nan, WEIGHT[1:]), "Input sample_weight contains NaN"),
        (np.zeros(120), "Sample weights must contain at least one non-zero number"),
    ],
    ids=["short", "wide", "nan", "zero"],
)
def test_bad_weights_are_refused_in_their_words(weight, message):
    error = alike(lambda home: classifier(home).fit(X, TWO, sample_weight=weight)).error
    assert message in error[1]
