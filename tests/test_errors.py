"""Bad arguments: the class of the exception, the argument's name, what came and what was expected.

A refused call leaves model and trainer as they were, and no message speaks of the machinery inside.
"""

import decimal
import fractions
import re
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import ranvier as rv
from ranvier import activations, initializers, layers, losses, optimizers

X = np.random.default_rng(0).normal(size=(8, 3))
Y = X.sum(axis=1)
LABELS = np.arange(8) % 2
INSIDE = re.compile(
    r"\bRust\b|PyO3|panick|\bbuffer\b|usize|\bu64\b|extract|unwrap|Option<|\bVec\b|None\("
)


def model(**options):
    options = {"input_size": 3} | options
    return rv.Sequential([rv.Dense(4, activation="tanh"), rv.Dense(1)], **options)


def refused(kind, words, function, *args, **options):
    """The message of a refusal of this very class."""
    with pytest.raises(rv.RanvierError, match=words) as caught:
        function(*args, **options)
    assert type(caught.value) is kind
    message = str(caught.value)
    assert not INSIDE.search(message), message
    assert len(message) < 1000
    return message


# ---------------------------------------------------------------- classes

BASES = {
    "ArgumentError": ValueError,
    "ShapeError": ValueError,
    "DTypeError": TypeError,
    "NotFittedError": AttributeError,
    "DivergedError": ArithmeticError,
    "OutOfMemoryError": MemoryError,
    "BusyError": RuntimeError,
    "MissingDependencyError": ImportError,
    "InternalError": RuntimeError,
}


@pytest.mark.parametrize(("name", "base"), BASES.items())
def test_every_error_is_ranviers_and_the_built_in_one(name, base):
    kind = getattr(rv, name)
    assert kind is getattr(rv.errors, name)
    assert issubclass(kind, rv.RanvierError)
    assert issubclass(kind, base)
    assert kind.__doc__


def test_no_error_is_missing_from_the_list_above():
    kinds = {n for n in rv.errors.__all__ if n != "RanvierError"}
    assert kinds >= set(BASES)
    for name in kinds:
        kind = getattr(rv.errors, name)
        others = [base for base in kind.__mro__ if base.__module__ == "builtins"]
        assert others[0] is not Exception, f"{name} derives from no built-in error"
        assert hasattr(rv, name)


# ---------------------------------------------------------------- numbers

# What is no integer at all, and what is one but may be out of bounds.
NO_INTEGERS = [None, True, np.True_, 1.5, 2.0, np.float64(3), np.nan, "3", b"3", [3], (3,), 3j]
NO_INTEGERS += [
    np.array(3),
    np.array([3]),
    decimal.Decimal(3),
    fractions.Fraction(3),
    object(),
    int,
]
NO_NUMBERS = [None, True, np.False_, "0.1", b"0.1", [0.1], 1j, np.array(0.1), np.array([0.1])]
NO_NUMBERS += [decimal.Decimal("0.1"), fractions.Fraction(1, 10), object(), float]
NOT_FINITE = [np.nan, np.inf, -np.inf, np.float32("nan"), np.longdouble("inf"), 10**400, -(10**400)]

