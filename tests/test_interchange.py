"""Models from and to scikit-learn, PyTorch and Keras: equal predictions, or a refusal by name.

PyTorch and Keras are no part of the test extra; where they are missing, their tests are skipped.
"""

import logging
import pickle
import sys
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import neural_network
from sklearn.base import clone, is_classifier
from sklearn.compose import TransformedTargetRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.utils.validation import check_is_fitted

import ranvier as rv
import ranvier.sklearn
from conftest import error
from ranvier import _core

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

# What the module promises, over the largest output, or 1 where outputs are smaller.
EQUAL = {"float32": 1e-6, "float64": 1e-12}
# Of networks that are searched for the worst: a few layers amplify what each one rounds.
SEARCHED = 10
DTYPES = st.sampled_from(sorted(EQUAL))

ACTIVATIONS = [
    None,
    *_core.names("activation"),
    rv.activations.LeakyReLU(0.2),
    rv.activations.ELU(0.5),
    rv.activations.PReLU(0.1),
]
WIDTHS = st.sampled_from([1, 2, 8, 65])


def close(model, got, X, factor=1):
    """Whether predictions are what the model gives, as far as its dtype goes."""
    expected = model.predict(X)
    assert error(got.reshape(expected.shape), expected, 1.0) <= factor * EQUAL[model.dtype.name]


def bits(model, X):
    return model.predict(X).tobytes()


def filled(layers, input_size, dtype, seed):
    """A model all of whose parameters and statistics have been moved from where they start."""
    rng = np.random.default_rng(seed)
    model = rv.Sequential(layers, input_size=input_size, dtype=dtype, seed=seed)
    values = {}
    for name, value in model.parameters().items():
        number, _, role = name.partition(".")
        if value.ndim == 2:
            continue
        if role in ("weight", "running_var"):
            values[name] = rng.uniform(0.5, 2.0, value.shape)
        else:
            values[name] = rng.normal(size=value.shape)
        if role == "running_var" and isinstance(layers[int(number)], rv.Standardize):
            # Some columns of which nothing was measured.
            values[name] *= rng.uniform(size=value.shape) > 0.2
    model.set_parameters(values)
    return model


@st.composite
def stacks(draw, *, random=True, without=()):
    """Layers of every kind. Little rounding is amplified: no normalisation divides by nearly 0."""
    activation = st.sampled_from([choice for choice in ACTIVATIONS if choice not in without])
    others = [
        rv.LayerNorm(eps=0.1),
        rv.BatchNorm(eps=0.1, momentum=0.3),
        rv.Softmax(),
        rv.Activation(draw(activation)),
    ]
    if random:
        others += [rv.Dropout(0.3), rv.GaussianNoise(0.2)]
    layers = [rv.Standardize()] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        layers.append(rv.Dense(draw(WIDTHS), draw(activation), use_bias=draw(st.booleans())))
        layers += draw(st.lists(st.sampled_from(others), max_size=2))
    layers += [rv.Standardize(of="targets")] if draw(st.booleans()) else []
    return layers


def rows(model, count=17, seed=0):
    X = np.random.default_rng(seed).normal(size=(count, model.input_size))
    return X.astype(model.dtype)


def head(outputs, squash, dtype="float64"):
    layers = [rv.Dense(6, activation="tanh"), rv.Dense(outputs)]
    return filled([*layers, *([] if squash is None else [squash])], 5, dtype, seed=2)


def model_of(*layers):
    return rv.Sequential(list(layers), input_size=5, dtype="float64")


def trained(dtype):
    """A classifier of digits, and their pixels."""
    inputs, y = rv.datasets.load_digits()
    layers = [rv.Standardize(), rv.Dense(128, "relu"), rv.Dense(64, "relu"), rv.Dense(10)]
    model = rv.Sequential(layers, dtype=dtype)
    model.fit(inputs, y, loss="cross_entropy", epochs=5)
    return model, inputs.astype(dtype)


# ---------------------------------------------------------------- without them

CALLS = ["from_sklearn", "to_sklearn", "from_torch", "to_torch", "from_keras", "from_onnx"]


@pytest.mark.parametrize("call", CALLS)
def test_a_missing_library_is_named(monkeypatch, call):
    library = call.partition("_")[2]
    for name in [library, *(name for name in sys.modules if name.startswith(f"{library}."))]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, f"ranvier.interchange._{library}", raising=False)
    with pytest.raises(rv.MissingDependencyError, match=rf"ranvier\[{library}\]"):
        getattr(head(1, None), call)() if call.startswith("to") else getattr(rv, call)(None)


# ---------------------------------------------------------------- scikit-learn


X = np.random.default_rng(0).normal(size=(80, 5))
VALUES = X[:, 0] * X[:, 1] + X[:, 2]
PAIRS = np.column_stack([VALUES, X[:, 3] ** 2])
COUNTS = np.round(np.exp(0.5 * X[:, 0]))
WORDS = np.array(["no", "yes"])[(VALUES > 0).astype(int)]
THREE = np.array(["a", "b", "c"])[np.digitize(VALUES, [-0.5, 0.5])]
LABELS = np.column_stack([VALUES > 0, X[:, 3] > 0.3, X[:, 1] < 0.1]).astype(int)

FITS = {
    "values": ("MLPRegressor", VALUES, {}),
    "pairs": ("MLPRegressor", PAIRS, {"hidden_layer_sizes": (7, 6), "activation": "tanh"}),
    "counts": ("MLPRegressor", COUNTS, {"loss": "poisson"}),
    "linear": ("MLPRegressor", VALUES, {"hidden_layer_sizes": (), "activation": "identity"}),
    "two": ("MLPClassifier", WORDS, {"activation": "logistic"}),
    "three": ("MLPClassifier", THREE, {"hidden_layer_sizes": (9, 8, 7)}),
    "labels": ("MLPClassifier", LABELS, {"solver": "lbfgs"}),
}


def fitted(case, dtype="float64", home=neural_network):
    name, y, options = FITS[case]
    estimator = getattr(home, name)(**({"max_iter": 20, "random_state": 0} | options))
    y = y.astype(dtype) if y.dtype.kind == "f" else y
    return estimator.fit(X.astype(dtype), y)


def raw(estimator, inputs):
    """Raw outputs by scikit-learn's own arithmetic."""
    squash = estimator.out_activation_
    estimator.out_activation_ = "identity"
    try:
        return estimator._forward_pass_fast(inputs)
    finally:
        estimator.out_activation_ = squash


@pytest.mark.parametrize("dtype", EQUAL)
@pytest.mark.parametrize("home", [neural_network, ranvier.sklearn], ids=["theirs", "ours"])
@pytest.mark.parametrize("case", FITS)
def test_a_fitted_mlp_becomes_a_model_of_its_raw_outputs(case, home, dtype):
    estimator = fitted(case, dtype, home)
    model = rv.from_sklearn(estimator)
    # scikit-learn's lbfgs leaves float64 whatever it was given.
    assert model.dtype == estimator.coefs_[0].dtype
    close(model, raw(estimator, X.astype(dtype)), X.astype(dtype))
    if is_classifier(estimator):
        model = rv.from_sklearn(estimator, probabilities=True)
        expected = estimator.predict_proba(X.astype(dtype))
        close(model, expected[:, 1:] if case == "two" else expected, X.astype(dtype))


