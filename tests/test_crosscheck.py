"""Core against reference: whole trainings through `rv.crosscheck`, and what both draw from a seed.

Hypothesis composes networks, losses, optimisers and batches. What the tests leave out, and why:

- Elements whose true value is 0, such as the gradient of a bias in front of BatchNorm: they hold
  rounding alone, which a relative error cannot judge. So biases start away from 0 here.
- Adam with a small ε where a gradient is nothing but rounding: m/√v makes a whole step of it.
  Networks with a normalisation, which cancels, and float32 take an ε of 1e-3 or more; float32 with
  BatchNorm takes SGD.
- Normalising what is almost constant: the error grows by 1/√(var + eps), and the variance itself
  may be rounding alone. So eps is 0.1, and the running statistics never forget where they began.
- Kinks within rounding of an input, which can fall on either side. In float64 chance does not find
  them; in float32 the drawn networks are smooth, and kinks are tested on data that avoid them.
"""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

import ranvier as rv
from conftest import LOSSES, TOLERANCE, Follow, as_reference, error
from ranvier import _core, reference
from ranvier.initializers import (
    Constant,
    GlorotNormal,
    HeNormal,
    LecunNormal,
    Orthogonal,
)

DTYPES = ["float32", "float64"]

# ---------------------------------------------------------------- drawing trainings

SMOOTH = [
    "identity",
    "sigmoid",
    "tanh",
    "gelu",
    "gelu_tanh",
    "silu",
    "softplus",
    "mish",
    "softmax",
]
KINKED = [
    "relu",
    "leaky_relu",
    "elu",
    "selu",
    "hard_sigmoid",
    "hard_swish",
    "prelu",
    rv.activations.LeakyReLU(slope=0.3),
    rv.activations.ELU(alpha=0.5),
    rv.activations.PReLU(slope=0.1),
]
SMOOTH_LOSSES = [name for name, case in LOSSES.items() if not case.kink]


def test_the_two_lists_of_activations_are_complete():
    named = {name for name in SMOOTH + KINKED if isinstance(name, str)}
    assert named == set(_core.names("activation"))


def activations(kinks):
    return st.sampled_from(SMOOTH + KINKED if kinks else SMOOTH)


@st.composite
def stacks(draw, kinks, least):
    """Hidden layers: up to 4 Dense ones, `least` to 40 units wide, with anything in between."""
    layers = []
    for _ in range(draw(st.integers(0, 4))):
        units = draw(st.integers(least, 40))
        dense = rv.Dense(units, draw(activations(kinks)), use_bias=draw(st.booleans()))
        layers.append(dense)
        extra = draw(
            st.sampled_from(["none", "none", "dropout", "noise", "layer", "batch", "act", "soft"])
        )
        match extra:
            case "dropout":
                layers.append(rv.Dropout(draw(st.sampled_from([0.0, 0.1, 0.5, 0.9]))))
            case "noise":
                layers.append(rv.GaussianNoise(draw(st.sampled_from([0.0, 0.1, 0.5]))))
            case "layer":
                layers.append(rv.LayerNorm(eps=0.1))
            case "batch":
                momentum = draw(st.sampled_from([0.1, 0.5]))
                layers.append(rv.BatchNorm(momentum=momentum, eps=0.1))
            case "act":
                layers.append(rv.Activation(draw(activations(kinks))))
            case "soft":
                layers.append(rv.Softmax())
    return layers


def holds(layers, *kinds):
    return any(isinstance(layer, kinds) for layer in layers)


def usable_eps(layers, dtype):
    """Adam's ε for a network; none where rounding could reach any of them."""
    double, batch_norm = dtype == "float64", holds(layers, rv.BatchNorm)
    if double and not holds(layers, rv.BatchNorm, rv.LayerNorm):
        return [None, 1e-6, 1e-3]
    return [1e-3, 0.1] if double or not batch_norm else []