INTEGERS = {
    "units": (lambda v: rv.Dense(v), [0, -1, -(2**63), 2**31 + 1, 2**40, 2**64, 2**200]),
    "input_size": (lambda v: model(input_size=v), [0, -1, 2**31 + 1, 2**40, 2**64, 2**200]),
    "seed": (lambda v: model(seed=v), [-1, 2**64, -(2**70), 2**200]),
    "seed of a trainer": (lambda v: trainer(seed=v), [-1, 2**64, 2**200]),
    "seed of fit": (lambda v: model().fit(X, Y, loss="mse", seed=v), [-1, 2**64, 2**200]),
    "epochs": (lambda v: trainer().fit(X, Y, epochs=v), [0, -1, 2**63, 2**64, 2**200]),
    "batch_size": (lambda v: trainer().fit(X, Y, batch_size=v), [0, -1, 2**63, 2**64, 2**200]),
    "step": (
        lambda v: model().value_and_gradient(X, Y, loss="mse", step=v),
        [-1, 2**63, 2**64, 2**200],
    ),
    "history_size": (lambda v: rv.LBFGS(history_size=v), [0, -1, 1001, 2**64]),
    "max_evaluations": (lambda v: rv.LBFGS(max_evaluations=v), [0, -1, 1001, 2**64]),
    "num_threads": (rv.set_num_threads, [0, -1, 4097, 2**31, 2**64, 2**200]),
    "steps": (lambda v: rv.crosscheck(model(), X, Y, loss="mse", steps=v), [0, -1, 2**64]),
    "batch_size of crosscheck": (
        lambda v: rv.crosscheck(model(), X, Y, loss="mse", batch_size=v),
        [0, -1],
    ),
    "seed of crosscheck": (
        lambda v: rv.crosscheck(model(), X, Y, loss="mse", seed=v),
        [-1, 2**64],
    ),
}
REALS = {
    "rate": (lambda v: rv.Dropout(v), [-0.1, 1, 1.0, 1.5, 2]),
    "stddev": (lambda v: rv.GaussianNoise(v), [-0.1, -1]),
    "max_norm": (lambda v: rv.Dense(3, max_norm=v), [-0.1, 0, -3]),
    "eps of layer norm": (lambda v: rv.LayerNorm(eps=v), [0, -1e-5]),
    "eps of batch norm": (lambda v: rv.BatchNorm(eps=v), [0, -1e-5]),
    "momentum of batch norm": (lambda v: rv.BatchNorm(momentum=v), [0, -0.1, 1.1]),
    "slope": (lambda v: activations.LeakyReLU(v), []),
    "slope of prelu": (lambda v: activations.PReLU(slope=v), []),
    "alpha": (lambda v: activations.ELU(alpha=v), []),
    "gain": (lambda v: initializers.Orthogonal(gain=v), []),
    "value": (lambda v: initializers.Constant(v), []),
    "learning_rate": (lambda v: rv.SGD(learning_rate=v), [0, -0.1, 0.0]),
    "learning_rate of adam": (lambda v: rv.Adam(learning_rate=v), [0, -0.1]),
    "learning_rate of adamw": (lambda v: rv.AdamW(learning_rate=v, dialect="keras"), [0]),
    "momentum": (lambda v: rv.SGD(momentum=v), [-0.1, 1, 1.5]),
    "dampening": (lambda v: rv.SGD(momentum=0.9, dampening=v), [-0.1, 1.1]),
    "weight_decay": (lambda v: rv.Adam(weight_decay=v), [-1e-9]),
    "clip_norm": (lambda v: rv.SGD(clip_norm=v), [0, -1]),
    "clip_value": (lambda v: rv.Adam(clip_value=v), [0, -1]),
    "beta1": (lambda v: rv.Adam(beta1=v), [-0.1, 1, 1.0]),
    "beta2": (lambda v: rv.AdamW(beta2=v), [-0.1, 1, 1.0]),
    "eps": (lambda v: rv.Adam(eps=v), [0, -1e-8]),
    "tolerance_grad of L-BFGS": (lambda v: rv.LBFGS(tolerance_grad=v), [-1e-9]),
    "tolerance_loss": (lambda v: rv.LBFGS(tolerance_loss=v), [-1e-9]),
    "damping": (lambda v: rv.LevenbergMarquardt(damping=v), [0, -1]),
    "tolerance_grad": (lambda v: rv.LevenbergMarquardt(tolerance_grad=v), [-1e-9]),
    "tolerance_loss of squares": (lambda v: rv.LevenbergMarquardt(tolerance_loss=v), [-1e-9]),
    "tolerance_step": (lambda v: rv.LevenbergMarquardt(tolerance_step=v), [-1e-9]),
    "delta": (lambda v: losses.Huber(delta=v), [0, -1]),
    "q": (lambda v: losses.Quantile(v), [0, 1, -0.1, 1.1]),
    "q in a list": (lambda v: losses.Quantile([0.5, v]), [0, 1, 2]),
    "label_smoothing": (lambda v: losses.CrossEntropy(label_smoothing=v), [-0.1, 1, 1.0]),
    "pos_weight": (lambda v: losses.BinaryCrossEntropy(pos_weight=v), [0, -1]),
    "pos_weight in a list": (lambda v: losses.BinaryCrossEntropy(pos_weight=[1.0, v]), [0, -1]),
    "tolerance": (
        lambda v: rv.crosscheck(model(), X, Y, loss="mse", tolerance=v),
        [-1.0],
    ),
}
NONE_IS_A_DEFAULT = {"seed", "learning_rate", "momentum", "weight_decay", "clip_norm"}
NONE_IS_A_DEFAULT |= {"clip_value", "eps", "pos_weight", "tolerance", "input_size"}
NONE_IS_A_DEFAULT |= {"epochs", "batch_size", "max_norm"}
NONE_IS_NO_DEFAULT = {"eps of layer norm", "eps of batch norm", "momentum of batch norm"}
NONE_IS_NO_DEFAULT |= {"pos_weight in a list", "seed of crosscheck"}
SEVERAL = {"q", "pos_weight"}


def argument_of(case):
    return re.split(r" (of|in) ", case)[0]


def trainer(seed=0, **options):
    return rv.Trainer(model(**options), loss="mse", optimizer="sgd", seed=seed)


@pytest.mark.parametrize("case", INTEGERS)
def test_integers_are_integers_within_bounds(case):
    function, outside = INTEGERS[case]
    name = argument_of(case)
    before = rv.get_num_threads()
    for value in NO_INTEGERS:
        if value is None and name in NONE_IS_A_DEFAULT and case not in NONE_IS_NO_DEFAULT:
            continue
        refused(rv.DTypeError, f"^{name}: expected .*integer.*, got ", function, value)
    for value in outside:
        message = refused(rv.ArgumentError, f"^{name}: expected .*integer", function, value)
        assert str(value)[:20] in message
    assert rv.get_num_threads() == before