@pytest.mark.parametrize("case", FITS)
def test_a_model_of_an_mlp_is_a_copy_that_trains(case):
    estimator = fitted(case)
    before = estimator.coefs_[0].copy()
    model = rv.from_sklearn(estimator)
    model.fit(X, np.zeros((len(X), model.output_size)), loss="mse")
    assert np.array_equal(estimator.coefs_[0], before)
    assert not np.array_equal(model.parameters()["0.weight"], before)


@pytest.mark.parametrize("options", [{}, {"with_mean": False}, {"with_std": False}], ids=repr)
def test_scalers_around_an_mlp_become_layers(options):
    inputs = X * [1, 10, 100, 1, 0] + [0, 5, -300, 0, 7]
    scaler, mlp = StandardScaler(**options), neural_network.MLPRegressor(max_iter=20)
    pipeline = make_pipeline(scaler, mlp)
    whole = TransformedTargetRegressor(pipeline, transformer=StandardScaler(**options))
    model = rv.from_sklearn(whole.fit(inputs, 50 * PAIRS + 7))
    kinds = [type(layer) for layer in model.layers]
    assert kinds == [rv.Standardize, rv.Dense, rv.Dense, rv.Standardize]
    close(model, whole.predict(inputs), inputs)
    close(rv.from_sklearn(pipeline.fit(inputs, VALUES)), pipeline.predict(inputs), inputs)


@pytest.mark.parametrize(
    "estimator",
    [
        neural_network.MLPRegressor(),
        make_pipeline(StandardScaler(), neural_network.MLPRegressor()),
        TransformedTargetRegressor(neural_network.MLPRegressor(), transformer=StandardScaler()),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_an_estimator_that_is_not_fitted_is_refused(estimator):
    with pytest.raises(rv.NotFittedError, match=r"(?s)^estimator: .*call fit"):
        rv.from_sklearn(estimator)


@pytest.mark.parametrize("value", [StandardScaler(), 7, neural_network.MLPRegressor], ids=repr)
def test_what_is_no_mlp_is_refused(value):
    with pytest.raises(rv.DTypeError, match=r"^estimator: .*got (StandardScaler|int|ABCMeta)"):
        rv.from_sklearn(value)


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (lambda mlp: make_pipeline(MinMaxScaler(), mlp), "no scaler but .*got MinMaxScaler"),
        (
            lambda mlp: make_pipeline(StandardScaler(), MinMaxScaler(), mlp),
            "at most one StandardScaler, got .*MinMaxScaler",
        ),
        (TransformedTargetRegressor, "no scaler but .*got FunctionTransformer"),
    ],
    ids=["one", "two", "targets"],
)
def test_what_else_stands_around_an_mlp_is_refused(wrap, message):
    estimator = wrap(neural_network.MLPRegressor(max_iter=2)).fit(X, VALUES)
    with pytest.raises(rv.ArgumentError, match=f"^estimator: .*{message}"):
        rv.from_sklearn(estimator)


def test_a_regressor_has_no_probabilities():
    with pytest.raises(rv.ArgumentError, match="probabilities: expected False for a regressor"):
        rv.from_sklearn(fitted("values"), probabilities=True)
    with pytest.raises(rv.DTypeError, match="probabilities: expected True or False"):
        rv.from_sklearn(fitted("two"), probabilities="yes")


# ---------------------------------------------------------------- to scikit-learn

HIDDEN = {"identity": "identity", "sigmoid": "logistic", "tanh": "tanh", "relu": "relu"}


@given(st.lists(WIDTHS, max_size=3), st.sampled_from(sorted(HIDDEN)), WIDTHS, DTYPES, st.booleans())
def test_a_model_becomes_a_regressor(hidden, activation, outputs, dtype, scaled):
    name = None if activation == "identity" else activation
    layers = [rv.Dense(width, name) for width in hidden]
    layers = [rv.Standardize(), *layers] if scaled else layers
    targets = [rv.Standardize(of="targets")] if scaled else []
    model = filled([*layers, rv.Dense(outputs), *targets], 5, dtype, seed=1)
    made = model.to_sklearn()
    check_is_fitted(made)
    inputs = rows(model)
    close(model, made.predict(inputs), inputs, SEARCHED)
    assert made.predict(inputs).shape == ((17,) if outputs == 1 else (17, outputs))
    assert made.n_features_in_ == 5
    back = rv.from_sklearn(made)
    assert back.layers == model.layers
    if not scaled:
        assert made.hidden_layer_sizes == tuple(hidden)
        assert made.activation == (HIDDEN[activation] if hidden else "identity")
        assert bits(back, inputs) == bits(model, inputs)


def probabilities(model, inputs):
    z = model.predict(inputs)
    if model.layers[-1] in (rv.Softmax(), rv.Activation("sigmoid")):
        return z
    if z.shape[1] == 1:
        return 1 / (1 + np.exp(-z))
    z = np.exp(z - z.max(axis=1, keepdims=True))
    return z / z.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("dtype", EQUAL)
@pytest.mark.parametrize("squashed", [False, True])
@pytest.mark.parametrize(
    ("outputs", "classes"),
    [
        (1, ["no", "yes"]),
        (1, ["yes", "no"]),
        (2, [3, 8]),
        (2, [8, 3]),
        (3, ["a", "b", "c"]),
        (4, [7, -1, 5, 2]),
        (3, np.array(["c", "a", "b"], dtype=object)),
    ],
    ids=repr,
)
def test_a_model_becomes_a_classifier_of_labels_in_any_order(outputs, classes, squashed, dtype):
    squash = rv.Activation("sigmoid") if outputs == 1 else rv.Softmax()
    model = head(outputs, squash if squashed else None, dtype)
    made = model.to_sklearn(classes)
    assert isinstance(made, neural_network.MLPClassifier)
    inputs = rows(model, 200)
    p = probabilities(model, inputs)
    p = np.hstack([1 - p, p]) if outputs == 1 else p
    labels = np.asarray(classes)
    assert made.classes_.tolist() == sorted(labels.tolist())
    columns = [made.classes_.tolist().index(label) for label in labels.tolist()]
    assert error(made.predict_proba(inputs)[:, columns], p, 1.0) <= EQUAL[dtype]
    assert (made.predict(inputs) == labels[p.argmax(axis=1)]).all()
    if len(labels) > 2 and not squashed:
        assert error(rv.from_sklearn(made).predict(inputs)[:, columns], model.predict(inputs)) == 0


@pytest.mark.parametrize("dtype", EQUAL)
def test_a_trained_model_predicts_alike_in_scikit_learn(dtype):
    model, inputs = trained(dtype)
    made = model.to_sklearn(range(10))
    assert error(made.predict_proba(inputs), probabilities(model, inputs)) <= EQUAL[dtype]
    assert (made.predict(inputs) == model.predict(inputs).argmax(axis=1)).all()


@pytest.mark.parametrize("squash", [None, rv.Activation("sigmoid")], ids=repr)
def test_a_model_becomes_a_classifier_of_several_labels(squash):
    model = head(3, squash)
    made = model.to_sklearn(multilabel=True)
    inputs = rows(model, 50)
    z = model.predict(inputs)
    p = z if squash else 1 / (1 + np.exp(-z))
    assert error(made.predict_proba(inputs), p) <= EQUAL["float64"]
    assert (made.predict(inputs) == (p > 0.5)).all()
    assert made.classes_.tolist() == [0, 1, 2]


