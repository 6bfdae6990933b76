"""Optimisers: the equations of every dialect, their defaults, clipping, and what they refuse.

`CASES` is the one table of optimisers and options; core and reference both walk all of it.
"""

import json
import math
from pathlib import Path

import numpy as np
import pytest

import ranvier as rv
from conftest import TOLERANCE, error, reference_of
from ranvier import reference

GOLDEN = json.loads(
    Path(__file__).with_name("data").joinpath("optimizers.json").read_text(encoding="utf-8")
)
START = GOLDEN["theta"]
CURVATURE = GOLDEN["a"]
STEPS = 200

TORCH = [
    ("SGD", {}),
    ("SGD", {"momentum": 0.9}),
    ("SGD", {"momentum": 0.9, "dampening": 0.3}),
    ("SGD", {"momentum": 0.9, "dampening": 1.0}),
    ("SGD", {"momentum": 0.9, "nesterov": True}),
    ("SGD", {"momentum": 0.8, "weight_decay": 0.1, "nesterov": True}),
    ("SGD", {"learning_rate": 0.05, "clip_norm": 0.5}),
    ("SGD", {"learning_rate": 0.05, "clip_value": 0.25, "weight_decay": 0.1}),
    ("Adam", {}),
    ("Adam", {"learning_rate": 0.03, "beta1": 0.0, "beta2": 0.9}),
    ("Adam", {"learning_rate": 0.03, "beta1": 0.8, "beta2": 0.0, "eps": 1e-3}),
    ("Adam", {"learning_rate": 0.03, "amsgrad": True, "beta2": 0.9}),
    ("Adam", {"learning_rate": 0.03, "weight_decay": 0.1}),
    ("Adam", {"learning_rate": 0.03, "weight_decay": 0.1, "clip_norm": 1.0}),
    ("Adam", {"learning_rate": 0.03, "clip_value": 0.1}),
    ("AdamW", {}),
    ("AdamW", {"learning_rate": 0.03, "weight_decay": 0.1}),
    ("AdamW", {"learning_rate": 0.03, "weight_decay": 0.0}),
    ("AdamW", {"learning_rate": 0.03, "amsgrad": True, "beta2": 0.9, "clip_norm": 1.0}),
]
# What the other dialects define of it; they allow Nesterov's rule without momentum too.
KERAS = [
    *[(name, options) for name, options in TORCH if "dampening" not in options],
    ("SGD", {"nesterov": True}),
]
SKLEARN = [
    *[
        (name, options)
        for name, options in KERAS
        if name != "AdamW" and not {"weight_decay", "amsgrad"} & set(options)
    ],
    ("SGD", {"momentum": 0.9, "nesterov": False}),
    ("SGD", {"momentum": 0.0}),
]
CASES = [
    (name, {**options, "dialect": dialect})
    for dialect, table in (("torch", TORCH), ("keras", KERAS), ("sklearn", SKLEARN))
    for name, options in table
]


def label(case):
    name, options = case
    shown = [f"{key}={value}" for key, value in options.items() if key != "dialect"]
    return "-".join([options["dialect"], name, *shown])


every_case = pytest.mark.parametrize("case", CASES, ids=label)


def gradient(t, theta):
    """The gradient of the golden table at step t, in the precision of `theta`."""
    i = np.arange(6)
    g = np.array(CURVATURE) * theta + 0.3 * np.sin(0.7 * t * (i + 1))
    if 50 <= t <= 120:
        g[4] = 0.0
    return g


def six_parameters(theta=START, dtype="float64"):
    """A model whose parameters are these six numbers: a (2, 2) weight and a bias of 2."""
    model = rv.Sequential([rv.Dense(2)], input_size=2, dtype=dtype)
    model.set_parameters(named(theta))
    return model


def named(values):
    values = np.asarray(values)
    return {"0.weight": values[:4].reshape(2, 2), "0.bias": values[4:]}


def theta_of(model):
    """The six numbers."""
    parameters = model.parameters()
    return np.concatenate([np.ravel(parameters[name]) for name in ("0.weight", "0.bias")])


def walk(optimizer, model, steps=STEPS):
    """θ after each step; core and reference take the same calls."""
    plain = isinstance(model, reference.Sequential)
    trajectory = []
    for t in range(1, steps + 1):
        gradients = named(gradient(t, theta_of(model)))
        if plain:
            gradients = {name: value.tolist() for name, value in gradients.items()}
        optimizer.step(model, gradients)
        trajectory.append(theta_of(model))
    return np.array(trajectory, dtype=np.float64)