@pytest.mark.parametrize("case", REALS)
def test_numbers_are_finite_numbers_within_bounds(case):
    function, outside = REALS[case]
    name = argument_of(case)
    for value in NO_NUMBERS:
        if value is None and name in NONE_IS_A_DEFAULT and case not in NONE_IS_NO_DEFAULT:
            continue
        if case in SEVERAL and isinstance(value, list | np.ndarray):
            continue
        refused(rv.DTypeError, f"^{name}: expected .*number.*, got ", function, value)
    for value in [*NOT_FINITE, *outside]:
        refused(
            rv.ArgumentError, f"^{name}: expected .*finite number.* in .*, got ", function, value
        )


@pytest.mark.parametrize("case", [*INTEGERS, *REALS])
def test_numbers_of_numpy_are_numbers(case):
    function = (INTEGERS | REALS)[case][0]
    if case == "num_threads":
        function = lambda v: rv.set_num_threads(v)  # noqa: E731
        before = rv.get_num_threads()
        rv.set_num_threads(np.uint8(2))
        assert rv.get_num_threads() == 2
        rv.set_num_threads(before)
        return
    kinds = [np.int8, np.uint64] if case in INTEGERS else [np.float16, np.float64, np.longdouble]
    for kind in kinds:
        function(kind(1 if case in INTEGERS else 0.5))


# ---------------------------------------------------------------- switches and names

SWITCHES = {
    "use_bias": lambda v: rv.Dense(1, use_bias=v),
    "truncated": lambda v: initializers.HeNormal(truncated=v),
    "nesterov": lambda v: rv.SGD(momentum=0.9, nesterov=v),
    "amsgrad": lambda v: rv.Adam(amsgrad=v),
    "shuffle": lambda v: trainer().fit(X, Y, shuffle=v),
    "training": lambda v: model().value_and_gradient(X, Y, loss="mse", training=v),
    "shuffle of crosscheck": lambda v: rv.crosscheck(model(), X, Y, loss="mse", shuffle=v),
}


@pytest.mark.parametrize("case", SWITCHES)
def test_switches_are_true_or_false(case):
    for value in (None, 0, 1, 2, "yes", "no", "", 1.0, [], [True], np.array([True, False]), object):
        if value is None and case in ("nesterov", "shuffle"):
            continue
        refused(rv.DTypeError, f"^{argument_of(case)}: ", SWITCHES[case], value)
    SWITCHES[case](np.True_)
    SWITCHES[case](True)


NO_NAMES = [5, 1.5, True, b"mse", ["mse"], ("mse",), {"mse"}, {}, object(), len, object]
NAMES = {
    "activation": (lambda v: rv.Dense(1, activation=v), "relu", activations.LeakyReLU),
    "activation as a layer": (lambda v: rv.Activation(v), "relu", activations.PReLU),
    "weight_init": (lambda v: rv.Dense(1, weight_init=v), "he_uniform", initializers.HeNormal),
    "bias_init": (lambda v: rv.Dense(1, bias_init=v), "zeros", initializers.Zeros),
    "loss": (lambda v: rv.Trainer(model(), loss=v), "mse", losses.MSE),
    "loss of fit": (lambda v: model().fit(X, Y, loss=v), "mse", losses.MSE),
    "loss of value_and_gradient": (
        lambda v: model().value_and_gradient(X, Y, loss=v),
        "mse",
        losses.CrossEntropy,
    ),
    "optimizer": (lambda v: rv.Trainer(model(), loss="mse", optimizer=v), "adam", rv.Adam),
    "optimizer of fit": (lambda v: model().fit(X, Y, loss="mse", optimizer=v), "sgd", rv.SGD),
}


@pytest.mark.parametrize("case", NAMES)
def test_names_are_known_names_or_objects(case):
    function, known, kind = NAMES[case]
    name = re.split(r" (of|as) ", case)[0]
    for value in [*NO_NAMES, kind]:
        refused(rv.DTypeError, f"^{name}: expected a name.*, got ", function, value)
    if name != "activation":
        refused(rv.DTypeError, f"^{name}: expected a name.*, got None", function, None)
    for value in ("", "nonsense", known.upper(), f" {known}", f"{known}\0", known * 10, "\ud800"):
        refused(rv.ArgumentError, f"^{name}: expected one of .*{known}.*, got ", function, value)
    function(known)


@pytest.mark.parametrize("kind", [rv.SGD, rv.Adam, rv.AdamW])
def test_dialects_are_known_names(kind):
    for value in ("", "pytorch", "Keras", None, 5, ["torch"], object):
        refused(rv.ArgumentError, r"^dialect: expected one of torch, ", kind, dialect=value)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: rv.SGD(nesterov=True), "^nesterov: "),
        (lambda: rv.SGD(nesterov=True, momentum=0.9, dampening=0.1), "^nesterov: "),
        (lambda: rv.SGD(dampening=0.1, dialect="keras"), "^dampening: "),
        (lambda: rv.SGD(weight_decay=0.1, dialect="sklearn"), "^weight_decay: "),
        (lambda: rv.AdamW(dialect="sklearn"), "^dialect: "),
        (lambda: rv.Adam(amsgrad=True, dialect="sklearn"), "^(dialect|amsgrad): "),
        (lambda: rv.Adam(clip_norm=1.0, clip_value=1.0), "^clip_norm and clip_value: "),
        (lambda: rv.Dense(3, bias_init="orthogonal"), "^bias_init: "),
        (lambda: losses.Quantile([]), "^q: .*at least one"),
        (lambda: losses.Quantile(np.array([])), "^q: .*at least one"),
    ],
)
def test_combinations_that_are_not_defined(make, words):
    refused(rv.ArgumentError, words, make)