def targets_of(made):
    """Targets that suit an estimator, for the rows X."""
    if not is_classifier(made):
        return VALUES
    if made.out_activation_ == "softmax":
        return THREE
    return WORDS if made.n_outputs_ == 1 else LABELS


MADE = {
    "regressor": lambda **options: head(1, None).to_sklearn(**options),
    "two": lambda **options: head(1, None).to_sklearn(["no", "yes"], **options),
    "three": lambda **options: head(3, None).to_sklearn(["a", "b", "c"], **options),
    "labels": lambda **options: head(3, None).to_sklearn(multilabel=True, **options),
}


@pytest.mark.parametrize("case", MADE)
def test_what_is_made_has_every_attribute_of_a_fit(case):
    made = MADE[case](max_iter=2)
    fit = clone(made).fit(X, targets_of(made))
    lacking = set(vars(fit)) - set(vars(made))
    # scikit-learn's optimiser begins with each fit.
    assert lacking == {"_optimizer"}
    for name in ("n_layers_", "n_outputs_", "out_activation_", "n_features_in_"):
        assert getattr(made, name) == getattr(fit, name)
    assert (made.n_iter_, made.t_, made.loss_curve_) == (0, 0, [])
    assert np.isnan(made.loss_)
    # To which scikit-learn returns where no validation score is the best.
    for best, value in zip(made._best_coefs, made.coefs_, strict=True):
        assert np.array_equal(best, value)
        assert best is not value


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"solver": "sgd", "learning_rate": "adaptive", "momentum": 0.5},
        {"early_stopping": True},
        {"solver": "lbfgs", "alpha": 0.1},
    ],
    ids=repr,
)
@pytest.mark.parametrize("case", MADE)
def test_scikit_learn_goes_on_from_the_weights(case, options):
    """A warm start: the same as of an estimator that has trained to these weights."""
    options = {"warm_start": True, "max_iter": 3, "random_state": 0} | options
    made = MADE[case](**options)
    y = targets_of(made)
    twin = clone(made).set_params(max_iter=1).fit(X, y).set_params(max_iter=3)
    twin.coefs_ = [value.copy() for value in made.coefs_]
    twin.intercepts_ = [value.copy() for value in made.intercepts_]
    if options.get("solver") != "lbfgs":
        twin.loss_curve_, twin.t_, twin._no_improvement_count = [], 0, 0
        if twin.early_stopping:
            twin.validation_scores_, twin.best_validation_score_ = [], -np.inf
        else:
            twin.best_loss_ = np.inf
    for estimator in (made, twin):
        estimator.fit(X, y)
    for name in ("coefs_", "intercepts_", "n_iter_", "loss_", "loss_curve_", "best_loss_"):
        if hasattr(twin, name):
            np.testing.assert_equal(getattr(made, name), getattr(twin, name))


@pytest.mark.parametrize("case", MADE)
def test_what_is_made_goes_on_by_partial_fit_pickles_and_clones(case):
    made = MADE[case](random_state=0)
    y = targets_of(made)
    twin = pickle.loads(pickle.dumps(made))
    assert np.array_equal(made.predict(X), twin.predict(X))
    before = made.coefs_[0].copy()
    made.partial_fit(X, y)
    twin.partial_fit(X, y)
    assert not np.array_equal(made.coefs_[0], before)
    assert np.array_equal(made.coefs_[0], twin.coefs_[0])
    assert made.t_ == len(X)
    fresh = clone(made)
    assert not hasattr(fresh, "coefs_")
    assert fresh.get_params() == made.get_params()


def test_a_random_state_is_not_advanced():
    state = np.random.RandomState(3)
    made = head(1, None).to_sklearn(random_state=state)
    assert made._random_state is state
    assert state.randint(10**9) == np.random.RandomState(3).randint(10**9)


def test_rates_become_a_regressor_of_counts():
    model = head(1, None)
    made = model.to_sklearn(loss="poisson")
    assert made.out_activation_ == "exp"
    np.testing.assert_allclose(made.predict(X), np.exp(model.predict(X)[:, 0]), rtol=1e-12)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([rv.Dense(3), rv.LayerNorm(), rv.Dense(1)], r"layers\[1\]: .*got LayerNorm\(\)"),
        ([rv.Dense(3), rv.BatchNorm(), rv.Dense(1)], r"layers\[1\]: .*got BatchNorm\(\)"),
        ([rv.Dense(3, "gelu"), rv.Dense(1)], r"layers\[0\]: .*got 'gelu'"),
        ([rv.Dense(3, "relu"), rv.Dense(3, "tanh"), rv.Dense(1)], r"layers\[1\]: expected 'relu'"),
        ([rv.Dense(3, "relu"), rv.Dense(3), rv.Dense(1)], r"layers\[1\]: .*got 'identity'"),
        ([rv.Activation("relu"), rv.Dense(1)], r"layers\[0\]: .*behind a Dense layer"),
        ([rv.Dense(3, "relu"), rv.Softmax(), rv.Dense(1)], r"layers\[1\]: .*got 'softmax'"),
        ([rv.Dense(3), rv.Softmax(), rv.Dense(1)], r"layers\[1\]: .*got 'softmax'"),
        ([rv.Dense(1, "sigmoid")], r"layers\[0\]: expected raw outputs for a regressor"),
        ([rv.Standardize()], "model: expected at least one Dense layer"),
    ],
    ids=repr,
)
def test_a_network_that_scikit_learn_cannot_express_is_refused_by_its_layer(layers, message):
    with pytest.raises(rv.ArgumentError, match=message):
        model_of(*layers).to_sklearn()


@pytest.mark.parametrize(
    ("outputs", "options", "message"),
    [
        (3, {"classes": ["a", "b"]}, "classes: expected 3 labels for 3 outputs, got 2"),
        (1, {"classes": ["a", "b", "c"]}, "classes: expected 2 labels for 1 outputs, got 3"),
        (2, {"classes": ["a", "a"]}, "classes: expected two or more different labels"),
        (1, {"classes": ["a"]}, "classes: expected two or more different labels"),
        (2, {"classes": [0.5, 1.5]}, "classes: expected a list of labels"),
        (2, {"classes": 2}, "classes: expected a list of labels"),
        (2, {"classes": [[0, 1], [1, 0]]}, "classes: expected a list of labels"),
        (2, {"classes": [[0], [1, 0]]}, "classes: expected a list of labels"),
        (2, {"classes": []}, "classes: expected a list of labels"),
        (3, {"classes": [0, 1, 2], "multilabel": True}, "classes: expected None"),
        (1, {"multilabel": True}, "multilabel: expected a model of two or more outputs"),
        (1, {"activation": "tanh"}, "activation: expected none, the model says it"),
        (1, {"hidden_layer_sizes": (3,)}, "hidden_layer_sizes: expected none"),
        (1, {"rate": 1.0}, "to_sklearn: .*'rate'"),
        (1, {"alpha": -1.0}, "to_sklearn: .*'alpha'"),
        (2, {"classes": [0, 1], "loss": "poisson"}, "to_sklearn: .*'loss'"),
    ],
    ids=repr,
)
def test_labels_and_options_that_do_not_fit_are_refused(outputs, options, message):
    with pytest.raises(rv.ArgumentError, match=message):
        head(outputs, None).to_sklearn(**options)


