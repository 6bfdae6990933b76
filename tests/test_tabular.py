"""The tabular estimators: what is made of a table, determinism, held-out rows, uncertainty."""

import logging
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from sklearn import datasets
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator

import ranvier as rv
from ranvier.sklearn import TabularClassifier, TabularRegressor, _recipes
from ranvier.sklearn._recipes import folds
from ranvier.sklearn._tables import TableEncoder, weighted_quantiles
from ranvier.sklearn._uncertainty import LEVELS, Intervals, conformal_margin, temperature

CANCER = datasets.load_breast_cancer(return_X_y=True)
CANCER = (CANCER[0][:200], CANCER[1][:200])
FRIEDMAN = datasets.make_friedman1(300, noise=1.0, random_state=0)
QUICK = {"max_steps": 60, "n_ensemble": 4, "random_state": 0}


class Owner(TabularClassifier):
    """An estimator as the encoder needs one."""


def encode(X, later=None, weight=None, categorical_features="from_dtype"):
    """The encoded table, or what comes later as the table suggests."""
    owner, encoder = Owner(), TableEncoder(categorical_features)
    columns = encoder.read(owner, X, reset=True)
    encoder.fit(columns, weight)
    if later is not None:
        columns = encoder.read(owner, later, reset=False)
    return encoder.transform(columns, np.float64)


def column(*values):
    return np.array(values, np.float64)[:, None]


# What is made of a table.


def test_a_number_is_centred_by_the_median_and_scaled_by_its_spread():
    got = encode(column(0, 1, 2, 3, 4))
    z = (np.arange(5) - 2) / 2
    np.testing.assert_allclose(got[:, 0], z / np.sqrt(1 + (z / 5) ** 2))


@pytest.mark.parametrize("kind", ["numbers", "missing", "categories"])
def test_a_weight_is_so_many_rows(rng, kind):
    X = rng.normal(size=(40, 2)).round(1)
    counts = rng.integers(0, 4, size=40)
    if kind == "missing":
        X[::3, 0] = np.nan
    if kind == "categories":
        X = pd.DataFrame({"a": rng.choice(list("abcdef"), size=40), "b": X[:, 1]})
    later = X[:10]
    repeated = X.iloc[np.repeat(np.arange(40), counts)] if kind == "categories" else None
    if repeated is None:
        repeated = np.repeat(X, counts, axis=0)
    np.testing.assert_array_equal(
        encode(X, later, weight=counts.astype(float)), encode(repeated, later)
    )


def test_rows_of_weight_0_are_absent():
    X = pd.DataFrame({"a": [1, 1, 1, 5.0], "b": [1, 2, 4, np.nan], "c": ["x", "y", "x", "z"]})
    weight = np.array([1.0, 1.0, 1.0, 0.0])
    np.testing.assert_array_equal(encode(X, weight=weight), encode(X[:3], X))


def test_weighted_quantiles_are_those_of_repeated_rows(rng):
    for _ in range(20):
        values, counts = rng.normal(size=15).round(1), rng.integers(0, 4, size=15)
        levels = [0.0, 0.05, 0.25, 0.5, 0.75, 1.0]
        expected = np.quantile(np.repeat(values, counts), levels, method="averaged_inverted_cdf")
        some = counts > 0
        got = weighted_quantiles(values[some], counts[some].astype(float), levels)
        np.testing.assert_allclose(got, expected, atol=1e-15)


def test_origin_and_size_of_a_column_do_not_matter(rng):
    X = rng.normal(size=(100, 3))
    moved = X * [1e-9, 2.0, 1e12] + [5e-8, -300.0, 1e14]
    np.testing.assert_allclose(encode(moved), encode(X), rtol=1e-6, atol=1e-6)


def test_heavy_tails_are_bent_and_light_ones_are_not(rng):
    z = rng.normal(size=(2000, 1))
    plain = encode(z)[:, 0]
    scale = 2 * np.median(np.abs(z - np.median(z)))
    straight = (z[:, 0] - np.median(z)) / scale
    np.testing.assert_allclose(plain, straight / np.sqrt(1 + (straight / 5) ** 2))
    heavy = np.sinh(4 * z)
    bent = encode(heavy)[:, 0]
    assert np.corrcoef(bent, z[:, 0])[0, 1] > 0.97
    order = np.argsort(z[:, 0])
    assert (np.diff(bent[order]) > 0).all()