def test_base_classes_are_not_used_themselves():
    for make in (
        lambda: rv.Sequential([layers.Layer()]),
        lambda: rv.Sequential([layers.Layer()], input_size=3),
        lambda: model().fit(X, Y, loss=losses.Loss()),
        lambda: losses.Loss().value_and_gradient(X, X),
        lambda: optimizers.Optimizer(),
        lambda: optimizers.FirstOrder(learning_rate=0.1),
        lambda: optimizers.FirstOrder(),
        lambda: optimizers.SecondOrder(),
        lambda: rv.Dense(3, weight_init=initializers.Initializer()),
    ):
        with pytest.raises(rv.RanvierError) as caught:
            make()
        assert not INSIDE.search(str(caught.value))


# ---------------------------------------------------------------- a model


@pytest.mark.parametrize(
    ("value", "kind", "words"),
    [
        (None, rv.DTypeError, "^layers: expected a list"),
        (rv.Dense(1), rv.DTypeError, "^layers: expected a list"),
        (5, rv.DTypeError, "^layers: expected a list"),
        ({}, rv.DTypeError, "^layers: expected a list"),
        ((layer for layer in [rv.Dense(1)]), rv.DTypeError, "^layers: expected a list"),
        (np.array([rv.Dense(1)]), rv.DTypeError, "^layers: expected a list"),
        ("abc", rv.DTypeError, r"^layers(\[0\])?: "),
        ([], rv.ArgumentError, "^layers: expected at least one"),
        ((), rv.ArgumentError, "^layers: expected at least one"),
        ([rv.Dense], rv.DTypeError, r"^layers\[0\]: .*Dense\(10\)"),
        ([rv.Dense(1), rv.Softmax], rv.DTypeError, r"^layers\[1\]: "),
        ([rv.Dense(1), None], rv.DTypeError, r"^layers\[1\]: .*None"),
        ([rv.Dense(1), 10], rv.DTypeError, r"^layers\[1\]: .*10"),
        ([rv.Dense(1), "relu"], rv.DTypeError, r"^layers\[1\]: .*relu"),
        ([[rv.Dense(1)]], rv.DTypeError, r"^layers\[0\]: "),
        ([rv.Sequential([rv.Dense(1)])], rv.DTypeError, r"^layers\[0\]: "),
        ([rv.Dense(1)] * 65537, rv.ArgumentError, "^layers: .*65536.*65537"),
    ],
    ids=str,
)
def test_layers_are_a_list_of_layers(value, kind, words):
    refused(kind, words, rv.Sequential, value, input_size=3)


@pytest.mark.parametrize(
    "value",
    [
        *("int8", "float16", "bfloat16", "complex64", "object", "str", "nonsense", "", "f4,f4"),
        *(">f4", "(2,3", "float32 ", "\ud800", None, 5, len, object, np.int32, np.longdouble),
        *(["float32"], {"names": ["a"]}, ("f4", -1), [("a", "f4")], np.array(1.0)),
    ],
    ids=ascii,
)
def test_dtype_is_float32_or_float64(value):
    with pytest.raises(rv.RanvierError, match=r"^dtype: expected 'float32' or 'float64', got "):
        model(dtype=value)


@pytest.mark.parametrize("value", ["float64", "f8", "d", float, np.float64, np.dtype("f8")])
def test_dtype_by_any_name(value):
    assert model(dtype=value).dtype == np.float64
    assert model().dtype == np.float32


def test_a_model_without_input_size_is_not_fitted():
    unbuilt = rv.Sequential([rv.Dense(1)])
    trained = rv.Trainer(unbuilt, loss="mse")
    for call in (
        lambda: unbuilt.predict(X),
        unbuilt.parameters,
        lambda: unbuilt.set_parameters({}),
        lambda: unbuilt.output_size,
        lambda: unbuilt.n_parameters,
        lambda: unbuilt.value_and_gradient(X, Y, loss="mse"),
        lambda: trained.evaluate(X, Y),
        lambda: rv.SGD().step(unbuilt, {}),
        lambda: rv.crosscheck(unbuilt, X, Y, loss="mse"),
    ):
        refused(rv.NotFittedError, "^model: .*input_size.*fit", call)
    assert unbuilt.input_size is None
    assert unbuilt.copy().input_size is None
    assert not hasattr(unbuilt, "output_size")