def relative(walked, expected):
    """Difference at each step over the largest value that each parameter has had by then."""
    scale = np.maximum.accumulate(np.abs(np.vstack([START, expected])), axis=0)[1:]
    return np.abs(walked - expected) / scale


def make(case, module=rv):
    name, options = case
    return getattr(module, name)(**options)


# ---------------------------------------------------------------- the equations


@every_case
def test_core_and_reference_walk_together(case):
    walked = walk(make(case), six_parameters())
    expected = walk(make(case, reference), reference_of(six_parameters()))
    assert np.isfinite(walked).all()
    assert relative(walked, expected).max() <= TOLERANCE["float64"]
    # It did move: a step that does nothing would agree as well.
    assert np.abs(walked[-1] - START).min() > 0.0


# With beta2 = 0 a step is m/|g|: where g passes near 0, rounding decides how far it goes.
@pytest.mark.parametrize("case", [c for c in CASES if c[1].get("beta2") != 0.0], ids=label)
def test_float32_follows_float64(case):
    exact = walk(make(case), six_parameters())
    rounded = walk(make(case), six_parameters(dtype="float32"))
    steps = np.arange(1, STEPS + 1)[:, np.newaxis]
    assert (relative(rounded, exact) <= TOLERANCE["float32"] * steps).all()


@pytest.mark.parametrize(
    "entry", GOLDEN["entries"], ids=lambda e: label((e["optimizer"], e["options"]))
)
def test_the_frameworks_own_trajectories(entry):
    walked = walk(getattr(rv, entry["optimizer"])(**entry["options"]), six_parameters())
    steps = [int(step) for step in entry["trajectory"]]
    assert steps == [1, 2, 3, 5, 10, 50, 100, 200]
    recorded = np.array(list(entry["trajectory"].values()))
    scale = np.maximum.accumulate(np.abs(np.vstack([START, walked])), axis=0)[steps]
    assert (np.abs(walked[np.array(steps) - 1] - recorded) <= TOLERANCE["float64"] * scale).all()


def test_the_golden_table_is_whole():
    assert len(GOLDEN["entries"]) == 42
    combinations = {(e["framework"], e["optimizer"]) for e in GOLDEN["entries"]}
    assert len(combinations) == 8  # AdamW is not in scikit-learn


def one_step(optimizer, theta, g, dtype="float64"):
    model = six_parameters(theta, dtype)
    optimizer.step(model, named(g))
    return theta_of(model)


def test_first_steps_worked_by_hand():
    theta, g = np.full(6, 2.0), np.full(6, 4.0)
    # SGD: 2 - 0.1·4 = 1.6; decay coupled: g = 4 + 0.5·2 = 5, 2 - 0.5 = 1.5.
    assert one_step(rv.SGD(learning_rate=0.1), theta, g) == pytest.approx(1.6, rel=1e-15)
    assert one_step(rv.SGD(learning_rate=0.1, weight_decay=0.5), theta, g) == pytest.approx(
        1.5, rel=1e-15
    )
    # Keras decouples: 2 - 0.1·0.5·2 = 1.9, then 1.9 - 0.4 = 1.5; Adam there: 1.9 - 0.1 = 1.8.
    keras = {"learning_rate": 0.1, "weight_decay": 0.5, "dialect": "keras"}
    assert one_step(rv.SGD(**keras), theta, g) == pytest.approx(1.5, rel=1e-15)
    assert one_step(rv.Adam(**keras), theta, g) == pytest.approx(1.8, rel=1e-7)
    # Adam's first step is γ·sign(g): both moments are corrected to g and g². With ε = 4,
    # 2 - 0.1·4/(4 + 4) = 1.95. ε̂ joins √v = √(0.001·16) uncorrected: rate 0.1·√0.001/0.1,
    # m = 0.4: 2 - √0.001·0.4/(√0.016 + 4).
    adam = {"learning_rate": 0.1, "eps": 4.0}
    assert one_step(rv.Adam(**adam), theta, g) == pytest.approx(1.95, rel=1e-14)
    hat = 2 - math.sqrt(0.001) * 0.4 / (math.sqrt(0.016) + 4)
    for dialect in ("keras", "sklearn"):
        assert one_step(rv.Adam(**adam, dialect=dialect), theta, g) == pytest.approx(hat, rel=1e-14)
    # AdamW: 2·(1 - 0.1·0.5) = 1.9, then -0.1·4/(4 + 4) = 1.85.
    assert one_step(rv.AdamW(**adam, weight_decay=0.5), theta, g) == pytest.approx(1.85, rel=1e-14)