def test_a_wild_value_neither_overflows_nor_hides_the_others(rng):
    X = rng.normal(size=(50, 1))
    X[0], X[1] = 1.7e308, -1.7e308
    got = encode(X)
    assert np.isfinite(got).all()
    assert np.abs(got).max() <= 5.0
    assert got[2:].std() > 0.3


def test_a_column_that_is_mostly_one_value_is_scaled_by_the_rest():
    got = encode(column(*[0] * 90, *range(1000, 1010)))
    assert (got[:90] == 0).all()
    np.testing.assert_allclose(got[90:, 0], 0.5, atol=0.01)


def test_missing_numbers_are_the_median_and_say_so():
    X = column(1, 2, np.nan, 3, 9)
    got = encode(X)
    assert got.shape == (5, 2)
    assert got[2, 0] == encode(X, column(2.5))[0, 0] == 0.0
    np.testing.assert_array_equal(got[:, 1], [0, 0, 0.25, 0, 0])
    complete = encode(column(1, 2, 3), column(np.nan))
    np.testing.assert_array_equal(complete, [[0.0]])


def test_masked_cells_are_missing():
    X = column(1, 2, 77, 3, 9)
    masked = np.ma.masked_equal(X, 77)
    np.testing.assert_array_equal(encode(masked), encode(np.where(X == 77, np.nan, X)))


def test_constant_and_empty_columns_say_nothing():
    X = np.column_stack([np.ones(6), np.full(6, np.nan), np.arange(6)])
    assert encode(X).shape == (6, 1)
    np.testing.assert_array_equal(encode(X[:, :2], [[7.0, 3.0]]), [[0.0]])


def test_categories_have_columns_and_missing_is_one():
    X = pd.DataFrame({"c": pd.Series(["x", "y", None, "x"], dtype="category")})
    np.testing.assert_array_equal(encode(X), [[1, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0]])
    np.testing.assert_array_equal(
        encode(X, pd.DataFrame({"c": ["new", "y"]})), [[0] * 3, [0, 0, 1]]
    )


def test_rare_categories_share_a_column_with_new_ones():
    values = [f"{number % 90:02}" for number in range(900)] + ["rare"]
    X = pd.DataFrame({"c": values})
    got = encode(X, pd.DataFrame({"c": ["00", "89", "rare", "new", None]}))
    assert got.shape == (5, 65)
    assert got[0, 0] == 1.0
    np.testing.assert_array_equal(got[1:, -1], 1.0)
    np.testing.assert_array_equal(got.sum(axis=1), 1.0)


FRAME = {
    "number": [1.0, 2.0, 3.0, 4.0],
    "whole": [1, 2, 3, 5],
    "text": ["a", "b", "a", "c"],
    "flag": [True, False, True, True],
}


def frames():
    """The same table in several types of frames."""
    import importlib.util

    plain = pd.DataFrame(FRAME)
    yield "pandas", plain
    yield "objects", plain.astype(object)
    yield "nullable", plain.convert_dtypes()
    yield "category", plain.astype({"text": "category", "flag": "category"})
    yield "arrow", plain.convert_dtypes(dtype_backend="pyarrow")
    if importlib.util.find_spec("polars"):
        import polars

        yield "polars", polars.DataFrame(FRAME)
        yield (
            "polars-category",
            polars.DataFrame(FRAME, schema_overrides={"text": polars.Categorical}),
        )


@pytest.mark.parametrize("frame", [pytest.param(frame, id=kind) for kind, frame in frames()])
def test_dtypes_tell_numbers_from_categories(frame):
    got = encode(frame)
    assert got.shape == (4, 1 + 1 + 3 + 2)
    np.testing.assert_array_equal(got, encode(pd.DataFrame(FRAME)))
    np.testing.assert_array_equal(encode(pd.DataFrame(FRAME), frame), got)