def test_a_squash_of_another_kind_of_classifier_is_refused():
    with pytest.raises(rv.ArgumentError, match=r"layers\[2\]: expected raw outputs or softmax"):
        head(3, rv.Activation("sigmoid")).to_sklearn([0, 1, 2])
    with pytest.raises(rv.ArgumentError, match=r"layers\[2\]: expected raw outputs or sigmoid"):
        head(3, rv.Softmax()).to_sklearn(multilabel=True)
    model = model_of(rv.Dense(3), rv.Standardize(of="targets"))
    with pytest.raises(rv.ArgumentError, match="no Standardize of targets"):
        model.to_sklearn([0, 1, 2])
    with pytest.raises(rv.NotFittedError, match="input_size"):
        rv.Sequential([rv.Dense(1)]).to_sklearn()
    with pytest.raises(rv.DTypeError, match="multilabel: expected True or False"):
        head(3, None).to_sklearn(multilabel=1)


def test_what_scikit_learn_has_no_place_for_is_logged(caplog):
    layers = [
        rv.GaussianNoise(0.1),
        rv.Dense(3, use_bias=False, l2=0.1, non_negative=True),
        rv.Dropout(0.5),
        rv.Activation("relu"),
        rv.Dense(1, max_norm=1.0),
    ]
    model = model_of(*layers)
    close(model, model.to_sklearn().predict(X), X)
    assert {record.name for record in caplog.records} == {"ranvier"}
    assert {record.levelno for record in caplog.records} == {logging.WARNING}
    texts = [record.getMessage() for record in caplog.records]
    expected = [
        "layers[0]: GaussianNoise(0.1) is left out",
        "layers[1]: has no bias",
        "layers[1]: l2=0.1",
        "layers[1]: non_negative=True",
        "layers[2]: Dropout(0.5) is left out",
        "layers[4]: max_norm=1.0",
    ]
    assert len(texts) == len(expected)
    assert all(f"to_sklearn: {part}" in text for part, text in zip(expected, texts, strict=True))
    caplog.clear()
    head(1, None).to_sklearn()
    assert not caplog.records


# ---------------------------------------------------------------- the drop-ins


@pytest.mark.parametrize("case", FITS)
def test_a_drop_in_becomes_scikit_learns_own_and_comes_back(case):
    ours = fitted(case, home=ranvier.sklearn)
    theirs = ours.to_sklearn()
    assert type(theirs) is getattr(neural_network, FITS[case][0])
    shared = theirs.get_params()
    assert shared == {name: value for name, value in ours.get_params().items() if name in shared}
    back = type(ours).from_sklearn(theirs)
    assert type(back) is type(ours)
    for estimator in (theirs, back):
        assert np.array_equal(estimator.predict(X), ours.predict(X))
        assert set(vars(ours)) - set(vars(estimator)) - set(ours.get_params()) <= OURS
        assert b"ranvier" not in pickle.dumps(theirs)
    # Training one leaves the others alone.
    before = [value.copy() for value in ours.coefs_]
    if theirs.solver != "lbfgs":
        theirs.partial_fit(X, FITS[case][1])
        back.partial_fit(X, FITS[case][1])
        # Both from the coefficients, with moments that start anew.
        np.testing.assert_allclose(back.coefs_[0], theirs.coefs_[0], rtol=1e-9, atol=1e-12)
        assert not hasattr(type(ours).from_sklearn(theirs), "_optimizer")
    for value, expected in zip(ours.coefs_, before, strict=True):
        assert np.array_equal(value, expected)


@pytest.mark.parametrize("options", [{}, {"early_stopping": True}, {"solver": "sgd"}], ids=repr)
def test_a_warm_start_goes_on_in_either(options):
    options = {"warm_start": True, "max_iter": 5, "random_state": 0} | options
    first = ranvier.sklearn.MLPClassifier(**options).fit(X, THREE)
    theirs = first.to_sklearn().fit(X, THREE)
    back = ranvier.sklearn.MLPClassifier.from_sklearn(first.to_sklearn()).fit(X, THREE)
    first.fit(X, THREE)
    for estimator in (theirs, back):
        np.testing.assert_allclose(estimator.coefs_[0], first.coefs_[0], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(estimator.loss_curve_, first.loss_curve_, rtol=1e-9)
        assert (estimator.t_, estimator.n_iter_) == (first.t_, first.n_iter_)


def test_a_random_state_stays_shared_with_the_parameter():
    ours = ranvier.sklearn.MLPRegressor(max_iter=2, random_state=np.random.RandomState(1))
    theirs = ours.fit(X, VALUES).to_sklearn()
    assert theirs._random_state is theirs.random_state
    assert theirs.random_state is not ours.random_state


# What drives a training, and what the drop-ins have beside coefs_ and intercepts_.
OURS = {"_run", "_loss", "_layers", "_extra", "_best_extra", "validation_loss_curve_"}


class More(ranvier.sklearn.MLPRegressor):
    """A drop-in with a parameter that scikit-learn does not have."""

    def __init__(self, max_iter=2, solver="adam", masks=None):
        super().__init__(max_iter=max_iter, solver=solver)
        self.masks = masks


def test_parameters_that_scikit_learn_does_not_have_are_refused_where_they_are_used():
    plain = More().fit(X, VALUES)
    assert np.array_equal(plain.to_sklearn().predict(X), plain.predict(X))
    for options in ({"masks": np.zeros(3)}, {"masks": [1]}):
        with pytest.raises(rv.ArgumentError, match=f"to_sklearn: .*{next(iter(options))}="):
            More(**options).fit(X, VALUES).to_sklearn()
        with pytest.raises(rv.ArgumentError, match=f"estimator: .*{next(iter(options))}="):
            rv.from_sklearn(More(**options).fit(X, VALUES))
    # A value that scikit-learn does not take, as other solvers of ours would be.
    plain.solver = "adamw"
    with pytest.raises(rv.ArgumentError, match=r"to_sklearn: .*'solver'"):
        plain.to_sklearn()


def test_a_drop_in_takes_a_fitted_estimator_of_its_kind():
    with pytest.raises(rv.DTypeError, match="estimator: expected a fitted MLPRegressor"):
        ranvier.sklearn.MLPRegressor.from_sklearn(fitted("two"))
    with pytest.raises(rv.NotFittedError, match="estimator: "):
        ranvier.sklearn.MLPRegressor.from_sklearn(neural_network.MLPRegressor())
    with pytest.raises(rv.NotFittedError, match="to_sklearn: "):
        ranvier.sklearn.MLPRegressor().to_sklearn()


# ---------------------------------------------------------------- PyTorch


@pytest.fixture(scope="module")
def torch():
    library = pytest.importorskip("torch")
    # Its threads would wait for one another where the cores are busy.
    threads = library.get_num_threads()
    library.set_num_threads(1)
    yield library
    library.set_num_threads(threads)


def theirs(torch, module, inputs):
    """Predictions of a torch module."""
    with torch.no_grad():
        return module(torch.from_numpy(inputs)).numpy()


@given(stacks(), WIDTHS, DTYPES, st.integers(0, 100))
def test_any_model_goes_to_torch_and_comes_back(torch, layers, input_size, dtype, seed):
    model = filled(layers, input_size, dtype, seed)
    inputs = rows(model)
    module = model.to_torch()
    assert not module.training
    got = theirs(torch, module, inputs)
    assert got.dtype == dtype
    close(model, got, inputs, SEARCHED)
    back = rv.from_torch(module)
    assert back.dtype == model.dtype
    assert bits(back, inputs) == bits(model, inputs)


@pytest.mark.parametrize("dtype", EQUAL)
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=repr)
def test_activations_are_equal_in_torch_far_out_too(torch, activation, dtype):
    model = rv.Sequential([rv.Activation(activation)], input_size=1, dtype=dtype)
    far = np.concatenate([np.linspace(-60, 60, 601), [-1e30, -1e4, -90.0, 90.0, 1e4, 1e30]])
    inputs = far.astype(dtype)[:, np.newaxis]
    got, expected = theirs(torch, model.to_torch(), inputs), model.predict(inputs)
    np.testing.assert_allclose(got, expected, rtol=EQUAL[dtype], atol=EQUAL[dtype])