@pytest.mark.parametrize("value", [None, 5, "model", rv.Sequential, [rv.Dense(1)], rv.Dense(1)])
def test_what_is_no_model(value):
    refused(rv.DTypeError, "^model: expected .*Sequential", rv.Trainer, value, loss="mse")
    refused(rv.DTypeError, "^model: expected .*Sequential", rv.SGD().step, value, {})
    refused(rv.DTypeError, "^model: expected .*Sequential", rv.crosscheck, value, X, Y, loss="mse")


NO_PARAMETERS = [None, 5, [], "abc", [("0.bias", [1.0])], {1.0}, object(), np.zeros(3)]


@pytest.mark.parametrize("value", NO_PARAMETERS, ids=str)
def test_parameters_and_gradients_are_mappings(value):
    own = model()
    refused(rv.DTypeError, "^parameters: expected ", own.set_parameters, value)
    refused(rv.DTypeError, "^gradients: expected ", rv.SGD().step, own, value)


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"2.weight": [[1.0]]}, rv.ArgumentError, r"^parameters: .*0\.weight.*2\.weight"),
        ({5: [1.0]}, rv.ArgumentError, r"^parameters: .*got 5"),
        ({"": [1.0]}, rv.ArgumentError, r"^parameters: "),
        ({"1.bias": 1.0}, rv.ShapeError, r"^parameters\['1.bias'\]: .*\(1,\), got \(\)"),
        ({"1.bias": [[1.0]]}, rv.ShapeError, r"^parameters\['1.bias'\]: .*\(1,\), got \(1, 1\)"),
        ({"0.weight": np.ones((4, 3))}, rv.ShapeError, r"\(3, 4\), got \(4, 3\)"),
        ({"0.bias": [1, 2, np.nan, 4]}, rv.ArgumentError, r"^parameters\['0.bias'\]: .*finite"),
        ({"0.bias": [1, 2, np.inf, 4]}, rv.ArgumentError, r"^parameters\['0.bias'\]: .*finite"),
        ({"0.bias": [1, 2, 1e300, 4]}, rv.ArgumentError, r"^parameters\['0.bias'\]: .*finite"),
        ({"0.bias": ["a"] * 4}, rv.DTypeError, r"^parameters\['0.bias'\]: "),
        ({"0.bias": None}, rv.DTypeError, r"^parameters\['0.bias'\]: "),
    ],
)
def test_parameters_are_replaced_all_or_none(change, kind, words):
    own = model()
    before = state(own)
    for given in (
        change,
        {"0.weight": np.zeros((3, 4))} | change,
        change | {"1.weight": [[9]] * 4},
    ):
        refused(kind, words, own.set_parameters, given)
        assert state(own) == before


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"2.weight": [[1.0]]}, rv.ArgumentError, r"^gradients: expected .*2\.weight"),
        ({5: [1.0]}, rv.ArgumentError, r"^gradients: expected "),
        ({"1.bias": [[1.0]]}, rv.ShapeError, r"^gradients\['1.bias'\]: .*\(1,\), got \(1, 1\)"),
        ({"0.weight": np.ones((4, 3))}, rv.ShapeError, r"\(3, 4\), got \(4, 3\)"),
        ({"0.bias": None}, rv.DTypeError, r"^gradients\['0.bias'\]: "),
    ],
)
def test_a_refused_step_by_hand_changes_nothing(change, kind, words):
    own, twin, other = model(), model(), model(seed=5)
    gradients = dict(own.value_and_gradient(X, Y, loss="mse")[1])
    optimizer, twins = rv.Adam(), rv.Adam()
    refused(kind, words, optimizer.step, own, gradients | change)
    refused(rv.ArgumentError, "^gradients: expected ", optimizer.step, own, {})
    optimizer.step(other, other.value_and_gradient(X, Y, loss="mse")[1])  # bound by no refusal
    optimizer = rv.Adam()
    for _ in range(3):
        optimizer.step(own, gradients)
        twins.step(twin, gradients)
        before = state(own)
        refused(kind, words, optimizer.step, own, gradients | change)
        refused(rv.ArgumentError, "^model: ", optimizer.step, other, gradients)
        assert state(own) == before
    assert state(own) == state(twin)


def test_a_step_by_hand_with_an_infinite_norm_changes_nothing():
    own, twin = model(dtype="float64"), model(dtype="float64")
    optimizer, twins = rv.Adam(clip_norm=1.0), rv.Adam(clip_norm=1.0)
    gradients = dict(own.value_and_gradient(X, Y, loss="mse")[1])
    for bad in (np.nan, np.inf):
        before = state(own)
        with pytest.raises(rv.DivergedError, match="norm"):
            optimizer.step(own, gradients | {"0.bias": np.full(4, bad)})
        assert state(own) == before
        optimizer.step(own, gradients)
        twins.step(twin, gradients)
        assert state(own) == state(twin)


# ---------------------------------------------------------------- a refused fit


def state(own, trained=None):
    """Everything that a refused call must leave alone, as bytes."""
    found = [(n, v.tobytes()) for n, v in own.parameters().items()] if own.input_size else []
    if trained is not None:
        history = [(key, list(values)) for key, values in trained.history.items()]
        found += [trained.epoch, trained.step, history]
    return found