def test_categorical_columns_may_be_named_counted_or_masked():
    X = np.array([[1, 10.0], [2, 20.0], [1, 30.0], [3, 50.0]])
    expected = encode(pd.DataFrame({"a": X[:, 0].astype(str), "b": X[:, 1]}))
    assert expected.shape == (4, 4)
    for chosen in ([0], [-2], [True, False], np.array([True, False])):
        np.testing.assert_array_equal(encode(X, categorical_features=chosen), expected)
    frame = pd.DataFrame(X, columns=["a", "b"])
    np.testing.assert_array_equal(encode(frame, categorical_features=["a"]), expected)
    objects = X.astype(object)
    np.testing.assert_array_equal(encode(objects, categorical_features=[0]), expected)
    assert encode(frame, categorical_features=None).shape == (4, 2)


@pytest.mark.parametrize(
    ("X", "options", "words"),
    [
        (
            scipy.sparse.csr_matrix(np.eye(60)),
            {},
            "X: expected a table or a dense array",
        ),
        (np.full((60, 1), np.inf), {}, "infinity"),
        (pd.DataFrame({"a": [np.inf] * 60}), {}, "finite numbers or NaN in column 'a'"),
        (pd.DataFrame({"t": pd.date_range("2020", periods=60)}), {}, "got 't' of datetime64"),
        (pd.DataFrame({"a": [["x"]] * 60}), {}, "categories in column 'a', got unhashable"),
        (pd.DataFrame({"a": ["x"] * 60}), {"categorical_features": None}, "numbers in column 'a'"),
        (
            np.array([["x", 1]] * 60),
            {},
            "array of numbers, .*; pass a data frame, or categorical",
        ),
        (
            np.array([["x", "y"]] * 60, object),
            {"categorical_features": [0]},
            "NaN in column 1, which is not among the categorical ones, got .*'y'",
        ),
        (np.ones((60, 2)), {"categorical_features": [2]}, "numbers below 2 or a mask of 2, got 2"),
        (np.ones((60, 2)), {"categorical_features": ["b"]}, "categorical_features: .* got 'b'"),
        (np.ones((60, 2)), {"n_ensemble": 0}, "n_ensemble: expected"),
        (np.ones((60, 2)), {"max_steps": 0.5}, "max_steps: expected"),
        (np.ones((60, 2)), {"learning_rate": -1.0}, "learning_rate: expected"),
        (np.ones((60, 2)), {"dropout": 1.0}, "dropout: expected"),
        (np.ones((60, 2)), {"label_smoothing": -1.0}, "label_smoothing: expected"),
        (np.ones((60, 2)), {"activation": "rleu"}, "activation: expected one of"),
        (np.ones((60, 2)), {"hidden_layer_sizes": 5}, "hidden_layer_sizes: expected the widths"),
        (np.ones((60, 2)), {"class_weight": {0: 0, 1: 0}}, "class_weight: expected .* not all 0"),
        (np.ones((60, 2)), {"class_weight": {0: -1, 1: 1}}, "class_weight: expected .* 0 or more"),
        (np.ones((60, 2)), {"class_weight": {0: np.nan, 1: 1}}, "class_weight: expected finite"),
        (np.ones((60, 2)), {"temperature_scaling": "yes"}, "temperature_scaling: expected"),
    ],
)
def test_what_does_not_serve_is_refused_with_its_name(X, options, words):
    classifier = TabularClassifier(**options)
    with pytest.raises((ValueError, TypeError), match=words):
        classifier.fit(X, np.arange(60) % 2)
    assert not hasattr(classifier, "models_")


def test_a_frame_with_other_columns_is_refused():
    X = pd.DataFrame(CANCER[0][:60, :2], columns=["a", "b"])
    classifier = TabularClassifier(**QUICK).fit(X, CANCER[1][:60])
    assert classifier.feature_names_in_.tolist() == ["a", "b"]
    with pytest.raises(ValueError, match="feature names should match"):
        classifier.predict(X.rename(columns={"b": "c"}))
    with pytest.raises(ValueError, match="X has 1 features"):
        TabularClassifier(**QUICK).fit(X.to_numpy(), CANCER[1][:60]).predict(X[["a"]].to_numpy())


