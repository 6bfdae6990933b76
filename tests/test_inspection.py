"""Looking inside: gradients, their integrals and permutations say what they are said to say.

Linear models have exact answers for all of them; other networks are compared with differences, the
reference, scikit-learn, SHAP and LIME.
"""

import sys
import tracemalloc
import warnings
from functools import partial

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from sklearn import neural_network
from sklearn.inspection import permutation_importance as their_importance

import ranvier as rv
from conftest import error, reference_of
from ranvier.inspection import (
    input_gradients,
    integrated_gradients,
    permutation_importance,
)
from ranvier.sklearn import MLPClassifier, MLPRegressor, TabularRegressor

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

W = np.array([[2.0, -1.0], [0.5, 3.0], [0.0, 0.25]])


def network(*layers, inputs=3, dtype="float64", seed=1):
    return rv.Sequential(list(layers), input_size=inputs, dtype=dtype, seed=seed)


def linear(weight=W, dtype="float64"):
    """z = x @ weight + 1."""
    model = network(rv.Dense(weight.shape[1]), inputs=len(weight), dtype=dtype)
    model.set_parameters({"0.weight": weight, "0.bias": np.ones(weight.shape[1])})
    return model


def curved(dtype="float64", outputs=3, activation="tanh"):
    return network(
        rv.Dense(8, activation=activation), rv.LayerNorm(), rv.Dense(outputs), dtype=dtype
    )


def full():
    """Every kind of layer, with statistics that are not those of a new one."""
    model = network(
        rv.Standardize(),
        rv.Dense(6, activation="gelu"),
        rv.BatchNorm(),
        rv.Dropout(0.5),
        rv.GaussianNoise(1.0),
        rv.LayerNorm(),
        rv.Activation("prelu"),
        rv.Dense(4, activation="silu", l2=1.0),
        rv.Dense(3),
        rv.Standardize(of="targets"),
    )
    model.set_parameters(
        {
            "0.running_mean": [1.0, 2.0, 3.0],
            "0.running_var": [1.0, 0.0, 9.0],
            "2.running_mean": np.linspace(-1, 1, 6),
            "2.running_var": np.linspace(1, 2, 6),
            "9.running_mean": [5.0, 6.0, 7.0],
            "9.running_var": [4.0, 0.25, 1.0],
        }
    )
    return model


def slopes(function, X, step=1e-4):
    """df/dx by the five-point rule, of one number for each row."""
    found = np.empty(X.shape)
    for j in range(X.shape[1]):
        move = np.zeros(X.shape)
        move[:, j] = step
        near = function(X + move) - function(X - move)
        far = function(X + 2 * move) - function(X - 2 * move)
        found[:, j] = (8 * near - far) / (12 * step)
    return found


@pytest.fixture(scope="module")
def flowers():
    """Three classes with names, standardised, and an estimator of them."""
    from sklearn.datasets import load_iris

    X, y = load_iris(return_X_y=True)
    X = (X - X.mean(axis=0)) / X.std(axis=0)
    names = np.array(["setosa", "versicolor", "virginica"])[y]
    return X, names, MLPClassifier((8,), random_state=0, max_iter=200).fit(X, names)


@pytest.fixture(scope="module")
def measured():
    """A regression and an estimator of it."""
    rng = np.random.default_rng(1)
    X = rng.normal(size=(150, 4))
    y = 2 * X[:, 0] - X[:, 1] + 0.1 * rng.normal(size=150)
    return X, y, MLPRegressor(hidden_layer_sizes=(8,), random_state=0, max_iter=200).fit(X, y)


@pytest.fixture
def axes():
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    yield plt
    plt.close("all")


def labels(ax):
    return [label.get_text() for label in ax.get_yticklabels()]


def lengths(ax):
    return [bar.get_width() for bar in ax.patches]


# Gradients


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gradients_of_a_linear_model_are_its_weights(dtype, rng):
    for output in range(2):
        seen = input_gradients(linear(dtype=dtype), rng.normal(size=(5, 3)), output=output)
        np.testing.assert_array_equal(seen.values, np.tile(W[:, output], (5, 1)))
        assert seen.values.dtype == dtype