def test_second_steps_worked_by_hand():
    def two(optimizer):
        model = six_parameters([0.0] * 6)
        for g in (1.0, 3.0):
            optimizer.step(model, named(np.full(6, g)))
        return theta_of(model)

    # γ = 1, μ = ½. torch: b = 1, then ½ + 3 = 3.5: -4.5; with τ = ½ b = ½ + 1.5 = 2: -3.
    # Nesterov: -(1 + ½) - (3 + ½·3.5) = -6.25, in all dialects while the rate is constant.
    half = {"learning_rate": 1.0, "momentum": 0.5}
    assert two(rv.SGD(**half)).tolist() == [-4.5] * 6
    assert two(rv.SGD(**half, dampening=0.5)).tolist() == [-3.0] * 6
    for dialect in ("torch", "keras", "sklearn"):
        assert two(rv.SGD(**half, nesterov=False, dialect=dialect)).tolist() == [-4.5] * 6
        assert two(rv.SGD(**half, nesterov=True, dialect=dialect)).tolist() == [-6.25] * 6


def test_adams_second_moment_does_not_overflow_in_float32():
    # g² is above the largest float32 from 1.8e19 on; ((1 - β2)·g)·g holds out 31 times longer.
    theta = one_step(rv.Adam(learning_rate=0.5), [1.0] * 6, [5e20, -5e20] * 3, "float32")
    assert theta == pytest.approx([0.5, 1.5] * 3, rel=1e-5)


# ---------------------------------------------------------------- defaults

DEFAULTS = {
    ("SGD", "torch"): {"learning_rate": 0.01, "momentum": 0.0, "nesterov": False},
    ("SGD", "keras"): {"learning_rate": 0.01, "momentum": 0.0, "nesterov": False},
    ("SGD", "sklearn"): {"learning_rate": 0.001, "momentum": 0.9, "nesterov": True},
    ("Adam", "torch"): {"learning_rate": 0.001, "eps": 1e-8, "weight_decay": 0.0},
    ("Adam", "keras"): {"learning_rate": 0.001, "eps": 1e-7, "weight_decay": 0.0},
    ("Adam", "sklearn"): {"learning_rate": 0.001, "eps": 1e-8, "weight_decay": 0.0},
    ("AdamW", "torch"): {"learning_rate": 0.001, "eps": 1e-8, "weight_decay": 0.01},
    ("AdamW", "keras"): {"learning_rate": 0.001, "eps": 1e-7, "weight_decay": 0.004},
}
COMMON = {"SGD": {"dampening": 0.0, "weight_decay": 0.0}}
BETAS = {"beta1": 0.9, "beta2": 0.999, "amsgrad": False}


@pytest.mark.parametrize(("name", "dialect"), DEFAULTS)
def test_defaults_are_those_of_the_dialect_in_core_and_reference(name, dialect):
    table = DEFAULTS[name, dialect] | COMMON.get(name, BETAS)
    theirs = getattr(reference, name)(dialect=dialect)
    assert {option: getattr(theirs, option) for option in table} == table
    ours = getattr(rv, name)
    by_default = walk(ours(dialect=dialect), six_parameters(), 20)
    spelled_out = walk(ours(dialect=dialect, **table), six_parameters(), 20)
    np.testing.assert_array_equal(by_default, spelled_out)


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_torch_is_the_default_dialect(name):
    kind = getattr(rv, name)
    assert kind() == kind(dialect="torch")
    assert repr(kind()) == f"{name}()"


@pytest.mark.parametrize(
    ("name", "kind"), [("sgd", rv.SGD), ("adam", rv.Adam), ("adamw", rv.AdamW)]
)
def test_a_name_means_the_defaults(name, kind, rng):
    X, y = rng.normal(size=(8, 2)), rng.normal(size=(8, 2))
    models = [six_parameters(), six_parameters()]
    for model, optimizer in zip(models, (name, kind()), strict=True):
        model.fit(X, y, loss="mse", optimizer=optimizer, epochs=3)
    np.testing.assert_array_equal(theta_of(models[0]), theta_of(models[1]))