# Training.


@pytest.mark.parametrize("rows", [30, 200])
def test_the_same_random_state_gives_the_same_bits_whatever_the_threads(rows):
    X, y = FRIEDMAN[0][:rows], FRIEDMAN[1][:rows]
    before = rv.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 5):
            rv.set_num_threads(threads)
            regressor = TabularRegressor(uncertainty=True, **QUICK).fit(X, y)
            found.append((regressor.predict(X), *regressor.predict_interval(X, 0.8)))
    finally:
        rv.set_num_threads(before)
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(a, b)
    other = TabularRegressor(**QUICK | {"random_state": 1}).fit(X, y).predict(X)
    assert not np.array_equal(other, found[0][0])


def test_none_and_a_random_state_draw_anew():
    X, y = CANCER[0][:60], CANCER[1][:60]
    state = np.random.RandomState(0)
    for random_state in (None, state):
        classifier = TabularClassifier(**QUICK | {"random_state": random_state})
        first, second = (classifier.fit(X, y).predict_proba(X) for _ in range(2))
        assert not np.array_equal(first, second)


def test_few_rows_are_all_trained_on_and_weights_are_repetitions(rng):
    X, y = rng.normal(size=(20, 3)), rng.integers(0, 2, size=20)
    counts = np.r_[rng.integers(0, 3, size=19), 1]
    weighted = TabularClassifier(**QUICK).fit(X, y, sample_weight=counts)
    repeated = TabularClassifier(**QUICK).fit(np.repeat(X, counts, 0), np.repeat(y, counts))
    assert weighted.temperature_ == 1.0
    np.testing.assert_allclose(weighted.predict_proba(X), repeated.predict_proba(X), rtol=1e-7)


@pytest.mark.parametrize("kind", [TabularClassifier, TabularRegressor])
def test_the_size_of_the_weights_does_not_matter(kind):
    X, y, weight = *CANCER, np.arange(200) % 3
    expected = kind(**QUICK).fit(X, y, sample_weight=weight).predict(X)
    for factor in (2.0**-900, 0.25, 2.0**900):
        got = kind(**QUICK).fit(X, y, sample_weight=weight * factor).predict(X)
        np.testing.assert_array_equal(got, expected)


def test_each_row_is_held_out_by_a_member_and_trained_on_by_another():
    labels = np.repeat([0, 1, 2], [60, 30, 3])
    parts = folds(labels, 4, np.random.RandomState(0))
    np.testing.assert_array_equal(np.sort(np.concatenate([held for _, held in parts])), range(93))
    for kept, held in parts:
        np.testing.assert_array_equal(np.sort(np.r_[kept, held]), range(93))
        assert abs(np.bincount(labels[held], minlength=3) - [15, 7.5, 0.75]).max() < 1


def test_held_out_rows_choose_how_long_is_trained(rng, caplog):
    caplog.set_level(logging.DEBUG, "ranvier")
    X, noise = rng.normal(size=(200, 10)), rng.normal(size=200)
    short = TabularRegressor(n_ensemble=4, random_state=0).fit(X, X[:, 0] + 2 * noise)
    assert sum("on held-out rows" in message for message in caplog.messages) == 3
    clear = TabularRegressor(n_ensemble=4, random_state=0).fit(X, np.sin(X[:, 0]) * X[:, 1])
    assert short.n_epochs_ < clear.n_epochs_ == 100


@pytest.mark.parametrize("max_steps", [5, 120])
def test_steps_bound_a_fit_whatever_the_rows(rng, monkeypatch, max_steps):
    trainers = []
    monkeypatch.setattr(_recipes, "fit_many", lambda *a, **b: trainers.extend(rv.fit_many(*a, **b)))
    X = rng.normal(size=(20_000, 2))
    TabularRegressor(max_steps=max_steps, n_ensemble=2, random_state=0).fit(X, X[:, 0])
    # An epoch has 59.
    assert [trainer.step for trainer in trainers] == [min(max_steps, 118)] * 2