@hypothesis.given(
    activation=st.sampled_from(["tanh", "sigmoid", "gelu", "silu", "softplus", "mish"]),
    rows=st.integers(1, 6),
    seed=st.integers(0, 2**32 - 1),
    of=st.sampled_from(["output", "probability"]),
)
@hypothesis.settings(max_examples=30)
def test_gradients_are_those_of_differences(activation, rows, seed, of):
    rng = np.random.default_rng(seed)
    model = curved(activation=activation)
    X, output = rng.normal(size=(rows, 3)), rng.integers(3, size=rows)

    def function(X):
        z = model.predict(X)
        p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
        return (p if of == "probability" else z)[np.arange(rows), output]

    seen = input_gradients(model, X, output=output, of=of)
    np.testing.assert_allclose(seen.values, slopes(function, X), rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(seen.outputs, function(X), rtol=1e-12)


def test_gradients_through_every_layer_are_the_reference_s_and_those_of_differences(rng):
    model, X, output = full(), rng.normal(size=(7, 3)), np.arange(7) % 3

    class OneHot:
        def value_and_gradient(self, z, target, sample_weight=None):
            return 0.0, [[float(k == t) for k in range(3)] for t in target]

    _, expected = reference_of(model).value_and_gradient(X.tolist(), output.tolist(), loss=OneHot())
    seen = input_gradients(model, X, output=output).values
    assert error(seen, expected.d_input) < 1e-12
    numeric = slopes(lambda X: model.predict(X)[np.arange(7), output], X)
    np.testing.assert_allclose(seen, numeric, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("of", ["output", "probability"])
@pytest.mark.parametrize("look", [input_gradients, integrated_gradients])
def test_a_row_has_the_same_bits_alone_and_in_any_batch(look, of, dtype, rng):
    model = network(rv.Dense(20, activation="relu"), rv.BatchNorm(), rv.Dense(3), dtype=dtype)
    # More rows than go through together.
    X = rng.normal(size=(1100 if look is input_gradients else 150, 3))
    output = rng.integers(3, size=len(X))
    seen = look(model, X, output=output, of=of)
    order = rng.permutation(len(X))
    for rows in ([0], [len(X) - 1], np.arange(7, 40), order):
        part = look(model, X[rows], output=output[rows], of=of)
        np.testing.assert_array_equal(part.values, seen.values[rows])
        np.testing.assert_array_equal(part.outputs, seen.outputs[rows])


@pytest.mark.parametrize("look", [input_gradients, integrated_gradients])
def test_any_array_or_frame_gives_what_the_plain_array_gives(look, rng):
    pandas = pytest.importorskip("pandas")
    polars = pytest.importorskip("polars")
    model = curved("float32")
    X = rng.integers(-3, 4, size=(10, 3))
    expected = look(model, X.astype(np.float64), output=1)
    wide = np.zeros((20, 6))
    wide[::2, ::2] = X
    frame = pandas.DataFrame(X, columns=["a", "b", "c"])
    for other in (
        X,
        X.astype(np.float32),
        X.astype(np.int8),
        X.tolist(),
        np.asfortranarray(X),
        wide[::2, ::2],
        frame,
        frame.astype("Float32"),
        polars.DataFrame(frame.to_dict("list")),
    ):
        seen = look(model, other, output=1)
        np.testing.assert_array_equal(seen.values, expected.values)
        named = hasattr(other, "columns")
        assert seen.feature_names == (("a", "b", "c") if named else ("x0", "x1", "x2"))


def test_the_probability_of_a_single_output_is_its_sigmoid(rng):
    model, X = curved(outputs=1), rng.normal(size=(6, 3))
    p = 1 / (1 + np.exp(-model.predict(X)))
    seen = input_gradients(model, X, of="probability")
    np.testing.assert_allclose(seen.outputs, p[:, 0], rtol=1e-12)
    raw = input_gradients(model, X)
    np.testing.assert_allclose(seen.values, p * (1 - p) * raw.values, rtol=1e-10)


def test_nothing_in_the_model_changes(rng):
    model = full()
    before = model.parameters()
    X = rng.normal(size=(20, 3))
    kept = X.copy()
    input_gradients(model, X, output=0)
    integrated_gradients(model, X, output=0)
    permutation_importance(model, X, X, loss="mse")
    np.testing.assert_array_equal(X, kept)
    for name, value in model.parameters().items():
        np.testing.assert_array_equal(value, before[name])


def test_memory_stays_that_of_the_result(rng):
    model = network(rv.Dense(16, activation="relu"), rv.Dense(1), inputs=50, dtype="float32")
    X = rng.normal(size=(100_000, 50)).astype(np.float32)
    tracemalloc.start()
    input_gradients(model, X)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # The gradients themselves are 20 MB.
    assert peak < X.nbytes + 10e6


# Integrated gradients


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_contributions_in_a_linear_model_are_weight_times_difference(dtype, rng):
    X, tolerance = rng.normal(size=(6, 3)), 1e-5 if dtype == "float32" else 1e-13
    model = linear(dtype=dtype)
    rows = rng.normal(size=(6, 3))
    for given, baseline in ((None, 0.0), (0.5, 0.5), (rows[0], rows[0]), (rows, rows)):
        for steps in (1, 50):
            seen = integrated_gradients(model, X, baseline=given, output=1, steps=steps)
            np.testing.assert_allclose(
                seen.values, (X - baseline) * W[:, 1], rtol=tolerance, atol=tolerance
            )
            assert np.abs(seen.delta).max() < 10 * tolerance


@pytest.mark.parametrize("of", ["output", "probability"])
@pytest.mark.parametrize("activation", ["tanh", "gelu", "silu"])
def test_contributions_add_up_to_the_difference_of_outputs(activation, of, rng):
    model, X = curved(activation=activation), rng.normal(size=(20, 3))
    baseline = rng.normal(size=3)
    seen = integrated_gradients(model, X, baseline=baseline, output=2, of=of)
    assert np.abs(seen.delta).max() < 1e-8
    np.testing.assert_allclose(
        seen.values.sum(axis=1), seen.outputs - seen.base_outputs, rtol=0, atol=1e-8
    )
    assert np.ptp(seen.base_outputs) == 0
    assert np.abs(seen.outputs - seen.base_outputs).min() > 1e-5


def test_delta_is_what_is_missing_and_more_steps_leave_less(rng):
    model = network(rv.Dense(30, activation="relu"), rv.Dense(30, activation="relu"), rv.Dense(1))
    X = 3 * rng.normal(size=(50, 3))
    seen = [integrated_gradients(model, X, baseline=1.0, steps=steps) for steps in (2, 20, 200)]
    difference = (model.predict(X) - model.predict(np.ones((1, 3))))[:, 0]
    for one in seen:
        missing = one.values.sum(axis=1) - difference
        np.testing.assert_allclose(one.delta, missing, rtol=0, atol=1e-14)
    sizes = [np.abs(one.delta).mean() for one in seen]
    assert sizes[0] > 4 * sizes[1] > 16 * sizes[2] > 0


def test_contributions_are_the_integral_of_the_gradients(rng):
    model, X, baseline = curved(), rng.normal(size=(3, 3)), np.array([0.5, -1.0, 0.0])
    seen = integrated_gradients(model, X, baseline=baseline, output=0)
    parts = 2000
    middle = (np.arange(parts) + 0.5) / parts
    for x, values in zip(X, seen.values, strict=True):
        path = baseline + middle[:, np.newaxis] * (x - baseline)
        mean = input_gradients(model, path, output=0).values.mean(axis=0)
        np.testing.assert_allclose(values, (x - baseline) * mean, rtol=1e-5, atol=1e-7)


def test_each_row_may_have_a_baseline_of_its_own(rng):
    model, X, baselines = curved(), rng.normal(size=(4, 3)), rng.normal(size=(4, 3))
    seen = integrated_gradients(model, X, baseline=baselines, output=1)
    for row in range(4):
        alone = integrated_gradients(model, X[[row]], baseline=baselines[row], output=1)
        np.testing.assert_array_equal(seen.values[row], alone.values[0])
        assert seen.base_outputs[row] == alone.base_outputs[0]


def test_without_a_baseline_it_is_what_the_network_sees_as_zero(rng):
    layers = [rv.Dense(5, activation="tanh"), rv.Dense(1)]
    X = 100 + 10 * rng.normal(size=(40, 3))
    scaled = network(rv.Standardize(), *layers)
    scaled.fit(X, X[:, 0], loss="mse", epochs=1)
    seen = integrated_gradients(scaled, X)
    means = integrated_gradients(scaled, X, baseline=X.mean(axis=0))
    np.testing.assert_allclose(seen.values, means.values, rtol=1e-9, atol=1e-12)
    # The same network behind a scaler of its own, and its baseline of zeros.
    bare = network(*layers)
    bare.set_parameters(
        {
            f"{int(name[0]) - 1}{name[1:]}": value
            for name, value in scaled.parameters().items()
            if name[0] != "0"
        }
    )
    Z = (X - X.mean(axis=0)) / X.std(axis=0)
    expected = integrated_gradients(bare, Z)
    np.testing.assert_allclose(seen.values, expected.values, rtol=1e-9, atol=1e-12)
    assert expected.base_outputs[0] == bare.predict(np.zeros((1, 3)))[0, 0]


# Permutation importance


def test_two_rows_either_change_places_or_not():
    X = np.array([[1.0, 5.0, 2.0], [4.0, 3.0, 2.0]])
    model = linear(W[:, :1])
    seen = permutation_importance(model, X, model.predict(X), loss="mse", n_repeats=40)
    swapped = (W[:, 0] * (X[0] - X[1])) ** 2
    for column in range(3):
        assert set(seen.importances[column].round(9)) <= {0.0, swapped[column].round(9)}
    apart = seen.importances[0] > 0
    assert 5 < apart.sum() < 35
    # All columns have the same permutations, and the last one has nothing to move.
    np.testing.assert_array_equal(seen.importances[1] > 0, apart)
    np.testing.assert_array_equal(seen.importances[2], 0)
    assert seen.figure == 0.0


def test_importance_in_a_linear_model_is_twice_its_square(rng):
    X = rng.normal(size=(4000, 3))
    model = linear(W[:, :1])
    seen = permutation_importance(model, X, model.predict(X), loss="mse", n_repeats=3)
    np.testing.assert_allclose(seen.mean, 2 * W[:, 0] ** 2 * X.var(axis=0), rtol=0.1)


def test_importances_are_figures_of_moved_columns_minus_the_figure(rng):
    X, y = rng.normal(size=(60, 3)), rng.integers(3, size=60)
    model, given = curved(), []

    def spy(y, output):
        given.append(output.copy())
        return 0.0

    seen = permutation_importance(
        model, X, y, loss="cross_entropy", metrics=["loss", "accuracy", spy], n_repeats=2
    )
    assert list(seen) == ["loss", "accuracy", "spy"]
    whole, *moved = given
    np.testing.assert_array_equal(whole, model.predict(X))
    assert len(moved) == 6
    for number, output in enumerate(moved):
        repeat, column = divmod(number, 3)
        loss = rv.losses.CrossEntropy().value_and_gradient(output, y)[0] - seen["loss"].figure
        assert seen["loss"].importances[column, repeat] == pytest.approx(loss, rel=1e-9)
        share = seen["accuracy"].figure - (output.argmax(axis=1) == y).mean()
        assert seen["accuracy"].importances[column, repeat] == pytest.approx(share, abs=1e-12)
    one = permutation_importance(model, X, y, loss="cross_entropy", metrics="accuracy", n_repeats=2)
    np.testing.assert_array_equal(one.importances, seen["accuracy"].importances)
    assert one.greater_is_better
    assert not seen["loss"].greater_is_better
    np.testing.assert_array_equal(one.mean, one.importances.mean(axis=1))
    np.testing.assert_array_equal(one.std, one.importances.std(axis=1))


def test_importances_are_scikit_learn_s_but_for_the_draw(flowers):
    X, names, classifier = flowers
    ours = permutation_importance(classifier, X, names, metrics="accuracy", n_repeats=60)
    theirs = their_importance(classifier, X, names, n_repeats=60, random_state=0)
    spread = np.sqrt((ours.std**2 + theirs.importances_std**2) / 60)
    assert (np.abs(ours.mean - theirs.importances_mean) <= 5 * spread).all()
    assert ours.mean.argmax() == theirs.importances_mean.argmax()


def test_the_seed_alone_decides_and_columns_do_not_depend_on_each_other(rng):
    X = rng.normal(size=(100, 3))
    y = rng.normal(size=(100, 2))

    def importances(X=X, model=None, **options):
        model = linear() if model is None else model
        return permutation_importance(model, X, y, loss="mse", **options).importances

    first = importances()
    np.testing.assert_array_equal(importances(), first)
    np.testing.assert_array_equal(importances(np.asfortranarray(X)), first)
    np.testing.assert_array_equal(importances(n_repeats=2), first[:, :2])
    np.testing.assert_array_equal(importances(groups={"pair": [2, 0]})[1], first[1])
    assert (importances(seed=1) != first).all()
    assert (importances(seed=None) != importances(seed=None)).all()


def test_columns_of_a_group_move_together(rng):
    X = rng.normal(size=(200, 3))
    X[:, 1] = X[:, 0]
    model = linear(np.array([[1.0], [-1.0], [1.0]]))
    y = X[:, 2] + 1
    alone = permutation_importance(model, X, y, loss="mse")
    assert alone.names == ("x0", "x1", "x2")
    assert (alone.mean > 1.5).all()
    grouped = permutation_importance(model, X, y, loss="mse", groups={"both": ["x1", 0]})
    assert grouped.names == ("both", "x2")
    assert np.abs(grouped.importances[0]).max() < 1e-12
    np.testing.assert_array_equal(grouped.importances[1], alone.importances[2])


@pytest.mark.parametrize("loss", ["mse", "mae"])
def test_rows_of_weight_zero_are_as_if_they_were_not_there(loss, rng):
    X, y = rng.normal(size=(50, 3)), rng.normal(size=(50, 2))
    weight = rng.integers(3, size=50).astype(float)
    seen = permutation_importance(linear(), X, y, loss=loss, sample_weight=weight)
    own = weight > 0
    without = permutation_importance(linear(), X[own], y[own], loss=loss, sample_weight=weight[own])
    np.testing.assert_allclose(seen.importances, without.importances, rtol=1e-12)
    equal = permutation_importance(linear(), X[own], y[own], loss=loss)
    assert (seen.importances != equal.importances).any()


def test_importance_under_a_custom_loss(rng):
    class Third:
        def value_and_gradient(self, output, target, sample_weight=None):
            error = (output - target) ** 2
            return error.mean() / 3, 2 * (output - target) / error.size / 3

    X, y = rng.normal(size=(40, 3)), rng.normal(size=(40, 2))
    third = permutation_importance(linear(), X, y, loss=Third())
    whole = permutation_importance(linear(), X, y, loss="mse")
    np.testing.assert_allclose(3 * third.importances, whole.importances, rtol=1e-9)


# Estimators


def test_the_network_of_an_estimator_predicts_its_outputs(flowers, measured):
    X, _, classifier = flowers
    z = classifier.model_.predict(X)
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(p, classifier.predict_proba(X), rtol=1e-12)
    X, _, regressor = measured
    np.testing.assert_allclose(regressor.model_.predict(X)[:, 0], regressor.predict(X), rtol=1e-12)
    narrow = MLPRegressor(random_state=0, max_iter=5).fit(X.astype(np.float32), X[:, 0])
    assert narrow.model_.dtype == np.float32
    classifier.model_.set_parameters({"0.bias": np.zeros(8)})
    assert classifier.intercepts_[0].any()
    with pytest.raises(AttributeError, match="not fitted"):
        input_gradients(MLPClassifier(), X)


@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
def test_the_network_of_an_estimator_has_its_activation(activation, rng):
    X = rng.normal(size=(50, 3))
    regressor = MLPRegressor(
        hidden_layer_sizes=(6, 5), activation=activation, random_state=0, max_iter=10
    ).fit(X, X[:, :2])
    np.testing.assert_allclose(regressor.model_.predict(X), regressor.predict(X), rtol=1e-12)


def test_outputs_of_a_classifier_are_its_labels(flowers):
    X, names, classifier = flowers
    network = classifier.model_
    for number, name in enumerate(classifier.classes_):
        for of in ("output", "probability"):
            seen = input_gradients(classifier, X, output=name, of=of)
            expected = input_gradients(network, X, output=number, of=of)
            np.testing.assert_array_equal(seen.values, expected.values)
        np.testing.assert_allclose(seen.outputs, classifier.predict_proba(X)[:, number], rtol=1e-9)
    each = integrated_gradients(classifier, X, output=names)
    codes = np.searchsorted(classifier.classes_, names)
    expected = integrated_gradients(network, X, output=codes)
    np.testing.assert_array_equal(each.values, expected.values)


def test_two_classes_share_an_output_with_opposite_signs(rng):
    X = rng.normal(size=(30, 3))
    y = np.where(X[:, 0] > 0, "yes", "no")
    classifier = MLPClassifier((5,), activation="tanh", random_state=0, max_iter=50).fit(X, y)
    proba = classifier.predict_proba(X)
    for of in ("output", "probability"):
        yes = integrated_gradients(classifier, X, output="yes", of=of)
        no = integrated_gradients(classifier, X, output="no", of=of)
        np.testing.assert_array_equal(no.values, -yes.values)
        both = integrated_gradients(classifier, X, of=of)
        np.testing.assert_array_equal(both.values, yes.values)
        mixed = integrated_gradients(classifier, X, output=y, of=of)
        np.testing.assert_array_equal(
            mixed.values, np.where((y == "yes")[:, np.newaxis], yes.values, no.values)
        )
        for seen in (yes, no, mixed):
            assert np.abs(seen.delta).max() < 1e-9
    np.testing.assert_allclose(yes.outputs, proba[:, 1], rtol=1e-9)
    np.testing.assert_allclose(no.outputs, proba[:, 0], rtol=1e-9)
    numeric = slopes(lambda X: classifier.predict_proba(X)[:, 0], X)
    seen = input_gradients(classifier, X, output="no", of="probability")
    np.testing.assert_allclose(seen.values, numeric, rtol=1e-6, atol=1e-8)


def test_several_labels_for_a_row_have_a_probability_each(rng):
    X = rng.normal(size=(60, 3))
    Y = (X[:, :2] > 0).astype(int)
    classifier = MLPClassifier((8,), learning_rate_init=0.02, random_state=0).fit(X, Y)
    seen = input_gradients(classifier, X, output=1, of="probability")
    np.testing.assert_allclose(seen.outputs, classifier.predict_proba(X)[:, 1], rtol=1e-9)
    importance = permutation_importance(classifier, X, Y)
    assert importance.mean.argmin() == 2


def test_importance_of_an_estimator_is_by_its_own_loss(flowers, measured):
    from sklearn.metrics import log_loss, mean_squared_error

    X, names, classifier = flowers
    seen = permutation_importance(classifier, X, names)
    expected = log_loss(names, classifier.predict_proba(X))
    assert (seen.metric, seen.figure) == ("loss", pytest.approx(expected, rel=1e-9))
    column = permutation_importance(classifier, X, names[:, np.newaxis])
    np.testing.assert_array_equal(column.importances, seen.importances)
    X, y, regressor = measured
    seen = permutation_importance(regressor, X, y)
    assert seen.figure == pytest.approx(mean_squared_error(y, regressor.predict(X)), rel=1e-9)
    assert seen.mean.argmax() == 0
    absolute = permutation_importance(regressor, X, y, loss="mae")
    assert absolute.figure == pytest.approx(np.abs(y - regressor.predict(X)).mean(), rel=1e-9)
    counts = MLPRegressor(loss="poisson", random_state=0, max_iter=20).fit(X, np.abs(y).round())
    assert np.isfinite(permutation_importance(counts, X, np.abs(y).round()).mean).all()
    two = MLPClassifier((4,), random_state=0, max_iter=20).fit(X, y > 0)
    seen = permutation_importance(two, X, y > 0)
    assert seen.figure == pytest.approx(log_loss(y > 0, two.predict_proba(X)), rel=1e-9)


def test_names_are_those_of_the_frame_or_of_the_fit(measured):
    pandas = pytest.importorskip("pandas")
    X, y, _ = measured
    frame = pandas.DataFrame(X, columns=["a", "b", "c", "d"])
    regressor = MLPRegressor(random_state=0, max_iter=5).fit(frame, y)
    for given in (frame, X):
        assert input_gradients(regressor, given).feature_names == ("a", "b", "c", "d")
        assert permutation_importance(regressor, given, y).names == ("a", "b", "c", "d")
    with pytest.raises(rv.ArgumentError, match=r"X: .*\['a', 'b', 'c', 'd'\].*\['b', 'a'"):
        input_gradients(regressor, frame[["b", "a", "c", "d"]])


def test_names_may_be_given(measured):
    X, y, regressor = measured
    names = ["w", "x", "y", "z"]
    for seen in (
        input_gradients(regressor, X, feature_names=names),
        integrated_gradients(regressor, X, feature_names=np.array(names)),
    ):
        assert seen.feature_names == tuple(names)
    seen = permutation_importance(
        regressor, X, y, feature_names=names, groups={"outer": ["z", "w"]}
    )
    assert seen.names == ("outer", "x", "y")
    with pytest.raises(rv.ShapeError, match="feature_names: expected 4 names, got 3"):
        input_gradients(regressor, X, feature_names=names[:3])
    with pytest.raises(
        rv.DTypeError, match="feature_names: expected a list of strings, got 'wxyz'"
    ):
        input_gradients(regressor, X, feature_names="wxyz")


# Other tools


@pytest.fixture
def shap(monkeypatch):
    # What it would compile takes longer than all of these tests.
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    with warnings.catch_warnings():
        # It sets filters of its own, and uses what Matplotlib will drop.
        warnings.simplefilter("ignore")
        return pytest.importorskip("shap")


def shapley_of_linear(X, background, weight):
    return (X - background.mean(axis=0)) * weight


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("explainer", "kind"),
    [
        ("Explainer", "array"),
        ("Explainer", "frame"),
        ("PermutationExplainer", "array"),
        ("KernelExplainer", "array"),
        ("KernelExplainer", "float32"),
    ],
)
def test_shap_explains_a_network_as_it_is(shap, explainer, kind, rng):
    background = rng.normal(size=(40, 3))
    if kind == "frame":
        background = pytest.importorskip("pandas").DataFrame(background, columns=list("abc"))
    elif kind == "float32":
        background = background.astype(np.float32)
    model = linear(W[:, :1], dtype="float32")
    made = getattr(shap, explainer)(model.predict, background)
    if explainer == "KernelExplainer":
        values = made.shap_values(background[:5], silent=True)
    else:
        values = made(background[:5]).values
    expected = shapley_of_linear(np.asarray(background), np.asarray(background), W[:, 0])[:5]
    np.testing.assert_allclose(np.reshape(values, (5, 3)), expected, rtol=1e-4, atol=1e-5)
    # Of a linear model, contributions compared with the mean are Shapley's values.
    seen = integrated_gradients(model, background, baseline=np.asarray(background).mean(axis=0))
    np.testing.assert_allclose(seen.values[:5], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_shap_explains_an_estimator_as_it_is(shap, flowers):
    X, _, classifier = flowers
    seen = shap.Explainer(classifier.predict_proba, X)(X[:4])
    assert seen.values.shape == (4, 4, 3)
    sums = seen.base_values + seen.values.sum(axis=1)
    np.testing.assert_allclose(sums, classifier.predict_proba(X[:4]), rtol=0, atol=1e-9)


@pytest.mark.filterwarnings("ignore")
def test_shap_draws_what_was_found_here(shap, axes, flowers):
    X, names, classifier = flowers
    seen = integrated_gradients(classifier, X, output=names)
    shap.plots.beeswarm(
        shap.Explanation(seen.values, data=X, feature_names=seen.feature_names), show=False
    )
    assert set(labels(axes.gca())) == {"x0", "x1", "x2", "x3"}


@pytest.mark.filterwarnings("ignore")
def test_lime_explains_networks_and_estimators_as_they_are(flowers, rng):
    lime = pytest.importorskip("lime.lime_tabular")
    X = rng.normal(size=(200, 3))
    explainer = lime.LimeTabularExplainer(
        X, mode="regression", discretize_continuous=False, random_state=0
    )
    for model in (linear(W[:, :1], dtype="float32"), MLPRegressor(max_iter=20).fit(X, X @ W[:, 0])):
        seen = explainer.explain_instance(X[0], model.predict, num_features=3)
        if isinstance(model, rv.Sequential):
            # Coefficients of standardised columns, shrunk a little by LIME's ridge.
            found = [slope for _, slope in sorted(seen.local_exp[1])]
            np.testing.assert_allclose(found, W[:, 0] * X.std(axis=0), rtol=0.02, atol=0.01)
    X, _, classifier = flowers
    explainer = lime.LimeTabularExplainer(X, random_state=0)
    seen = explainer.explain_instance(X[0], classifier.predict_proba, top_labels=1)
    assert seen.available_labels() == [classifier.predict_proba(X[:1]).argmax()]


# Results


def test_results_are_arrays_and_frames_and_show_what_is_large(rng):
    pandas = pytest.importorskip("pandas")
    X = pandas.DataFrame(rng.normal(size=(5, 3)), columns=["a", "b", "c"])
    seen = input_gradients(linear(), X, output=1)
    np.testing.assert_array_equal(np.asarray(seen), seen.values)
    assert np.asarray(seen, np.float32).dtype == np.float32
    assert np.array(seen, copy=True) is not seen.values
    np.testing.assert_array_equal(np.abs(seen), np.abs(seen.values))
    np.testing.assert_array_equal(seen.mean_absolute(), np.abs(W[:, 1]))
    frame = seen.to_pandas()
    assert list(frame.columns) == ["a", "b", "c"]
    np.testing.assert_array_equal(frame.to_numpy(), seen.values)
    assert repr(seen) == (
        "<InputGradients of 5 rows and 3 features; largest mean sizes: b 3, a 1, c 0.25>"
    )
    X = pandas.DataFrame(rng.normal(size=(500, 3)), columns=["a", "b", "c"])
    y = linear().predict(X)
    seen = permutation_importance(linear(), X, y, loss="mse", groups={"both": ["a", "c"]})
    frame = seen.to_pandas()
    assert list(frame.index) == ["b", "both"]
    np.testing.assert_array_equal(frame["mean"], seen.mean[[1, 0]])
    np.testing.assert_array_equal(frame["std"], seen.std[[1, 0]])
    assert repr(seen).startswith("<Importance by loss (0); largest: b ")


def test_attributions_as_a_plot(axes, rng):
    seen = integrated_gradients(linear(), rng.normal(size=(5, 3)), output=1)
    ax = seen.plot()
    size = seen.mean_absolute()
    assert labels(ax) == ["x1", "x0", "x2"]
    assert lengths(ax) == size[[1, 0, 2]].tolist()
    assert ax.get_xlabel() == "mean |contribution| over 5 rows"
    assert ax.get_ylim()[0] > ax.get_ylim()[1]
    ax.figure.canvas.draw()
    _, given = axes.subplots()
    assert seen.plot(given, row=2, max_features=2) is given
    order = np.argsort(-np.abs(seen.values[2]))[:2]
    assert lengths(given) == seen.values[2][order].tolist()
    assert given.get_xlabel() == "contribution, row 2"
    assert given.get_ylabel() == "first 2 of 3"
    one = input_gradients(linear(), np.zeros((1, 3)), output=1).plot()
    assert lengths(one) == [3.0, -1.0, 0.25]
    assert one.get_xlabel() == "∂f/∂x, row 0"
    colors = [bar.get_facecolor() for bar in one.patches]
    assert colors[0] == colors[2] != colors[1]


def test_importance_as_a_plot(axes, rng):
    X = rng.normal(size=(500, 3))
    y = linear().predict(X)
    seen = permutation_importance(linear(), X, y, loss="mse", metrics=["loss", "r2"], n_repeats=4)
    ax = seen["loss"].plot()
    assert labels(ax) == ["x1", "x0", "x2"]
    assert lengths(ax) == seen["loss"].mean[[1, 0, 2]].tolist()
    (whiskers,) = ax.containers[1].lines[2]
    spans = [segment[:, 0] for segment in whiskers.get_segments()]
    np.testing.assert_allclose([np.ptp(span) / 2 for span in spans], seen["loss"].std[[1, 0, 2]])
    assert ax.get_xlabel() == "increase of loss when permuted"
    assert seen["r2"].plot().get_xlabel() == "decrease of r2 when permuted"
    once = permutation_importance(linear(), X, y, loss="mse", n_repeats=1).plot()
    assert len(once.containers) == 1


def test_plots_take_any_names(axes):
    pandas = pytest.importorskip("pandas")
    names = ["$x", "a$\\frac$b", "_hidden", "y" * 100, "straße", "x\ny"]
    weight = np.arange(12.0).reshape(6, 2)[:, :1]
    X = pandas.DataFrame(np.eye(6), columns=names)
    ax = input_gradients(linear(weight), X).plot()
    ax.figure.canvas.draw()
    shown = labels(ax)[::-1]
    assert shown[0] == r"\$x"
    assert len(shown[3]) == 40
    assert "…" in shown[3]


@pytest.mark.parametrize(("name", "method"), [("pandas", "to_pandas"), ("matplotlib", "plot")])
def test_a_missing_extra_says_how_to_install_it(monkeypatch, name, method):
    results = [
        input_gradients(linear(), np.eye(3), output=0),
        permutation_importance(linear(), np.eye(3), np.eye(3)[:, :2], loss="mse"),
    ]
    for module in [m for m in sys.modules if m.split(".")[0] == name]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, name, None)
    for result in results:
        with pytest.raises(
            rv.MissingDependencyError, match=rf"{method} needs {name}: pip install 'ranvier\["
        ):
            getattr(result, method)()


# Refusals


def test_an_estimator_that_is_not_one_network_is_refused_with_the_way_out():
    X, y = np.eye(3), [0.0, 1.0, 2.0]
    ensemble = MLPRegressor(hidden_layer_sizes=2, n_ensemble=2, max_iter=2).fit(X, y)
    others = [neural_network.MLPRegressor(max_iter=2).fit(X, y), TabularRegressor()]
    for look in (input_gradients, integrated_gradients, partial(permutation_importance, y=y)):
        with pytest.raises(rv.ArgumentError, match=r"^model: .*take one of its estimators_"):
            look(ensemble, X=X)
        for other in others:
            with pytest.raises(rv.DTypeError, match=r"from_sklearn .*sklearn\.inspection"):
                look(other, X=X)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model": 3}, "model: expected a ranvier.Sequential or .*, got int"),
        ({"model": rv.Sequential([rv.Dense(1)])}, "model: .*input_size"),
        ({"X": np.ones(3)}, r"X: .*X\[np.newaxis, :\]"),
        ({"X": np.ones((2, 4))}, r"X: expected 3 features .*\(2, 4\)"),
        ({"X": np.ones((0, 3))}, "X: expected at least one row"),
        ({"X": [["a", "b", "c"]]}, "X: expected real numbers"),
        ({"X": [[1, 2, 3], [1, np.nan, 3]]}, "X: expected finite .*nan in row 1, column 1"),
        ({"X": [[1, 2, -np.inf]]}, "X: expected finite .*-inf in row 0, column 2"),
        ({"X": np.eye(3), "output": None}, "output: expected the number of one of 2 outputs"),
        ({"output": 2}, "output: expected numbers from 0 to 1, got 2"),
        ({"output": [0, 1, -1]}, "output: expected numbers from 0 to 1, got -1"),
        ({"output": 0.0}, "output: expected numbers of outputs, got 0.0"),
        ({"output": "0"}, "output: expected numbers of outputs, got '0'"),
        ({"output": [0, 1]}, r"output: expected one output, or one for each of 3 rows.*\(2,\)"),
        ({"output": [[0], [1], [0]]}, r"output: .*got shape \(3, 1\)"),
        ({"output": 0, "of": "logit"}, "of: expected 'output' or 'probability', got 'logit'"),
        ({"model": full(), "of": "probability"}, "of: .*no logits"),
    ],
)
@pytest.mark.parametrize("look", [input_gradients, integrated_gradients])
def test_attributions_refuse(look, options, words):
    with pytest.raises(rv.RanvierError, match=words):
        look(**({"model": linear(), "X": np.eye(3), "output": 0} | options))