@pytest.mark.parametrize("dtype", EQUAL)
def test_a_trained_model_predicts_alike_in_torch(torch, dtype):
    model, inputs = trained(dtype)
    assert error(theirs(torch, model.to_torch(), inputs), model.predict(inputs)) <= EQUAL[dtype]


# The slope of torch's Hardsigmoid is 1/6 in float32 only, in float64 too.
@given(stacks(random=False, without=["hard_sigmoid"]), st.integers(0, 100), st.booleans())
def test_gradients_are_equal_in_torch(torch, layers, seed, training):
    model = filled(layers, 4, "float64", seed)
    inputs = rows(model)
    y = np.random.default_rng(seed).normal(size=(len(inputs), model.output_size))
    value, gradients = model.value_and_gradient(inputs, y, loss="mse", training=training)
    module = model.to_torch().train(training)
    x = torch.from_numpy(inputs).requires_grad_()
    loss = torch.nn.functional.mse_loss(module(x), torch.from_numpy(y))
    loss.backward()
    assert error(loss.item(), value) <= 1e-10
    assert error(x.grad, gradients.d_input, 1.0) <= 1e-10
    for ours, parameter in zip(gradients.values(), module.parameters(), strict=True):
        assert error(parameter.grad.numpy().T.reshape(ours.shape), ours, 1.0) <= 1e-10


def test_training_goes_on_alike_in_torch_and_from_torch(torch):
    layers = [rv.Dense(8, "tanh"), rv.BatchNorm(momentum=0.2), rv.Dense(3, "prelu")]
    layers.append(rv.LayerNorm(eps=0.1))
    model = filled([rv.Standardize(), *layers, rv.Dense(2)], 5, "float64", seed=0)
    module = model.to_torch().train()
    velocities = [torch.zeros_like(parameter) for parameter in module.parameters()]
    for _ in range(20):
        module.zero_grad()
        loss = torch.nn.functional.mse_loss(module(torch.from_numpy(X)), torch.from_numpy(PAIRS))
        loss.backward()
        for parameter, velocity in zip(module.parameters(), velocities, strict=True):
            velocity.mul_(0.9).add_(parameter.grad)
            parameter.data.sub_(0.05 * velocity)
    sgd = rv.SGD(learning_rate=0.05, momentum=0.9)
    plan = {"loss": "mse", "optimizer": sgd, "epochs": 20, "batch_size": len(X), "shuffle": False}
    twin = model.copy()
    model.fit(X, PAIRS, **plan)
    back = rv.from_torch(module)
    assert list(back.parameters()) == list(model.parameters())
    for name, value in model.parameters().items():
        assert error(back.parameters()[name], value) <= 1e-10
    assert error(twin.parameters()["1.weight"], model.parameters()["1.weight"]) > 0.01


def test_dropout_and_noise_work_in_training_only(torch):
    model = rv.Sequential([rv.Dropout(0.25), rv.GaussianNoise(0.5)], input_size=100)
    module = model.to_torch()
    ones = torch.ones((200, 100))
    assert torch.equal(module(ones), ones)
    module.train()
    assert abs(float((module[0](ones) == 0).float().mean()) - 0.25) < 0.02
    assert abs(float((module[1](ones) - 1).std()) - 0.5) < 0.02
    assert rv.from_torch(torch.nn.Sequential(module, torch.nn.Linear(100, 1))).layers[:2] == (
        rv.Dropout(0.25),
        rv.GaussianNoise(0.5),
    )


def test_what_is_standardised_stays_so_in_training(torch):
    model = filled([rv.Standardize(), rv.Dense(2), rv.Standardize(of="targets")], 5, "float64", 3)
    module = model.to_torch().train()
    module(torch.from_numpy(X))
    close(model, theirs(torch, module, X), X)


@pytest.mark.parametrize("dtype", EQUAL)
def test_a_module_takes_a_saved_file_strictly(torch, tmp_path, dtype):
    load_file = pytest.importorskip("safetensors.torch").load_file
    layers = [rv.Standardize(), rv.Dense(4, "prelu"), rv.BatchNorm(), rv.Dense(3, use_bias=False)]
    layers += [rv.LayerNorm(), rv.Activation("prelu"), rv.Standardize(of="targets")]
    model, other = (filled(layers, 5, dtype, seed) for seed in (0, 1))
    model.save(tmp_path / "model.safetensors")
    module = other.to_torch()
    module.load_state_dict(load_file(tmp_path / "model.safetensors"))
    inputs = rows(model)
    close(model, theirs(torch, module, inputs), inputs)


def test_to_torch_draws_nothing_and_shares_nothing(torch):
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    model = head(2, rv.Activation("prelu"))
    before = bits(model, X)
    module = model.to_torch()
    assert torch.equal(torch.rand(1), expected)
    for tensor in module.parameters():
        assert tensor.requires_grad
        assert tensor.device.type == "cpu"
        tensor.data.zero_()
    assert bits(model, X) == before


def test_what_torch_has_no_place_for_is_logged(torch, caplog):
    model_of(rv.Dense(3, l1=0.1, max_norm=2.0), rv.Dense(1, l2=0.5, non_negative=True)).to_torch()
    texts = [record.getMessage() for record in caplog.records]
    assert [text.split(" is ")[0] for text in texts] == [
        "to_torch: layers[0]: l1=0.1",
        "to_torch: layers[0]: max_norm=2.0",
        "to_torch: layers[1]: l2=0.5",
        "to_torch: layers[1]: non_negative=True",
    ]


def test_a_model_without_input_size_does_not_go_to_torch(torch):
    with pytest.raises(rv.NotFittedError, match="input_size"):
        rv.Sequential([rv.Dense(1)]).to_torch()