def test_targets_of_any_size_are_learned_and_constant_ones_returned_exactly():
    X, y = FRIEDMAN
    options = QUICK | {"max_steps": 300}
    plain = TabularRegressor(**options).fit(X, y).predict(X)
    for factor, origin in ((1e-12, 0.0), (1e3, 1e9), (1e300, 0.0)):
        moved = TabularRegressor(**options).fit(X, y * factor + origin).predict(X)
        np.testing.assert_allclose((moved - origin) / factor, plain, rtol=0.02)
    constant = TabularRegressor(**QUICK).fit(X[:60], np.full(60, 0.1))
    assert (constant.predict(X) == 0.1).all()


def test_the_networks_take_what_encode_gives():
    X = pd.DataFrame({"a": [1.0, np.nan, 3.0, 4.0] * 20, "b": ["x", "y", None, "z"] * 20})
    for estimator in (TabularClassifier(**QUICK), TabularRegressor(**QUICK)):
        with pytest.raises(NotFittedError):
            estimator.encode(X)
        estimator.fit(X, [0, 1, 1, 0] * 20)
        encoded = estimator.encode(X)
        assert encoded.shape == (80, 2 + 4)
        assert encoded.dtype == estimator.models_[0].dtype
        assert np.isfinite(encoded).all()
        outputs = np.mean([model.predict(encoded) for model in estimator.models_], axis=0)
        if isinstance(estimator, TabularClassifier):
            np.testing.assert_array_equal(outputs.argmax(axis=1), estimator.predict(X))
        else:
            # Mean and deviation of y are one half each; predictions stay in its range.
            expected = np.clip(0.5 + outputs[:, 0] / 2, 0, 1)
            np.testing.assert_allclose(estimator.predict(X), expected, atol=1e-6)


def test_words_are_no_targets_of_a_regression():
    for y in (["a"] * 60, np.array(["a", 1] * 30, object)):
        with pytest.raises(rv.ArgumentError, match=r"^y: expected numbers, got words: .*'a'"):
            TabularRegressor(**QUICK).fit(np.ones((60, 1)), y)


def test_several_targets_are_learned_at_once():
    X, y = FRIEDMAN
    both = np.column_stack([y, -3 * y])
    regressor = TabularRegressor(uncertainty=True, **QUICK | {"max_steps": 300}).fit(X, both)
    assert regressor.predict(X).shape == (300, 2)
    assert regressor.score(X, both) > 0.7
    low, high = regressor.predict_interval(X, 0.9)
    inside = ((low <= both) & (both <= high)).mean(axis=0)
    assert low.shape == (300, 2)
    assert (inside > 0.85).all()
    assert regressor.predict_quantiles(X, [0.1, 0.5, 0.9]).shape == (300, 2, 3)


def test_classes_may_have_names_weights_and_few_rows():
    X, y = CANCER[0], np.array(["benign", "malignant"], object)[CANCER[1]]
    y[0] = "one of a kind"
    classifier = TabularClassifier(class_weight="balanced", **QUICK).fit(X, y)
    assert classifier.classes_.tolist() == ["benign", "malignant", "one of a kind"]
    assert classifier.score(X, y) > 0.9
    with pytest.raises(rv.ArgumentError, match="class_weight: expected some row"):
        clone(classifier).set_params(class_weight={"malignant": 0}).fit(X, y, y == "malignant")
    heavy = TabularClassifier(class_weight={"malignant": 1e4}, **QUICK).fit(X, y)
    assert (heavy.predict(X) == "malignant").mean() > (classifier.predict(X) == "malignant").mean()
    np.testing.assert_allclose(np.exp(heavy.predict_log_proba(X)), heavy.predict_proba(X))


def test_one_class_and_one_row_are_certain():
    classifier = TabularClassifier(**QUICK).fit([[1.0, 2.0]], ["only"])
    assert classifier.predict([[9.0, 9.0]]) == ["only"]
    np.testing.assert_array_equal(classifier.predict_proba([[9.0, 9.0]]), [[1.0]])
    assert TabularRegressor(**QUICK).fit([[1.0]], [7.0]).predict([[3.0]]) == [7.0]


def test_a_fit_is_quiet(capfd):
    TabularRegressor(**QUICK).fit(*FRIEDMAN)
    assert capfd.readouterr() == ("", "")