@pytest.mark.parametrize(
    "layers",
    [
        [rv.Dense(3), rv.Softmax()],
        [rv.Dense(3, activation="softmax")],
        [rv.Dense(3), rv.Activation("sigmoid")],
    ],
)
def test_probabilities_are_not_made_of_probabilities(layers):
    with pytest.raises(rv.ArgumentError, match="of: expected 'output'"):
        input_gradients(network(*layers), np.eye(3), output=0, of="probability")


class Absolute:
    """The mean of |z − y|, of targets that are shaped as outputs are."""

    def value_and_gradient(self, output, target, sample_weight=None):
        assert target.shape == output.shape
        return np.abs(output - target).mean(), np.sign(output - target) / output.size


@pytest.mark.parametrize(
    "loss", ["huber", "gaussian_nll", rv.losses.Quantile([0.1, 0.5, 0.9]), Absolute()]
)
def test_importance_of_a_regressor_is_by_the_loss_that_it_was_given(loss, rng):
    X = rng.normal(size=(60, 3))
    y = X[:, 0] + rng.standard_cauchy(60)
    regressor = MLPRegressor(loss, (5,), random_state=0, max_iter=3).fit(X, y)
    if isinstance(loss, Absolute):
        expected = np.abs(y - regressor.predict(X)).mean()
    else:
        expected, _ = rv.losses.get(loss).value_and_gradient(
            regressor.model_.predict(X), y[:, None]
        )
    assert permutation_importance(regressor, X, y).figure == pytest.approx(expected, rel=1e-9)