@st.composite
def optimizers(draw, epsilons):
    """Any optimiser with any options that its dialect defines; SGD alone if there is no ε."""
    dialect = draw(st.sampled_from(["torch", "keras", "sklearn"]))
    kinds = [rv.SGD, *([rv.Adam] if epsilons else [])]
    kinds += [rv.AdamW] if epsilons and dialect != "sklearn" else []
    kind = draw(st.sampled_from(kinds))
    options = {"dialect": dialect, "learning_rate": draw(st.sampled_from([1e-3, 1e-2]))}
    if dialect != "sklearn":
        options["weight_decay"] = draw(st.sampled_from([None, 0.0, 0.1]))
    clip = draw(st.sampled_from([None, "clip_norm", "clip_value"]))
    if clip:
        options[clip] = draw(st.sampled_from([0.01, 0.5, 100.0]))
    if kind is rv.SGD:
        options["momentum"] = draw(st.sampled_from([None, 0.0, 0.9]))
        if dialect != "torch" or options["momentum"]:
            options["nesterov"] = draw(st.sampled_from([None, False, True]))
        if dialect == "torch" and not options.get("nesterov"):
            options["dampening"] = draw(st.sampled_from([0.0, 0.3]))
        return kind(**options)
    options["eps"] = draw(st.sampled_from(epsilons))
    options["beta1"] = draw(st.sampled_from([0.0, 0.9]))
    options["beta2"] = draw(st.sampled_from([0.5, 0.999]))
    if dialect != "sklearn":
        options["amsgrad"] = draw(st.booleans())
    return kind(**options)


def sensible(model, rng):
    """Biases, norms and running statistics away from the 0 and 1 that they start from."""
    moved = {
        name: rng.uniform(0.5, 1.5, size=value.shape) * rng.choice([-1.0, 1.0], size=value.shape)
        if name.endswith(("bias", "mean"))
        else rng.uniform(0.5, 1.5, size=value.shape)
        for name, value in model.parameters().items()
        if value.ndim == 1
    }
    model.set_parameters(moved)
    return model