def spoiled(a, value):
    b = np.array(a, dtype=float)
    b[5] = value
    return b


class Counting(rv.Callback):
    def __init__(self):
        self.begun, self.ended = 0, 0

    def on_train_begin(self, trainer):
        self.begun += 1

    def on_train_end(self, trainer):
        self.ended += 1


NO_FITS = {
    "X": [
        ({"X": X[:, :2]}, rv.ShapeError, "^X: .*3"),
        ({"X": X[:0], "y": Y[:0]}, rv.ShapeError, "^X: .*row"),
        ({"X": spoiled(X, np.nan)}, rv.ArgumentError, "^X: .*row 5"),
        ({"X": None}, rv.DTypeError, "^X: "),
        ({"X": X[0]}, rv.ShapeError, "^X: "),
    ],
    "y": [
        ({"y": Y[:-1]}, rv.ShapeError, "^y: "),
        ({"y": np.column_stack([Y, Y])}, rv.ShapeError, "^y: "),
        ({"y": spoiled(Y, np.inf)}, rv.ArgumentError, "^y: .*row 5"),
        ({"y": None}, rv.DTypeError, "^y: "),
    ],
    "sample_weight": [
        ({"sample_weight": np.zeros(8)}, rv.ArgumentError, "^sample_weight: "),
        ({"sample_weight": -np.ones(8)}, rv.ArgumentError, "^sample_weight: .*row 0"),
        ({"sample_weight": np.ones(7)}, rv.ShapeError, "^sample_weight: "),
    ],
    "validation_data": [
        ({"validation_data": X}, rv.DTypeError, "^validation_data: expected "),
        ({"validation_data": 5}, rv.DTypeError, "^validation_data: expected "),
        ({"validation_data": {}}, rv.DTypeError, "^validation_data: expected "),
        ({"validation_data": ()}, rv.DTypeError, "^validation_data: expected "),
        ({"validation_data": (X,)}, rv.DTypeError, "^validation_data: expected "),
        ({"validation_data": (X, Y, Y, Y)}, rv.DTypeError, "^validation_data: expected "),
        ({"validation_data": (X[:, :2], Y)}, rv.ShapeError, "^validation X: .*3"),
        ({"validation_data": (X, Y[:-1])}, rv.ShapeError, "^validation y: "),
        ({"validation_data": (X[:0], Y[:0])}, rv.ShapeError, "^validation X: .*row"),
        ({"validation_data": (X, None)}, rv.DTypeError, "^validation y: "),
        ({"validation_data": (spoiled(X, 1e300), Y)}, rv.ArgumentError, "^validation X: .*row 5"),
        ({"validation_data": (X, spoiled(Y, np.nan))}, rv.ArgumentError, "^validation y: .*row 5"),
        ({"validation_data": (X, Y, Y * 0)}, rv.ArgumentError, "^validation sample_weight: "),
        ({"validation_data": (X, Y, Y[:-1])}, rv.ShapeError, "^validation sample_weight: "),
    ],
    "options": [
        ({"epochs": 0}, rv.ArgumentError, "^epochs: "),
        ({"epochs": True}, rv.DTypeError, "^epochs: "),
        ({"batch_size": 0}, rv.ArgumentError, "^batch_size: "),
        ({"batch_size": 1.5}, rv.DTypeError, "^batch_size: "),
        ({"shuffle": "no"}, rv.DTypeError, "^shuffle: "),
        ({"callbacks": None}, rv.DTypeError, "^callbacks: expected a list"),
        ({"callbacks": 5}, rv.DTypeError, "^callbacks: expected a list"),
        ({"callbacks": rv.Callback()}, rv.DTypeError, "^callbacks: expected a list"),
        ({"callbacks": rv.Callback}, rv.DTypeError, "^callbacks: expected a list"),
        ({"callbacks": [rv.Callback]}, rv.DTypeError, r"^callbacks\[0\]: expected an object"),
        ({"callbacks": [rv.Callback(), len]}, rv.DTypeError, r"^callbacks\[1\]: "),
        ({"callbacks": "abc"}, rv.DTypeError, r"^callbacks"),
    ],
}
ALL_NO_FITS = [case for cases in NO_FITS.values() for case in cases]


@pytest.mark.parametrize("number", range(len(ALL_NO_FITS)))
def test_a_refused_fit_leaves_everything_as_it_was(number):
    change, kind, words = ALL_NO_FITS[number]
    trained, twin = (rv.Trainer(model(), loss="mse", optimizer="adam") for _ in range(2))
    for each in (trained, twin):
        each.fit(X, Y, epochs=2, batch_size=3)
    before = state(trained.model, trained)
    counting = Counting()
    options = {"X": X, "y": Y, "callbacks": [counting]} | change
    refused(kind, words, trained.fit, options.pop("X"), options.pop("y"), **options)
    assert state(trained.model, trained) == before
    assert counting.begun == counting.ended
    for each in (trained, twin):
        each.fit(X, Y, epochs=2, batch_size=3)
    assert state(trained.model) == state(twin.model)
    assert trained.epoch == twin.epoch == 4