# ---------------------------------------------------------------- clipping


def test_clip_norm_takes_all_parameters_together():
    # The norm of (3, 0, 0, 0, 0, 4) over weight and bias is 5: the factor is 2/(5 + 1e-6).
    g = np.array([3.0, 0.0, 0.0, 0.0, 0.0, 4.0])
    theta = one_step(rv.SGD(learning_rate=1.0, clip_norm=2.0), np.zeros(6), g)
    assert theta == pytest.approx(-g * 2 / (5 + 1e-6), rel=1e-15)
    # A shorter gradient stays as it is, to the bit.
    theta = one_step(rv.SGD(learning_rate=1.0, clip_norm=5.1), np.zeros(6), g)
    assert theta.tolist() == (-g).tolist()


def test_clip_value_clamps_each_element():
    g = np.array([3.0, -3.0, 0.5, -0.5, 1.0, 0.0])
    theta = one_step(rv.SGD(learning_rate=1.0, clip_value=1.0), np.zeros(6), g)
    assert theta.tolist() == [-1.0, 1.0, -0.5, 0.5, -1.0, 0.0]


def test_the_norm_is_accumulated_in_float64():
    # Squares of 1e30 overflow float32, their norm does not.
    g = np.full(6, 1e30)
    theta = one_step(rv.SGD(learning_rate=1.0, clip_norm=1.0), np.zeros(6), g, "float32")
    assert theta == pytest.approx(np.full(6, -1 / math.sqrt(6)), rel=1e-6)


def test_clipping_comes_before_decay_and_decay_before_the_update():
    # Clip 4 to 1, then g = 1 + 0.5·2 = 2: 2 - 0.1·2 = 1.8. Clipped last it would be 1.9.
    optimizer = rv.SGD(learning_rate=0.1, weight_decay=0.5, clip_value=1.0)
    assert one_step(optimizer, [2.0] * 6, [4.0] * 6) == pytest.approx(1.8, rel=1e-15)


# ---------------------------------------------------------------- what is refused

NAN, INF = math.nan, math.inf
NUMBERS = {
    "learning_rate": [0, 0.0, -0.1, NAN, INF],
    "weight_decay": [-0.1, NAN, INF],
    "clip_norm": [0.0, -1.0, NAN, INF],
    "clip_value": [0.0, -1.0, NAN, INF],
    "momentum": [1.0, -0.1, 1.5, NAN, INF],
    "dampening": [-0.1, 1.1, NAN],
    "beta1": [1.0, -0.1, 1.5, NAN],
    "beta2": [1.0, -0.1, 1.5, NAN],
    "eps": [0.0, -1e-8, NAN, INF],
    "dialect": ["jax", "Torch", "", None],
}
OF_SGD = {"momentum", "dampening"}
OF_ADAM = {"beta1", "beta2", "eps"}
BAD_VALUES = [
    (name, option, value)
    for option, values in NUMBERS.items()
    for name in ("SGD", "Adam", "AdamW")
    if not (option in OF_SGD and name != "SGD") and not (option in OF_ADAM and name == "SGD")
    for value in values
]


@pytest.mark.parametrize(("name", "option", "value"), BAD_VALUES)
def test_a_value_out_of_range_is_refused_by_its_name(name, option, value):
    with pytest.raises(rv.ArgumentError, match=rf"^{option}: expected .* got "):
        getattr(rv, name)(**{option: value})


NOT_NUMBERS = [
    (name, option, value)
    for name, options in (
        ("SGD", ["learning_rate", "momentum", "dampening", "nesterov", "clip_norm"]),
        ("Adam", ["weight_decay", "beta1", "beta2", "eps", "amsgrad", "clip_value"]),
    )
    for option in options
    for value in (["0.1", [0.1], True] if option not in ("nesterov", "amsgrad") else ["yes", 0.5])
]


@pytest.mark.parametrize(("name", "option", "value"), NOT_NUMBERS)
def test_a_value_of_the_wrong_type_is_refused_by_its_name(name, option, value):
    with pytest.raises(rv.DTypeError, match=rf"^{option}: expected .* got "):
        getattr(rv, name)(**{option: value})