# Modules as they come, and the layers that they become.
MODULES = {
    "identity": (lambda nn: [nn.Identity(), nn.Linear(4, 3)], [rv.Dense(3)]),
    "flatten": (lambda nn: [nn.Flatten(), nn.Linear(4, 3)], [rv.Dense(3)]),
    "bias": (lambda nn: [nn.Linear(4, 3, bias=False)], [rv.Dense(3, use_bias=False)]),
    "relu": (lambda nn: [nn.Linear(4, 3), nn.ReLU(inplace=True)], [rv.Dense(3, "relu")]),
    "between": (
        lambda nn: [nn.Linear(4, 3), nn.Dropout(0.1), nn.Tanh()],
        [rv.Dense(3), rv.Dropout(0.1), rv.Activation("tanh")],
    ),
    "two": (
        lambda nn: [nn.Linear(4, 3), nn.Tanh(), nn.SiLU()],
        [rv.Dense(3, "tanh"), rv.Activation("silu")],
    ),
    "first": (
        lambda nn: [nn.ELU(0.5), nn.Linear(4, 3)],
        [rv.Activation(rv.activations.ELU(0.5)), rv.Dense(3)],
    ),
    "celu": (lambda nn: [nn.Linear(4, 3), nn.CELU()], [rv.Dense(3, "elu")]),
    "softplus": (lambda nn: [nn.Linear(4, 3), nn.Softplus()], [rv.Dense(3, "softplus")]),
    "softmax": (lambda nn: [nn.Linear(4, 3), nn.Softmax(1)], [rv.Dense(3), rv.Softmax()]),
    "leaky": (
        lambda nn: [nn.Linear(4, 3), nn.LeakyReLU(0.3)],
        [rv.Dense(3, rv.activations.LeakyReLU(0.3))],
    ),
    "nested": (
        lambda nn: [
            nn.Sequential(nn.Linear(4, 3), nn.Sequential(nn.GELU("tanh"))),
            nn.Sequential(),
        ],
        [rv.Dense(3, "gelu_tanh")],
    ),
    "norms": (
        lambda nn: [
            nn.BatchNorm1d(4, eps=0.01, momentum=0.3),
            nn.LayerNorm(4, eps=0.1),
            nn.Linear(4, 3),
        ],
        [rv.BatchNorm(eps=0.01, momentum=0.3), rv.LayerNorm(eps=0.1), rv.Dense(3)],
    ),
}


@pytest.mark.parametrize("dtype", EQUAL)
@pytest.mark.parametrize("case", MODULES)
def test_modules_become_layers(torch, case, dtype):
    make, layers = MODULES[case]
    module = torch.nn.Sequential(*make(torch.nn)).to(getattr(torch, dtype)).eval()
    model = rv.from_torch(module)
    assert list(model.layers) == layers
    inputs = rows(model)
    close(model, theirs(torch, module, inputs), inputs)


def test_names_and_subclasses_and_a_single_module_are_taken(torch):
    from collections import OrderedDict

    class Net(torch.nn.Sequential):
        def __init__(self):
            super().__init__(OrderedDict(a=torch.nn.Linear(5, 3), act=torch.nn.ReLU()))

    for module in (Net(), torch.nn.Linear(5, 2), torch.nn.Sequential(Net(), torch.nn.ReLU())):
        close(rv.from_torch(module), theirs(torch, module, X.astype("float32")), X)
    relu = torch.nn.ReLU()
    linears = [torch.nn.Linear(5, 5), torch.nn.Linear(5, 5)]
    module = torch.nn.Sequential(linears[0], relu, linears[1], relu)
    assert rv.from_torch(module).layers == (rv.Dense(5, "relu"), rv.Dense(5, "relu"))


def test_a_parametrised_slope_keeps_its_value(torch):
    module = torch.nn.Sequential(torch.nn.Linear(5, 3), torch.nn.PReLU(init=0.7))
    model = rv.from_torch(module)
    assert model.parameters()["0.slope"] == np.float32(0.7)


class Refused:
    """Modules that have no counterpart, each with a piece of the message."""

    @staticmethod
    def cases(torch):
        nn = torch.nn

        class Doubled(nn.Linear):
            def forward(self, x):
                return 2 * super().forward(x)

        class Net(nn.Module):
            def forward(self, x):
                return x

        hooked = nn.Linear(4, 4)
        hooked.register_forward_hook(lambda *_: None)
        patched = nn.Linear(4, 4)
        patched.forward = lambda x: x
        lazy = nn.LazyLinear(3)
        weighted = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
        return {
            "conv": (nn.Conv1d(1, 1, 1), "got Conv1d"),
            "doubled": (Doubled(4, 4), "got Doubled"),
            "net": (Net(), "got Net"),
            "patched": (patched, "got Linear"),
            "hooked": (hooked, "without hooks"),
            "weight_norm": (weighted, "remove_parametrizations"),
            "log_softmax": (nn.LogSoftmax(dim=1), "got LogSoftmax; leave it away"),
            "relu6": (nn.ReLU6(), "got ReLU6"),
            "half": (nn.Linear(4, 4).half(), "torch.float16; module.float"),
            "bfloat16": (nn.Linear(4, 4).bfloat16(), "torch.bfloat16; module.float"),
            "lazy": (lazy, "got a lazy one"),
            "meta": (nn.Linear(4, 4, device="meta"), "without memory"),
            "prelu": (nn.PReLU(4), "expected one slope for all units, got 4"),
            "softplus": (nn.Softplus(beta=2), "beta=1"),
            "threshold": (nn.Softplus(threshold=5), "a threshold of 20 or more"),
            "celu": (nn.CELU(2.0), "alpha=1"),
            "softmax": (nn.Softmax(dim=0), "dim=-1, got dim=0"),
            "flatten": (nn.Flatten(0), "keeps the rows"),
            "statistics": (nn.BatchNorm1d(4, track_running_stats=False), "track_running_stats"),
            "eps": (nn.BatchNorm1d(4, eps=0.0), "eps: expected a finite number"),
            "dropout": (nn.Dropout(1.0), "rate: expected a finite number"),
            "shape": (nn.LayerNorm((2, 4)), "one normalised dimension"),
            "width": (nn.Linear(3, 4), "expected a layer of 4 features.* got one of 3"),
            "double": (nn.Linear(4, 4).double(), None),
        }


def test_a_module_of_ones_own_is_refused_with_the_way_out(torch):
    class Own(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU())
            self.head = torch.nn.Linear(4, 2)

        def forward(self, x):
            return self.head(self.layers(x))

    own = Own()
    with pytest.raises(rv.ArgumentError, match=r"got Own; .*Sequential\(\*module.children\(\)\)"):
        rv.from_torch(own)
    inputs = np.ones((2, 3), np.float32)
    expected = own(torch.tensor(inputs)).detach().numpy()
    close(rv.from_torch(torch.nn.Sequential(*own.children())), expected, inputs)


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_modules_without_counterpart_are_refused_with_their_place(torch):
    for module, message in Refused.cases(torch).values():
        whole = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Sequential(module))
        if message is None:
            with pytest.raises(rv.ArgumentError, match=r"module: .*got float32 and float64"):
                rv.from_torch(whole)
            continue
        with pytest.raises(rv.ArgumentError, match=rf"^module\['1\.0'\]: .*{message}"):
            rv.from_torch(whole)
    for value in (7, None, [torch.nn.Linear(4, 4)], torch.nn.Linear):
        with pytest.raises(rv.DTypeError, match=r"module: expected a torch\.nn\.Sequential, got"):
            rv.from_torch(value)
    for module in (torch.nn.Sequential(), torch.nn.Sequential(torch.nn.ReLU())):
        with pytest.raises(rv.ArgumentError, match=r"module: .*how many features"):
            rv.from_torch(module)
    broken = torch.nn.Linear(4, 4)
    broken.weight.data[0, 0] = float("nan")
    with pytest.raises(rv.ArgumentError, match="finite"):
        rv.from_torch(broken)