@pytest.mark.parametrize("number", range(len(ALL_NO_FITS)))
def test_a_refused_first_fit_leaves_the_model_unbuilt(number):
    change, _, _ = ALL_NO_FITS[number]
    if change.get("X") is not None and change["X"].shape[1:] == (2,):
        return
    unbuilt = rv.Sequential([rv.Dense(1)])
    trained = rv.Trainer(unbuilt, loss="mse")
    options = {"X": X, "y": Y} | change
    with pytest.raises(rv.RanvierError):
        trained.fit(options.pop("X"), options.pop("y"), **options)
    assert unbuilt.input_size is None
    assert (trained.epoch, trained.step, dict(trained.history)) == (0, 0, {})
    trained.fit(X[:, :2], Y)
    assert unbuilt.input_size == 2


def test_a_refused_evaluation_leaves_everything_as_it_was():
    trained = trainer()
    trained.fit(X, Y)
    before = state(trained.model, trained)
    for call, words in (
        (lambda: trained.evaluate(X, Y[:-1]), "^y: "),
        (lambda: trained.evaluate(X[:, :1], Y), "^X: "),
        (lambda: trained.evaluate(spoiled(X, np.nan), Y), "^X: .*row 5"),
        (lambda: trained.evaluate(X, Y, sample_weight=Y * 0), "^sample_weight: "),
        (lambda: trained.model.predict(X[:, :2]), "^X: "),
        (lambda: trained.model.value_and_gradient(X, Y[1:], loss="mse"), "^y: "),
    ):
        with pytest.raises(rv.RanvierError, match=words):
            call()
    assert state(trained.model, trained) == before


@pytest.mark.parametrize(
    ("loss", "outputs", "y", "words"),
    [
        ("cross_entropy", 1, LABELS, "^loss: .*at least 2 outputs.*binary_cross_entropy"),
        ("gaussian_nll", 3, Y, "^loss: "),
        (losses.Quantile([0.1, 0.5]), 3, Y, "^loss: "),
        (
            losses.BinaryCrossEntropy(pos_weight=[1.0, 2.0]),
            3,
            np.eye(8)[:, :3],
            "^loss: .*pos_weight",
        ),
    ],
)
def test_losses_that_do_not_fit_the_outputs(loss, outputs, y, words):
    own = rv.Sequential([rv.Dense(outputs)], input_size=3)
    refused(rv.ShapeError, words, own.fit, X, y, loss=loss)
    refused(rv.ShapeError, words, own.value_and_gradient, X, y, loss=loss)
    refused(rv.ShapeError, words, rv.Trainer(own, loss=loss).evaluate, X, y)
    with pytest.raises(rv.RanvierError):
        rv.losses.get(loss).value_and_gradient(np.zeros((8, outputs)), y)


def test_unknown_options_are_pythons_own_errors():
    for call in (
        lambda: rv.Dense(1, unit=3),
        lambda: rv.SGD(lr=0.1),
        lambda: rv.SGD(0.1),
        lambda: model().fit(X, Y, loss="mse", epoch=3),
        lambda: model().fit(X, Y),
    ):
        with pytest.raises(TypeError):
            call()


# ---------------------------------------------------------------- what the dtype cannot hold


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_tiny_eps_is_not_rounded_to_zero(dtype):
    """In float32 1e-60 is 0, and 0/0 would be the value of a constant row."""
    for layer in (rv.LayerNorm(eps=1e-60), rv.BatchNorm(eps=1e-60)):
        try:
            own = rv.Sequential([layer, rv.Dense(1)], input_size=3, dtype=dtype)
            history = own.fit(np.ones((4, 3)), np.ones(4), loss="mse")
        except rv.ArgumentError as error:
            assert str(error).startswith("eps: ")  # noqa: PT017
            return
        assert np.isfinite(own.predict(np.ones((2, 3)))).all()
        assert np.isfinite(history["loss"]).all()


@pytest.mark.parametrize(
    "make",
    [
        lambda: rv.Dense(2, weight_init=initializers.Constant(1e300)),
        lambda: rv.Dense(2, bias_init=initializers.Constant(-1e300)),
        lambda: rv.Dense(2, weight_init=initializers.Orthogonal(gain=1e300)),
        lambda: rv.Dense(2, activation=activations.PReLU(1e300)),
    ],
)
def test_a_model_never_starts_with_parameters_that_are_not_finite(make):
    try:
        own = rv.Sequential([make()], input_size=3, dtype="float32")
    except rv.ArgumentError:
        return
    assert all(np.isfinite(v).all() for v in own.parameters().values())


# ---------------------------------------------------------------- memory