@st.composite
def trainings(draw, dtype):
    """(model, X, y, options of crosscheck)."""
    smooth = dtype == "float32"
    # The error is relative to the largest number of a tensor: float32 takes tensors of several.
    least = 4 if smooth else 1
    layers = draw(stacks(kinks=not smooth, least=least))
    case = LOSSES[draw(st.sampled_from(SMOOTH_LOSSES if smooth else list(LOSSES)))]
    fixed = case.loss.pos_weight if isinstance(case.loss, rv.losses.BinaryCrossEntropy) else None
    # A few slopes such as 0.8 and -0.2 may well sum to nothing; in several columns at once, hardly.
    fewest = 4 if case.kink else max(least, 2 if case.target in ("labels", "probabilities") else 1)
    outputs = 4 if isinstance(fixed, tuple) else case.per_target * draw(st.integers(fewest, 8))
    layers = [*layers, rv.Dense(outputs)]
    optimizer = draw(optimizers(usable_eps(layers, dtype)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    size, seed = draw(st.integers(least, 40)), draw(st.integers(0, 2**64 - 1))
    model = rv.Sequential(layers, input_size=size, seed=seed, dtype=dtype)
    sensible(model, rng)
    if isinstance(case.loss, (rv.losses.Poisson, rv.losses.GaussianNLL)):
        # They take e to the power of an output: small ones, so that no step explodes.
        head = f"{len(layers) - 1}.weight"
        model.set_parameters({head: 0.1 * model.parameters()[head]})
    batch_size = draw(st.integers(1, 24))
    rows = draw(st.integers(batch_size, 2 * batch_size + 1))
    normalised = holds(layers, rv.BatchNorm, rv.LayerNorm)
    if normalised:
        # One or two rows are their own mean: nothing but rounding would be left of them.
        batch_size, rows = batch_size + 3, 2 * (batch_size + 3)
    X = rng.normal(size=(rows, model.input_size))
    y = case.targets(rng, model.predict(X))
    options = {
        "loss": case.loss,
        "optimizer": optimizer,
        "batch_size": batch_size,
        "shuffle": draw(st.booleans()),
        "seed": draw(st.integers(0, 2**64 - 1)),
        "steps": draw(st.integers(1, 4)),
    }
    weights = draw(st.sampled_from([None, "fractions", "counts"]))
    if weights == "fractions":
        options["sample_weight"] = rng.uniform(0.1, 2.0, size=rows)
    elif weights == "counts" and not normalised:
        options["sample_weight"] = np.append(rng.integers(3, size=rows - 1), 1)
    return model, X, y, options


def assert_agree(model, X, y, **options):
    report = rv.crosscheck(model, X, y, **options)
    assert report.tolerance == TOLERANCE[model.dtype.name]
    assert [entry.step for entry in report.steps] == list(range(options["steps"] + 1))
    assert report.ok, f"{report}\n{model}\n{options}"
    return report


@hypothesis.given(trainings("float64"))
@hypothesis.settings(max_examples=60)
def test_any_training_agrees_in_float64(training):
    model, X, y, options = training
    assert_agree(model, X, y, **options)


@hypothesis.given(trainings("float32"))
@hypothesis.settings(max_examples=40)
def test_any_smooth_training_agrees_in_float32(training):
    model, X, y, options = training
    assert_agree(model, X, y, **options)


# ---------------------------------------------------------------- what the drawn trainings avoid


@pytest.mark.parametrize("activation", KINKED, ids=str)
def test_kinked_activations_agree_in_float32(activation):
    # Small steps on data whose pre-activations keep 1e-2 away from the kinks 0 and ±3.
    def draw(seed):
        rng = np.random.default_rng(seed)
        layers = [rv.Dense(6, activation=activation), rv.Dense(3)]
        model = sensible(rv.Sequential(layers, input_size=4, seed=seed), rng)
        X = rng.normal(size=(8, 4))
        parameters = model.parameters()
        z = X @ parameters["0.weight"] + parameters["0.bias"]
        distance = min(np.abs(z - kink).min() for kink in (-3.0, 0.0, 3.0))
        return distance > 1e-2, model, X, rng.normal(size=(8, 3))

    model, X, y = next(drawn[1:] for drawn in map(draw, range(1000)) if drawn[0])
    options = {"loss": "mse", "optimizer": rv.SGD(learning_rate=1e-4), "batch_size": 5}
    assert_agree(model, X, y, steps=4, **options)


@pytest.mark.parametrize("loss", [name for name, case in LOSSES.items() if case.kink])
def test_kinked_losses_agree_in_float32(loss, rng):
    # `targets` keeps 0.05 away from the kinks, more than these steps move an output.
    model = rv.Sequential([rv.Dense(6, activation="tanh"), rv.Dense(4)], input_size=5)
    X = rng.normal(size=(8, 5))
    y = LOSSES[loss].targets(rng, model.predict(X))
    options = {"optimizer": rv.SGD(learning_rate=1e-4), "batch_size": 5}
    assert_agree(model, X, y, loss=LOSSES[loss].loss, steps=4, **options)


def test_normalisations_with_their_default_eps_agree(rng):
    layers = [
        rv.Dense(12, use_bias=False),
        rv.BatchNorm(),
        rv.Activation("relu"),
        rv.Dense(8),
        rv.LayerNorm(),
        rv.Dense(3),
    ]
    model = rv.Sequential(layers, input_size=6, dtype="float64")
    X, y = rng.normal(size=(40, 6)), rng.integers(3, size=40)
    assert_agree(model, X, y, loss="cross_entropy", steps=5, batch_size=16)


def test_running_statistics_that_forget_at_once_agree(rng):
    model = rv.Sequential([rv.BatchNorm(momentum=1.0), rv.Dense(2)], input_size=6, dtype="float64")
    X = 3.0 + 2.0 * rng.normal(size=(20, 6))
    assert_agree(model, X, X[:, :2], loss="mse", steps=5, batch_size=8)


def test_a_batch_of_one_row_agrees_and_leaves_running_statistics_alone(rng):
    model = rv.Sequential([rv.BatchNorm(), rv.Dense(2)], input_size=4, dtype="float64")
    X, y = rng.normal(size=(5, 4)), rng.normal(size=(5, 2))
    options = {"loss": "mse", "optimizer": "sgd", "batch_size": 4, "shuffle": False}
    assert_agree(model, X, y, steps=2, **options)  # batches of 4 and 1
    states = []

    class Record(rv.Callback):
        def on_train_batch_end(self, step, logs):
            states.append(model.parameters()["0.running_mean"])

    model.fit(X, y, loss="mse", optimizer="sgd", batch_size=4, shuffle=False, callbacks=[Record()])
    np.testing.assert_array_equal(states[0], states[1])
    assert (states[0] != 0.0).all()


def test_batches_without_weight_are_passed_over_by_both(rng):
    model = rv.Sequential([rv.Dropout(0.3), rv.Dense(2)], input_size=6, dtype="float64")
    X, y = rng.normal(size=(9, 6)), rng.normal(size=(9, 2))
    weight = np.array([0, 0, 0, 1, 0, 2, 0, 0, 0.5])
    options = {"loss": "mse", "sample_weight": weight, "batch_size": 3, "shuffle": False}
    assert_agree(model, X, y, steps=5, **options)


def test_targets_of_every_form_agree(rng):
    model = rv.Sequential([rv.Dense(3)], input_size=4, dtype="float64")
    X, labels = rng.normal(size=(12, 4)), rng.integers(3, size=12)
    for y in (labels, labels[:, np.newaxis], labels.tolist(), labels.astype(np.uint8)):
        assert_agree(model, X, y, loss="cross_entropy", steps=2)
    probabilities = np.eye(3)[labels]
    assert_agree(model, X.tolist(), probabilities, loss="cross_entropy", steps=2)
    assert_agree(model, np.asfortranarray(X), X[:, :3], loss="mse", steps=2)
    one = rv.Sequential([rv.Dense(1)], input_size=4, dtype="float64")
    assert_agree(one, X[::-1], X[:, 0], loss="huber", steps=2)
    assert_agree(one, X, labels > 0, loss="binary_cross_entropy", steps=2)


def test_float32_data_agree_as_the_rounded_numbers_that_they_are(rng):
    model = rv.Sequential([rv.Dense(3, activation="tanh"), rv.Dense(1)], input_size=4)
    X = rng.normal(size=(12, 4))
    for data in (X, X.astype(np.float32)):
        assert_agree(model, data, data[:, 0], loss="mse", optimizer="sgd", steps=3)


# ---------------------------------------------------------------- the report


@pytest.fixture
def regression(rng):
    """(model, X, y) in float64."""
    layers = [rv.Dense(5, activation="tanh"), rv.BatchNorm(), rv.Dropout(0.2), rv.Dense(2)]
    model = rv.Sequential(layers, input_size=3, dtype="float64", seed=4)
    X = rng.normal(size=(20, 3))
    return model, X, np.sin(X[:, :2])


def test_the_report_of_agreement(regression):
    report = rv.crosscheck(*regression, loss="mse", steps=3, batch_size=8)
    assert isinstance(report, rv.CrosscheckReport)
    assert report.ok is True
    assert report.tolerance == 1e-12
    trainable = ["0.weight", "0.bias", "1.weight", "1.bias", "3.weight", "3.bias"]
    first, *steps = report.steps
    assert set(first.errors) == {f"d_{name}" for name in [*trainable, "input"]}
    for number, entry in enumerate(steps, start=1):
        assert entry.step == number
        assert set(entry.errors) == {*trainable, "1.running_mean", "1.running_var"}
    every = [error for entry in report.steps for error in (entry.loss, *entry.errors.values())]
    assert report.max_error == max(every)
    assert 0.0 < report.max_error < 1e-12

    lines = str(report).splitlines()
    assert lines[0].split() == ["step", "loss", "worst", "tensor"]
    assert len(lines) == 1 + 4 + 1
    for line, entry in zip(lines[1:], report.steps, strict=False):
        step, loss, worst, name = line.split()
        assert (int(step), float(loss)) == (entry.step, pytest.approx(entry.loss, rel=0.1))
        assert entry.errors[name] == max(entry.errors.values())
        assert float(worst) == pytest.approx(entry.errors[name], rel=0.1)
    assert lines[-1].startswith("core and reference agree: largest deviation ")
    assert lines[-1].endswith("allowed 1e-12 per step")


def wrong_reference(monkeypatch, wrong):
    monkeypatch.setattr(reference, wrong.__name__, wrong)


def test_another_eps_is_found(regression, monkeypatch):
    class Adam(reference.Adam):
        def __init__(self, **options):
            super().__init__(**{**options, "eps": 1.1e-8})

    wrong_reference(monkeypatch, Adam)
    report = rv.crosscheck(*regression, loss="mse", steps=2, batch_size=8)
    assert not report.ok
    assert report.max_error > 1e-12
    assert "core and reference DISAGREE: largest deviation" in str(report)
    # The gradients are those of before: it is the step that differs.
    assert max(report.steps[0].errors.values()) <= 1e-12


@pytest.mark.parametrize("name", ["0.weight", "1.weight", "3.weight", "3.bias"])
def test_the_report_names_the_parameter_that_is_wrong(name, regression, monkeypatch):
    class SGD(reference.SGD):
        def step(self, model, gradients):
            super().step(model, gradients)
            if self.steps == 2:
                value = np.array(model.parameters()[name])
                value.flat[0] += 1e-6
                model.set_parameters({name: value.tolist()})

    wrong_reference(monkeypatch, SGD)
    options = {"loss": "mse", "optimizer": "sgd", "steps": 2, "batch_size": 8}
    report = rv.crosscheck(*regression, **options)
    assert not report.ok
    assert all(value <= 1e-12 for entry in report.steps[:2] for value in entry.errors.values())
    last = report.steps[2].errors
    assert max(last, key=last.get) == name
    assert str(report).splitlines()[3].endswith(f" {name}")


def test_a_wrong_gradient_is_found_at_step_0(regression, monkeypatch):
    class MSE(reference.losses.MSE):
        def element(self, z, y):
            value, derivative = super().element(z, y)
            return value, 1.000001 * derivative

    monkeypatch.setattr(reference.losses, "MSE", MSE)
    report = rv.crosscheck(*regression, loss="mse", steps=1)
    assert not report.ok
    assert report.steps[0].errors["d_input"] == pytest.approx(1e-6, rel=0.1)
    assert report.steps[0].loss <= 1e-12  # the value is right


def test_a_wrong_loss_value_is_found(regression, monkeypatch):
    class MSE(reference.losses.MSE):
        def element(self, z, y):
            value, derivative = super().element(z, y)
            return 1.000001 * value, derivative

    monkeypatch.setattr(reference.losses, "MSE", MSE)
    report = rv.crosscheck(*regression, loss="mse", steps=1)
    assert not report.ok
    assert [entry.loss for entry in report.steps] == pytest.approx([1e-6, 1e-6], rel=0.01)


def test_a_deviation_that_is_not_a_number_is_no_agreement():
    entry = type(rv.crosscheck(*_tiny(), loss="mse", steps=1).steps[0])
    report = rv.CrosscheckReport(1e-12, [entry(1, 0.0, {"0.weight": float("nan")})])
    assert not report.ok


def _tiny():
    model = rv.Sequential([rv.Dense(1)], input_size=1, dtype="float64")
    return model, [[1.0], [2.0]], [1.0, 2.0]


def test_the_tolerance_may_be_chosen_and_grows_with_the_steps(regression):
    report = rv.crosscheck(*regression, loss="mse", steps=3, tolerance=0.0)
    assert report.tolerance == 0.0
    assert not report.ok
    entry = type(report.steps[0])
    for step, error_, expected in (
        (0, 1.0, True),
        (1, 1.1, False),
        (3, 2.9, True),
        (3, 3.1, False),
    ):
        report = rv.CrosscheckReport(1e-12, [entry(step, 0.0, {"0.weight": error_ * 1e-12})])
        assert report.ok is expected


def test_crosscheck_leaves_everything_as_it_was(regression):
    model, X, y = regression
    optimizer = rv.Adam(learning_rate=0.1)
    before, X_before, y_before = model.parameters(), X.copy(), y.copy()
    rv.crosscheck(model, X, y, loss="mse", optimizer=optimizer, steps=4)
    for name, value in model.parameters().items():
        np.testing.assert_array_equal(value, before[name])
    np.testing.assert_array_equal(X, X_before)
    np.testing.assert_array_equal(y, y_before)
    assert optimizer == rv.Adam(learning_rate=0.1)
    # The optimiser has not been bound to the copy.
    optimizer.step(model, model.value_and_gradient(X, y, loss="mse")[1])


def test_crosscheck_starts_from_the_models_parameters(regression):
    model, X, y = regression
    model.set_parameters({"3.bias": [100.0, 200.0]})
    report = rv.crosscheck(model, X, y, loss="mse", steps=1)
    assert report.ok
    value, _ = model.value_and_gradient(X, y, loss="mse")
    assert value > 1e4


def test_crosscheck_repeats_itself(regression):
    options = {"loss": "mse", "steps": 2, "batch_size": 8, "seed": 9}
    assert rv.crosscheck(*regression, **options) == rv.crosscheck(*regression, **options)


class PythonMSE:
    """Mean squared error, weighted, in NumPy."""

    def value_and_gradient(self, output, target, sample_weight=None):
        weight = np.ones(len(output)) if sample_weight is None else sample_weight
        share = (weight / weight.sum() / output.shape[1])[:, np.newaxis]
        difference = output - target
        return float((share * difference**2).sum()), 2 * share * difference


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weighted", [False, True])
def test_a_custom_loss_is_checked_too(dtype, weighted, rng):
    layers = [rv.Dense(5, activation="tanh"), rv.Dropout(0.2), rv.Dense(2)]
    model = rv.Sequential(layers, input_size=3, dtype=dtype)
    X, y = rng.normal(size=(20, 3)), rng.normal(size=(20, 2))
    options = {"optimizer": "sgd", "steps": 3, "batch_size": 8}
    if weighted:
        options["sample_weight"] = rng.uniform(0.5, 2.0, size=20)
    report = assert_agree(model, X, y, loss=PythonMSE(), **options)
    built_in = assert_agree(model, X, y, loss="mse", **options)
    assert report.steps[0].errors.keys() == built_in.steps[0].errors.keys()


def test_a_custom_loss_is_called_as_a_fit_calls_it(rng):
    # Without weights the loss gets none, so that a loss that knows none can be checked as well.
    calls = []

    class Unweighted:
        def value_and_gradient(self, output, target, sample_weight=None):
            calls.append(sample_weight)
            return PythonMSE().value_and_gradient(output, target, sample_weight)

    model = rv.Sequential([rv.Dense(2)], input_size=3, dtype="float64")
    X, y = rng.normal(size=(20, 3)), rng.normal(size=(20, 2))
    rv.crosscheck(model, X, y, loss=Unweighted(), steps=2)
    assert all(weight is None for weight in calls)


BAD_CALLS = [
    (rv.ArgumentError, "steps", {"steps": 0}),
    (rv.DTypeError, "steps", {"steps": 1.5}),
    (rv.ArgumentError, "batch_size", {"batch_size": 0}),
    (rv.ArgumentError, "loss", {"loss": "mean"}),
    (rv.ArgumentError, "optimizer", {"optimizer": "lion"}),
    (rv.DTypeError, "tolerance", {"tolerance": "small"}),
    (rv.ArgumentError, "seed", {"seed": -1}),
    (rv.ShapeError, "y", {"y": np.zeros((3, 2))}),
    (rv.ShapeError, "sample_weight", {"sample_weight": np.ones(3)}),
    (rv.ShapeError, "X", {"X": np.zeros((20, 4))}),
    (rv.ArgumentError, "X", {"X": np.full((20, 3), np.nan)}),
]


@pytest.mark.parametrize(("kind", "argument", "options"), BAD_CALLS)
def test_bad_arguments_are_refused_by_name(kind, argument, options, regression):
    model, X, y = regression
    with pytest.raises(kind, match=f"^{argument}: expected "):
        rv.crosscheck(model, **{"X": X, "y": y, "loss": "mse", "steps": 1, **options})


def test_a_model_without_input_size_cannot_be_checked():
    with pytest.raises(rv.NotFittedError, match="input_size"):
        rv.crosscheck(rv.Sequential([rv.Dense(1)]), [[1.0]], [1.0], loss="mse")


# ---------------------------------------------------------------- initial values

INITIALIZERS = [
    "auto",
    "glorot_uniform",
    "glorot_normal",
    "he_uniform",
    "he_normal",
    "lecun_uniform",
    "lecun_normal",
    "torch",
    "zeros",
    "ones",
    Constant(0.3),
    GlorotNormal(truncated=True),
    HeNormal(truncated=True),
    LecunNormal(truncated=True),
    "orthogonal",
    Orthogonal(gain=1.7),
]


def test_the_list_of_initializers_is_complete():
    names = {item if isinstance(item, str) else item.name for item in INITIALIZERS}
    assert names == set(_core.names("initializer"))


def is_orthogonal(initializer):
    return initializer == "orthogonal" or isinstance(initializer, Orthogonal)


@pytest.mark.parametrize("initializer", INITIALIZERS, ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (7, 4), (4, 7), (33, 65)], ids=str)
@pytest.mark.parametrize("seed", [0, 2**64 - 1])
def test_initial_values_are_the_references(initializer, shape, seed):
    bias = "torch" if is_orthogonal(initializer) else initializer
    options = {"weight_init": initializer, "bias_init": bias}
    # A layer in front: the number of the layer is part of what is drawn.
    layers = [rv.Dense(shape[0]), rv.Dense(shape[1], **options)]
    exact, rounded = (
        rv.Sequential(layers, input_size=2, seed=seed, dtype=dtype).parameters()
        for dtype in ("float64", "float32")
    )
    twin = reference.Sequential([as_reference(layer) for layer in layers], input_size=2, seed=seed)
    # Orthogonalising adds up; everything else is a rounding or two.
    tolerance = 1e-13 if is_orthogonal(initializer) else 1e-15
    for name, expected in twin.parameters().items():
        assert error(exact[name], expected) <= tolerance, name
        np.testing.assert_array_equal(rounded[name], exact[name].astype(np.float32))
    assert exact["1.weight"].shape == shape


@pytest.mark.parametrize("activation", SMOOTH + KINKED, ids=str)
def test_automatic_initial_values_are_the_references_behind_every_activation(activation):
    layers = [rv.Dense(6, activation=activation)]
    model = rv.Sequential(layers, input_size=5, seed=3, dtype="float64")
    twin = reference.Sequential([as_reference(layer) for layer in layers], input_size=5, seed=3)
    for name, expected in twin.parameters().items():
        assert error(model.parameters()[name], expected) <= 1e-15, name


def test_norms_and_slopes_start_as_the_references():
    layers = [rv.BatchNorm(), rv.LayerNorm(), rv.Activation(rv.activations.PReLU(0.4))]
    model = rv.Sequential(layers, input_size=3)
    twin = reference.Sequential([as_reference(layer) for layer in layers], input_size=3)
    ours, theirs = model.parameters(), twin.parameters()
    assert set(ours) == set(theirs)
    for name, value in ours.items():
        np.testing.assert_array_equal(value, np.float32(theirs[name]))


# ---------------------------------------------------------------- order and masks


@pytest.mark.parametrize("rows", [1, 2, 7, 100])
@pytest.mark.parametrize("seed", [0, 12345, 2**64 - 1])
def test_epochs_visit_the_rows_in_the_references_order(rows, seed):
    follow = Follow()
    model = rv.Sequential([rv.Dense(1)], input_size=1)
    trainer = rv.Trainer(model, loss=follow, optimizer="sgd", seed=seed)
    X, y = np.zeros((rows, 1)), np.arange(rows)
    trainer.fit(X, y, epochs=2, batch_size=3)
    trainer.fit(X, y, epochs=1, batch_size=3)  # a second fit goes on with epoch 2
    seen = np.concatenate(follow.targets)
    assert max(map(len, follow.targets)) == min(3, rows)
    expected = [reference.random.permutation(rows, seed=seed, epoch=epoch) for epoch in range(3)]
    assert seen.tolist() == [row for order in expected for row in order]


def test_without_shuffle_the_rows_keep_their_order():
    follow = Follow()
    model = rv.Sequential([rv.Dense(1)], input_size=1)
    options = {"epochs": 2, "batch_size": 3, "shuffle": False}
    model.fit(np.zeros((7, 1)), np.arange(7), loss=follow, optimizer="sgd", **options)
    assert [target.tolist() for target in follow.targets] == 2 * [[0, 1, 2], [3, 4, 5], [6]]


def reference_masks(rows, units, rate, *, seed, layer, epoch):
    stream = reference.random.Stream(seed, reference.random.DROPOUT, layer=layer, epoch=epoch)
    return np.array(
        [
            reference.random.dropout_mask(stream, position=row, units=units, rate=rate)
            for row in range(rows)
        ]
    )


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("units", [1, 4, 5, 70])
@pytest.mark.parametrize("dtype", DTYPES)
def test_dropout_masks_are_the_references(rate, units, dtype):
    # The dropout of layer 1; the identity in front of it passes ones on.
    layers = [rv.Activation("identity"), rv.Dropout(rate)]
    model = rv.Sequential(layers, input_size=units, seed=77, dtype=dtype)
    follow, ones = Follow(), np.ones((9, units))
    model.value_and_gradient(ones, ones, loss=follow, training=True, step=5)
    kept = reference_masks(9, units, rate, seed=77, layer=1, epoch=5)
    expected = np.where(kept, np.dtype(dtype).type(1 / (1 - rate)), 0.0)
    np.testing.assert_array_equal(follow.outputs[0], expected)


def test_masks_of_a_fit_follow_epoch_and_place_in_the_epoch():
    follow = Follow()
    model = rv.Sequential([rv.Dropout(0.5)], input_size=6, seed=1)
    trainer = rv.Trainer(model, loss=follow, optimizer="sgd", seed=2)
    ones = np.ones((8, 6))
    trainer.fit(ones, ones, epochs=2, batch_size=3)
    outputs = np.concatenate(follow.outputs)
    # The masks belong to the place in the epoch, through all batches, under the trainer's seed.
    for epoch in range(2):
        kept = reference_masks(8, 6, 0.5, seed=2, layer=0, epoch=epoch)
        np.testing.assert_array_equal(outputs[8 * epoch : 8 * epoch + 8], np.where(kept, 2.0, 0.0))


def test_validation_and_prediction_drop_nothing():
    follow = Follow()
    model = rv.Sequential([rv.Dropout(0.5)], input_size=6)
    ones = np.ones((4, 6))
    model.fit(ones, ones, loss=follow, optimizer="sgd", validation_data=(ones, ones))
    training, validation = follow.outputs
    assert (training == 0.0).any()
    np.testing.assert_array_equal(validation, ones)
    np.testing.assert_array_equal(model.predict(ones), ones)