def test_rows_predict_alike_alone_and_together():
    X, y = CANCER
    classifier = TabularClassifier(**QUICK).fit(X, y)
    together = classifier.predict_proba(X[:20])
    alone = np.vstack([classifier.predict_proba(X[[row]]) for row in range(20)])
    np.testing.assert_array_equal(alone, together)


def test_an_interruption_after_the_training_leaves_the_last_fit(monkeypatch):
    X, y = CANCER
    classifier = TabularClassifier(**QUICK).fit(X, y)
    before = dict(vars(classifier))

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    # Only what is fitted behind the training calls it by this name.
    monkeypatch.setattr("ranvier.sklearn._tabular._scaled_log_loss", lambda *_: 0.0)
    monkeypatch.setattr("ranvier.sklearn._tabular.temperature", interrupted)
    with pytest.raises(KeyboardInterrupt):
        classifier.fit(X[:, :5], y)
    assert vars(classifier) == before


def test_a_refused_fit_leaves_the_last_one():
    X, y = CANCER
    classifier = TabularClassifier(**QUICK).fit(X, y)
    before = classifier.predict_proba(X)
    with pytest.raises(ValueError, match="Input X contains infinity"):
        classifier.fit(np.full_like(X, np.inf), y)
    with pytest.raises(ValueError, match="y should be a 1d array"):
        classifier.fit(X, np.column_stack([y, y]))
    frame = pd.DataFrame(X[:, :2], columns=["a", "b"]).assign(t=pd.Timestamp(0))
    with pytest.raises(TypeError, match="'t' of datetime64"):
        classifier.fit(frame, y)
    with pytest.raises(rv.errors.DivergedError, match="every network has diverged"):
        clone(classifier).set_params(learning_rate=1e30).fit(X, y)
    assert classifier.n_features_in_ == 30
    assert not hasattr(classifier, "feature_names_in_")
    np.testing.assert_array_equal(classifier.predict_proba(X), before)


# Uncertainty.


def test_the_margin_covers_so_many_of_the_scores_and_one_more():
    scores = np.arange(1.0, 20.0)[:, None]
    assert conformal_margin(scores, None, 0.9) == 18
    assert conformal_margin(scores, None, 0.95) == 19
    assert conformal_margin(scores, None, 0.96) == np.inf
    assert conformal_margin(scores[::-1], np.full(19, 7.0), 0.5) == 10
    weight = np.r_[np.full(18, 1e-9), 1.0]
    assert conformal_margin(scores, weight, 0.5) == 19


def test_intervals_that_are_too_narrow_or_wide_come_to_hold(rng):
    heads = np.tile(np.array(LEVELS) - 0.5, (4000, 1))
    for spread in (0.1, 10.0):
        y = spread * rng.normal(size=(4000, 1))
        intervals = Intervals(heads[:2000], y[:2000], None)
        for coverage in (0.5, 0.9, 0.99):
            low, high = intervals.interval(heads[2000:], coverage)[:, 0].T
            assert (low <= high).all()
            assert abs(((low <= y[2000:, 0]) & (y[2000:, 0] <= high)).mean() - coverage) < 0.03
        found = intervals.quantiles(heads[2000:], np.array([0.9, 0.2]))
        below = (y[2000:, :, None] <= found).mean(axis=(0, 1))
        np.testing.assert_allclose(below, [0.9, 0.2], atol=0.03)


@pytest.fixture(scope="module")
def uncertain():
    """A regressor with rows that it has not seen."""
    X, y = datasets.make_friedman1(2600, noise=1.0, random_state=0)
    options = {"n_ensemble": 4, "max_steps": 400, "random_state": 0}
    return TabularRegressor(uncertainty=True, **options).fit(X[:400], y[:400]), X[400:], y[400:]