def test_what_only_torch_has_in_training_is_logged(torch, caplog):
    nn = torch.nn
    linear = nn.Linear(4, 4)
    frozen = nn.Linear(4, 4).requires_grad_(False)
    bare = nn.BatchNorm1d(4, affine=False, momentum=None), nn.LayerNorm(4, bias=False)
    module = nn.Sequential(linear, *bare, frozen, linear).eval()
    model = rv.from_torch(module)
    close(model, theirs(torch, module, rows(model)), rows(model))
    texts = [record.getMessage() for record in caplog.records]
    expected = [
        "module['1']: has no weight",
        "module['1']: has no bias",
        "module['1']: momentum=None",
        "module['2']: has no bias",
        "module['3']: it has frozen parameters",
        "module['4']: it shares parameters",
    ]
    assert len(texts) == len(expected)
    assert all(
        text.startswith(f"from_torch: {part}") for text, part in zip(texts, expected, strict=True)
    )


# ---------------------------------------------------------------- Keras


@pytest.fixture(scope="module")
def keras():
    pytest.importorskip("torch")
    library = pytest.importorskip("keras")
    from keras.src.backend.common import dtypes

    with pytest.MonkeyPatch.context() as patch:
        # But for TensorFlow's, Keras has products in float64 computed in float32.
        patch.setitem(dtypes.BIT64_TO_BIT32_DTYPE, "float64", "float64")
        yield library