COMBINATIONS = [
    ("nesterov", rv.SGD, {"nesterov": True}),
    ("nesterov", rv.SGD, {"nesterov": True, "momentum": 0.0}),
    ("nesterov", rv.SGD, {"nesterov": True, "momentum": 0.9, "dampening": 0.1}),
    ("dampening", rv.SGD, {"momentum": 0.9, "dampening": 0.1, "dialect": "keras"}),
    ("dampening", rv.SGD, {"momentum": 0.9, "dampening": 0.1, "dialect": "sklearn"}),
    ("weight_decay", rv.SGD, {"weight_decay": 0.1, "dialect": "sklearn"}),
    ("weight_decay", rv.Adam, {"weight_decay": 0.1, "dialect": "sklearn"}),
    ("dialect", rv.Adam, {"amsgrad": True, "dialect": "sklearn"}),
    # weight_decay was not given here: the dialect is what does not fit.
    ("dialect", rv.AdamW, {"dialect": "sklearn"}),
    ("dialect", rv.AdamW, {"dialect": "sklearn", "weight_decay": 0.0}),
    ("clip_norm and clip_value", rv.SGD, {"clip_norm": 1.0, "clip_value": 1.0}),
    ("clip_norm and clip_value", rv.Adam, {"clip_norm": 1.0, "clip_value": 1.0}),
]


@pytest.mark.parametrize(("argument", "kind", "options"), COMBINATIONS)
def test_a_combination_that_the_dialect_lacks_is_refused(argument, kind, options):
    with pytest.raises(rv.ArgumentError, match=rf"^{argument}: expected .* got ") as caught:
        kind(**options)
    assert isinstance(caught.value, ValueError)
    with pytest.raises(ValueError, match="the optimizer needs"):
        getattr(reference, kind.__name__)(**options)


def test_options_are_keywords_only():
    for kind in (rv.SGD, rv.Adam, rv.AdamW):
        with pytest.raises(TypeError):
            kind(0.1)


def test_an_unknown_optimizer_is_refused():
    model = six_parameters()
    with pytest.raises(rv.ArgumentError, match=r"^optimizer: expected one of sgd, .* got 'lion'"):
        rv.Trainer(model, loss="mse", optimizer="lion")
    with pytest.raises(rv.DTypeError, match=r"^optimizer: expected a name or an object"):
        rv.Trainer(model, loss="mse", optimizer=rv.Adam)


# ---------------------------------------------------------------- gradients and models

GOOD = named(np.ones(6))
BAD_GRADIENTS = [
    (rv.ArgumentError, "gradients: expected exactly", {"0.weight": GOOD["0.weight"]}),
    (rv.ArgumentError, "gradients: expected exactly", {}),
    (rv.ArgumentError, "gradients: expected exactly", {**GOOD, "1.weight": np.ones(2)}),
    (rv.ShapeError, r"gradients\['0.bias'\]: expected shape", {**GOOD, "0.bias": np.ones(3)}),
    (rv.ShapeError, r"gradients\['0.bias'\]: expected shape", {**GOOD, "0.bias": np.ones((1, 2))}),
    (rv.ShapeError, r"gradients\['0.weight'\]: exp", {**GOOD, "0.weight": np.ones(4)}),
    (rv.DTypeError, r"gradients\['0.bias'\]: expected real", {**GOOD, "0.bias": ["a", "b"]}),
]


@pytest.mark.parametrize(("kind", "message", "gradients"), BAD_GRADIENTS)
@pytest.mark.parametrize("when", ["first", "later"])
def test_gradients_that_do_not_fit_change_nothing(kind, message, gradients, when):
    optimizer, model = rv.Adam(learning_rate=0.1), six_parameters()
    untouched, twin = rv.Adam(learning_rate=0.1), six_parameters()
    if when == "later":
        optimizer.step(model, GOOD)
        untouched.step(twin, GOOD)
    with pytest.raises(kind, match=f"^{message}"):
        optimizer.step(model, gradients)
    np.testing.assert_array_equal(theta_of(model), theta_of(twin))
    # Nor were moments or the step counter touched: the next step is that of the twin.
    optimizer.step(model, named(np.arange(6.0)))
    untouched.step(twin, named(np.arange(6.0)))
    np.testing.assert_array_equal(theta_of(model), theta_of(twin))


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_norm_that_is_not_finite_changes_nothing(bad, dtype):
    def start():
        return rv.Adam(learning_rate=0.1, clip_norm=1.0), six_parameters(dtype=dtype)

    (optimizer, model), (untouched, twin) = start(), start()
    optimizer.step(model, GOOD)
    untouched.step(twin, GOOD)
    with pytest.raises(rv.DivergedError, match="gradient is not finite") as caught:
        optimizer.step(model, {**GOOD, "0.bias": np.array([1.0, bad])})
    assert isinstance(caught.value, ArithmeticError)
    np.testing.assert_array_equal(theta_of(model), theta_of(twin))
    optimizer.step(model, named(np.arange(6.0)))
    untouched.step(twin, named(np.arange(6.0)))
    np.testing.assert_array_equal(theta_of(model), theta_of(twin))