MEMORY = """
import resource, sys, warnings
warnings.simplefilter("error")
import numpy as np
import ranvier as rv

with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 20), -1))
own = rv.Sequential([rv.Dense(8, activation="tanh"), rv.Dense(1)], input_size=3)
X, y = np.ones((64, 3)), np.ones(64)
trainer = rv.Trainer(own, loss="mse")
trainer.fit(X, y)
before = [v.tobytes() for v in own.parameters().values()]


class Loss:
    def value_and_gradient(self, output, target, sample_weight=None):
        return 0.0, np.zeros_like(output)


def stretched(rows, columns):
    return np.broadcast_to(np.float32(0), (rows, columns))


def wide(size):
    return rv.Sequential([rv.Dense(size, weight_init="zeros")], input_size=1)


def adam(size):
    # The parameters fit, with moments and copies they do not.
    wide(size).fit(np.ones((1, 1)), np.ones((1, size)), loss="mse")


cases = {
    "units": lambda: rv.Sequential([rv.Dense(2**31)], input_size=1),
    "units and inputs": lambda: rv.Sequential([rv.Dense(2**31)], input_size=2**31),
    "layers": lambda: rv.Sequential([rv.Dense(5_000)] * 3, input_size=5_000),
    "float64": lambda: rv.Sequential([rv.Dense(2**13)], input_size=2**13, dtype="float64"),
    "orthogonal": lambda: rv.Sequential(
        [rv.Dense(2**14, weight_init="orthogonal")], input_size=2**14
    ),
    "many wide layers": lambda: rv.Sequential([rv.LayerNorm()] * 60_000, input_size=2**16),
    "predict": lambda: own.predict(stretched(2**27, 3)),
    "value_and_gradient": lambda: own.value_and_gradient(
        stretched(2**26, 3), np.broadcast_to(0.0, 2**26), loss="mse"
    ),
    "value_and_gradient of a wide layer": lambda: rv.Sequential(
        [rv.Dense(2**12)], input_size=3
    ).value_and_gradient(stretched(2**14, 3), stretched(2**14, 2**12), loss="mse"),
    "fit": lambda: trainer.fit(stretched(2**27, 3), np.broadcast_to(0.0, 2**27)),
    "fit, batch": lambda: rv.Sequential([rv.Dense(2**12)], input_size=3).fit(
        stretched(2**14, 3), stretched(2**14, 2**12), loss="mse", batch_size=2**14
    ),
    "fit, moments": lambda: adam(2**22),
    "copies": lambda: [own.copy() for own in [wide(2**21)] * 20 for _ in range(2)],
    "parameters": lambda: [wide(2**22).parameters() for _ in range(9)],
    "loss": lambda: rv.losses.MSE().value_and_gradient(stretched(2**26, 1), stretched(2**26, 1)),
    "custom loss": lambda: rv.Sequential([rv.Dense(2**12)], input_size=3).fit(
        stretched(2**14, 3), stretched(2**14, 2**12), loss=Loss(), batch_size=2**14
    ),
    "conversion": lambda: own.predict(np.broadcast_to(np.float16(0), (2**26, 3))),
}
for name, case in cases.items():
    try:
        case()
    except rv.OutOfMemoryError as error:
        assert isinstance(error, MemoryError), name
        assert not any(word in str(error) for word in ("Rust", "panic")), error
    except BaseException as error:
        sys.exit(f"{name}: {type(error).__name__}: {error}")
    else:
        sys.exit(f"{name}: not refused")
    assert [v.tobytes() for v in own.parameters().values()] == before, name
    assert (trainer.epoch, trainer.step) == (1, 2), name
trainer.fit(X, y)
assert np.isfinite(own.predict(X)).all()
print("alive")
"""


def test_refused_memory_is_an_error_and_the_process_lives():
    command = [sys.executable, "-c", textwrap.dedent(MEMORY)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == "alive", done.stderr[-2000:]


SWEEP = """
import resource
import numpy as np
import ranvier as rv

rv.set_num_threads(2)
X, y = np.ones((256, 3), np.float32), np.ones(256, np.float32)
layers = [rv.Dense(1000, activation="tanh"), rv.Dense(1000), rv.Dense(1)]
model = rv.Sequential(layers, input_size=3)
trainer = rv.Trainer(model, loss="mse")
before = [v.tobytes() for v in model.parameters().values()]
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
refusals = 0
for extra in range(0, 80 << 20, 1 << 20):
    resource.setrlimit(resource.RLIMIT_AS, (used + extra, -1))
    try:
        trainer.fit(X, y, batch_size=128)
    except rv.OutOfMemoryError:
        refusals += 1
        resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
        assert [v.tobytes() for v in model.parameters().values()] == before
        assert (trainer.epoch, trainer.step, dict(trainer.history)) == (0, 0, {})
    else:
        break
resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
assert trainer.step == 2
twin = rv.Sequential(model.layers, input_size=3)
rv.Trainer(twin, loss="mse").fit(X, y, batch_size=128)
for a, b in zip(model.parameters().values(), twin.parameters().values()):
    assert a.tobytes() == b.tobytes()
print(refusals)
"""


def test_a_fit_under_any_limit_of_memory_is_refused_or_right():
    """Every limit from nothing to enough: an error that changes nothing, or the same bits."""
    command = [sys.executable, "-c", textwrap.dedent(SWEEP)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) >= 5