def test_importance_of_a_classifier_is_by_the_loss_that_it_was_given(rng):
    X = rng.normal(size=(60, 3))
    y = np.where(X[:, 0] > 0.5, "yes", "no")
    heavy = rv.losses.BinaryCrossEntropy(pos_weight=5.0)
    for loss in (heavy, Absolute()):
        classifier = MLPClassifier((5,), loss=loss, random_state=0, max_iter=3).fit(X, y)
        output = classifier.model_.predict(X)
        expected, _ = loss.value_and_gradient(output, (y == "yes")[:, None].astype(float))
        seen = permutation_importance(classifier, X, y)
        assert seen.figure == pytest.approx(expected, rel=1e-9)


def test_an_ensemble_is_not_one_network(rng):
    X = rng.normal(size=(30, 3))
    ensemble = MLPRegressor(n_ensemble=2, max_iter=2, random_state=0).fit(X, X[:, 0])
    for look in (input_gradients, integrated_gradients):
        with pytest.raises(rv.ArgumentError, match=r"^model: expected one network, got MLPReg"):
            look(ensemble, X)
    with pytest.raises(rv.ArgumentError, match=r"^to_sklearn: expected one network, got an ensem"):
        ensemble.to_sklearn()


def test_estimators_refuse_what_is_none_of_theirs(flowers, measured):
    X, names, classifier = flowers
    with pytest.raises(rv.ArgumentError, match=r"output: .*'setosa', .*got 'rose'"):
        input_gradients(classifier, X, output="rose")
    with pytest.raises(rv.ArgumentError, match=r"output: .*'setosa', .*got 0"):
        input_gradients(classifier, X, output=0)
    with pytest.raises(rv.ArgumentError, match="output: expected the class"):
        input_gradients(classifier, X)
    with pytest.raises(rv.ArgumentError, match=r"y: expected labels among .*'rose'"):
        permutation_importance(classifier, X, np.where(names == "setosa", "rose", names))
    X, _, regressor = measured
    with pytest.raises(rv.ArgumentError, match="of: expected 'output'"):
        input_gradients(regressor, X, of="probability")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"baseline": [1, 2]}, r"baseline: expected a number, or shape \(3,\) or \(3, 3\)"),
        ({"baseline": np.ones((3, 1))}, r"baseline: .*got shape \(3, 1\)"),
        ({"baseline": [1, np.nan, 0]}, "baseline: expected finite"),
        ({"baseline": "mean"}, "baseline: expected real numbers"),
        ({"steps": 0}, "steps: expected an integer from 1 to 500, got 0"),
        ({"steps": 2.0}, "steps: expected an integer, got 2.0"),
    ],
)
def test_integrated_gradients_refuse(options, words):
    with pytest.raises(rv.RanvierError, match=words):
        integrated_gradients(linear(), np.eye(3), output=0, **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"loss": None}, "loss: expected the loss that the model was trained with.*got None"),
        ({"loss": "no"}, "loss: expected one of .*got 'no'"),
        ({"metrics": "no"}, "metrics: expected names among .*got 'no'"),
        ({"metrics": []}, "metrics: expected at least one"),
        ({"metrics": "accuracy"}, "metrics: expected figures of the loss MSE"),
        ({"y": np.ones((2, 2))}, "y: expected 3 rows"),
        ({"sample_weight": [1, 2]}, r"sample_weight: expected shape \(3,\)"),
        ({"sample_weight": [0, 0, 0]}, "sample_weight"),
        ({"sample_weight": [1, -1, 1]}, "sample_weight"),
        ({"n_repeats": 0}, "n_repeats: expected an integer from 1 on, got 0"),
        ({"seed": -1}, "seed: expected"),
        ({"groups": ["x0"]}, "groups: expected columns by the name of their group, got list"),
        ({"groups": {"a": "x0"}}, r"groups\['a'\]: expected a list of columns, got 'x0'"),
        ({"groups": {"a": 0}}, r"groups\['a'\]: expected a list of columns, got 0"),
        ({"groups": {"a": []}}, r"groups\['a'\]: expected at least one column"),
        ({"groups": {"a": ["x3"]}}, r"groups\['a'\]: expected columns among .*got 'x3'"),
        ({"groups": {"a": [3]}}, r"groups\['a'\]: expected an integer from 0 to 2, got 3"),
        ({"groups": {"a": [0, "x0"]}}, r"groups\['a'\]: .*got 'x0', which 'a' has"),
        ({"groups": {"a": [0, 1], "b": [1]}}, r"groups\['b'\]: .*got 'x1', which 'a' has"),
    ],
)
def test_permutation_importance_refuses(options, words):
    with pytest.raises(rv.RanvierError, match=words):
        permutation_importance(
            **({"model": linear(), "X": np.eye(3), "y": np.ones((3, 2)), "loss": "mse"} | options)
        )


def test_pictures_refuse_rows_and_counts_that_are_none():
    pytest.importorskip("matplotlib")
    seen = input_gradients(linear(), np.eye(3), output=0)
    with pytest.raises(rv.ArgumentError, match="row: expected an integer from 0 to 2, got 3"):
        seen.plot(row=3)
    with pytest.raises(rv.ArgumentError, match="max_features: expected an integer from 1 on"):
        seen.plot(max_features=0)