@pytest.mark.parametrize("calibrated", [False, True], ids=["of the fit", "calibrated"])
def test_intervals_and_quantiles_hold_what_they_promise(uncertain, calibrated):
    regressor, X, y = uncertain
    if calibrated:
        regressor = pickle.loads(pickle.dumps(regressor)).calibrate(X[:200], y[:200])
    X, y = X[200:], y[200:]
    widths = []
    for coverage in (0.8, 0.9, 0.95):
        low, high = regressor.predict_interval(X, coverage)
        assert abs(((low <= y) & (y <= high)).mean() - coverage) < 0.06
        widths.append((high - low).mean())
    assert widths[0] < widths[1] < widths[2] < 4 * y.std()
    quantiles = regressor.predict_quantiles(X, [0.9, 0.1, 0.5, 0.3])
    assert (np.diff(quantiles[:, [1, 3, 2, 0]], axis=1) >= 0).all()
    below = (y[:, None] <= quantiles).mean(axis=0)
    np.testing.assert_allclose(below, [0.9, 0.1, 0.5, 0.3], atol=0.08)
    assert regressor.predict_quantiles(X, 0.5).shape == (len(X), 1)


def test_rows_of_weight_0_do_not_calibrate(uncertain):
    regressor, X, y = uncertain
    one = pickle.loads(pickle.dumps(regressor)).calibrate(X[:100], y[:100])
    weight = np.r_[np.full(100, 2.5), np.zeros(100)]
    far = np.r_[y[:100], y[100:200] + 1e6]
    two = pickle.loads(pickle.dumps(regressor)).calibrate(X[:200], far, sample_weight=weight)
    for coverage in (0.8, 0.995):
        ends = (regressor.predict_interval(X, coverage) for regressor in (one, two))
        for a, b in zip(*ends, strict=True):
            np.testing.assert_array_equal(a, b)
    assert (a == np.inf).all()


def test_too_few_rows_to_say_give_infinite_intervals():
    X, y = FRIEDMAN[0][:12], FRIEDMAN[1][:12]
    regressor = TabularRegressor(uncertainty=True, **QUICK).fit(X, y)
    low, high = regressor.predict_interval(X, 0.8)
    assert np.isfinite(low).all()
    assert np.isfinite(high).all()
    low, high = regressor.predict_interval(X, 0.95)
    assert (low == -np.inf).all()
    assert (high == np.inf).all()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda r, X, y: r.predict_interval(X, 1.0), "coverage: expected"),
        (lambda r, X, y: r.predict_quantiles(X, [0.5, 1.0]), "quantiles: expected one or more"),
        (lambda r, X, y: r.predict_quantiles(X, []), "quantiles: expected one or more numbers in"),
        (lambda r, X, y: r.calibrate(X, y[:-1]), "inconsistent numbers of samples"),
        (lambda r, X, y: r.calibrate(X, np.c_[y, y]), "y: expected 1 target as in fit"),
        (lambda r, X, y: r.calibrate(X, y, np.zeros(len(y))), "at least one non-zero"),
        (lambda r, X, y: r.calibrate(X, y, -np.ones(len(y))), "Negative values"),
    ],
)
def test_wrong_calls_of_uncertainty_are_refused(uncertain, call, words):
    regressor, X, y = uncertain
    with pytest.raises(ValueError, match=words):
        call(regressor, X, y)


def test_intervals_without_uncertainty_say_what_is_missing():
    X, y = FRIEDMAN[0][:30], FRIEDMAN[1][:30]
    regressor = TabularRegressor(**QUICK).fit(X, y)
    for call in (regressor.predict_interval, regressor.predict_quantiles):
        with pytest.raises(rv.errors.ArgumentError, match="uncertainty: expected True when"):
            call(X)
    single = TabularRegressor(uncertainty=True, **QUICK).fit(X[:1], y[:1])
    with pytest.raises(rv.errors.ArgumentError, match="expected at least two rows in fit"):
        single.predict_interval(X)


def test_a_temperature_mends_logits_of_the_wrong_scale(rng):
    logits = rng.normal(size=(4000, 3)) * 2
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (rng.random((4000, 1)) > probabilities.cumsum(axis=1)).sum(axis=1).clip(max=2)
    assert temperature(5 * logits, labels, None) == pytest.approx(5, rel=0.1)
    weight = np.r_[np.ones(2000), np.zeros(2000)]
    expected = temperature(logits[:2000], labels[:2000], None)
    assert temperature(logits, labels, weight) == pytest.approx(expected, rel=1e-4)