def test_an_optimizer_keeps_to_its_first_model():
    optimizer, model, other = rv.Adam(), six_parameters(), six_parameters()
    optimizer.step(model, GOOD)
    before = theta_of(other)
    with pytest.raises(rv.ArgumentError, match=r"^model: .*one optimizer for each model"):
        optimizer.step(other, GOOD)
    np.testing.assert_array_equal(theta_of(other), before)
    optimizer.step(model, GOOD)  # its own model still serves
    with pytest.raises(rv.ArgumentError, match=r"^model: "):
        optimizer.step(model.copy(), GOOD)
    optimizer.copy().step(other, GOOD)  # a copy has no moments and no model


def test_an_optimizer_needs_a_model_that_knows_its_input():
    with pytest.raises(rv.NotFittedError, match="input_size"):
        rv.SGD().step(rv.Sequential([rv.Dense(2)]), GOOD)


def test_a_copy_starts_anew():
    optimizer = rv.Adam(learning_rate=0.1, beta1=0.5)
    first = walk(optimizer, six_parameters(), 10)
    again = walk(optimizer.copy(), six_parameters(), 10)
    np.testing.assert_array_equal(first, again)
    assert optimizer.copy() == optimizer


def test_gradients_may_be_lists_of_any_real_type():
    expected = one_step(rv.Adam(), START, np.arange(6.0))
    lists = {"0.weight": [[0, 1], [2, 3]], "0.bias": np.array([4, 5], dtype=np.int8)}
    model = six_parameters()
    rv.Adam().step(model, lists)
    np.testing.assert_array_equal(theta_of(model), expected)
    fortran = {"0.weight": np.asfortranarray([[0.0, 1.0], [2.0, 3.0]]), "0.bias": lists["0.bias"]}
    model = six_parameters()
    rv.Adam().step(model, fortran)
    np.testing.assert_array_equal(theta_of(model), expected)


def test_prelus_slope_is_a_number_and_running_statistics_are_no_parameters():
    layers = [rv.Dense(2, activation="prelu"), rv.BatchNorm()]
    model = rv.Sequential(layers, input_size=1, dtype="float64")
    X, y = [[1.0], [-2.0], [3.0]], np.zeros((3, 2))
    _, gradients = model.value_and_gradient(X, y, loss="mse", training=True)
    assert gradients["0.slope"].shape == ()
    before = model.parameters()
    rv.SGD(learning_rate=0.5).step(model, gradients)
    for name, value in model.parameters().items():
        expected = before[name] - 0.5 * gradients[name] if name in gradients else before[name]
        np.testing.assert_allclose(value, expected, rtol=1e-15, atol=1e-300, err_msg=name)


# ---------------------------------------------------------------- counting and ageing


def test_the_step_counter_counts_complete_steps_over_all_fits(rng):
    X, y = rng.normal(size=(10, 2)), rng.normal(size=(10, 2))
    trainer = rv.Trainer(six_parameters(), loss="mse", optimizer="adam")
    assert (trainer.epoch, trainer.step) == (0, 0)
    history = trainer.fit(X, y, epochs=2, batch_size=4)  # batches of 4, 4 and 2
    assert (trainer.epoch, trainer.step) == (2, 6)
    trainer.fit(X, y, epochs=1, batch_size=10)
    assert (trainer.epoch, trainer.step) == (3, 7)
    assert history["step"] == [3, 6, 7]