def keras_numbers(keras, model, inputs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return keras.ops.convert_to_numpy(model(inputs.reshape(-1, *model.input_shape[1:])))


KERAS_ACTIVATIONS = {
    "linear": None,
    "sigmoid": "sigmoid",
    "tanh": "tanh",
    "relu": "relu",
    "leaky_relu": rv.activations.LeakyReLU(0.2),
    "elu": "elu",
    "selu": "selu",
    "gelu": "gelu",
    "silu": "silu",
    "swish": "silu",
    "softplus": "softplus",
    "hard_sigmoid": "hard_sigmoid",
    "hard_silu": "hard_swish",
    "hard_swish": "hard_swish",
    "mish": "mish",
    "softmax": "softmax",
}

# Layers of Keras behind an input of four features, by what they become.
KERAS_LAYERS = {
    "dense": (lambda L: L.Dense(3, use_bias=False), [rv.Dense(3, use_bias=False)]),
    "penalties": (
        lambda L: L.Dense(
            3, kernel_regularizer={"class_name": "L1L2", "config": {"l1": 0.25, "l2": 0.5}}
        ),
        [rv.Dense(3, l1=0.25, l2=0.5)],
    ),
    "l1": (
        lambda L: L.Dense(3, kernel_regularizer={"class_name": "L1", "config": {"l1": 0.25}}),
        [rv.Dense(3, l1=0.25)],
    ),
    "l2": (
        lambda L: L.Dense(3, kernel_regularizer={"class_name": "L2", "config": {"l2": 0.5}}),
        [rv.Dense(3, l2=0.5)],
    ),
    "max_norm": (lambda L: L.Dense(3, kernel_constraint="max_norm"), [rv.Dense(3, max_norm=2.0)]),
    "non_negative": (
        lambda L: L.Dense(3, kernel_constraint="non_neg"),
        [rv.Dense(3, non_negative=True)],
    ),
    "object": (lambda L: L.Dense(3, L.LeakyReLU()), [rv.Dense(3, rv.activations.LeakyReLU(0.3))]),
    "norm": (lambda L: L.BatchNormalization(), [rv.BatchNorm(momentum=1 - 0.99, eps=1e-3)]),
    "layer_norm": (lambda L: L.LayerNormalization(), [rv.LayerNorm(eps=1e-3)]),
    "dropout": (lambda L: L.Dropout(0.3), [rv.Dropout(0.3)]),
    "noise": (lambda L: L.GaussianNoise(0.3), [rv.GaussianNoise(0.3)]),
    "relu": (lambda L: L.ReLU(), [rv.Activation("relu")]),
    "leaky": (lambda L: L.LeakyReLU(), [rv.Activation(rv.activations.LeakyReLU(0.3))]),
    "negative": (
        lambda L: L.ReLU(negative_slope=0.5),
        [rv.Activation(rv.activations.LeakyReLU(0.5))],
    ),
    "elu": (lambda L: L.ELU(0.5), [rv.Activation(rv.activations.ELU(0.5))]),
    "prelu": (lambda L: L.PReLU(shared_axes=[1]), [rv.Activation("prelu")]),
    "softmax": (lambda L: L.Softmax(), [rv.Softmax()]),
    "identity": (lambda L: L.Identity(), []),
    "activation": (lambda L: L.Activation("gelu"), [rv.Activation("gelu")]),
}


def keras_model(keras, layers, dtype="float32", shape=(4,)):
    """A Sequential all of whose numbers have been moved from where they start."""
    rng = np.random.default_rng(0)
    keras.config.set_floatx(dtype)
    keras.config.set_dtype_policy(dtype)
    try:
        model = keras.Sequential([keras.Input(shape), *layers(keras.layers)])
    finally:
        keras.config.set_floatx("float32")
        keras.config.set_dtype_policy("float32")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        for weight in model.weights:
            if weight.name not in ("count", "seed_generator_state"):
                weight.assign(rng.uniform(0.3, 2.0, weight.shape))
    return model


@pytest.mark.parametrize("dtype", EQUAL)
@pytest.mark.parametrize("case", KERAS_LAYERS)
def test_layers_of_keras_become_layers(keras, case, dtype):
    make, layers = KERAS_LAYERS[case]
    theirs = keras_model(keras, lambda L: [make(L), L.Dense(2)], dtype)
    model = rv.from_keras(theirs)
    assert list(model.layers) == [*layers, rv.Dense(2)]
    assert model.dtype == dtype
    close(model, keras_numbers(keras, theirs, rows(model)), rows(model))


@pytest.mark.parametrize("dtype", EQUAL)
@pytest.mark.parametrize("name", KERAS_ACTIVATIONS)
def test_activations_of_keras_become_activations(keras, name, dtype):
    theirs = keras_model(keras, lambda L: [L.Dense(6, name), L.Dense(3, name)], dtype)
    for weight in theirs.weights:
        weight.assign(np.random.default_rng(0).normal(size=weight.shape))
    model = rv.from_keras(theirs)
    assert [layer.activation for layer in model.layers] == [KERAS_ACTIVATIONS[name]] * 2
    close(model, keras_numbers(keras, theirs, rows(model)), rows(model))


@pytest.mark.parametrize("dtype", EQUAL)
def test_normalization_of_keras_becomes_standardize(keras, dtype):
    def layers(L):
        return [L.Normalization(), L.Dense(3), L.Normalization(invert=True)]

    theirs = keras_model(keras, layers, dtype)
    # A constant column, which Keras divides by its epsilon.
    theirs.layers[0].variance[0, 3] = 0.0
    model = rv.from_keras(theirs)
    assert model.layers == (rv.Standardize(), rv.Dense(3), rv.Standardize(of="targets"))
    inputs = rows(model)
    close(model, keras_numbers(keras, theirs, inputs), inputs)
    one = keras_model(keras, lambda L: [L.Normalization(None, mean=2.0, variance=9.0)], dtype)
    assert rv.from_keras(one).parameters()["0.running_var"].tolist() == [9.0] * 4
    close(rv.from_keras(one), keras_numbers(keras, one, inputs), inputs)


def test_flat_functional_and_nested_models_of_keras_are_taken(keras):
    flat = keras_model(keras, lambda L: [L.Flatten(), L.Dense(3, "tanh")], shape=(2, 5))
    model = rv.from_keras(flat)
    assert model.input_size == 10
    close(model, keras_numbers(keras, flat, rows(model)), rows(model))
    inputs = keras.Input((2, 5))
    output = keras.layers.Dense(2)(keras.layers.Dropout(0.5)(flat(inputs)))
    for nested in (keras.Model(inputs, output), keras.Sequential([flat, keras.layers.Dense(2)])):
        model = rv.from_keras(nested)
        assert model.layers[0] == rv.Dense(3, "tanh")
        close(model, keras_numbers(keras, nested, rows(model)), rows(model))


def test_models_of_keras_without_counterpart_are_refused_with_their_place(keras):
    L = keras.layers

    class Doubled(L.Dense):
        def call(self, inputs):
            return 2 * super().call(inputs)

    class Net(keras.Sequential):
        def call(self, inputs):
            return inputs

    scaled = L.LayerNormalization()
    scaled.rms_scaling = True
    cases = {
        "got Doubled": Doubled(4),
        "got AlphaDropout": L.AlphaDropout(0.1),
        "got exponential": L.Dense(4, "exponential"),
        "got <lambda>": L.Dense(4, activation=lambda x: x),
        "a ReLU without max_value": L.ReLU(max_value=6),
        "one slope for all units": L.PReLU(),
        "rms_scaling": scaled,
        "expected rate|rate: expected a finite number": L.Dropout(1.0),
        "the policy 'mixed_float16'": L.Dense(4, dtype="mixed_float16"),
    }
    for message, layer in cases.items():
        layer.name = "culprit"
        for model in (
            keras.Sequential([keras.Input((4,)), L.Dense(4), layer]),
            keras.Sequential([keras.Input((4,)), keras.Sequential([layer], name="inner")]),
        ):
            with pytest.raises(
                rv.ArgumentError, match=rf"^model: (layer 'inner': )?layer 'culprit': .*({message})"
            ):
                rv.from_keras(model)
    x = keras.Input((4,))
    a, b = L.Dense(3)(x), L.Dense(3)(x)
    models = {
        "got 'sum' with 2 inputs": keras.Model(x, L.Add(name="sum")([a, b])),
        "got 1 and 2": keras.Model(x, [a, b]),
        "called with training=True": keras.Model(x, L.Dropout(0.5)(a, training=True)),
        "give it an Input": keras.Sequential([L.Dense(3)]),
        "got Net": Net([keras.Input((4,)), L.Dense(3)]),
        "expected a Flatten": keras.Sequential([keras.Input((4, 3)), L.Dense(3), L.Flatten()]),
        "a known shape": keras.Sequential([keras.Input((None, 3)), L.Dense(3)]),
        "float32 and float64": keras.Sequential(
            [keras.Input((4,), dtype="float64"), L.Dense(3, dtype="float64"), L.ReLU()]
        ),
        "got float32 and float64": keras.Sequential(
            [keras.Input((4,)), L.Dense(3, dtype="float64")]
        ),
        "axis=-1, got 0": keras.Sequential([keras.Input((4,)), L.Dense(3), L.Softmax(axis=0)]),
        "axis=-1, the features, got 0": keras.Sequential(
            [keras.Input((4,), batch_size=2), L.BatchNormalization(axis=0), L.Dense(3)]
        ),
        r"layers\[1\]: expected Standardize": keras.Sequential(
            [keras.Input((4,)), L.Dense(3), L.Normalization()]
        ),
        "got bfloat16": keras.Sequential([keras.Input((4,)), L.Dense(3, dtype="bfloat16")]),
    }
    for message, model in models.items():
        with pytest.raises(rv.ArgumentError, match=message):
            rv.from_keras(model)
    for value in (7, L.Dense(3), keras.Sequential):
        with pytest.raises(rv.DTypeError, match=r"model: expected a keras\.Model, got"):
            rv.from_keras(value)


def test_what_only_keras_has_in_training_is_logged(keras, caplog):
    def layers(L):
        frozen = L.Dense(3, bias_constraint="non_neg", kernel_regularizer="orthogonal_regularizer")
        frozen.trainable = False
        return [
            L.BatchNormalization(center=False, gamma_regularizer="l2"),
            L.Dense(4, activity_regularizer="l2", kernel_constraint="unit_norm"),
            frozen,
        ]

    theirs = keras_model(keras, layers)
    names = [layer.name for layer in theirs.layers]
    model = rv.from_keras(theirs)
    close(model, keras_numbers(keras, theirs, rows(model)), rows(model))
    texts = [record.getMessage() for record in caplog.records]
    expected = [
        (0, "gamma_regularizer"),
        (0, "has no beta"),
        (1, "activity_regularizer=L2"),
        (1, "kernel_constraint=UnitNorm"),
        (2, "bias_constraint=NonNeg"),
        (2, "kernel_regularizer=OrthogonalRegularizer"),
        (2, "it has frozen parameters"),
    ]
    assert len(texts) == len(expected)
    for text, (number, what) in zip(texts, expected, strict=True):
        assert text.startswith(f"from_keras: layer {names[number]!r}: {what}")


# Those that only training would notice, and those that make other layers.
ADDED = {
    "training": {"solver": "adamw", "clip_norm": 1.0, "max_time": 60.0},
    "layers": {"activation": "gelu", "normalization": "batch", "dropout": 0.1},
}


@pytest.mark.parametrize("options", ADDED.values(), ids=ADDED)
def test_a_drop_in_with_what_scikit_learn_has_not_becomes_its_network(options):
    inputs = 10 * X + 3
    options = {"hidden_layer_sizes": 5, "max_iter": 3, "random_state": 0} | options
    regressor = ranvier.sklearn.MLPRegressor(**options)
    close(rv.from_sklearn(regressor.fit(inputs, VALUES)), regressor.predict(inputs), inputs)
    whole = TransformedTargetRegressor(
        make_pipeline(StandardScaler(), regressor), transformer=StandardScaler()
    ).fit(inputs, VALUES)
    close(rv.from_sklearn(whole), whole.predict(inputs), inputs)
    classifier = ranvier.sklearn.MLPClassifier(class_weight="balanced", **options)
    pipeline = make_pipeline(StandardScaler(), classifier).fit(inputs, THREE)
    model = rv.from_sklearn(pipeline, probabilities=True)
    close(model, pipeline.predict_proba(inputs), inputs)


def test_an_ensemble_is_refused_by_name_not_as_unfitted():
    ensemble = ranvier.sklearn.MLPRegressor(n_ensemble=2, max_iter=2).fit(X, VALUES)
    for call in (lambda: rv.from_sklearn(ensemble), ensemble.to_sklearn):
        with pytest.raises(rv.ArgumentError, match=r"expected one network.*its estimators_"):
            call()
    member = ensemble.estimators_[0]
    close(rv.from_sklearn(member), member.predict(X), X)


def test_scaled_targets_of_a_poisson_loss_are_refused():
    estimator = TransformedTargetRegressor(
        neural_network.MLPRegressor(loss="poisson", max_iter=2),
        transformer=StandardScaler(with_mean=False),
    )
    with pytest.raises(rv.ArgumentError, match="not scaled with loss='poisson'"):
        rv.from_sklearn(estimator.fit(X, COUNTS))