def test_probabilities_stay_modest_where_all_rows_are_right(rng):
    labels = rng.integers(3, size=100)
    logits = np.eye(3)[labels] * rng.uniform(1, 2, size=(100, 1))
    assert temperature(logits, labels, None) < 0.06
    modest = temperature(logits, labels, None, smoothed=True)
    assert 0.1 < modest < 1
    # Of more rows more is known; a row of weight 0 is none, and only ratios of weights count.
    many, weight = np.tile(logits, (10, 1)), np.repeat([3.0, 0.0], [100, 900])
    again = np.tile(labels, 10)
    assert temperature(many, again, None, smoothed=True) < modest
    assert temperature(many, again, weight, smoothed=True) == pytest.approx(modest, rel=1e-3)

    X = np.repeat([-1.0, 1.0], 150)[:, np.newaxis] + rng.uniform(-0.1, 0.1, size=(300, 1))
    apart = TabularClassifier(**QUICK).fit(X, X[:, 0] > 0)
    assert apart.score(X, X[:, 0] > 0) == 1
    assert 1e-6 < apart.predict_proba(X).min() < 0.05
    one = np.array([[1.0]])
    assert apart.calibrate(one, [True]).predict_proba(one).max() < 0.9


def test_calibration_lowers_the_log_loss_and_keeps_the_classes():
    X, y = datasets.load_breast_cancer(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    fit, own, rest = order[:250], order[250:400], order[400:]
    options = QUICK | {"max_steps": 600, "dropout": 0.0, "label_smoothing": 0.0}
    raw = TabularClassifier(temperature_scaling=False, **options).fit(X[fit], y[fit])
    scaled = TabularClassifier(**options).fit(X[fit], y[fit])
    assert raw.temperature_ == 1.0 != scaled.temperature_
    before = raw.predict(X)
    losses = [log_loss(y[rest], c.predict_proba(X[rest])) for c in (raw, scaled)]
    raw.calibrate(X[own], y[own])
    losses.append(log_loss(y[rest], raw.predict_proba(X[rest])))
    assert max(losses[1:]) < 0.9 * losses[0]
    np.testing.assert_array_equal(raw.predict(X), before)
    np.testing.assert_array_equal(scaled.predict(X), before)
    with pytest.raises(ValueError, match="y: expected classes of the fit, got 2"):
        raw.calibrate(X, y + 1)


# Among scikit-learn's tools.


def test_scikit_learns_tools_take_them():
    X, y = CANCER
    pipeline = make_pipeline(StandardScaler(), TabularClassifier(**QUICK))
    search = GridSearchCV(pipeline, {"tabularclassifier__dropout": [None, 0.5]}, cv=2)
    assert search.fit(X, y).best_score_ > 0.85
    assert cross_val_score(clone(pipeline), X, y, cv=2, scoring="roc_auc").mean() > 0.9


@pytest.mark.parametrize("kind", [TabularClassifier, TabularRegressor])
def test_a_pickle_predicts_the_same(kind):
    X, y = CANCER
    estimator = kind(**QUICK).fit(X, y)
    again = pickle.loads(pickle.dumps(estimator))
    np.testing.assert_array_equal(again.predict(X), estimator.predict(X))
    assert all(isinstance(model, rv.Sequential) for model in again.models_)


@pytest.mark.parametrize(
    "estimator",
    [
        TabularClassifier(n_ensemble=2, max_steps=100),
        TabularRegressor(n_ensemble=2, max_steps=100),
        TabularRegressor(uncertainty=True, n_ensemble=2, max_steps=20),
    ],
    ids=repr,
)
def test_check_estimator_passes(estimator):
    with warnings.catch_warnings():
        # Of the checks themselves: targets as columns, labels that are numbers with many values.
        warnings.simplefilter("ignore")
        checks = check_estimator(estimator, on_skip=None)
    skipped = [check["check_name"] for check in checks if check["status"] == "skipped"]
    assert skipped == ["check_array_api_input"]
    assert {check["status"] for check in checks} == {"passed", "skipped"}