def test_adams_correction_counts_the_steps():
    # Under a constant gradient both corrected moments stay g and g²: every step is γ exactly. An
    # uncorrected or miscounted one is not.
    optimizer, model = rv.Adam(learning_rate=0.125, eps=1e-30), six_parameters(np.zeros(6))
    for t in range(1, 1001):
        optimizer.step(model, named(np.full(6, 3.0)))
        if t in (1, 2, 10, 1000):
            assert theta_of(model) == pytest.approx(np.full(6, -0.125 * t), rel=1e-12)


@every_case
def test_a_fit_takes_the_steps_of_ones_own_loop(case, rng):
    X, y = rng.normal(size=(8, 2)), rng.normal(size=(8, 2))
    model, twin = six_parameters(), six_parameters()
    trainer = rv.Trainer(model, loss="mse", optimizer=make(case))
    trainer.fit(X, y, epochs=5, batch_size=8, shuffle=False)
    optimizer = make(case)
    for _ in range(5):
        _, gradients = twin.value_and_gradient(X, y, loss="mse", training=True)
        optimizer.step(twin, gradients)
    assert error(theta_of(model), theta_of(twin)) <= 1e-15


def test_a_trainer_leaves_the_moments_of_its_optimizer_alone(rng):
    X, y = rng.normal(size=(8, 2)), rng.normal(size=(8, 2))
    optimizer = rv.Adam(learning_rate=0.1)
    first = walk(optimizer, six_parameters(), 1)
    for _ in range(2):  # either fit starts from fresh moments
        model = six_parameters()
        model.fit(X, y, loss="mse", optimizer=optimizer, epochs=3)
        expected = six_parameters()
        expected.fit(X, y, loss="mse", optimizer=rv.Adam(learning_rate=0.1), epochs=3)
        np.testing.assert_array_equal(theta_of(model), theta_of(expected))
    np.testing.assert_array_equal(walk(optimizer.copy(), six_parameters(), 1), first)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "optimizer",
    [
        rv.SGD(learning_rate=1.0, momentum=0.9),
        rv.SGD(learning_rate=1.0, momentum=0.9, dialect="keras"),
        rv.Adam(learning_rate=1.0, beta2=0.5, eps=1.0),
        rv.Adam(learning_rate=1.0, beta2=0.5, eps=1.0, dialect="keras"),
    ],
    ids=repr,
)
def test_moments_decay_to_exactly_zero_and_never_to_denormal_numbers(optimizer, dtype):
    optimizer, zero = optimizer.copy(), np.zeros(6)
    model = six_parameters(zero, dtype)

    def move(g):
        """What a step adds to parameters that are 0: the first moment, times 0.9 or so."""
        model.set_parameters(named(zero))
        optimizer.step(model, named(np.full(6, g)))
        return np.abs(theta_of(model)).max()

    smallest = float(np.finfo(dtype).tiny)
    moves = [move(1.0)]
    steps = int(math.log(smallest) / math.log(0.9)) + 100
    moves += [move(0.0) for _ in range(steps)]
    # 0.9^steps is a denormal number, which without care would stay one for ever.
    assert 0.0 < np.dtype(dtype).type(0.9**steps) < smallest
    assert moves[-1] == 0.0
    last = max(index for index, size in enumerate(moves) if size > 0.0)
    assert moves[last] > 0.5 * smallest
    assert steps - 150 < last


def test_a_gradient_of_zero_leaves_a_fresh_model_where_it_is():
    for name, options in CASES:
        if not options.get("weight_decay") and name != "AdamW":
            theta = one_step(getattr(rv, name)(**options), START, np.zeros(6))
            assert theta.tolist() == START


@pytest.mark.parametrize("optimizer", [rv.SGD(), rv.Adam()], ids=repr)
def test_a_gradient_that_is_not_finite_never_reaches_the_parameters(optimizer):
    optimizer, model = optimizer.copy(), six_parameters()
    before = theta_of(model)
    with pytest.raises(rv.DivergedError, match="a gradient is not finite"):
        optimizer.step(model, {**GOOD, "0.bias": np.array([1.0, np.nan])})
    np.testing.assert_array_equal(theta_of(model), before)


def test_options_are_fixed_so_that_no_change_is_ignored():
    optimizer = rv.Adam(learning_rate=0.1)
    with pytest.raises(AttributeError):
        optimizer.learning_rate = 0.2
    assert optimizer.copy() == optimizer
